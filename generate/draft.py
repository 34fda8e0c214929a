"""The parts of a recipe whose values are not all given: a stand-in plays for unknown policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .recipe import LATEST, LEAGUE, Player, Recipe
from .recipe_file import read_recipe
from .resolve import PLACEHOLDER, check_asked, choose_part, renamed, resolve

STAND_IN = Player("expert", noise=0.4)  # plays for a policy that is not known yet
A_LEAGUE = "a league"  # what opponents are called as long as their file is not known
THE_LATEST = "its latest"  # and who of it plays


@dataclass(frozen=True)
class Draft:
    """A part, resolved but for some values."""

    name: str
    """Of the part, or of a recipe without parts."""
    recipe: Recipe
    unknown: frozenset[str]
    """Labels of those for whom the stand-in plays."""
    missing: frozenset[str]
    """Names that still need a `--set`."""


def draft(
    url: str, steps: int | None, part: str | None, values: Mapping[str, str], allow_code: bool
) -> list[Draft]:
    """All parts of a recipe, or one; a recipe without parts is one. Errors as `load_recipe`'s."""
    recipe = read_recipe(url, allow_code)
    parts = [part] if part is not None or not recipe.parts else list(recipe.parts)
    needed = {name: asked(recipe, name, url) for name in parts}
    check_asked(values, frozenset().union(*needed.values()), url)
    found = []
    for name in parts:
        missing = needed[name] - set(values)
        # a name that stands for itself is still there when all is resolved
        filled = {word: values.get(word, f"{{{word}}}") for word in needed[name]}
        whole = _without_league(recipe) if missing & _names(recipe.league) else recipe
        resolved = resolve(
            whole, url, steps=steps, part=name, values=filled, allow_code=allow_code
        )
        unknown = frozenset(
            label for label, player in resolved.players().items()
            if missing & _names(player.arguments)
        )  # fmt: skip
        policies = resolved.policies | dict.fromkeys(unknown, STAND_IN)
        found.append(
            Draft(name or recipe.name, replace(resolved, policies=policies), unknown, missing)
        )
    return found


def _names(value: object) -> frozenset[str]:
    return frozenset(PLACEHOLDER.findall(repr(value)))


def asked(recipe: Recipe, part: str | None, where: str) -> frozenset[str]:
    """Names that those who play in a part need values for; errors as `choose_part`'s."""
    recipe = choose_part(recipe, part, where)
    names = _names([player.arguments for player in recipe.players().values()])
    return names | _names(recipe.league)


def _without_league(recipe: Recipe) -> Recipe:
    """The same with an unknown policy in place of the league's members, and of its latest."""
    member = Player("unknown:member", arguments={"league": recipe.league})
    names = {LEAGUE: A_LEAGUE, LATEST: THE_LATEST}
    policies = recipe.policies | dict.fromkeys(names.values(), member)
    return replace(renamed(recipe, names), policies=policies, league="")
