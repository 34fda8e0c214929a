"""What the rounds of self-play came to, in sentences with numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ...generate.league import ANCHORS
from ..pairs import alone
from ..report.headline import listed, percent
from ..standings import ALL
from ..statistics import Estimate
from ..summary import ALL as ALL_TASKS
from ..table import pair_name
from .plots import ranged, whole_points
from .rounds import History, Round, outcomes

Named = tuple[str, Estimate]
"""A round's name and its rating."""


def headline(play: History) -> str:
    """`round-3 is rated 812 [790, 835]; it wins 71 % of its matches against round-0`."""
    last, first, rated = play.rounds[-1].name, play.rounds[0].name, play.ratings[ALL]
    told = f"{last} is {f'rated {ranged(rated[last])}' if last in rated else 'not rated yet'}"
    if last in rated and first in rated and rated[last].value < rated[first].value:
        told += f", below {first}’s {whole_points(rated[first].value)}"
    rival = rival_of(play)
    if rival:
        ended = outcomes(play.league, last, rival)
        told += f"; it wins {percent(ended[0] / sum(ended))} of its matches against {rival}"
    return told


def rival_of(play: History) -> str:
    """The first round, or if the last never met it the strongest anchor that it met, if any."""
    last, first = play.rounds[-1].name, play.rounds[0].name
    names = [first, *(anchor.name for anchor in reversed(ANCHORS))]
    met = (n for n in names if n != last and any(outcomes(play.league, last, n)))
    return next(met, "")


def lede(play: History) -> str:
    """How ratings went from round to round, and what else there is to know."""
    return " ".join(_sentences(play))


def _sentences(play: History) -> Iterator[str]:
    ratings = play.ratings[ALL]
    rated = [(r.name, ratings[r.name]) for r in play.rounds if r.name in ratings]
    if len(rated) > 1:
        yield _change(rated[0], rated[-1])
    if len(rated) > 2:
        yield _falls(rated)
    rival = rival_of(play)
    if rival:
        wins, draws, losses = outcomes(play.league, play.rounds[-1].name, rival)
        yield (
            f"Of {wins + draws + losses:,} matches against {rival} it won {wins:,}, drew "
            f"{draws:,} and lost {losses:,}."
        )
    names = [anchor.name for anchor in ANCHORS if anchor.name in ratings]
    if names:
        told = ", ".join(f"{name} {whole_points(ratings[name].value)}" for name in names)
        yield f"The scripted anchors’ ratings: {told}."
    yield from _alone(play)


def _change(first: Named, last: Named) -> str:
    """How far the rating came in all."""
    (begun, one), (ended, other) = first, last
    rose = other.value - one.value
    how = "rose" if rose > 0 else "fell" if rose < 0 else "stayed"
    by = f" by {whole_points(abs(rose))} points" if rose else ""
    overlap = one.low <= other.high and other.low <= one.high
    return (
        f"From {begun} to {ended} the rating {how}{by}, from {ranged(one)} to {ranged(other)}"
        f"{'; the two intervals overlap' if overlap else ''}."
    )


def _falls(rated: Sequence[Named]) -> str:
    """From which round to the next it fell."""
    falls = [
        f"from {before} to {after} ({whole_points(one.value)} to {whole_points(other.value)})"
        for (before, one), (after, other) in pairwise(rated) if other.value < one.value
    ]  # fmt: skip
    return f"It fell {listed(falls)}." if falls else "No round is rated below the one before it."


def _alone(play: History) -> Iterator[str]:
    """Success on tasks of one player, of the last round and of the first."""
    last, first = play.rounds[-1], play.rounds[0]
    success, pairs = _success(last), alone(last.settings.tasks)
    if success is not None:
        several = len(pairs) > 1
        where = f"Over {len(pairs)} one-player tasks and levels" if several else (
            f"On {pair_name(pairs[0])}"
        )  # fmt: skip
        before = _success(first) if first != last else None
        than = f" ({first.name}: {percent(before)})" if before is not None else ""
        yield f"{where} {last.name} completes {percent(success)} of its runs{than}."


def _success(one: Round) -> float | None:
    """Of its policy, over all tasks of one player."""
    wanted = (one.name, ALL_TASKS)
    rows = [r for r in one.results["summary"] if (r["method"], r["group"]) == wanted]
    return float(rows[0]["success"]["value"]) if rows else None
