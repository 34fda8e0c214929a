"""A run's folder: what speaks against training into it is said before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from ..shards import storage
from ..shards.corpus import Corpus
from ..shards.errors import CheckpointError, ConfigError, CorpusError
from ..shards.schema import Schema
from ..shards.segments import parse_where, split_by_match
from .config import TrainConfig
from .export import find_weights, read_metadata
from .owner import OWNER
from .places import SETTINGS, Marker, checkpoints_url, newest, update_url


def check_run(
    run: str, config: TrainConfig, corpora: Sequence[Corpus], heldout: Sequence[Corpus] = ()
) -> None:
    """Raise what would stop these settings on these corpora in this folder; writes nothing.

    ConfigError, CorpusError or SchemaMismatchError for settings and data, CheckpointError if the
    folder holds something else or a run that other settings began.
    """
    _check_corpora(config, corpora)
    for corpus in heldout:
        corpora[0].schema.require_equal(corpus.schema, corpus.url)
    if not storage.exists(storage.join(run, SETTINGS)):
        others = [name for name in storage.names(run) if name != OWNER]
        if others:
            raise CheckpointError(
                f"{run}: expected an empty folder or a run, found {', '.join(others[:3])}"
            )
        return
    _check_settings(run, config)
    folder = checkpoints_url(run)
    marker = newest(folder)
    if marker is not None:
        check_marker(update_url(folder, marker.update), marker, corpora)


def check_marker(url: str, marker: Marker, corpora: Sequence[Corpus]) -> None:
    """Raise CorpusError if a corpus is not what it was at that checkpoint."""
    for corpus, state, then in zip(corpora, corpora_state(corpora), marker.corpora, strict=True):
        if state != then:
            raise CorpusError(
                f"{corpus.url} changed since the checkpoint {url}: fingerprint and contents were "
                f"{' '.join(then)}, are {' '.join(state)}"
            )


def record_run(run: str, config: TrainConfig) -> None:
    """Write run.json, unless the same run is already there."""
    where = storage.join(run, SETTINGS)
    if not storage.exists(where):
        storage.write_json(where, config.to_json())


def find_source(
    resume: str, run: str, config: TrainConfig, schema: Schema
) -> tuple[str, int] | None:
    """Folder and update of the checkpoint that `--resume` names for a run without any of its own.

    Raises CheckpointError if that is of another network or data, or if there must be none.
    """
    if resume == "auto":
        return None
    begun = newest(checkpoints_url(run))
    if begun and resume == "never":
        raise CheckpointError(f"{run}: --resume never, but it is at update {begun.update}")
    if begun or resume == "never":
        return None
    folder, _, name = resume.rstrip("/").rpartition("/")
    update = name.removeprefix("update-")
    if not update.isdigit():
        raise CheckpointError(
            f"--resume should be auto, never or a checkpoint's URL, as RUN/checkpoints/"
            f"update-00000500, is {resume!r}"
        )
    if config.warm_start:
        raise ConfigError("expected one of --warm-start and --resume URL, found both")
    check_network(find_weights(resume), config, schema, ("preset", "inputs", "model"), resume)
    return folder, int(update)


def check_network(
    weights: str, config: TrainConfig, schema: Schema, names: Sequence[str], where: str = ""
) -> None:
    """Raise SchemaMismatchError if a weights file is of another schema, CheckpointError if it is
    none or of other settings of these `names`; both name `where`, by default the file.
    """
    where = where or weights
    found = read_metadata(weights)
    found.schema.require_equal(schema, where)
    mine, theirs = (_flat({n: c.to_json()[n] for n in names}) for c in (config, found.config))
    for name, value in mine.items():
        if theirs[name] != value:
            raise CheckpointError(
                f"{where} is of {name} {theirs[name]}, this run has {name} {value}"
            )


def corpora_state(corpora: Sequence[Corpus]) -> tuple[tuple[str, ...], ...]:
    """What must not change while a run goes on: what the corpora claim and what they hold."""
    return tuple((corpus.manifest.fingerprint, f"{corpus.contents:016x}") for corpus in corpora)


def _check_settings(run: str, config: TrainConfig) -> None:
    where = storage.join(run, SETTINGS)
    found = TrainConfig.from_json(storage.read_json(where), where)
    mine, theirs = _flat(config.to_json()), _flat(found.to_json())
    for name, value in mine.items():
        if theirs[name] != value:
            raise CheckpointError(
                f"{run} holds a run with {name} = {theirs[name]}, this one has {value}; "
                "choose another --run"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _check_corpora(config: TrainConfig, corpora: Sequence[Corpus]) -> None:
    schema = corpora[0].schema
    if "pixels" in config.inputs and schema.image_size % config.model.patch:
        raise ConfigError(
            f"preset {config.preset}: patch {config.model.patch} does not divide the corpus's "
            f"image size {schema.image_size}"
        )
    for corpus in corpora:
        schema.require_equal(corpus.schema, corpus.url)
        _check_split(config, corpus)
        mean, _ = corpus.moments.mean_and_deviation()
        if not np.isfinite(mean).all():
            bad = [n for n, s in schema.slices().items() if not np.isfinite(mean[s]).all()]
            raise CorpusError(f"{corpus.url}: state {', '.join(bad)} holds NaN or infinity")


def _check_split(config: TrainConfig, corpus: Corpus) -> None:
    """Raise CorpusError unless the filters leave what may be trained on, and some to validate."""
    training, held = split_by_match(config.validation_share)
    where = parse_where(config.where) if config.where else pl.lit(True)
    parts: set[str] = set()
    cells: set[tuple[str, int]] = set()
    columns = (training.alias("training"), held.alias("validation"), "task", "level")
    for rows in corpus.frames(*columns, where=where):
        parts |= {name for name in ("training", "validation") if rows[name].any()}
        cells.update(rows.select("task", "level").unique().rows())
    if not cells:
        raise CorpusError(f"{corpus.url}: no segment meets --where {config.where!r}")
    refused = set() if config.on_held_out else cells & set(corpus.manifest.held_out)
    for task, level in sorted(refused):
        raise CorpusError(
            f"{corpus.url}: holds {task} level {level}, which is held out of training; "
            "leave it out by --where, or say --on-held-out"
        )
    for part, wanted in (("training", True), ("validation", config.validation_share > 0)):
        if wanted and part not in parts:
            raise CorpusError(
                f"{corpus.url}: --validation-share {config.validation_share} leaves no {part} match"
            )
