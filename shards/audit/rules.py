"""What is wrong with single segments, as polars expressions over an index's rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from ..episode import ARRAYS
from ..schema import SEGMENT_STEPS, Schema
from .report import Tally

# Share of repeated frames above which a video counts as frozen. Frames after completion are left
# out: an expert that has arrived stands still (60 % of a reach). A random arm jammed against the
# table repeats up to 73 %; a dead renderer all.
FROZEN_FRAMES = 0.9
KEY = pl.format(
    "{}-{}-{}", pl.col("match").cast(pl.String).str.zfill(12), "player",
    pl.col("segment").cast(pl.String).str.zfill(2),
)  # fmt: skip
SAMPLE_NAME = pl.format("sample {}", "key")
EPISODE = ("file", "match", "player")
CONSTANT = (  # over an episode's segments; seeds have a check of their own
    "task", "level", "instruction", "policy", "opponent", "rating", "opponent_rating", "sampling",
    "sampling_probability", "round", "outcome",
)  # fmt: skip
SEGMENT_COLUMNS = (
    *EPISODE, "segment", "key", "steps", "terminated", "truncated", "final_state_xxh3", *CONSTANT,
)  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """A fault of every row for which `bad` holds; null counts as good."""

    check: str
    bad: pl.Expr
    wrong: str
    """Completes the name of a row: `sample KEY …`."""


def apply(
    rules: Iterable[Rule], rows: pl.DataFrame, tallies: dict[str, Tally],
    name: pl.Expr = SAMPLE_NAME,
) -> None:  # fmt: skip
    """Count each rule's faults among the rows, which go by `name`, all in one pass over them."""
    chosen = list(rules)
    places = rows.lazy().select(
        pl.struct(count=rule.bad.sum(), row=rule.bad.arg_true().first()).alias(str(i))
        for i, rule in enumerate(chosen)
    )
    for rule, column in zip(chosen, places.collect(), strict=True):
        if count := column[0]["count"]:
            first = rows[column[0]["row"]].select(name).item()
            tallies[rule.check].add(f"{first} {rule.wrong}", count)


def moving_frames() -> pl.Expr:
    """A segment's frames before its episode was completed: after that, standing still is right."""
    steps, before = pl.col("steps"), pl.col("completion_step") - pl.col("segment") * SEGMENT_STEPS
    return before.clip(0, steps).fill_null(steps)


def repeated_frames() -> pl.Expr:
    """Those of them that equal the one before, at least; frames after completion may all do."""
    return (pl.col("frozen_frames") - (pl.col("steps") - moving_frames())).clip(0)


def is_still() -> pl.Expr:
    """Whether a segment's video is frozen."""
    return repeated_frames() > FROZEN_FRAMES * moving_frames()


def stills(rows: pl.DataFrame) -> pl.DataFrame:
    """task, level, how many segments they have there, how many of which are frozen."""
    counts = {"segments": pl.len(), "frozen": is_still().sum()}
    return rows.group_by("task", "level").agg(**counts)


def row_rules(schema: Schema) -> Iterator[Rule]:
    """Rules for rows in stored order: byte ranges, keys, numbers, frames.

    Rows are whole shards' and have `file`, the shard that each was read from.
    """
    col, (low, high) = pl.col, schema.reward_range
    follows = col("file") == col("file").shift(1, fill_value=-1)
    before = pl.when(follows).then((col("offset") + col("bytes")).shift(1)).otherwise(0)
    yield Rule("byte ranges", col("offset") != before, "does not begin where the one before ends")
    yield Rule("byte ranges", col("shard") != col("file"), "names another shard")
    bad = col("key").is_duplicated() | (col("key") != KEY)
    yield Rule("keys", bad, "is there twice or misnamed")
    extremes = col([f"{array}_{kind}" for array in ARRAYS for kind in ("min", "max")])
    bad = pl.any_horizontal(~extremes.is_finite().fill_null(False)) | pl.any_horizontal(
        col([f"{array}_nan" for array in ARRAYS]) > 0
    )
    yield Rule("finite", bad, "holds NaN or infinity")
    bad = (col("action_min") < -1) | (col("action_max") > 1)
    yield Rule("actions", bad, "leaves [-1, 1]")
    bad = (col("reward_min") < low) | (col("reward_max") > high)
    yield Rule("rewards", bad, f"leaves [{low:g}, {high:g}]")
    yield Rule("frozen videos", is_still(), "is the first")


def segment_rules() -> Iterator[Rule]:
    """Rules for rows `in_order`: episodes are whole and end properly."""
    col = pl.col
    first = pl.any_horizontal(col(name) != col(name).shift(1) for name in EPISODE)
    last = pl.any_horizontal(col(name) != col(name).shift(-1) for name in EPISODE)
    first, last = first.fill_null(True), last.fill_null(True)
    ended = col("terminated") | col("truncated")
    other = pl.any_horizontal(col(name).ne_missing(col(name).shift(1)) for name in CONSTANT)
    number = pl.when(first).then(0).otherwise(col("segment").shift(1) + 1)
    wrong = {
        "does not follow the segment before it": col("segment") != number,
        "has not the task, players or outcome of the segment before it": ~first & other,
        "is both terminated and truncated": col("terminated") & col("truncated"),
        "is the last of its episode, yet does not end it": last & ~ended,
        "ends its episode, yet is not the last": ~last & ended,
        "has no final state hash": last & col("final_state_xxh3").is_null(),
        f"is not the last, yet has not {SEGMENT_STEPS} steps":
            ~last & (col("steps") != SEGMENT_STEPS),
    }  # fmt: skip
    yield from (Rule("segments", bad, what) for what, bad in wrong.items())


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """What `segment_rules` look at: each episode's segments one after another."""
    return rows.select(SEGMENT_COLUMNS).sort(*EPISODE, "segment")
