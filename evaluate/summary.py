"""Scores over many tasks: by method and group of tasks, and as performance profiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ..generate.registry import task_class
from .entrants import Pair
from .episodes import completion_steps
from .pairs import alone, unseen
from .scores import cells_of, interval_generator, normalised_returns, span
from .settings import Settings
from .statistics import (
    Array,
    Cells,
    Estimate,
    Profile,
    Resampled,
    censored_steps,
    interquartile_mean,
    resample,
    wilson,
)

ALL, TRAINING, HELD_OUT = "all", "training", "held-out"
THRESHOLDS = np.linspace(0.0, 1.2, 61)  # of normalised scores


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
    """Mean share of runs completed; of one seed with the Wilson interval of all runs together,
    which stays apart from 0 and 1 as a bootstrap would not, and is a little too wide."""
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


@dataclass(frozen=True)
class _Method:
    """One method's scores on all tasks, drawn again."""

    name: str
    seeds: int
    runs: int
    """Of each seed on each task."""
    success: Resampled
    steps: Resampled
    normalised: Resampled | None
    scored: tuple[Pair, ...]
    """The tasks of `normalised`, which have both baselines."""


def summarise(settings: Settings, frame: pl.DataFrame) -> list[Summary]:
    """Every method on every group; empty where all tasks are matches."""
    pairs = alone(settings.tasks)
    methods = _methods(settings, frame, pairs) if pairs else []
    return [
        _summary(method, group, [pairs.index(pair) for pair in chosen], chosen)
        for group, chosen in groups_of(settings).items()
        for method in methods
    ]


def _summary(
    method: _Method, group: str, places: Sequence[int], chosen: Sequence[Pair]
) -> Summary:
    normal, scored = None, [i for i, pair in enumerate(method.scored) if pair in chosen]
    if method.normalised is not None and scored:
        normal = method.normalised.on(scored)
    success = method.success.on(places).estimate(np.mean)
    if method.seeds == 1:
        runs = len(chosen) * method.runs
        success = wilson(round(success.value * runs), runs)
    return Summary(
        method.name, group, len(chosen), method.seeds, success,
        method.steps.on(places).estimate(np.mean),
        None if normal is None else normal.estimate(interquartile_mean),
        None if normal is None else normal.estimate(np.mean),
    )  # fmt: skip


def _methods(settings: Settings, frame: pl.DataFrame, pairs: Sequence[Pair]) -> list[_Method]:
    parts = cells_of(frame)

    def columns(names: Sequence[str], pair: Pair) -> tuple[Array, Array]:
        rows = [parts[name, "", *pair] for name in names]
        return (
            np.stack([row["return"].to_numpy() for row in rows]),
            np.stack([completion_steps(row) for row in rows]),
        )

    def drawn(cells: Cells) -> Resampled | None:
        return resample(cells, interval_generator(settings.seed)) if cells else None

    found = []
    for method, names in methods_of(settings).items():
        returns, completed = zip(*(columns(names, pair) for pair in pairs), strict=True)
        success = drawn([(steps >= 0).astype(np.float64) for steps in completed])
        horizons = [task_class(task).horizon for task, _ in pairs]
        steps = drawn([
            censored_steps(c, horizon) / horizon
            for c, horizon in zip(completed, horizons, strict=True)
        ])  # fmt: skip
        scored = tuple(pair for pair in pairs if span(pair) is not None)
        normal = [normalised_returns(r, p) for r, p in zip(returns, pairs, strict=True)]
        assert success is not None and steps is not None
        found.append(_Method(
            method, len(names), settings.runs, success, steps,
            drawn([n for n in normal if n is not None]), scored,
        ))  # fmt: skip
    return found


def profiles(settings: Settings, frame: pl.DataFrame) -> Iterator[tuple[str, Profile]]:
    """Each method's share of (seed, task) scores above every threshold, over all tasks."""
    pairs = alone(settings.tasks)
    for method in _methods(settings, frame, pairs) if pairs else ():
        if method.normalised is not None:
            yield method.name, method.normalised.profile(THRESHOLDS)
