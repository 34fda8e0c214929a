"""`evaluate compare A B`: two policies on the same seeds, run by run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich import box
from rich.markup import escape
from rich.table import Table

from ..generate.registry import task_class
from ..shards import storage
from ..shards.console import console, fit
from ..shards.errors import ConfigError, UnknownNameError
from .entrants import Entrant, Pair, find_entrants
from .episodes import completion_steps
from .evaluation import record, require_fitting
from .output import RESULTS, read
from .pairs import alone, choose_pairs
from .scores import interval_generator, normalised_returns
from .settings import Settings
from .statistics import Estimate, censored_steps, paired_difference, stratified_difference
from .table import pair_name

Columns = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Difference:
    """B − A on one task and level, or over all of them; intervals are of 95 %."""

    tasks: tuple[Pair, ...]
    runs: int
    """Pairs of runs on the same seed."""
    success: Estimate
    mean_return: Estimate | None
    """None over several tasks, whose returns are of several sizes."""
    normalised: Estimate | None
    """Of the return, random play at 0 and the expert at 1."""
    steps: Estimate
    """To completion, failures at the horizon."""


@dataclass(frozen=True)
class Comparison:
    """Two policies that played the same seeds."""

    a: str
    b: str
    differences: tuple[Difference, ...]
    """By task and level, and over all where there are several."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Side:
    """A policy's runs, or where they are to come from."""

    policy: Entrant
    settings: Settings | None = None
    frame: pl.DataFrame | None = None


def compare(
    a: str, b: str, tasks: Sequence[str], levels: Sequence[int], defaults: Settings,
    workers: int | None,
) -> Comparison:  # fmt: skip
    """Compare two policies; each is a policy's URL, or an evaluation's (`URL#NAME` if of several).

    What has not been played is played now: as the other side's evaluation was, else as `defaults`
    and flags say. Raises ConfigError if the two have no run in common.
    """
    sides = [_find(where) for where in (a, b)]
    played = next((side.settings for side in sides if side.settings is not None), None)
    policies = tuple(side.policy for side in sides)
    if played is None or tasks or levels:
        pairs = choose_pairs(tasks, levels, policies)
    else:
        pairs = played.tasks
    settings = dataclasses.replace(played or defaults, tasks=alone(pairs))
    if not settings.tasks:
        raise ConfigError("--tasks: expected tasks of one player; matches are compared by ratings")
    frames = [_runs(side, settings, workers) for side in sides]
    return difference(policies[0].name, policies[1].name, frames[0], frames[1], settings)


def _find(where: str) -> Side:
    url, _, name = where.rpartition("#") if "#" in where else (where, "", "")
    if not storage.exists(storage.join(url, RESULTS)):
        found = find_entrants([where])
        require_fitting(found.entrants, found.schemas)
        return Side(found.entrants[0])
    settings, recorded = read(url)
    names = [policy.name for policy in settings.policies]
    if name and name not in names:
        raise UnknownNameError("policy", name, names, url)
    learned = [policy for policy in settings.policies if policy.learned and policy.history]
    chosen = [policy for policy in settings.policies if policy.name == name] if name else learned
    if len(chosen) != 1:
        known = ", ".join(map(repr, names))
        raise ConfigError(f"{url}: which policy? expected {url}#NAME with one of {known}")
    return Side(chosen[0], settings, recorded.frame.filter(pl.col("policy") == chosen[0].name))


def _runs(side: Side, settings: Settings, workers: int | None) -> pl.DataFrame:
    if side.frame is not None:
        return side.frame
    return record(dataclasses.replace(settings, policies=(side.policy,)), workers).frame


def difference(
    a: str, b: str, first: pl.DataFrame, second: pl.DataFrame, settings: Settings
) -> Comparison:
    """B − A over the runs that both played, task by task and over all."""
    found = {pair: _common(first, second, pair) for pair in settings.tasks}
    found = {pair: columns for pair, columns in found.items() if len(columns[0]["success"])}
    if not found:
        raise ConfigError(f"{a} and {b} have no run on the same task and seed")
    rows = list(_by_task(found, settings.seed))
    if len(found) > 1:
        rows.append(_over_all(found, settings.seed))
    return Comparison(a, b, tuple(rows))


def _common(first: pl.DataFrame, second: pl.DataFrame, pair: Pair) -> tuple[Columns, Columns]:
    """Both sides' columns over the seeds they share, in the seeds' order."""
    task, level = pair
    sides = [
        frame.filter(pl.col("task") == task, pl.col("level") == level, pl.col("opponent") == "")
        for frame in (first, second)
    ]
    seeds = set(sides[0]["seed"]) & set(sides[1]["seed"])
    both = [side.filter(pl.col("seed").is_in(list(seeds))).sort("seed") for side in sides]
    return _columns(both[0], pair), _columns(both[1], pair)


def _columns(rows: pl.DataFrame, pair: Pair) -> Columns:
    """What is compared; `normalised` where the task has both baselines."""
    steps, returns = completion_steps(rows), rows["return"].to_numpy()
    found = {
        "success": (steps >= 0).astype(np.float64),
        "return": returns,
        "steps": censored_steps(steps, task_class(pair[0]).horizon),
    }
    normal = normalised_returns(returns, pair)
    return found if normal is None else found | {"normalised": normal}


def _by_task(found: dict[Pair, tuple[Columns, Columns]], seed: int) -> Iterator[Difference]:
    for pair, (a, b) in found.items():
        over = {name: paired_difference(b[name], a[name], interval_generator(seed)) for name in a}
        yield Difference(
            (pair,), len(a["success"]), over["success"], over["return"], over.get("normalised"),
            over["steps"],
        )  # fmt: skip


def _over_all(found: dict[Pair, tuple[Columns, Columns]], seed: int) -> Difference:
    def over(name: str) -> Estimate:
        sides = [(a[name], b[name]) for a, b in found.values() if name in a]
        first, second = zip(*sides, strict=True)
        return stratified_difference(second, first, interval_generator(seed))

    runs = sum(len(a["success"]) for a, _ in found.values())
    scored = any("normalised" in a for a, _ in found.values())
    normal = over("normalised") if scored else None
    return Difference(tuple(found), runs, over("success"), None, normal, over("steps"))


def print_comparison(comparison: Comparison) -> None:
    """B − A with intervals; those that exclude zero are marked."""
    table = Table("B − A", "runs", "success", "return", "normalised", "steps", box=box.SIMPLE_HEAD)
    for row in comparison.differences:
        name = pair_name(row.tasks[0]) if len(row.tasks) == 1 else f"all ({len(row.tasks)})"
        table.add_row(
            name, f"{row.runs:,}", _shown(row.success, 100, 0, " points"),
            _shown(row.mean_return, 1, 1), _shown(row.normalised, 1, 2), _shown(row.steps, 1, 0),
        )  # fmt: skip
    console.print(f"A: {escape(comparison.a)}   B: {escape(comparison.b)}")
    console.print(fit(table))
    console.print("On the same seeds, with 95 % intervals of the paired difference; * excludes 0.")


def _shown(estimate: Estimate | None, scale: float, digits: int, unit: str = "") -> str:
    if estimate is None:
        return "–"
    value, low, high = (scale * x for x in (estimate.value, estimate.low, estimate.high))
    mark = " *" if estimate.apart else ""
    return f"{value:+.{digits}f}{unit} [{low:+.{digits}f}, {high:+.{digits}f}]{mark}"
