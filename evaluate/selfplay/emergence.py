"""What the matches of a round were like: contact, distance, length, endings, effort, who won."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...generate.scenes.arena import RING_HEIGHT
from ..scores import interval_generator
from ..standings import ALL
from ..statistics import STRATIFIED_RESAMPLES, Array, Estimate, bootstrap_means, wilson
from .settings import round_name

TIME_LIMIT, DIVERGED, BOTH_OUT, FELL = "time_limit", "diverged", "both_out", "fell"
PUSHED_OUT, DROVE_OUT = "pushed_out", "drove_out"
ENDS = {"tag": "caught", "ball": "goal"}  # what a match's real ending is called
TERMINATED = "terminated"  # on other tasks
BEFORE = "the round before"
RECENT = 10  # control steps, 0.4 s: who was touched so shortly before leaving a ring was pushed
MEASURES = ("contact", "distance", "steps", "seconds", "speed", "effort")
MATCH = {
    "opponent": pl.String, "task": pl.String, "level": pl.Int32, "run": pl.Int32,
    "player": pl.Int32, "seed": pl.UInt64, "return": pl.Float64, "steps": pl.Int32,
    "outcome": pl.String, "cause": pl.String,
}  # fmt: skip
"""Columns that are an evaluation's own: which match it was and what came of it."""
COLUMNS = pl.Schema(
    MATCH | dict.fromkeys(("contact", "distance", "seconds", "speed", "effort"), pl.Float64)
    | {"ending": pl.String}
)  # fmt: skip
"""Of a round's emergence.parquet: a row per match of its policy. Without a counted step, null."""


@dataclass(frozen=True)
class Tracks:
    """A wave of n matches of one task, recorded for up to T control steps.

    What is recorded beyond a match's end does not count, nor does the step that broke one.
    """

    task: str
    step_s: float
    """Seconds of a control step."""
    player: NDArray[np.int64]
    """(n,) the side, 0 or 1, of the policy that the numbers are about"""
    steps: NDArray[np.int64]
    """(n,) played"""
    position: Array
    """(n, T + 1, 2, 3) m, world: both players' bodies before the first step and after each"""
    contact: NDArray[np.bool_]
    """(n, T) whether geoms of the two players touch after the step"""
    action: NDArray[np.float32]
    """(n, T, k) the policy's, those that the task uses"""
    won: NDArray[np.bool_]
    """(n, 2) success at the last step, by player"""
    terminated: NDArray[np.bool_]
    """(n,) by the task, not by the time limit"""
    diverged: NDArray[np.bool_]
    """(n,) in its last step"""

    @property
    def counted(self) -> NDArray[np.int64]:
        """(n,) steps that count."""
        return self.steps - self.diverged

    @property
    def during(self) -> NDArray[np.bool_]:
        """(n, T) whether a step counts."""
        return np.arange(self.contact.shape[1]) < self.counted[:, None]


def measures(tracks: Tracks) -> dict[str, Array]:
    """By match (n,): means over its steps, and how many seconds it took.

    `contact` is a share of the steps; `distance` lies between the middles, seen from above, in m;
    `speed` is the policy's own, in m/s; `effort` is the mean of its |action|, from 0 to 1.
    """
    lanes, flat = np.arange(len(tracks.steps)), tracks.position[..., :2]
    gap = flat[:, 1:, 1] - flat[:, 1:, 0]
    moved = np.diff(flat[lanes, :, tracks.player], axis=1)
    series = {
        "contact": tracks.contact.astype(np.float64),
        "distance": np.sqrt((gap**2).sum(axis=2)),
        "speed": np.sqrt((moved**2).sum(axis=2)) / tracks.step_s,
        "effort": np.abs(tracks.action).mean(axis=2, dtype=np.float64),
    }
    means = {name: _mean(values, tracks.during) for name, values in series.items()}
    return means | {"seconds": (tracks.steps * tracks.step_s).astype(np.float64)}


