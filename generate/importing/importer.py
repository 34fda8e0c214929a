"""Import a source whole: look at all of it, begin the corpus, write what shards are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ...shards import storage
from ...shards.card import write_card
from ...shards.console import progress
from ...shards.corpus import Corpus, Manifest
from ...shards.episode import Episode
from ...shards.errors import CorpusError, UnknownNameError
from ...shards.schema import SEGMENT_STEPS
from ...shards.writer import ShardWriter
from ..plan import episode_seed
from ..registry import held_out
from ..rollout import Completion
from ..slots import make_schema
from ..work import is_complete, versions
from .begun import IMPORTED, require_same_files, require_same_mapping
from .convert import Demonstration, convert, require_same_widths
from .mapping import ColumnMapping
from .pictures import Pictures
from .source import Source, checksums, local_copy, open_source

LONGEST = 100 * SEGMENT_STEPS  # keys, which sort in order, number segments with two digits


@dataclass(frozen=True)
class Found:
    """What the manifest has to know of an episode."""

    steps: int
    task: str
    level: int


def import_corpus(mapping: ColumnMapping, where: str, url: str) -> Corpus:
    """Import everything that is missing at `url` of a mapping's source; `where` is the mapping's.

    All but the images is checked before anything is written. Ended at any moment, it leaves whole
    shards only, and the same call goes on. Raises ConfigError or UnknownNameError for a mapping
    that does not fit its source, CorpusError for a source that is not as it should be,
    DifferentCorpusError when the destination holds anything else.
    """
    require_same_mapping(url, mapping)
    with local_copy(mapping.source.url) as path:
        digests = checksums(mapping.source.url, path)
        require_same_files(url, digests)
        source = open_source(mapping.source, path)
        _check_columns(mapping, source, where)
        found = survey(mapping, source)
        parcels = shards_of(found, mapping.shard_steps)
        manifest = manifest_of(mapping, found, max(parcels) + 1, digests, source)
        corpus = Corpus.create(url, manifest)
        folders = (url, storage.join(url, "data"), storage.join(url, "index"))
        storage.remove_leftovers(*folders)
        try:
            written = write_missing(corpus, mapping, source, parcels)
        finally:
            storage.remove_leftovers(*folders)
    if written or not storage.exists(corpus.merged_url):
        write_card(corpus)
        corpus.write_merged()
    return Corpus.open(url)


def _check_columns(mapping: ColumnMapping, source: Source, where: str) -> None:
    for key, column in mapping.columns():
        if source.columns and column not in source.columns:
            raise UnknownNameError("column", column, source.columns, f"{where}: {key}")


def survey(mapping: ColumnMapping, source: Source) -> list[Found]:
    """Every episode, converted but for its images; CorpusError if there is none, or one is bad."""
    schema, found = make_schema(mapping.image_size, mapping.reward_range), []
    widths: dict[str, int] = {}
    for recorded in source.episodes():
        if not 1 <= (steps := recorded.steps) <= LONGEST:
            raise CorpusError(f"{recorded.where}: expected 1 to {LONGEST:,} steps, found {steps:,}")
        require_same_widths(recorded, mapping, widths)
        taken = convert(recorded, mapping, schema)
        found.append(Found(steps, taken.task, taken.level))
    if not found:
        raise CorpusError(f"{mapping.source.url}: expected at least one episode, found none")
    return found


def shards_of(found: Sequence[Found], shard_steps: int) -> list[int]:
    """Each episode's shard: as many in a row as hold so many steps, at least one."""
    numbers, shard, filled = [], 0, 0
    for episode in found:
        if filled and filled + episode.steps > shard_steps:
            shard, filled = shard + 1, 0
        filled += episode.steps
        numbers.append(shard)
    return numbers


