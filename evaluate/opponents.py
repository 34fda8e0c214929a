"""Whom the evaluated policies meet in matches: scripted anchors and the members of a league."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..generate.league import AGENT, ANCHORS, Member, read_league
from ..generate.recipe import Player
from ..generate.recipe_check import check_player
from ..generate.slots import make_schema
from ..shards.errors import CheckpointError, ConfigError, StorageError
from .entrants import IMAGE_SIZE, Entrant


@dataclass(frozen=True)
class Opponent:
    """A policy that is met, and not itself evaluated; as results.json has it."""

    name: str
    policy: str
    """`expert`, `random`, or `"module:function"`."""
    noise: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)
    pixels: bool = False
    """Whether it needs frames."""
    image_size: int = IMAGE_SIZE

    @property
    def learned(self) -> bool:
        """Whether it is no script."""
        return not self.player.scripted

    @property
    def player(self) -> Player:
        """What a recipe would name to play it."""
        return Player(self.policy, self.noise, self.arguments)


def find_opponents(league: str | None, policies: Sequence[Entrant]) -> tuple[Opponent, ...]:
    """The anchors, then a league's other members; a policy that is one of them is left out.

    Raises ConfigError for a policy that has another one's name or code outside palaestra,
    CheckpointError for a member whose checkpoint is gone, SchemaMismatchError for one that was
    trained on something else.
    """
    members = read_league(league).members if league else ()
    known = {member.name: member for member in (*ANCHORS, *members)}
    mine = {policy.name: _bare(policy.player) for policy in policies}
    for name, player in mine.items():
        if name in known and _bare(known[name].player) != player:
            raise ConfigError(
                f"policy {name!r} has the name of another one in the league; call it something "
                f"else: NAME={name}"
            )
    others = [m for m in known.values() if _bare(m.player) not in mine.values()]
    return tuple(_described(others, league or ""))


def _bare(player: Player) -> Player:
    """Without its rating, and with an agent's defaults spelled out."""
    defaults = {"history": True} if player.policy == AGENT else {}
    return dataclasses.replace(player, rating=None, arguments=defaults | player.arguments)


def _described(members: Iterable[Member], where: str) -> Iterator[Opponent]:
    for member in members:
        bare, place = (member.name, *member.plays), f"{where}: member {member.name!r}"
        check_player(member.player, place, False)
        if member.player.scripted:
            yield Opponent(*bare)
        elif member.policy == AGENT and "url" in member.arguments:
            yield Opponent(*bare, *_seen(str(member.arguments["url"]), place))
        else:
            yield Opponent(*bare, pixels=True)  # for all we know


def _seen(url: str, member: str) -> tuple[bool, int]:
    """Whether a network looks at frames, and of which size."""
    from ..train.export import find_weights, read_metadata

    try:
        found = read_metadata(find_weights(url))
    except (CheckpointError, StorageError) as error:
        raise CheckpointError(f"{member}: {error}") from error
    ours = make_schema(found.schema.image_size, (0.0, 1.0))
    found.schema.require_equal(ours, f"{member}: {url}", but=("reward_range",))
    return "pixels" in found.config.inputs.split("+"), found.schema.image_size