def _mean(values: Array, during: NDArray[np.bool_]) -> Array:
    """(n,) means of (n, T) where it counts; NaN where nothing does."""
    # summed in order: by halves, the last bits would depend on the longest match of the wave
    sums, count = np.cumsum(np.where(during, values, 0.0), axis=1)[:, -1], during.sum(axis=1)
    means: Array = np.divide(sums, count, out=np.full(len(sums), np.nan), where=count > 0)
    return means


def endings(tracks: Tracks) -> list[str]:
    """What ended each match.

    Of sumo: `pushed_out` of the ring (touched in the last 0.4 s), `drove_out` untouched, `fell`
    below the ring's top before the middle was over the edge, `both_out`. Of tag `caught`, of ball
    `goal`; and everywhere `time_limit` and `diverged`.
    """
    found: list[tuple[NDArray[np.bool_], str]] = [
        (tracks.diverged, DIVERGED), (~tracks.terminated, TIME_LIMIT),
    ]  # fmt: skip
    if tracks.task == "sumo":
        lanes, late = np.arange(len(tracks.steps)), (tracks.counted - RECENT)[:, None]
        below = tracks.position[lanes, tracks.counted, :, 2] < RING_HEIGHT
        touched = tracks.contact & tracks.during & (np.arange(tracks.contact.shape[1]) >= late)
        found += [
            (~_any(tracks.won), BOTH_OUT), (_any(below & ~tracks.won), FELL),
            (_any(touched), PUSHED_OUT),
        ]  # fmt: skip
    rest = DROVE_OUT if tracks.task == "sumo" else ENDS.get(tracks.task, TERMINATED)
    conditions, kinds = zip(*found, strict=True)
    chosen: list[str] = np.select(conditions, kinds, rest).tolist()
    return chosen


def _any(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) of (n, k)"""
    found: NDArray[np.bool_] = np.asarray(values.any(axis=1))
    return found


@dataclass(frozen=True)
class Emergence:
    """A round's policy in its matches on a task against one opponent, over all levels."""

    round: int
    task: str
    """ALL: over all tasks, where there are several; without means, which no two tasks share."""
    opponent: str
    matches: int
    wins: int
    draws: int
    losses: int
    won: Estimate | None
    """Share of the decided matches, Wilson interval; None if none was decided."""
    means: dict[str, Estimate] = field(default_factory=dict)
    """Of each of MEASURES over the matches, with bootstrap intervals; empty without any."""
    endings: dict[str, int] = field(default_factory=dict)
    """Matches by what ended them, the most first."""

    @property
    def rival(self) -> str:
        """BEFORE, or the anchor."""
        return BEFORE if self.opponent == round_name(self.round - 1) else self.opponent

    @property
    def decided(self) -> int:
        """Matches that somebody won."""
        return self.wins + self.losses


def summaries(number: int, matches: pl.DataFrame, rivals: Sequence[str]) -> Iterator[Emergence]:
    """By opponent, in the rivals' order, and task; of a round's matches by COLUMNS."""
    for rival in rivals:
        own = matches.filter(pl.col("opponent") == rival)
        tasks = own["task"].unique(maintain_order=True).to_list()
        for task in (ALL, *tasks) if len(tasks) > 1 else tasks:
            rows = own if task == ALL else own.filter(pl.col("task") == task)
            yield _summary(number, rows, task, rival)


def _summary(number: int, rows: pl.DataFrame, task: str, rival: str) -> Emergence:
    wins, draws, losses = (int((rows["outcome"] == o).sum()) for o in ("win", "draw", "loss"))
    won = wilson(wins, wins + losses) if wins + losses else None
    counted = (number, task, rival, len(rows), wins, draws, losses, won)
    if task == ALL:
        return Emergence(*counted)
    ended = rows["ending"].value_counts().sort("count", "ending", descending=[True, False])
    return Emergence(*counted, _means(rows), dict(ended.iter_rows()))


def _means(rows: pl.DataFrame) -> dict[str, Estimate]:
    """Over the matches of which a step counts."""
    values = rows.select(MEASURES).drop_nulls()
    if values.is_empty():
        return {}
    columns = values.to_numpy().T
    found = bootstrap_means(columns, interval_generator(0), resamples=STRATIFIED_RESAMPLES)
    return dict(zip(MEASURES, found, strict=True))