def manifest_of(
    mapping: ColumnMapping, found: Sequence[Found], shards: int, digests: dict[str, str],
    source: Source,
) -> Manifest:  # fmt: skip
    """The manifest of an import: its recipe tells the mixture that was found, for the audit."""
    seed = xxhash.xxh3_64_intdigest("".join(sorted(digests.values())).encode()) >> 1
    horizons: dict[str, int] = {}
    for episode in found:
        horizons[episode.task] = max(horizons.get(episode.task, 0), episode.steps)
    counts = Counter((episode.task, episode.level) for episode in found)
    # an episode shorter than its task's longest counts in full, as those that ended early do
    behaviours = [
        {"tasks": [task], "levels": [level], "policy": mapping.policy, "noise": 0.0,
         "weight": count * horizons[task], "arguments": {}, "opponents": []}
        for (task, level), count in sorted(counts.items())
    ]  # fmt: skip
    steps = sum(episode.steps for episode in found)
    recipe: dict[str, Any] = {
        "name": mapping.name, "steps": steps, "seed": seed, "shard_steps": mapping.shard_steps,
        "wave": 1, "image_size": mapping.image_size, "behaviours": behaviours,
        IMPORTED: {
            "mapping": mapping.to_json(), "episodes": len(found), "rows": steps, "fps": source.fps,
        },
    }  # fmt: skip
    return Manifest(
        schema=make_schema(mapping.image_size, mapping.reward_range), recipe=recipe, seed=seed,
        shards=shards,
        versions=versions() | {name: version(name) for name in ("pillow", *source.packages)},
        dependencies=digests, held_out=held_out(), horizons=horizons,
    )  # fmt: skip


def write_missing(
    corpus: Corpus, mapping: ColumnMapping, source: Source, parcels: Sequence[int]
) -> int:
    """Write the shards that are not there whole; how many there were."""
    missing = {shard for shard in set(parcels) if not is_complete(corpus, shard)}
    if not missing:
        return 0
    pictures: Pictures | None = None
    numbered = enumerate(zip(parcels, source.episodes(), strict=True))
    with progress("import", len(parcels), "episodes") as advance:
        for shard, group in groupby(numbered, key=lambda item: item[1][0]):
            writer = ShardWriter(corpus, shard)
            for match, (_, recorded) in group:
                pictures = pictures or Pictures(mapping, recorded)
                if shard in missing:
                    for episode in segments(
                        convert(recorded, mapping, corpus.schema), pictures.of(recorded), match,
                        episode_seed(corpus.manifest.seed, match), mapping.policy,
                    ):  # fmt: skip
                        writer.add(episode)
                    writer.end_wave()
                advance(1)
            if shard in missing:
                writer.commit()
    return len(missing)


def segments(
    taken: Demonstration, pixels: NDArray[np.uint8], match: int, seed: int, policy: str
) -> Iterator[Episode]:
    """An episode's records of at most 256 steps; it is complete by `rollout.Completion`'s rule."""
    completion, total = Completion(1), len(taken.reward)
    for segment, start in enumerate(range(0, total, SEGMENT_STEPS)):
        stop = min(start + SEGMENT_STEPS, total)
        last, part = stop == total, slice(start, stop)
        for time in range(start, stop):
            ended = np.array([taken.terminated and time == total - 1])
            completion.update(taken.success[time : time + 1], ended, time)
        step = int(completion.step[0])
        yield Episode(
            task=taken.task, level=taken.level, instruction=taken.instruction, match=match,
            player=0, segment=segment, policy=policy, opponent="", rating=None,
            opponent_rating=None, sampling="", sampling_probability=None, round=0, outcome=None,
            seed=seed, terminated=last and taken.terminated,
            truncated=last and not taken.terminated, cause="",
            completion_step=step if step >= 0 else None,
            final_state_xxh3=contents_hash(taken, pixels) if last else None,
            pixels=pixels[part], state=taken.state[part], action=taken.action[part],
            reward=taken.reward[part], success=taken.success[part],
        )  # fmt: skip


def contents_hash(taken: Demonstration, pixels: NDArray[np.uint8]) -> int:
    """Of all arrays of an episode: it stands for the physics state, which no source tells."""
    digest = xxhash.xxh3_64()
    for array in (taken.state, taken.action, taken.reward, taken.success, pixels):
        digest.update(np.ascontiguousarray(array).data)
    return digest.intdigest()
