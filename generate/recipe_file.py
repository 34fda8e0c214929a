"""Recipes from TOML files and from manifests: validated whole before any work."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from ..shards import storage
from ..shards.config import parse
from ..shards.errors import ConfigError
from .recipe import Recipe
from .recipe_check import check
from .resolve import resolve


def load_recipe(
    url: str, steps: int | None = None, allow_code: bool = False, part: str | None = None,
    values: Mapping[str, str] | None = None,
) -> Recipe:  # fmt: skip
    """Read, check and resolve a recipe.

    `steps` overrides its size, `part` chooses one of its parts, `values` replace `{name}` in the
    policies' arguments and the league's URL. Raises ConfigError or UnknownNameError naming the
    file and key: malformed TOML, an unknown or missing key, a wrong type, an unknown task, level,
    policy, opponent or part, a value out of range, a mixture that so few steps cannot hold.
    """
    recipe = read_recipe(url, allow_code)
    return resolve(
        recipe, url, steps=steps, part=part, values=values or {}, allow_code=allow_code
    )


def read_recipe(url: str, allow_code: bool = False) -> Recipe:
    """A recipe as it is written, checked but for what resolving it needs; errors as above."""
    try:
        data = tomllib.loads(storage.read_bytes(url).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{url}: malformed TOML: {error}") from error
    recipe: Recipe = parse(Recipe, data, url)
    check(recipe, url, allow_code)
    return recipe


def stored_recipe(data: dict[str, Any], where: str, allow_code: bool = False) -> Recipe:
    """The resolved recipe that a corpus's manifest holds; errors as `load_recipe`'s."""
    recipe: Recipe = parse(Recipe, data, where)
    check(recipe, where, allow_code)
    return recipe


def parse_values(words: Sequence[str]) -> dict[str, str]:
    """`--set` flags, each NAME=VALUE; ConfigError for another form or a name given twice."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--set: expected NAME=VALUE, found {word!r}")
        if name in values:
            raise ConfigError(f"--set: {name} is given twice")
        values[name] = value
    return values


def parse_shards(text: str | None) -> tuple[int, ...] | None:
    """The numbers of `3,7-9`, sorted; ConfigError for another form."""
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"--shards: expected numbers as in 3,7-9, found {text!r}")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))
