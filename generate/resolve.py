"""From a recipe as it is written to one that says everything: a part of it, with plain names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import xxhash

from ..shards.errors import ConfigError, UnknownNameError
from .groups import pairs
from .league import AGENT, League, Member, read_league
from .plan import plan
from .recipe import LATEST, LEAGUE, LISTED, SELF, Behaviour, Player, Recipe
from .recipe_check import check_labels, check_limits, check_name, check_player
from .registry import task_class
from .sampling import DRAWN, Rival, draw_from

PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")  # any other brace stands for itself


def resolve(
    recipe: Recipe, where: str, *, steps: int | None = None, part: str | None = None,
    values: Mapping[str, str], allow_code: bool = False,
) -> Recipe:  # fmt: skip
    """The recipe of one corpus, with which any machine makes the same: errors as `load_recipe`'s.

    Each of its behaviours is a product of tasks and levels with at most one opponent.
    """
    if steps is not None:
        recipe = replace(recipe, steps=steps)
        check_limits(recipe, "steps", where)
    recipe = fill(choose_part(recipe, part, where), values, where)
    if recipe.needs_league:
        league = read_league(recipe.league)
        recipe = add_latest(add_members(recipe, league, where, allow_code), league)
    else:
        league = None
    behaviours = tuple(piece for b in recipe.behaviours for piece in _pieces(b, recipe, league))
    recipe = replace(recipe, behaviours=behaviours, selfplay={})
    check_labels(recipe, where)  # a member's too
    used = recipe.players()
    named = {name: player for name, player in recipe.policies.items() if name in used}
    recipe = replace(recipe, policies=named)
    check_mixture(recipe, where)
    return recipe


def choose_part(recipe: Recipe, part: str | None, where: str) -> Recipe:
    """The part as a recipe of its own; ConfigError if there is a choice and none was made."""
    if part is None and recipe.parts:
        known = ", ".join(recipe.parts)
        raise ConfigError(f"{where}: has several parts: choose one with --part: {known}")
    if part is None:
        return recipe
    if part not in recipe.parts:
        if not recipe.parts:
            raise ConfigError(f"{where}: --part {part}: the recipe has no parts")
        raise UnknownNameError("part", part, recipe.parts, f"{where}: --part")
    chosen = recipe.parts[part]
    total = sum(other.weight for other in recipe.parts.values())
    behaviours = tuple(replace(b, parts=()) for b in recipe.behaviours if b.plays_in(part))
    seed = xxhash.xxh3_64_intdigest(f"{recipe.seed}/{part}".encode()) >> 1
    recipe = replace(
        recipe, name=f"{recipe.name}/{part}", steps=round(recipe.steps * chosen.weight / total),
        behaviours=behaviours, seed=seed, keep=chosen.keep, round=chosen.round, parts={},
    )  # fmt: skip
    return recipe if recipe.needs_league else replace(recipe, league="")


def fill(recipe: Recipe, values: Mapping[str, str], where: str) -> Recipe:
    """Put the given values in place of `{name}`; ConfigError for one that is missing or unused."""
    asked: set[str] = set()

    def put(value: Any, place: str) -> Any:
        if isinstance(value, dict):
            return {key: put(inner, f"{place}.{key}") for key, inner in value.items()}
        if isinstance(value, list):
            return [put(inner, f"{place}[{i}]") for i, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        for name in PLACEHOLDER.findall(value):
            asked.add(name)
            if name not in values:
                raise ConfigError(f"{place}: {value!r} needs a value: --set {name}=…")
        return PLACEHOLDER.sub(lambda found: values[found[1]], value)

    playing, policies = recipe.players(), dict(recipe.policies)
    for name, player in recipe.policies.items():
        if name in playing:
            place = f"{where}: policies.{name}: arguments"
            policies[name] = replace(player, arguments=put(player.arguments, place))
    behaviours = tuple(
        replace(b, arguments=put(b.arguments, f"{where}: behaviours: {b.label!r}: arguments"))
        for b in recipe.behaviours
    )
    league = put(recipe.league, f"{where}: league")
    check_asked(values, asked, where)
    return replace(recipe, policies=policies, behaviours=behaviours, league=league)


def check_asked(values: Iterable[str], asked: Collection[str], where: str) -> None:
    """Raise ConfigError or UnknownNameError for a name with a value that nobody asks for."""
    for name in values:
        if not asked:
            raise ConfigError(f"{where}: --set {name}: nothing that plays asks for a value")
        if name not in asked:
            raise UnknownNameError("name", name, asked, f"{where}: --set")


def add_members(recipe: Recipe, league: League, where: str, allow_code: bool) -> Recipe:
    """The recipe with a league's members among its policies."""
    policies = dict(recipe.policies)
    for i, member in enumerate(league.members):
        place = f"{recipe.league}: members[{i}]"
        check_name(member.name, member.policy, place)
        check_player(member.player, place, allow_code)
        if member.name in policies:
            raise ConfigError(f"{place}: {member.name!r} is also a policy of {where}")
        policies[member.name] = _drawing(member, recipe.sampling.temperature)
    return replace(recipe, policies=policies)


