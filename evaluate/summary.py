"""Scores over many tasks: by method and group of tasks, and as performance profiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..generate.registry import task_class
from .entrants import Pair
from .episodes import completion_steps, runs_of
from .pairs import alone, unseen
from .scores import baseline_return, interval_generator
from .settings import Settings
from .statistics import (
    Estimate,
    Profile,
    censored_steps,
    interquartile_mean,
    performance_profile,
    stratified,
)

ALL, TRAINING, HELD_OUT = "all", "training", "held-out"
THRESHOLDS = np.linspace(0.0, 1.2, 61)  # of normalised scores
Cells = list[NDArray[np.float64]]


@dataclass(frozen=True)
class Summary:
    """One method on a group of tasks and levels; every one of them counts the same."""

    method: str
    group: str
    """`all`, `training`, `held-out`, a family, or `level 2`."""
    tasks: int
    """(task, level) pairs in the group."""
    seeds: int
    """Independently trained networks; 1 for a script."""
    success: Estimate
    """Mean share of runs completed."""
    steps: Estimate
    """Mean completion step as a share of the horizon, where failures are counted."""
    normalised: Estimate | None
    """Interquartile mean over seeds × tasks of the return, random play at 0 and the expert at 1;
    None where no task has both baselines."""
    mean_normalised: Estimate | None
    """The plain mean of the same."""


def methods_of(settings: Settings) -> dict[str, list[str]]:
    """Names of the policies of each method, in order."""
    found: dict[str, list[str]] = {}
    for policy in settings.policies:
        found.setdefault(policy.method, []).append(policy.name)
    return found


def groups_of(settings: Settings) -> dict[str, tuple[Pair, ...]]:
    """Groups of the tasks of one player: those of two or more, apart from `all`, that differ."""
    pairs = alone(settings.tasks)
    hidden = unseen(pairs, settings.policies)
    groups = {
        ALL: pairs,
        TRAINING: tuple(pair for pair in pairs if pair not in hidden),
        HELD_OUT: tuple(pair for pair in pairs if pair in hidden),
    }
    for family in dict.fromkeys(task_class(task).family for task, _ in pairs):
        groups[family] = tuple(pair for pair in pairs if task_class(pair[0]).family == family)
    for level in sorted({level for _, level in pairs}):
        groups[f"level {level}"] = tuple(pair for pair in pairs if pair[1] == level)
    return {
        name: group for name, group in groups.items()
        if group and (name in (ALL, HELD_OUT) or group != pairs)
    }  # fmt: skip


def summarise(settings: Settings, frame: pl.DataFrame) -> list[Summary]:
    """Every method on every group; empty where all tasks are matches."""
    return [
        _summary(settings, frame, method, names, group, pairs)
        for group, pairs in groups_of(settings).items()
        for method, names in methods_of(settings).items()
    ]


def _summary(
    settings: Settings, frame: pl.DataFrame, method: str, names: Sequence[str], group: str,
    pairs: Sequence[Pair],
) -> Summary:  # fmt: skip
    def estimate(cells: Cells, interquartile: bool = False) -> Estimate | None:
        statistic = interquartile_mean if interquartile else np.mean
        generator = interval_generator(settings.seed)
        return stratified(cells, statistic, generator) if cells else None

    success, steps = zip(*(_reached(frame, names, pair) for pair in pairs), strict=True)
    returns = normalised_returns(frame, names, pairs)
    succeeded, reached = estimate(list(success)), estimate(list(steps))
    assert succeeded is not None and reached is not None
    return Summary(
        method, group, len(pairs), len(names), succeeded, reached, estimate(returns, True),
        estimate(returns),
    )  # fmt: skip


def _reached(
    frame: pl.DataFrame, names: Sequence[str], pair: Pair
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whether, and at which share of the horizon, runs (seeds, runs) were completed."""
    horizon = task_class(pair[0]).horizon
    rows = [completion_steps(runs_of(frame, name, pair)) for name in names]
    steps = np.stack([censored_steps(row, horizon) for row in rows])
    return (np.stack(rows) >= 0).astype(np.float64), steps / horizon


def normalised_returns(frame: pl.DataFrame, names: Sequence[str], pairs: Sequence[Pair]) -> Cells:
    """(seeds, runs) normalised returns of each pair that has both baselines."""
    found = []
    for pair in pairs:
        low, high = (baseline_return(pair, script) for script in ("random", "expert"))
        if low is not None and high is not None and low != high:
            rows = [runs_of(frame, name, pair)["return"].to_numpy() for name in names]
            found.append((np.stack(rows) - low) / (high - low))
    return found


def profiles(settings: Settings, frame: pl.DataFrame) -> Iterator[tuple[str, Profile]]:
    """Each method's share of (seed, task) scores above every threshold, over all tasks."""
    for method, names in methods_of(settings).items():
        cells = normalised_returns(frame, names, alone(settings.tasks))
        if cells:
            yield method, performance_profile(cells, THRESHOLDS, interval_generator(settings.seed))
