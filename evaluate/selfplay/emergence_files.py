"""emergence.parquet of every round, made once, and emergence.json beside the report."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict

import polars as pl

from ...generate.league import ANCHORS
from ...shards import storage
from ...shards.config import parse
from ...shards.errors import ConfigError, PalaestraError
from ...shards.faults import naming
from ..episodes import COLUMNS as EPISODE_COLUMNS
from ..output import EPISODES, read_settings
from .emergence import COLUMNS, MATCH, Emergence, summaries
from .emergence_replay import measured
from .rounds import evaluated, evaluation_of
from .settings import round_name

FORMAT = "palaestra-emergence"
TABLE, SUMMARY = "emergence.parquet", "emergence.json"
ORDER = ("opponent", "task", "level", "run")


def keep_emergence(
    dest: str, workers: int | None = None, tell: Callable[[str], None] = lambda fault: None
) -> None:
    """Play the matches of rounds that have no table yet again, and write what all came to.

    A round whose matches replay differently here or whose files are not what they should be is
    left out and `tell` hears why; so is one whose files are gone. `workers` are threads.
    """
    rows: list[Emergence] = []
    for number in evaluated(dest):
        try:
            table = round_table(dest, number, workers)
        except PalaestraError as error:
            tell(f"{round_name(number)} is not in {SUMMARY}: {error}")
            continue
        if table is not None:
            rows += summaries(number, table, rivals_of(number))
    content = {"format": FORMAT, "rows": [asdict(row) for row in rows]}
    storage.write_json(storage.join(dest, SUMMARY), content)


def read_emergence(dest: str) -> tuple[Emergence, ...]:
    """What `keep_emergence` wrote, empty if it did not; ConfigError for another file."""
    url = storage.join(dest, SUMMARY)
    if not storage.exists(url):
        return ()
    data = storage.read_json(url)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ConfigError(f"{url}: expected format {FORMAT!r}")
    return tuple(parse(Emergence, row, url) for row in data["rows"])


def rivals_of(number: int) -> tuple[str, ...]:
    """Whom a round is told against: the round before, and the anchors, the strongest first."""
    before = (round_name(number - 1),) if number else ()
    return (*before, *(anchor.name for anchor in reversed(ANCHORS)))


def round_table(dest: str, number: int, workers: int | None = None) -> pl.DataFrame | None:
    """A round's matches by COLUMNS: as they were kept, if they are still those of its evaluation.

    None without either. Raises ConfigError, StorageError or CorruptionError for files that are not
    what they should be, RolloutError for matches that replay differently here.
    """
    url = storage.join(dest, round_name(number), TABLE)
    episodes = storage.join(dest, evaluation_of(number), EPISODES)
    kept = _read(url) if storage.exists(url) else None
    if not storage.exists(episodes):
        return kept
    ours = tuple(MATCH)
    if kept is not None and kept.select(ours).equals(_sides(episodes, number, ours)[0]):
        return kept
    mine, theirs = _sides(episodes, number, (*ours, "actions", "rewards"))
    versions = read_settings(storage.join(dest, evaluation_of(number)))[1]["versions"]
    table, buffer = measured(mine, theirs, versions, workers), io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    storage.write_bytes(url, buffer.getvalue())
    return table


def _read(url: str) -> pl.DataFrame:
    with naming(url):
        frame = pl.read_parquet(io.BytesIO(storage.read_bytes(url)))
    if frame.schema != COLUMNS:
        raise ConfigError(f"{url}: not a round's {TABLE}: other columns")
    return frame


def _sides(
    url: str, number: int, columns: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """These columns of a round's matches, from its policy's side and from its opponents'."""
    name, rivals, needed = round_name(number), list(rivals_of(number)), ("policy", *columns)
    with storage.parquet_source(url, needed) as source, naming(url):
        table = pl.scan_parquet(source)
        if table.collect_schema() != pl.Schema(EPISODE_COLUMNS):
            raise ConfigError(f"{url}: not an evaluation's episodes: other columns")
        policy, opponent = pl.col("policy"), pl.col("opponent")
        own = (policy == name) & opponent.is_in(rivals)
        other = (opponent == name) & policy.is_in(rivals)
        frame = table.select(needed).filter(own | other).collect()
    mine = frame.filter(policy == name).sort(ORDER)
    theirs = frame.filter(opponent == name).sort("policy", *ORDER[1:])
    keys = ("task", "level", "run")
    if not mine.select(keys).equals(theirs.select(keys)):
        raise ConfigError(f"{url}: matches of {name} lack a side: not an evaluation's episodes")
    return mine.select(columns), theirs.select(columns)
