"""The players of a recipe: loaded, kept for the next wave, and what they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ..shards import storage
from ..shards.errors import CheckpointError
from ..shards.schema import Schema
from .plan import Wave
from .policies import Match, make_policy
from .pool import in_processes
from .recipe import SELF, Player, Recipe
from .rollout import Label, Policy

KEPT = 2  # learned policies in memory: those that play each other


@dataclass(frozen=True)
class Provenance:
    """What a corpus depends on beside the recipe and this program."""

    dependencies: dict[str, str] = field(default_factory=dict)
    """URL → sha256 of the files that learned policies were read from, and of the league's."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of what computes policies and draws: torch, the device, OpenGL's driver."""


def inspect_players(recipe: Recipe, schema: Schema) -> Provenance:
    """Load every player once, and OpenGL: what cannot play is found before any work.

    In a worker, unless all are scripts: there, torch has the threads and the device that it will
    play with. A policy may tell the `schema` that it was trained on, its `dependencies()` (URL →
    sha256) and the `versions()` of what computes it. Raises ConfigError for a policy that does
    not import, CheckpointError for one that cannot be loaded, SchemaMismatchError for one that
    was trained on something else.
    """
    if recipe.scripted:
        return _inspect(schema, recipe)
    return next(iter(in_processes(partial(_inspect, schema), [recipe], 1)))


def _inspect(schema: Schema, recipe: Recipe) -> Provenance:
    found = provenance_of(recipe, schema)
    dependencies, versions = dict(found.dependencies), dict(found.versions)
    if recipe.league:
        data = storage.read_bytes(recipe.league)
        dependencies[recipe.league] = hashlib.sha256(data).hexdigest()
    if recipe.renderer == "egl":
        from .opengl import driver  # here, so that only those who ask for it load OpenGL

        versions["renderer"] = driver()
    return Provenance(dependencies, versions)


def provenance_of(recipe: Recipe, schema: Schema | None = None) -> Provenance:
    """What the players, loaded here, say of themselves; errors as `inspect_players`'s.

    Only with a schema is theirs compared.
    """
    dependencies: dict[str, str] = {}
    versions: dict[str, str] = {}
    for label, player in recipe.players().items():
        policy = _load_named(label, player)
        trained_on = getattr(policy, "schema", None)
        if schema is not None and isinstance(trained_on, Schema):
            where = f"policy {label!r}: {player.arguments.get('url', player.policy)}"
            trained_on.require_equal(schema, where, but=("reward_range",))
        dependencies |= getattr(policy, "dependencies", dict)()
        versions |= getattr(policy, "versions", dict)()
    return Provenance(dependencies, versions)


def _load_named(label: str, player: Player) -> Policy:
    """The player's policy; a checkpoint that cannot be loaded is told with who needs it."""
    try:
        return load(player)
    except CheckpointError as error:
        raise CheckpointError(f"policy {label!r}: {error}") from error


def players_of(recipe: Recipe, wave: Wave) -> list[Player]:
    """Who plays a wave: one, or two against each other."""
    own = recipe.player_of(wave.behaviour)
    return [own] if wave.opponent in ("", SELF) else [own, recipe.player(wave.opponent)]


def label_of(recipe: Recipe, wave: Wave, first_match: int) -> Label:
    """What a wave's episodes are called."""
    behaviour, own = wave.behaviour, recipe.player_of(wave.behaviour)
    label = Label(
        behaviour.label, rating=own.rating, round=recipe.round, first_match=first_match
    )
    if not wave.opponent:
        return label
    alone = wave.opponent == SELF
    rival = own if alone else recipe.player(wave.opponent)
    return replace(
        label, opponent=behaviour.label if alone else wave.opponent, opponent_rating=rival.rating,
        sampling=behaviour.sampling, sampling_probability=behaviour.sampling_probability,
    )  # fmt: skip


def policy_of(recipe: Recipe, wave: Wave, pinned: Mapping[str, str] | None = None) -> Policy:
    """Who plays a wave; sides alternate where there are two.

    CheckpointError if one was read from other files than are `pinned` (URL → sha256): a run's
    newest checkpoint is another when it trains on.
    """
    policies = [load(player) for player in players_of(recipe, wave)]
    for policy in policies:
        for url, digest in getattr(policy, "dependencies", dict)().items():
            if pinned is not None and pinned.get(url) != digest:
                raise CheckpointError(
                    f"{url}: not the file that the corpus was begun with; name a checkpoint that "
                    "stays as it is"
                )
    # equal players are one object, which would act twice at every step
    return policies[0] if policies[0] is policies[-1] else Match(policies, alternate=True)


_loaded: dict[str, Policy] = {}  # in a process, by Player


def load(player: Player) -> Policy:
    """The player's policy; the last KEPT that are not scripts stay in memory."""
    if player.scripted:
        return make_policy(player.policy, player.noise)
    key = repr(player)
    policy = _loaded.pop(key, None) or make_policy(player.policy, 0.0, player.arguments)
    _loaded[key] = policy  # the newest last
    for oldest in list(_loaded)[:-KEPT]:
        del _loaded[oldest]
    return policy


def forget() -> None:
    """Let go of the policies in memory; what is loaded next is read anew."""
    _loaded.clear()
