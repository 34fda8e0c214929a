"""The league: a file of frozen policies that recipes name as the opponent `league`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..shards import storage
from ..shards.config import parse
from ..shards.errors import ConfigError
from .recipe import Player
from .recipe_check import check_weight

FORMAT = "palaestra-league"


@dataclass(frozen=True)
class Member:
    """One of a league's policies."""

    name: str
    policy: str
    """`expert`, `random`, or `"module:function"`."""
    noise: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)
    rating: float | None = None
    weight: float = 1.0
    """How often it is an opponent, relative to the others."""

    @property
    def player(self) -> Player:
        """The same, as a recipe has it."""
        return Player(self.policy, self.noise, self.arguments, self.rating)


@dataclass(frozen=True)
class League:
    """The members, in order."""

    format: str
    members: tuple[Member, ...]


def load_league(url: str) -> tuple[Member, ...]:
    """The members of the league file (JSON) at `url`.

    Raises ConfigError or UnknownNameError naming the file and key, StorageError if it cannot be
    read.
    """
    data = storage.read_json(url)
    found = data.get("format") if isinstance(data, dict) else data
    if found != FORMAT:
        raise ConfigError(f"{url}: expected format {FORMAT!r}, found {found!r:.40}")
    members: tuple[Member, ...] = parse(League, data, url).members
    if not members:
        raise ConfigError(f"{url}: members: expected at least one")
    names = [member.name for member in members]
    for i, member in enumerate(members):
        check_weight(member.weight, f"{url}: members[{i}]")
        if member.name in names[:i]:
            raise ConfigError(f"{url}: members[{i}]: {member.name!r} is there twice")
    return members
