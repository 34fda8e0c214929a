"""What came of an evaluation's runs, as numbers with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ..generate.registry import task_class
from .baselines import load_baselines
from .entrants import Pair
from .episodes import KEY, completion_steps
from .play import Cell
from .settings import Settings
from .statistics import Array, Estimate, Scores, bootstrap_mean, score_each, wilson

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


def span(pair: Pair) -> tuple[float, float] | None:
    """Mean returns of random play and of the expert, as kept with the code; None if not apart."""
    rows = [load_baselines().find(*pair, script) for script in ("random", "expert")]
    low, high = (None if row is None else row.mean_return for row in rows)
    return None if low is None or high is None or low == high else (low, high)


def normalised_returns(returns: Array, pair: Pair) -> Array | None:
    """Returns with random play at 0 and the expert at 1; None without the two."""
    ends = span(pair)
    return None if ends is None else (returns - ends[0]) / (ends[1] - ends[0])


def normalised_return(pair: Pair, value: float) -> float | None:
    """One return, as `normalised_returns`."""
    found = normalised_returns(np.array(value), pair)
    return None if found is None else float(found)


def score_cells(
    cells: Sequence[Cell], rows: Sequence[pl.DataFrame], seed: int
) -> list[CellScores]:
    """Scores of policies' runs, all of the same number."""
    if not cells:
        return []
    returns = np.stack([r["return"].to_numpy() for r in rows])
    completed = np.stack([completion_steps(r) for r in rows])
    horizons = [task_class(cell.pair[0]).horizon for cell in cells]
    found = score_each(returns, completed, horizons, interval_generator(seed))
    return [
        CellScores(
            cell.entrant.name, *cell.pair, scores,
            normalised_return(cell.pair, scores.mean_return.value), int((r["cause"] != "").sum()),
        )
        for cell, r, scores in zip(cells, rows, found, strict=True)
    ]  # fmt: skip


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
    parts = cells_of(frame)
    cells = settings.cells()
    rows = [parts[cell.entrant.name, cell.rival, *cell.pair] for cell in cells]
    alone = [i for i, cell in enumerate(cells) if cell.opponent is None]
    matches = [i for i, cell in enumerate(cells) if cell.opponent is not None]
    return (
        score_cells([cells[i] for i in alone], [rows[i] for i in alone], settings.seed),
        [score_matches(cells[i], rows[i], settings.seed) for i in matches],
    )


def cells_of(frame: pl.DataFrame) -> dict[tuple[Any, ...], pl.DataFrame]:
    """Rows by policy, opponent, task and level, in order, without what was recorded by step."""
    narrow = frame.select(pl.exclude("actions", "rewards", "values")).sort("run")
    return narrow.partition_by(*KEY, as_dict=True, maintain_order=True)
