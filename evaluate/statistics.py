"""Scores with intervals, as pure functions of arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000
CHUNK = 1_000_000  # values drawn at once: 8 MB of indices
LARGE = 10_000  # values from which a mean's bootstrap is its normal interval, to three digits


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """What came of a number of runs of one policy on one task and level."""

    runs: int
    successes: int
    success: Estimate
    """Share of runs completed, Wilson interval."""
    mean_return: Estimate
    """Bootstrap interval."""
    steps: Estimate
    """Mean completion step, failures counted at the horizon; bootstrap interval."""
    completed_steps: float | None
    """Mean completion step of the completed runs alone."""


def wilson(successes: int, runs: int, confidence: float = CONFIDENCE) -> Estimate:
    """A proportion with its score interval (Wilson 1927); it holds at 0 and at 1 too."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, scale = successes / runs, 1 + z * z / runs
    centre = (rate + z * z / (2 * runs)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / runs + z * z / (4 * runs * runs))
    return Estimate(rate, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap_mean(
    values: ArrayLike, generator: np.random.Generator, confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Estimate:  # fmt: skip
    """A mean with its percentile bootstrap interval (Efron 1979); normal for LARGE samples."""
    data = np.asarray(values, np.float64)
    mean, count = float(data.mean()), len(data)
    if count >= LARGE:
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * float(data.std()) / math.sqrt(count)
        return Estimate(mean, mean - half, mean + half)
    rows = max(1, CHUNK // count)
    means = [
        data[generator.integers(0, count, (min(rows, resamples - start), count))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return Estimate(mean, float(low), float(high))


def censored_steps(completion_step: NDArray[np.int64], horizon: int) -> NDArray[np.float64]:
    """Completion steps (-1: never) with failures at the horizon."""
    return np.where(completion_step < 0, horizon, completion_step).astype(np.float64)


def score(
    returns: ArrayLike, completion_step: NDArray[np.int64], horizon: int,
    generator: np.random.Generator,
) -> Scores:  # fmt: skip
    """All scores of runs with these returns and completion steps (-1: never)."""
    completed = completion_step[completion_step >= 0]
    runs = len(completion_step)
    return Scores(
        runs, len(completed), wilson(len(completed), runs), bootstrap_mean(returns, generator),
        bootstrap_mean(censored_steps(completion_step, horizon), generator),
        float(completed.mean()) if len(completed) else None,
    )  # fmt: skip


def normalised(value: float, random: float | None, expert: float | None) -> float | None:
    """`value` where random is 0 and expert 1; None unless both are there and apart."""
    if random is None or expert is None or random == expert:
        return None
    return (value - random) / (expert - random)
