"""What can be known to be wrong with a recipe before any work."""

from __future__ import annotations

import json
import math
from collections.abc import Collection

from ..shards.errors import ConfigError, UnknownNameError
from .groups import pairs
from .recipe import (
    KEEP,
    LATEST,
    LEAGUE,
    RULES,
    SCRIPTED,
    SELF,
    WEIGHTINGS,
    Behaviour,
    Part,
    Player,
    Recipe,
    Sampling,
)
from .registry import task_class
from .world import RENDERERS

LIMITS = {
    "steps": (1, 10**12),
    "seed": (0, 2**63 - 1),
    # of a shard's million match numbers the longest shard takes 32 768, the widest wave 16 384,
    # and sixteen times as many where only successes are kept
    "shard_steps": (1, 2**23),
    "wave": (1, 2**14),
    "image_size": (2, 1024),  # the rasteriser measures the distance between two pixels
    "round": (0, 2**31 - 1),  # int32 in the index
}


def check(recipe: Recipe, where: str, allow_code: bool = False) -> None:
    """Raise a ConfigError that names the first entry that cannot be met."""
    for name in LIMITS:
        check_limits(recipe, name, where)
    if recipe.renderer not in RENDERERS:
        raise UnknownNameError("renderer", recipe.renderer, RENDERERS, where)
    _check_keep(recipe, where)
    if not recipe.behaviours:
        raise ConfigError(f"{where}: behaviours: expected at least one")
    _check_parts(recipe, where)
    _check_sampling(recipe.sampling, f"{where}: sampling")
    for name, player in recipe.policies.items():
        check_name(name, player.policy, f"{where}: policies")
        check_player(player, f"{where}: policies.{name}", allow_code)
    for i, behaviour in enumerate(recipe.behaviours):
        _check_behaviour(recipe, behaviour, f"{where}: behaviours[{i}]", allow_code)
    check_labels(recipe, where)


def check_limits(recipe: Recipe | Part, name: str, where: str) -> None:
    """Raise ConfigError unless the value of this name is within its limits."""
    value, (low, high) = getattr(recipe, name), LIMITS[name]
    if not low <= value <= high:
        raise ConfigError(f"{where}: {name} should be from {low:,} to {high:,}, is {value:,}")


def check_weight(weight: float, where: str) -> None:
    """Raise ConfigError unless it is positive and finite."""
    if not 0 < weight < math.inf:
        raise ConfigError(f"{where}: weight should be positive, is {weight}")


def _check_sampling(sampling: Sampling, where: str) -> None:
    shares = {name: getattr(sampling, name) for name in ("pfsp", "self_play", "past")}
    for name, value in (shares | {"temperature": sampling.temperature}).items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"{where}: {name} should not be negative, is {value}")
    if not any(shares.values()):
        raise ConfigError(f"{where}: {', '.join(shares)} should not all be 0")
    if sampling.weighting not in WEIGHTINGS:
        raise UnknownNameError("weighting", sampling.weighting, WEIGHTINGS, where)


def _check_keep(recipe: Recipe | Part, where: str) -> None:
    if recipe.keep not in KEEP:
        raise UnknownNameError("value of keep", recipe.keep, KEEP, where)


def _check_parts(recipe: Recipe, where: str) -> None:
    if recipe.parts and (recipe.keep, recipe.round) != ("all", 0):
        raise ConfigError(f"{where}: keep and round: say them in each of its parts")
    for name, part in recipe.parts.items():
        place = f"{where}: parts.{name}"
        check_weight(part.weight, place)
        check_limits(part, "round", place)
        _check_keep(part, place)
        if not any(behaviour.plays_in(name) for behaviour in recipe.behaviours):
            raise ConfigError(f"{place}: no behaviour plays in it")


def check_name(name: str, policy: str, where: str) -> None:
    """Raise ConfigError unless a recipe or a league can call a policy by this name."""
    if name == policy == "random":  # the anchor, which may have a rating
        return
    if name in ("", SELF, LEAGUE, LATEST, *SCRIPTED) or ":" in name or not name.isprintable():
        raise ConfigError(f"{where}: a policy of your own cannot be called {name!r}")