def _drawing(member: Member, temperature: float) -> Player:
    """The member, a network at the temperature unless it has one of its own."""
    if member.policy != AGENT:
        return member.player
    arguments = {"temperature": temperature} | member.arguments
    return replace(member.player, arguments=arguments)


def add_latest(recipe: Recipe, league: League) -> Recipe:
    """The recipe with the newest learned member's name for `latest`; ConfigError without one."""
    if LATEST not in recipe.players():
        return recipe
    if league.latest is None:
        raise ConfigError(f"{recipe.league}: 'latest' needs a learned member, which none is")
    return renamed(recipe, {LATEST: league.latest.name})


def renamed(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    """The recipe with other names for some of those who play, opponents included."""
    behaviours = (
        replace(
            b, policy=names.get(b.policy, b.policy),
            opponents=tuple(names.get(name, name) for name in b.opponents),
        )
        for b in recipe.behaviours
    )  # fmt: skip
    return replace(recipe, behaviours=tuple(behaviours))


def _pieces(behaviour: Behaviour, recipe: Recipe, league: League | None) -> Iterator[Behaviour]:
    """Behaviours that together are this one."""
    found = pairs(behaviour)
    alone = [pair for pair in found if task_class(pair[0]).players == 1]
    groups: dict[tuple[Rival, ...], list[tuple[str, int]]] = {(): alone}
    for pair in found:
        if task_class(pair[0]).players > 1:
            rivals = tuple(_rivals(behaviour, pair[0], recipe, league))
            groups.setdefault(rivals, []).append(pair)
    for rivals, chosen in groups.items():
        total = sum(rival.probability for rival in rivals)
        parts: list[tuple[Rival | None, float]] = [(r, r.probability / total) for r in rivals]
        for rival, share in parts or [(None, 1.0)]:
            for tasks, levels in _products(chosen):
                # in this order a behaviour that is one piece keeps its weight to the last bit
                weight = behaviour.weight * (share * (len(tasks) * len(levels) / len(found)))
                piece = replace(behaviour, tasks=tasks, levels=levels, weight=weight)
                yield _against(piece, rival)


def _against(piece: Behaviour, rival: Rival | None) -> Behaviour:
    if rival is None:
        return replace(piece, opponents=(), sampling="", sampling_probability=None)
    return replace(
        piece, opponents=(rival.name,), sampling=rival.rule,
        sampling_probability=rival.probability,
    )  # fmt: skip


def _rivals(
    behaviour: Behaviour, task: str, recipe: Recipe, league: League | None
) -> Iterator[Rival]:
    """Whom a behaviour meets on a task; probabilities sum to 1, but for one resolved before."""
    if behaviour.sampling and behaviour.sampling_probability:
        (name,) = behaviour.opponents
        yield Rival(name, behaviour.sampling, behaviour.sampling_probability)
        return
    words = behaviour.opponents or (SELF,)
    for name, count in Counter(words).items():
        if name != LEAGUE:
            yield Rival(name, LISTED, count / len(words))
            continue
        assert league is not None
        for rival in draw_from(league, recipe.sampling, behaviour.policy, task):
            yield replace(rival, probability=rival.probability * count / len(words))


def _products(
    found: Sequence[tuple[str, int]]
) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """The pairs as products of tasks and levels: tasks with the same levels together."""
    levels: dict[str, list[int]] = defaultdict(list)
    for task, level in found:
        levels[task].append(level)
    by_levels: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for task, some in levels.items():
        by_levels[tuple(some)].append(task)
    for some_levels, tasks in by_levels.items():
        yield tuple(tasks), some_levels


def check_mixture(recipe: Recipe, where: str) -> None:
    """ConfigError if a policy, a listed opponent or a task of the recipe would not play once.

    Of a league's members those that are rarely met may have no match in a small corpus.
    """
    waves = [wave for shard in plan(recipe) for wave in shard]
    playing = {name for w in waves for name in (w.behaviour.label, *w.behaviour.opponents)}
    tasks = {wave.task for wave in waves}
    drawn = {name for b in recipe.behaviours if b.sampling in DRAWN for name in b.opponents}
    for name in recipe.players():
        if name not in playing | drawn:
            _refuse(recipe, f"policy {name!r}", where)
    for behaviour in recipe.behaviours:
        for task in behaviour.tasks:
            if task not in tasks:
                _refuse(recipe, f"task {task!r}", where)


def _refuse(recipe: Recipe, what: str, where: str) -> None:
    raise ConfigError(
        f"{where}: {recipe.steps:,} steps in waves of {recipe.wave} lanes hold none of {what}: "
        "its weight cannot be met; raise steps or lower wave"
    )
