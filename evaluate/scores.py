"""What came of an evaluation's runs, as numbers with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ..generate.registry import task_class
from .baselines import load_baselines
from .entrants import Pair
from .episodes import completion_steps
from .play import Cell
from .settings import Settings
from .statistics import Estimate, Scores, bootstrap_mean, normalised, score, wilson

INTERVAL_STREAM = 2  # of Philox keys; worlds and policies draw from 0 and 1


@dataclass(frozen=True)
class CellScores:
    """One policy's scores on one task and level; also the corpus's own, as policy DATA."""

    policy: str
    task: str
    level: int
    scores: Scores
    normalised: float | None = None
    """Mean return with random play at 0 and the expert at 1, by the baselines."""
    diverged: int = 0
    """Runs whose simulation diverged; they count as failures."""
    behaviour: str = ""
    """Part of the corpus; empty for all of it and for played policies."""

    @property
    def pair(self) -> Pair:
        """Its task and level."""
        return self.task, self.level


@dataclass(frozen=True)
class MatchScores:
    """How one policy's matches against another ended, on one task and level."""

    policy: str
    opponent: str
    task: str
    level: int
    matches: int
    wins: int
    draws: int
    losses: int
    won: Estimate
    """Share of the matches, Wilson interval."""
    mean_return: Estimate
    steps: float
    """Mean length of a match."""
    diverged: int = 0
    """Matches whose simulation diverged; they count as drawn."""


def interval_generator(seed: int) -> np.random.Generator:
    """Draws of an interval: the same whichever others there are."""
    return np.random.Generator(np.random.Philox(key=np.array((seed, INTERVAL_STREAM), np.uint64)))


def baseline_return(pair: Pair, script: str) -> float | None:
    """The mean return of `random` or `expert`, as kept with the code."""
    row = load_baselines().find(*pair, script)
    return None if row is None else row.mean_return


def normalised_return(pair: Pair, value: float) -> float | None:
    """A return with random play at 0 and the expert at 1."""
    return normalised(value, baseline_return(pair, "random"), baseline_return(pair, "expert"))


def score_cell(cell: Cell, rows: pl.DataFrame, seed: int) -> CellScores:
    """Scores of a policy's runs."""
    task, level = cell.pair
    scores = score(
        rows["return"].to_numpy(), completion_steps(rows), task_class(task).horizon,
        interval_generator(seed),
    )  # fmt: skip
    value = normalised_return(cell.pair, scores.mean_return.value)
    diverged = int((rows["cause"] != "").sum())
    return CellScores(cell.entrant.name, task, level, scores, value, diverged)


def score_matches(cell: Cell, rows: pl.DataFrame, seed: int) -> MatchScores:
    """How the first policy's side of some matches ended."""
    wins, draws, losses = (
        int((rows["outcome"] == how).sum()) for how in ("win", "draw", "loss")
    )
    task, level = cell.pair
    return MatchScores(
        cell.entrant.name, cell.rival, task, level, len(rows), wins, draws, losses,
        wilson(wins, len(rows)),
        bootstrap_mean(rows["return"].to_numpy(), interval_generator(seed)),
        float(rows["steps"].to_numpy().mean()), int((rows["cause"] != "").sum()),
    )  # fmt: skip


def score_all(
    settings: Settings, frame: pl.DataFrame
) -> tuple[list[CellScores], list[MatchScores]]:
    """Scores of every cell, by policy and task."""
    alone: list[CellScores] = []
    matches: list[MatchScores] = []
    narrow = frame.select(pl.exclude("actions", "rewards", "values"))
    parts = narrow.partition_by("policy", "opponent", "task", "level", as_dict=True)
    for cell in settings.cells():
        rows = parts[cell.entrant.name, cell.rival, *cell.pair]
        if cell.opponent is None:
            alone.append(score_cell(cell, rows, settings.seed))
        else:
            matches.append(score_matches(cell, rows, settings.seed))
    return alone, matches
