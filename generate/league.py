"""The league: a file of frozen policies that recipes name as the opponent `league`.

Beside the members it holds what came of their matches, which evaluation adds. Members and matches
are only ever added.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..shards import storage
from ..shards.config import parse
from ..shards.errors import ConfigError, UnknownNameError
from .recipe import Player
from .registry import check_level, task_class

FORMAT = "palaestra-league"
AGENT = "palaestra.train.agent:load"  # what plays a checkpoint; resolved at run time


@dataclass(frozen=True)
class Member:
    """One of a league's policies."""

    name: str
    policy: str
    """`expert`, `random`, or `"module:function"`."""
    noise: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)
    rating: float | None = None
    interval: tuple[float, float] | None = None
    """Of 95 %, about the rating."""

    @property
    def player(self) -> Player:
        """The same, as a recipe has it."""
        return Player(self.policy, self.noise, self.arguments, self.rating)

    @property
    def plays(self) -> tuple[str, float, dict[str, Any]]:
        """All that decides how it plays."""
        return self.policy, self.noise, self.arguments


ANCHORS = (
    Member("random", "random"),
    Member("weak", "expert", 2.0),
    Member("medium", "expert", 1.0),
    Member("strong", "expert"),
)
"""Scripts of known strength, the weakest first, that every league can be measured against.

Over the nine match levels each wins 90, 88 and 85 % against the one before it, draws half: 358, 300
and 274 points apart, and in this order on every level (`evaluate/baselines.json`).
"""


@dataclass(frozen=True)
class Matches:
    """What came of two members' matches on one task and level, in one evaluation."""

    task: str
    level: int
    first: str
    """A member's name."""
    second: str
    seed: int
    """The evaluation's."""
    wins: int
    """Of `first`."""
    draws: int
    losses: int

    @property
    def key(self) -> tuple[str, int, str, str, int]:
        """What was played: the same key is the same matches."""
        return self.task, self.level, self.first, self.second, self.seed


@dataclass(frozen=True)
class League:
    """The members, in order, and their matches."""

    format: str
    members: tuple[Member, ...]
    version: int = 0
    """How often the file was rewritten."""
    payoff: tuple[Matches, ...] = ()
    """Sorted by key, each of which is there once."""

    @property
    def names(self) -> tuple[str, ...]:
        """The members', in order."""
        return tuple(member.name for member in self.members)

    @property
    def latest(self) -> Member | None:
        """The newest learned member."""
        learned = (member for member in reversed(self.members) if not member.player.scripted)
        return next(learned, None)


def read_league(url: str) -> League:
    """The league file (JSON) at `url`.

    Raises ConfigError or UnknownNameError naming the file and key, StorageError if it cannot be
    read.
    """
    data = storage.read_json(url)
    found = data.get("format") if isinstance(data, dict) else data
    if found != FORMAT:
        raise ConfigError(f"{url}: expected format {FORMAT!r}, found {found!r:.40}")
    league: League = parse(League, data, url)
    _check(league, url)
    return league


def write_league(url: str, league: League) -> League:
    """Write the league's next version, whole or not at all, and return it.

    Raises ConfigError if the league cannot be right, or if the file's version is not the league's:
    then somebody has written it since it was read, and would lose what was added.
    """
    _check(league, url)
    found = read_league(url).version if storage.exists(url) else league.version
    if found != league.version:
        raise ConfigError(
            f"{url}: version {found} is there, expected {league.version}: it was written meanwhile"
        )
    written = dataclasses.replace(league, version=league.version + 1)
    storage.write_json(url, to_json(written))
    return written


def to_json(league: League) -> dict[str, Any]:
    """Plain JSON values, as `read_league` takes them."""
    return dataclasses.asdict(league)


def with_member(league: League, member: Member) -> League:
    """The league with one more member; the same if it has it already, whatever its rating.

    ConfigError if it has another player by that name.
    """
    for other in league.members:
        if other.name == member.name:
            if other.plays != member.plays:
                raise ConfigError(
                    f"league member {member.name!r} is {_described(other)}, not "
                    f"{_described(member)}: give one of them another name"
                )
            return league
    return dataclasses.replace(league, members=(*league.members, member))


def with_matches(league: League, rows: Iterable[Matches]) -> League:
    """The league with these matches; a row takes the place of that with the same key.

    So an evaluation that is played again adds nothing. Errors as `read_league`'s.
    """
    rows = tuple(rows)
    for row in rows:
        _check_matches(row, league.names, "payoff")
    merged = {row.key: row for row in (*league.payoff, *rows)}
    return dataclasses.replace(league, payoff=tuple(merged[key] for key in sorted(merged)))


def _described(member: Member) -> str:
    noise = f" with noise {member.noise:g}" if member.noise else ""
    return f"{member.policy!r}{noise}{f' of {member.arguments}' if member.arguments else ''}"


def _check(league: League, url: str) -> None:
    if not league.members:
        raise ConfigError(f"{url}: members: expected at least one")
    if league.version < 0:
        raise ConfigError(f"{url}: version should not be negative, is {league.version}")
    for i, member in enumerate(league.members):
        _check_interval(member, f"{url}: members[{i}]")
        if member.name in league.names[:i]:
            raise ConfigError(f"{url}: members[{i}]: {member.name!r} is there twice")
    seen = set()
    for i, row in enumerate(league.payoff):
        _check_matches(row, league.names, f"{url}: payoff[{i}]")
        if row.key in seen:
            raise ConfigError(f"{url}: payoff[{i}]: these matches are there twice: {row.key}")
        seen.add(row.key)


def _check_interval(member: Member, where: str) -> None:
    if member.interval is not None:
        low, high = member.interval
        if not -math.inf < low <= high < math.inf:
            raise ConfigError(f"{where}: interval should be finite and in order, is {low}, {high}")


def _check_matches(row: Matches, names: Collection[str], where: str) -> None:
    for name in (row.first, row.second):
        if name not in names:
            raise UnknownNameError("member", name, names, where)
    cls = task_class(row.task, where)
    check_level(cls, row.level, where)
    if cls.players != 2:
        raise ConfigError(f"{where}: {row.task} is a task of {cls.players} player, not a match")
    for name in ("seed", "wins", "draws", "losses"):
        if getattr(row, name) < 0:
            raise ConfigError(f"{where}: {name} should not be negative, is {getattr(row, name)}")
