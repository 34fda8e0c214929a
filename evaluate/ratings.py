"""Ratings of policies that play matches: the model of Bradley and Terry (1952), with intervals.

i wins a match against j with probability 1 / (1 + 10^((r_j - r_i) / 400)), the scale of Elo; a draw
counts half a win for each. The ratings r maximise the likelihood of all matches.

**Prior.** A policy that always wins would have no finite rating. So everybody has one drawn match
more than were played, spread evenly over all others that are rated: in a pool of n, every two have
1 / (n - 1) of a draw. After 100 matches of two policies at odds of 3:1 it draws them together by
2 points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..generate.league import Matches
from ..shards.errors import UnknownNameError
from .statistics import CONFIDENCE

PINNED, PINNED_RATING = "strong", 1000.0  # the scripted expert without noise
SCALE = 400 / math.log(10)  # points per unit of log odds
RESAMPLES = 2000
TOLERANCE = 1e-6  # log odds; a step of Newton's that long leaves an error of its square
MAXIMUM_STEPS = 200
TINY = 1e-300  # against a division by zero
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Payoff:
    """All matches of n policies with each other, over tasks and levels."""

    names: tuple[str, ...]
    wins: Floats
    """(n, n) of the row's policy over the column's"""
    draws: Floats
    """(n, n) symmetric"""

    @property
    def played(self) -> Floats:
        """(n, n) matches, symmetric."""
        return self.wins + self.wins.T + self.draws

    @property
    def win_rate(self) -> Floats:
        """(n, n) of the row's policy over the column's, draws half; NaN where none was played."""
        with np.errstate(invalid="ignore"):
            rate: Floats = (self.wins + 0.5 * self.draws) / self.played
        return rate


@dataclass(frozen=True)
class Rating:
    """How strong a policy is, in Elo points; None if no chain of matches leads to the pinned."""

    name: str
    value: float | None
    low: float | None
    """Of the 95 % interval; of a pinned rating, the rating."""
    high: float | None
    matches: int
    """Against others."""


def payoff(names: Sequence[str], rows: Iterable[Matches]) -> Payoff:
    """The matches between the named policies; rows of others are left out.

    So are matches of a policy with itself: they say nothing of its strength.
    """
    place = {name: i for i, name in enumerate(names)}
    wins, draws = np.zeros((2, len(place), len(place)))
    for row in rows:
        if row.first in place and row.second in place and row.first != row.second:
            i, j = place[row.first], place[row.second]
            wins[i, j] += row.wins
            wins[j, i] += row.losses
            draws[i, j] += row.draws
            draws[j, i] += row.draws
    return Payoff(tuple(place), wins, draws)


def rate(
    payoff: Payoff, generator: np.random.Generator, pinned: str | Mapping[str, float] = PINNED,
    resamples: int = RESAMPLES,
) -> list[Rating]:  # fmt: skip
    """The ratings, the strongest first, those that have none last.

    The `pinned` one has PINNED_RATING, or several have what they are given. Intervals are the
    percentiles of a Bayesian bootstrap over each pair's matches, virtual ones included (Rubin
    1981): its wins, draws and losses get random weights from a Dirichlet distribution. Counts
    that are drawn again (Efron 1979) vary as much, but where one always won they never do, and
    its rating would seem certain. The order of names and rows changes nothing. Raises
    UnknownNameError for a pinned name that is not there.
    """
    fixed = {pinned: PINNED_RATING} if isinstance(pinned, str) else dict(pinned)
    for name in fixed:
        if name not in payoff.names:
            raise UnknownNameError("rated policy", name, payoff.names)
    # sorted, so that the generator's draws go to the same pairs whatever their order
    names = sorted(payoff.names)
    order = [payoff.names.index(name) for name in names]
    wins, draws = (part[np.ix_(order, order)] for part in (payoff.wins, payoff.draws))
    played = payoff.played[np.ix_(order, order)]
    known = np.array([fixed.get(name, np.nan) for name in names])
    rated = np.flatnonzero(_connected(played, ~np.isnan(known)))
    pool = np.ix_(rated, rated)
    found = _fit(wins[pool], draws[pool], known[rated], generator, resamples)
    numbers = dict(zip(rated.tolist(), found.tolist(), strict=True))
    ratings = []
    for i, name in enumerate(names):
        value, low, high = numbers.get(i, (None, None, None))
        ratings.append(Rating(name, value, low, high, int(played[i].sum())))
    return sorted(ratings, key=lambda r: (r.value is None, -(r.value or 0.0), r.name))


def log_likelihood(scores: Floats, ratings: Floats) -> Floats:
    """(…,) of ratings (…, n) in points, by scores (…, n, n): wins, with draws as halves."""
    gap = (ratings[..., :, None] - ratings[..., None, :]) / SCALE
    return -(scores * np.logaddexp(0.0, -gap)).sum(axis=(-2, -1))


def maximum(scores: Floats, known: Floats, start: Floats | None = None) -> Floats:
    """(…, n) ratings in points that maximise `log_likelihood` where `known` (n,) is NaN.

    Scores (…, n, n) must let everybody win and lose by some chain, as with the prior they do. The
    function is concave: Newton's method, its step of length d (the most that it moves two ratings
    apart, in log odds) shortened to log(1 + d). No step then goes down, because the curvature
    along it changes at most by exp(d) (Sun and Tran-Dinh 2019, generalised self-concordance).
    """
    free = np.isnan(known)
    ratings = np.broadcast_to(
        np.where(free, np.nanmean(known) if start is None else start, known) / SCALE,
        scores.shape[:-1],
    ).copy()  # fmt: skip
    total = scores + np.swapaxes(scores, -1, -2)
    diagonal = np.arange(int(free.sum()))
    for _ in range(MAXIMUM_STEPS):
        chance = 1 / (1 + np.exp(ratings[..., None, :] - ratings[..., :, None]))
        gradient = (scores - total * chance).sum(axis=-1)[..., free]
        weight = total * chance * (1 - chance)
        curvature = -weight[..., free, :][..., free]
        curvature[..., diagonal, diagonal] += weight.sum(axis=-1)[..., free]
        step = np.zeros_like(ratings)
        step[..., free] = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        length = np.ptp(step, axis=-1)
        ratings += step * (np.log1p(length) / np.maximum(length, TINY))[..., None]
        if (length < TOLERANCE).all():
            return ratings * SCALE
    raise AssertionError("Newton's method did not converge")


def prior(count: int) -> Floats:
    """(n, n) scores of the virtual draws: in all, half a win and half a loss for each."""
    return 0.5 * (1 - np.eye(count)) / max(1, count - 1)


def _fit(
    wins: Floats, draws: Floats, known: Floats, generator: np.random.Generator, resamples: int
) -> Floats:
    """(n, 3) ratings and the ends of their intervals."""
    draws = draws + 2 * prior(len(known))
    values = maximum(wins + 0.5 * draws, known)
    spread = maximum(_reweighted(wins, draws, generator, resamples), known, values)
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(spread, (tail, 1 - tail), axis=0)
    return np.stack((values, *ends), axis=1)


def _reweighted(
    wins: Floats, draws: Floats, generator: np.random.Generator, resamples: int
) -> Floats:
    """(resamples, n, n) scores, every pair's matches with random weights that sum to as many."""
    first, second = np.triu_indices(len(wins), 1)
    outcomes = np.stack((wins, draws, wins.T), axis=-1)[first, second]
    drawn = generator.standard_gamma(outcomes, (resamples, *outcomes.shape))
    drawn *= (outcomes.sum(axis=1) / np.maximum(drawn.sum(axis=2), TINY))[..., None]
    scores = np.zeros((resamples, *wins.shape))
    scores[:, first, second] = drawn[..., 0] + 0.5 * drawn[..., 1]
    scores[:, second, first] = drawn[..., 2] + 0.5 * drawn[..., 1]
    return scores


def _connected(played: Floats, start: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) whom a chain of matches leads to from any of `start`."""
    reached = start
    while True:
        wider = reached | (played[reached] > 0).any(axis=0)
        if (wider == reached).all():
            return reached
        reached = wider
