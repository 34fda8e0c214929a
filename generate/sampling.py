"""Whom a policy meets of a league: prioritised fictitious self-play, itself, and the past.

PFSP (Vinyals et al. 2019, "Grandmaster level in StarCraft II using multi-agent reinforcement
learning") draws opponents in proportion to a function of the win rate against them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .league import League, Matches
from .recipe import PAST, PFSP, SELF, SELF_PLAY, Sampling

DRAWN = (PFSP, PAST)  # rules by which a member may be met so rarely that a corpus has no match
FLOOR = 0.2  # of what each had if all were alike: nobody is forgotten, and win rates go on moving
PRIORITY: dict[str, Callable[[float], float]] = {
    "even": lambda x: x * (1 - x),
    "hard": lambda x: (1 - x) ** 2,
}
"""PFSP's weight by the win rate x."""


@dataclass(frozen=True)
class Rival:
    """An opponent and how it came to be one."""

    name: str
    """Of a policy, or `self`."""
    rule: str
    probability: float
    """Of this opponent by this rule."""


def draw_from(league: League, sampling: Sampling, policy: str, task: str) -> Iterator[Rival]:
    """Everybody whom a policy meets on a task, by rule; the probabilities sum to 1.

    Others are all members but itself; without any, it meets itself alone.
    """
    others = [name for name in league.names if name != policy]
    shares = {SELF_PLAY: sampling.self_play, PFSP: sampling.pfsp, PAST: sampling.past}
    if not others:
        shares = {SELF_PLAY: 1.0}
    total = sum(shares.values())
    rates = win_rates(league.payoff, policy, others, task)
    for rule, share in shares.items():
        if share:
            for name, chance in _by_rule(rule, others, rates, sampling.weighting):
                yield Rival(name, rule, share / total * chance)


def _by_rule(
    rule: str, others: Sequence[str], rates: Sequence[float], weighting: str
) -> Iterable[tuple[str, float]]:
    """(name, probability) under one rule."""
    if rule == SELF_PLAY:
        return [(SELF, 1.0)]
    if rule == PAST:
        return [(name, 1 / len(others)) for name in others]
    return zip(others, prioritised(rates, weighting), strict=True)


def win_rates(
    rows: Iterable[Matches], policy: str, others: Sequence[str], task: str
) -> list[float]:
    """Of a policy on a task against each other one, over all levels; draws count half.

    Smoothed (Laplace): (wins + 1) / (matches + 2), so 1/2 against whom it has not met.
    """
    won, played = dict.fromkeys(others, 0.0), dict.fromkeys(others, 0)
    for row in rows:
        rival, wins = (row.second, row.wins) if row.first == policy else (row.first, row.losses)
        if row.task == task and policy in (row.first, row.second) and rival in won:
            won[rival] += wins + 0.5 * row.draws
            played[rival] += row.wins + row.draws + row.losses
    return [(won[name] + 1) / (played[name] + 2) for name in others]


def prioritised(rates: Sequence[float], weighting: str) -> list[float]:
    """PFSP's probabilities by win rates in (0, 1), none of n below 1 / (5 n)."""
    return floored([PRIORITY[weighting](rate) for rate in rates], FLOOR / len(rates))


def floored(weights: Sequence[float], floor: float) -> list[float]:
    """Probabilities in proportion to positive weights, but none below `floor`, less than 1 / n."""
    low: set[int] = set()
    while True:
        rest = sum(weight for i, weight in enumerate(weights) if i not in low)
        scale = (1 - floor * len(low)) / rest
        found = [floor if i in low else weight * scale for i, weight in enumerate(weights)]
        below = {i for i, share in enumerate(found) if share < floor}
        if not below:
            return found
        low |= below
