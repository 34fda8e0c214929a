"""Which episodes of a corpus to export, and those episodes in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl

from ...shards.corpus import Corpus
from ...shards.episode import ARRAYS, Episode
from ...shards.errors import CorpusError
from ...shards.segments import parse_where
from ..importing.begun import IMPORTED
from ..replay import read_segments

GROUP_STEPS = 4096  # read at once: 50 MB of 64×64 frames
EPISODE = ("shard", "match", "player")  # a match lies in one shard
COLUMNS = (
    *EPISODE, "segment", "key", "offset", "bytes", "xxh3", "steps", "task", "level", "policy",
    "terminated", "truncated",
)  # fmt: skip
SUMS = {"steps", "return", "bytes", "frozen_frames", *(f"{name}_nan" for name in ARRAYS)}


@dataclass(frozen=True)
class Selection:
    """Whole episodes of a complete corpus: one player's each, of a match two."""

    corpus: Corpus
    segments: pl.DataFrame
    """Index rows (COLUMNS), an episode's in a row and in order, the episodes in stored order."""
    where: str | None = None
    """The condition they met."""

    @property
    def episodes(self) -> int:
        """How many."""
        return int((self.segments["segment"] == 0).sum())

    @property
    def steps(self) -> int:
        """Of all of them together."""
        return int(self.segments["steps"].sum())

    @property
    def imported(self) -> dict[str, Any] | None:
        """What the corpus's recipe tells of its source; None if it was simulated."""
        return self.corpus.manifest.recipe.get(IMPORTED)

    def episode_groups(self) -> Iterator[list[Episode]]:
        """Whole episodes, a few in memory at a time; CorruptionError for a damaged segment."""
        for rows in groups(self.segments):
            segments = read_segments(self.corpus, rows)
            lanes = groupby(segments, key=lambda segment: (segment.match, segment.player))
            yield [joined(list(lane)) for _, lane in lanes]


def select(url: str, where: str | None = None) -> Selection:
    """The episodes of a complete corpus that meet a condition, by default all.

    `where` sees one row per episode: that of its last segment, in which outcome, success and
    completion are known, with steps, return, bytes, saturation, extremes and counts of the whole;
    aggregates, `return > avg(return)`, are over all episodes of the corpus.
    Raises CorpusError for an incomplete corpus and if no episode meets the condition, ConfigError
    for a condition that is none.
    """
    corpus = Corpus.open(url)
    condition = pl.lit(True) if where is None else parse_where(where)
    _require_complete(corpus)
    columns = dict.fromkeys((*COLUMNS, *condition.meta.root_names()))
    # all rows at once: what a mean in the condition comes to is not for the files' sizes to decide
    segments = _chosen(corpus.select(*columns), condition, url)
    if segments.is_empty():
        raise CorpusError(f"{url}: no episode meets --where {where!r}")
    return Selection(corpus, segments, where)


def _require_complete(corpus: Corpus) -> None:
    missing = sorted(set(range(corpus.manifest.shards)) - set(corpus.complete_shards()))
    if missing:
        raise CorpusError(
            f"{corpus.url}: incomplete corpus: expected {corpus.manifest.shards} shards, "
            f"{len(missing)} are missing, the first is {missing[0]}"
        )


def _chosen(frame: pl.DataFrame, condition: pl.Expr, url: str) -> pl.DataFrame:
    """The rows of the episodes that meet the condition."""
    segment, ended = pl.col("segment"), pl.col("terminated") | pl.col("truncated")
    whole = (segment == pl.int_range(pl.len())).all() & ended.last()
    columns = [_of_episode(name) for name in frame.columns if name not in EPISODE]
    lanes = frame.sort("segment", maintain_order=True).group_by(EPISODE, maintain_order=True)
    episodes = lanes.agg(*columns, whole.alias("whole"))
    for match in episodes.filter(~pl.col("whole"))["match"].head(1):
        raise CorpusError(f"{url}: match {match}: its index lacks segments")
    chosen = episodes.filter(condition).select(EPISODE).with_row_index("order")
    return frame.join(chosen, on=EPISODE).sort("order", "segment").select(COLUMNS)


def _of_episode(name: str) -> pl.Expr:
    """An episode's value of a column, from its segments' in order."""
    column, steps = pl.col(name), pl.col("steps")
    if name in SUMS:
        return column.sum()
    if name == "saturation":
        return (column * steps).sum() / steps.sum()
    if name.endswith(("_min", "_max")):
        return column.min() if name.endswith("_min") else column.max()
    return column.last()


def groups(segments: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows in pieces of whole episodes, GROUP_STEPS and less than an episode more in each."""
    before = segments["steps"].cum_sum() - segments["steps"]
    number = (segments["segment"] == 0).cum_sum()
    start = pl.col("before").first().over("number")  # of the row's episode
    pieces = segments.with_columns(before=before, number=number).with_columns(
        group=start // GROUP_STEPS
    )
    for piece in pieces.partition_by("group", maintain_order=True):
        yield piece.select(segments.columns)


def joined(segments: Sequence[Episode]) -> Episode:
    """One player's whole episode as one record, which may be longer than a segment."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(segment, name) for segment in segments]) for name in ARRAYS
    }
    return replace(segments[-1], segment=0, **arrays)
