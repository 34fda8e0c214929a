"""Who beat whom: the matches that ratings rest on, and a league brought up to date."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence

from ..generate.league import (
    AGENT,
    ANCHORS,
    FORMAT,
    League,
    Matches,
    Member,
    read_league,
    with_matches,
    with_member,
    write_league,
)
from ..shards import storage
from .baselines import load_baselines
from .entrants import Entrant, Pair
from .pairs import matches as matches_of
from .ratings import Payoff, Rating, payoff, rate
from .scores import MatchScores, interval_generator
from .settings import Settings

ALL = "all"


def rate_all(
    settings: Settings, matches: Sequence[MatchScores]
) -> Iterator[tuple[str, list[Rating]]]:
    """(ALL, then each task; ratings of all who met there), by these and the anchors' own matches.

    A league's earlier matches are left out: they are in its file, and may change.
    """
    rows = _with_anchors(settings, matches)
    tasks = list(dict.fromkeys(row.task for row in rows))
    for name in (ALL, *tasks) if tasks else ():
        chosen = [row for row in rows if name in (ALL, row.task)]
        yield name, rate(payoff(_names(chosen), chosen), interval_generator(settings.seed))


def payoff_of(settings: Settings, matches: Sequence[MatchScores]) -> Payoff:
    """Wins and draws of all who met; the policies first, then their rivals."""
    rows = _with_anchors(settings, matches)
    return payoff(_names(rows), rows)


def update_league(
    url: str, settings: Settings, matches: Sequence[MatchScores]
) -> tuple[League, tuple[str, ...]]:
    """Add an evaluation's learned policies and matches to the league file and rate it anew.

    A league that is not there begins with the anchors. Nothing is ever deleted; the same evaluation
    again adds nothing. Returns the league and the names of those who joined. ConfigError for a
    policy with another member's name, or if the file was written meanwhile.
    """
    found = read_league(url) if storage.exists(url) else None
    league = found or League(FORMAT, ANCHORS)
    before = () if found is None else found.names
    for policy in settings.policies:
        if policy.learned and policy.history:
            league = with_member(league, member_of(policy))
    for anchor in ANCHORS:
        league = with_member(league, anchor)
    rows = _with_anchors(settings, matches)
    known = league.names
    rows = [row for row in rows if row.first in known and row.second in known]
    league = _rated_anew(with_matches(league, rows))
    if league != found:
        league = write_league(url, league)
    return league, tuple(name for name in league.names if name not in before)


def begin_league(url: str, pairs: Collection[Pair]) -> League:
    """Write a league of the anchors, rated by their own matches on these tasks and levels."""
    league = with_matches(League(FORMAT, ANCHORS), anchor_matches(matches_of(pairs)))
    return write_league(url, _rated_anew(league))


def member_of(policy: Entrant) -> Member:
    """A learned policy as a league's member."""
    return Member(policy.name, AGENT, arguments={"url": policy.weights})


def _rated_anew(league: League) -> League:
    """The league with every member's rating by all of its matches."""
    found = rate(payoff(league.names, league.payoff), interval_generator(0))
    ratings = {rating.name: rating for rating in found}
    members = tuple(_rated(member, ratings[member.name]) for member in league.members)
    return dataclasses.replace(league, members=members)


def _rated(member: Member, rating: Rating) -> Member:
    if rating.value is None or rating.low is None or rating.high is None:
        return member
    low, high = round(rating.low, 1), round(rating.high, 1)
    return dataclasses.replace(member, rating=round(rating.value, 1), interval=(low, high))


def _rows(settings: Settings, matches: Sequence[MatchScores]) -> list[Matches]:
    """The evaluation's own matches; a script has its anchor's name."""
    names = {
        policy.name: anchor.name
        for policy in settings.policies for anchor in ANCHORS
        if (policy.player.policy, policy.player.noise, policy.player.arguments) == anchor.plays
    }  # fmt: skip
    return [
        Matches(
            m.task, m.level, names.get(m.policy, m.policy), names.get(m.opponent, m.opponent),
            settings.seed, m.wins, m.draws, m.losses,
        )
        for m in matches
    ]  # fmt: skip


def _with_anchors(settings: Settings, matches: Sequence[MatchScores]) -> list[Matches]:
    """The evaluation's matches and the anchors' own, unless these are among the former."""
    rows = _rows(settings, matches)
    played = {_meeting(row) for row in rows}
    others = anchor_matches(matches_of(settings.tasks))
    return [*rows, *(row for row in others if _meeting(row) not in played)]


def _meeting(row: Matches) -> tuple[str, int, frozenset[str]]:
    return row.task, row.level, frozenset((row.first, row.second))


def anchor_matches(pairs: Collection[Pair]) -> Iterator[Matches]:
    """How the scripted anchors' matches ended, as kept with the code; both orders of sides."""
    found = load_baselines()
    for row in found.rows:
        if (row.task, row.level) in pairs and row.player == 0 and row.policy != row.opponent:
            wins, losses = round(row.success * found.runs), round(row.lost * found.runs)
            draws = found.runs - wins - losses
            yield Matches(
                row.task, row.level, row.policy, row.opponent, found.seed, wins, draws, losses
            )


def _names(rows: Iterable[Matches]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in (row.first, row.second)))
