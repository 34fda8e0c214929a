"""Rounds of self-play checked whole, before any work: recipe, mixture and the flags of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from ...generate.draft import Draft, asked, draft
from ...generate.recipe import LATEST, Recipe
from ...generate.recipe_file import read_recipe
from ...generate.resolve import choose_part
from ...generate.work import schema_of
from ...shards import storage
from ...shards.config import parse
from ...shards.errors import ConfigError
from ..entrants import Entrant, Pair
from ..pairs import choose_pairs, matches
from ..settings import require_counts
from .settings import SelfPlay, read_settings, round_name, shares
from .stages import LEAGUE, Plan, corpora, restart_rate, run_url, spacing


def prepare(recipe: str, dest: str, steps: int | None, allow_code: bool) -> Plan:
    """The rounds that a recipe asks for; ConfigError or UnknownNameError for what cannot be."""
    recipe, dest = _absolute(recipe), _absolute(dest)
    written = read_recipe(recipe, allow_code)
    settings, rounds = read_settings(written, recipe)
    asking = _asking(written, settings, recipe)
    drafts = {found.name: found for found in draft(recipe, steps, None, {}, allow_code)}
    _check_schemas(drafts, recipe)
    plan = Plan(
        recipe, dest, settings, rounds, updates=0, asking=asking,
        tasks=_check_evaluate(settings, _trained(settings, drafts, recipe), recipe),
        steps=steps, allow_code=allow_code,
    )  # fmt: skip
    return replace(plan, updates=_check_train(plan))


def _absolute(url: str) -> str:
    """The league names checkpoints and corpora, which are to be found from any folder."""
    path = storage.local_path(url)
    return url if path is None else str(path.absolute())


def _check_schemas(drafts: Mapping[str, Draft], where: str) -> None:
    """Raise ConfigError unless all parts make corpora that can be trained on together."""
    ranges = {name: schema_of(found.recipe).reward_range for name, found in drafts.items()}
    first, expected = next(iter(ranges.items()))
    for name, found in ranges.items():
        if found != expected:
            raise ConfigError(
                f"{where}: parts.{name}: rewards in {list(found)}, and in {list(expected)} in "
                f"{first}: to be trained on together, all or none should hold matches"
            )


def _asking(recipe: Recipe, settings: SelfPlay, where: str) -> frozenset[str]:
    """Parts that need the league's URL; ConfigError for one that needs something else."""
    found = {part: asked(recipe, part, where) for part in recipe.parts}
    for part, names in found.items():
        known = set() if part in settings.seed else {LEAGUE}
        for name in sorted(names - known):
            given = "rounds are given the league only" if known else "no value is given to a seed"
            raise ConfigError(f"{where}: parts.{part}: asks for a value of {name!r}, but {given}")
    for part in recipe.parts:
        playing = choose_part(recipe, part, where)
        if playing.needs_league and LEAGUE not in found[part]:
            raise ConfigError(f"{where}: league should be \"{{{LEAGUE}}}\", each round's own")
        if part == round_name(0) and LATEST in playing.players():
            raise ConfigError(f"{where}: parts.{part}: 'latest' plays from round 1 on")
    return frozenset(part for part, names in found.items() if names)


def _trained(settings: SelfPlay, drafts: Mapping[str, Draft], where: str) -> tuple[Pair, ...]:
    """What the first round's checkpoint will have been trained on."""
    behaviours = [b for part in shares(settings, 0, where) for b in drafts[part].recipe.behaviours]
    pairs = ((task, level) for b in behaviours for task in b.tasks for level in b.levels)
    return tuple(dict.fromkeys(pairs))


def _check_evaluate(
    settings: SelfPlay, trained: tuple[Pair, ...], recipe: str
) -> tuple[Pair, ...]:
    """The pairs that will be evaluated; ConfigError unless the flags of `evaluate` are right."""
    from ..__main__ import Arguments  # which imports this package

    where, name = f"{recipe}: selfplay.evaluate", round_name(0)
    arguments: Arguments = parse(Arguments, settings.evaluate | {"policies": [name]}, where)
    with _naming(where):
        require_counts(arguments.runs, arguments.width, arguments.seed)
        first = Entrant(name, name, name, weights=name, tasks=trained)
        pairs = choose_pairs(arguments.tasks, arguments.levels, [first])
    if not matches(pairs):
        raise ConfigError(f"{where}.tasks: expected one of two players, whose matches are rated")
    return pairs


def _check_train(plan: Plan) -> int:
    """Updates of each round; ConfigError unless the flags of `train` are right."""
    from ...train.arguments import Arguments, resolve  # torch, which the rest does without

    where = f"{plan.recipe}: selfplay.train"
    given = {"corpora": tuple(corpora(plan, 0)), "run": run_url(plan, 0)}
    arguments: Arguments = parse(Arguments, plan.settings.train | given, where)
    # asking whether a GPU computes in bf16 would keep memory of it for as long as this process is
    precision = "fp32" if arguments.precision == "auto" else arguments.precision
    with _naming(where):
        resolve(replace(arguments, precision=precision))
    plan = replace(plan, updates=arguments.updates)
    wanted = plan.settings.checkpoints
    if wanted > plan.updates or -(-plan.updates // spacing(plan)) != wanted:
        raise ConfigError(
            f"{plan.recipe}: selfplay.checkpoints: {plan.updates} updates do not make {wanted} "
            "checkpoints of whole updates, evenly spaced"
        )
    if plan.rounds > 1 and restart_rate(plan.settings) < arguments.end_rate:
        raise ConfigError(
            f"{plan.recipe}: selfplay.restart: a peak of {restart_rate(plan.settings):g} is below "
            f"the end rate, {arguments.end_rate:g}"
        )
    return plan.updates


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """A ConfigError from inside tells the table as well."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
