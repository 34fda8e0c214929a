"""An evaluation's runs as a table: episodes.parquet has these columns."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..generate.rollout import seat
from .entrants import Pair
from .runs import Runs

FLOATS = pl.List(pl.Float32)
COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "policy": pl.String,
    "opponent": pl.String,  # empty without one
    "task": pl.String,
    "level": pl.Int32,
    "run": pl.Int32,  # number of the run or match: the same seed for every policy
    "player": pl.Int32,  # 0, or 1 on the second side of a match
    "seed": pl.UInt64,
    "return": pl.Float64,
    "success": pl.Boolean,  # completed; of a match, won
    "completion_step": pl.Int32,  # null: never
    "steps": pl.Int32,  # played
    "outcome": pl.String,  # of a match: win, loss, draw
    "cause": pl.String,  # why the simulation diverged, else empty
    "actions": FLOATS,  # steps × the actions that the task uses, row by row
    "rewards": FLOATS,  # by step
    "values": FLOATS,  # by step, the critic's in units of (1 − γ) · return; null without one
}
KEY = ("policy", "opponent", "task", "level")  # of a cell: runs of one kind


def frame_of(runs: Runs, policy: str, opponent: str, first: int) -> pl.DataFrame:
    """A row per run, numbered from `first`; of a match two, one from each policy's side."""
    lanes = range(len(runs.seeds))
    sims = [divmod(lane, runs.players) for lane in lanes]
    seats = [seat(sim, player, runs.players) for sim, player in sims]
    names = (policy, opponent) if runs.players == 2 else (policy, "")
    played = [int(count) for count in runs.steps]
    columns = {
        "policy": [names[place] for place in seats],
        "opponent": [names[1 - place] for place in seats],
        "task": [runs.task] * len(lanes),
        "level": [runs.level] * len(lanes),
        "run": [first + sim for sim, _ in sims],
        "player": [player for _, player in sims],
        "seed": list(runs.seeds),
        "return": runs.returns,
        "success": runs.success,
        "completion_step": [int(s) if s >= 0 else None for s in runs.completion_step],
        "steps": runs.steps,
        "outcome": list(runs.outcomes),
        "cause": list(runs.causes),
        "actions": [runs.actions[i, : played[i]].ravel() for i in lanes],
        "rewards": [runs.rewards[i, : played[i]] for i in lanes],
        "values": [None if runs.values is None else runs.values[i, : played[i]] for i in lanes],
    }
    return pl.DataFrame(columns, COLUMNS, strict=False)


def joined(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Frames as one; an empty one has the columns as well."""
    return pl.concat([pl.DataFrame(schema=COLUMNS), *frames])


def runs_of(frame: pl.DataFrame, policy: str, pair: Pair, opponent: str = "") -> pl.DataFrame:
    """A cell's rows in the order of its runs."""
    task, level = pair
    mine = (pl.col("policy") == policy) & (pl.col("opponent") == opponent)
    return frame.filter(mine, pl.col("task") == task, pl.col("level") == level).sort("run")


def both_sides(frame: pl.DataFrame, policy: str, pair: Pair, opponent: str = "") -> pl.DataFrame:
    """A cell's rows; of a match the policy's, then its opponent's."""
    own = runs_of(frame, policy, pair, opponent)
    return pl.concat([own, runs_of(frame, opponent, pair, policy)]) if opponent else own


def completion_steps(rows: pl.DataFrame) -> NDArray[np.int64]:
    """(n,) -1 for never."""
    return rows["completion_step"].cast(pl.Int64).fill_null(-1).to_numpy()
