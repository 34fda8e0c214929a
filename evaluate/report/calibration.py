"""How a critic's values compare with the returns that followed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import signal

from ...generate.registry import task_class

BINS = 15  # of equally many steps, by predicted value
NO_SPREAD = 1e-10  # variance that rounding in float32 can make; train.metrics has the same
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Values V(s_t) against realised returns G_t, both in units of (1 − γ) · return."""

    steps: int
    predicted: Floats
    """(bins,) mean of V in each bin, ascending."""
    realised: Floats
    """(bins,) mean of G"""
    low: Floats
    """(bins,) lower quartile of G"""
    high: Floats
    """(bins,) upper quartile of G"""
    bias: float
    """Mean of V − G."""
    slope: float | None
    """Of the regression of G on V, 1 if calibrated; None where V does not vary."""
    explained: float | None
    """1 − Var(G − V) / Var(G); None where G does not vary."""


def calibrate(frame: pl.DataFrame, discount: float, bins: int = BINS) -> Calibration | None:
    """Calibration over all steps of rows that have values; None if none has.

    `frame` has the columns of `episodes.COLUMNS`; `discount` is the critic's γ.
    """
    rows = frame.filter(pl.col("values").is_not_null())
    if rows.is_empty():
        return None
    pairs = [_outcomes(part, discount) for part in _by_task(rows)]
    value, outcome = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    parts = np.array_split(np.argsort(value, kind="stable"), min(bins, len(value)))
    predicted, realised = (np.array([x[part].mean() for part in parts]) for x in (value, outcome))
    low, high = np.transpose([np.quantile(outcome[part], (0.25, 0.75)) for part in parts])
    spread, wanted, rest = (float(x.var()) for x in (value, outcome, outcome - value))
    together = float(((value - value.mean()) * (outcome - outcome.mean())).mean())
    return Calibration(
        len(value), predicted, realised, low, high, float((value - outcome).mean()),
        together / spread if spread > NO_SPREAD else None,
        1 - rest / wanted if wanted > NO_SPREAD else None,
    )  # fmt: skip


def _by_task(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    narrow = rows.select("task", "steps", "rewards", "values")
    yield from narrow.partition_by("task", maintain_order=True)


def _outcomes(rows: pl.DataFrame, discount: float) -> tuple[Floats, Floats]:
    """(steps,) V and (steps,) G of one task's runs, end to end."""
    horizon = task_class(rows["task"][0]).horizon
    steps = rows["steps"].to_numpy()
    played = np.arange(horizon) < steps[:, None]
    reward, value = np.zeros((2, *played.shape))
    reward[played] = rows["rewards"].explode().to_numpy()
    value[played] = rows["values"].explode().to_numpy()
    outcome = realised_returns(reward, value, steps, steps < horizon, discount)
    return value[played], outcome[played]


def realised_returns(
    reward: Floats, value: Floats, steps: NDArray[np.integer], terminated: NDArray[np.bool_],
    discount: float,
) -> Floats:  # fmt: skip
    """G_t = Σ_{k ≥ t} (1 − γ) γ^{k − t} r_k over whole runs, what follows a time limit guessed.

    reward and value (n, T), steps (n,) played, terminated (n,) → (n, T), where steps were played:
    as `train.loss.advantages` with λ = 1, plus V, but not cut into segments. A termination does
    not bootstrap; a time limit does, from the last step's own value.
    """
    lanes, last = np.arange(len(steps)), steps - 1
    income = (1 - discount) * reward
    income[np.arange(reward.shape[1]) >= steps[:, None]] = 0.0
    income[lanes, last] += np.where(terminated, 0.0, discount * value[lanes, last])
    # G_t = income_t + γ G_{t+1}: a filter of one pole, run backwards in time
    returns: Floats = signal.lfilter([1.0], [1.0, -discount], income[:, ::-1], axis=1)[:, ::-1]
    return returns