def check_player(
    player: Player, where: str, allow_code: bool, names: Collection[str] = ()
) -> None:
    """Raise ConfigError or UnknownNameError unless there can be such a player.

    `names` are what else its policy might have been meant to be.
    """
    policy, noise, arguments, rating = player.policy, player.noise, player.arguments, player.rating
    module, colon, _ = policy.partition(":")
    if not colon and not player.scripted:
        raise UnknownNameError("policy", policy, (*SCRIPTED, *names, "module:function"), where)
    if colon and module.split(".")[0] != "palaestra" and not allow_code:
        raise ConfigError(
            f"{where}: policy {policy!r} runs code from outside palaestra; "
            "pass --allow-code if you trust it"
        )
    if not 0 <= noise <= 2:
        raise ConfigError(f"{where}: noise should be in [0, 2], is {noise}")
    if noise and policy != "expert":
        raise ConfigError(f"{where}: noise is for policy 'expert', not {policy!r}")
    if arguments and player.scripted:
        raise ConfigError(f"{where}: arguments are for 'module:function', not {policy!r}")
    try:
        json.dumps(arguments, allow_nan=False)  # as corpus.json will hold them
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: arguments should be values that JSON has: {error}") from error
    if rating is not None and not math.isfinite(rating):
        raise ConfigError(f"{where}: rating should be finite, is {rating}")


def check_labels(recipe: Recipe, where: str) -> None:
    """Raise ConfigError if two players go by one name."""
    players: dict[str, Player] = {}
    for label, player in recipe.cast():
        if players.setdefault(label, player) != player:
            raise ConfigError(
                f"{where}: behaviours: {label!r} plays with different settings in different "
                "places; give each a name in policies"
            )


def _check_behaviour(recipe: Recipe, behaviour: Behaviour, where: str, allow_code: bool) -> None:
    check_weight(behaviour.weight, where)
    _check_tasks(recipe, behaviour, where)
    for part in behaviour.parts:
        if not recipe.parts:
            raise ConfigError(f"{where}: parts: the recipe has none, not {part!r}")
        if part not in recipe.parts:
            raise UnknownNameError("part", part, recipe.parts, where)
    if behaviour.policy == LATEST and (behaviour.noise or behaviour.arguments):
        raise ConfigError(f"{where}: 'latest' has neither noise nor arguments; see sampling")
    if behaviour.policy == LATEST:
        _check_has_league(recipe, LATEST, where)
    elif behaviour.policy not in recipe.policies:
        known = (LATEST, *recipe.policies)
        check_player(recipe.player_of(behaviour), where, allow_code, known)
    elif behaviour.noise or behaviour.arguments:
        raise ConfigError(f"{where}: {behaviour.policy!r} has its noise and arguments in policies")
    _check_opponents(recipe, behaviour, f"{where}: opponents", allow_code)
    _check_drawn(behaviour, where)


def _check_has_league(recipe: Recipe, word: str, where: str) -> None:
    if not recipe.league:
        raise ConfigError(f"{where}: {word!r} needs the recipe's league, a league file's URL")


def _check_drawn(behaviour: Behaviour, where: str) -> None:
    """What resolving says of an opponent, of a single one."""
    rule, chance = behaviour.sampling, behaviour.sampling_probability
    if not rule and chance is None:
        return
    if rule not in RULES:
        raise UnknownNameError("sampling", rule, RULES, where)
    if chance is None or not 0 < chance <= 1:
        raise ConfigError(f"{where}: sampling_probability should be in (0, 1], is {chance}")
    if len(behaviour.opponents) != 1:
        raise ConfigError(f"{where}: sampling is of one opponent, not {len(behaviour.opponents)}")


def _check_tasks(recipe: Recipe, behaviour: Behaviour, where: str) -> None:
    if not behaviour.tasks or not behaviour.levels:
        raise ConfigError(f"{where}: tasks and levels should not be empty")
    found = pairs(behaviour, where)
    for level in behaviour.levels:
        if level not in {there for _, there in found}:
            raise ConfigError(f"{where}: levels: none of its tasks has level {level}")
    for task, level in found:
        if not recipe.heldout and level in task_class(task).held_out:
            raise ConfigError(
                f"{where}: {task} level {level} is held out of training; with heldout = true the "
                "recipe is one for evaluation and may hold it"
            )


def _check_opponents(recipe: Recipe, behaviour: Behaviour, where: str, allow_code: bool) -> None:
    if behaviour.opponents and all(task_class(task).players == 1 for task, _ in pairs(behaviour)):
        raise ConfigError(f"{where}: none of its tasks is played by two")
    known = (SELF, LEAGUE, LATEST, *recipe.policies)
    for name in behaviour.opponents:
        if name in (LEAGUE, LATEST):
            _check_has_league(recipe, name, where)
        elif name not in known:
            check_player(Player(name), where, allow_code, known)
