"""Whole episodes and matches: their table, and checks that look beyond one shard."""

from __future__ import annotations

import polars as pl

from ..corpus import Corpus
from ..schema import EVALUATION_BIT
from .report import GROUP, Check, Tally, judge
from .rules import KEY, moving_frames, repeated_frames

SAMPLE = ["match", "player", "segment"]  # what a key is made of
# not kept once the shard's matches are checked
ENDINGS = ["outcome", "rating", "opponent_rating", "sampling", "sampling_probability"]


def by_episode(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per player's episode in a shard, its segments added up.

    `saturated` is in steps; `moving` and `repeated` count frames before the episode's completion.
    """
    col = pl.col
    return rows.group_by("file", "match", "player", maintain_order=True).agg(
        col(*GROUP, *ENDINGS, "seed").first(), col("final_state_xxh3").max(),
        col("steps").sum().cast(pl.Int64),  # their sum over a large corpus leaves 32 bits
        col("bytes", "return").sum(), col("success").any(), col("completion_step").max(),
        segments=pl.len().cast(pl.Int32), several_seeds=col("seed").min() != col("seed").max(),
        saturated=(col("saturation") * col("steps")).sum(),
        moving=moving_frames().sum().cast(pl.Int64),
        repeated=repeated_frames().sum().cast(pl.Int64),
    )  # fmt: skip


def by_match(episodes: pl.DataFrame) -> pl.DataFrame:
    """One row per match; a `last_file` other than `file` and `several_seeds` are faults."""
    col = pl.col
    return episodes.group_by("match", maintain_order=True).agg(
        col("file", "seed", "final_state_xxh3").first(), last_file=col("file").max(),
        several_seeds=col("several_seeds").any() | (col("seed").min() != col("seed").max()),
    )  # fmt: skip


def spread(matches: pl.DataFrame) -> Tally:
    """Matches that lie in two shards; within one, keys are compared to each other."""
    return _tally(
        matches, pl.col("file") != pl.col("last_file"),
        pl.format("match {} is in shard {} and in shard {}", "match", "file", "last_file"),
    )  # fmt: skip


def seed_check(matches: pl.DataFrame) -> Check:
    """Every match has one seed of its own, without the bit that evaluation reserves."""
    col, faults = pl.col, Tally()
    bad = {
        "has the evaluation bit": col("seed") >= pl.lit(EVALUATION_BIT, pl.UInt64),
        "differs within the match": col("several_seeds"),
        "is another match's too": col("seed").is_duplicated(),
    }
    for wrong, where in bad.items():
        found = _tally(matches, where, pl.format(f"match {{}}: seed {wrong}", "match"))
        faults.add(found.first, found.count)
    return judge("seeds", faults, "one per match, none with the evaluation bit")


def _tally(frame: pl.DataFrame, bad: pl.Expr, told: pl.Expr) -> Tally:
    found = frame.lazy().filter(bad)
    count = int(found.select(pl.len()).collect().item())
    return Tally(count, found.head(1).select(told).collect().item() if count else "")


def duplicate_check(matches: pl.DataFrame, samples: pl.DataFrame) -> Check:
    """No match ends in another's physics state, no sample has the bytes of another.

    `samples` has the columns SAMPLE and xxh3.
    """
    match = pl.format("match {}", "match")
    faults = copies(matches, "final_state_xxh3", match, "ends in the state of")
    same = copies(samples, "xxh3", pl.format("sample {}", KEY), "has the bytes of")
    faults.add(same.first, same.count)
    return judge("duplicates", faults, "no two matches end alike, no two samples have equal bytes")


def copies(frame: pl.DataFrame, column: str, name: pl.Expr, verb: str) -> Tally:
    """Rows whose value of a column an earlier row has; null is no value."""
    known = frame.filter(pl.col(column).is_not_null())
    twice = known.filter(pl.col(column).is_duplicated())
    if twice.is_empty():
        return Tally()
    pair = twice.filter(pl.col(column) == twice[column][0])[:2]
    first, second = pair.select(name).to_series()
    return Tally(len(twice) - twice[column].n_unique(), f"{second} {verb} {first}")


def held_out_check(corpus: Corpus, episodes: pl.DataFrame) -> Check:
    """No task and level that the suite holds out, unless the recipe says that it may."""
    held = set(corpus.manifest.held_out)
    found = episodes.group_by("task", "level").agg(pl.col("steps").sum()).sort("task", "level")
    leaks = [
        f"{task} level {level} ({steps:,} steps)"
        for task, level, steps in found.iter_rows() if (task, level) in held
    ]  # fmt: skip
    if not leaks:
        good = f"none of the {len(held)} tasks × levels held out of training"
        return Check("held out", True, good if held else "the corpus names no held-out tasks")
    told = f"holds {', '.join(leaks)}, which no training corpus may"
    if corpus.manifest.recipe.get("heldout"):
        return Check("held out", True, f"for evaluation only, as its recipe says: {told}")
    return Check("held out", False, f"{told}: heldout is not set in its recipe")
