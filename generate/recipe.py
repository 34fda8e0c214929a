"""Recipes: TOML files that say what a corpus holds, validated whole before any work."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
from dataclasses import dataclass, field
from typing import Any

from ..shards import storage
from ..shards.config import parse
from ..shards.errors import ConfigError, UnknownNameError
from .policies import SCRIPTED
from .registry import check_level, task_class


@dataclass(frozen=True)
class Behaviour:
    """One way of playing, on some tasks and levels, with a share of the corpus's steps."""

    tasks: tuple[str, ...]
    """Task names."""
    policy: str
    """`expert`, `random`, or `"module:function"`."""
    levels: tuple[int, ...] = (1,)
    noise: float = 0.0
    """Standard deviation of white noise on an expert's actions."""
    weight: float = 1.0
    """Share of the steps, relative to the other behaviours, split evenly over tasks × levels."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Passed to `"module:function"`."""

    @property
    def label(self) -> str:
        """The policy's name in the corpus."""
        return f"{self.policy}+noise{self.noise:g}" if self.noise else self.policy


@dataclass(frozen=True)
class Recipe:
    """A corpus to be."""

    name: str
    steps: int
    """Interaction steps in all; rounded up to whole waves."""
    behaviours: tuple[Behaviour, ...]
    seed: int = 0
    shard_steps: int = 262_144
    """Steps per shard, the unit of work and retry; rounded to whole waves."""
    wave: int = 64
    """Lanes played in lockstep."""
    image_size: int = 64
    """Pixels along each side of a frame."""
    heldout: bool = False
    """Whether it may hold tasks and levels that are held out of training (for evaluation only)."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored in corpus.json."""
        return dataclasses.asdict(self)


def load_recipe(url: str, steps: int | None = None, allow_code: bool = False) -> Recipe:
    """Read and check a recipe; `steps` overrides its size.

    Raises ConfigError or UnknownNameError naming the file and key: malformed TOML, an unknown or
    missing key, a wrong type, an unknown task, level or policy, a value out of range.
    """
    try:
        data = tomllib.loads(storage.read_bytes(url).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{url}: malformed TOML: {error}") from error
    recipe = parse(Recipe, data, url)
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
    check(recipe, url, allow_code)
    return recipe


def stored_recipe(data: dict[str, Any], where: str, allow_code: bool = False) -> Recipe:
    """The recipe that a corpus's manifest holds; errors as `load_recipe`'s."""
    recipe: Recipe = parse(Recipe, data, where)
    check(recipe, where, allow_code)
    return recipe


def check(recipe: Recipe, where: str, allow_code: bool = False) -> None:
    """Raise a ConfigError that names the first entry that cannot be met."""
    for name in ("steps", "shard_steps", "wave", "image_size"):
        if getattr(recipe, name) < 1:
            raise ConfigError(f"{where}: {name} should be positive, is {getattr(recipe, name)}")
    if not 0 <= recipe.seed < 1 << 63:
        raise ConfigError(f"{where}: seed should be in [0, 2^63), is {recipe.seed}")
    if recipe.image_size < 2:  # the rasteriser measures the distance between two pixels
        raise ConfigError(f"{where}: image_size should be at least 2, is {recipe.image_size}")
    if not recipe.behaviours:
        raise ConfigError(f"{where}: behaviours: expected at least one")
    for i, behaviour in enumerate(recipe.behaviours):
        _check_behaviour(behaviour, f"{where}: behaviours[{i}]", allow_code)
        if not recipe.heldout:
            _check_held_out(behaviour, f"{where}: behaviours[{i}]")


def _check_held_out(behaviour: Behaviour, where: str) -> None:
    for task, level in itertools.product(behaviour.tasks, behaviour.levels):
        if level in task_class(task).held_out:
            raise ConfigError(
                f"{where}: {task} level {level} is held out of training; with heldout = true the "
                "recipe is one for evaluation and may hold it"
            )


def _check_behaviour(behaviour: Behaviour, where: str, allow_code: bool) -> None:
    if not behaviour.tasks or not behaviour.levels:
        raise ConfigError(f"{where}: tasks and levels should not be empty")
    for task in behaviour.tasks:
        for level in behaviour.levels:
            check_level(task_class(task, where), level, where)
    if not 0 < behaviour.weight < math.inf:
        raise ConfigError(f"{where}: weight should be positive, is {behaviour.weight}")
    if not 0 <= behaviour.noise <= 2:
        raise ConfigError(f"{where}: noise should be in [0, 2], is {behaviour.noise}")
    if behaviour.noise and behaviour.policy != "expert":
        raise ConfigError(f"{where}: noise is for policy 'expert', not {behaviour.policy!r}")
    if behaviour.arguments and behaviour.policy in SCRIPTED:
        raise ConfigError(f"{where}: arguments are for 'module:function', not {behaviour.policy!r}")
    module, colon, _ = behaviour.policy.partition(":")
    if not colon and behaviour.policy not in SCRIPTED:
        raise UnknownNameError("policy", behaviour.policy, (*SCRIPTED, "module:function"), where)
    if colon and module.split(".")[0] != "palaestra" and not allow_code:
        raise ConfigError(
            f"{where}: policy {behaviour.policy!r} runs code from outside palaestra; "
            "pass --allow-code if you trust it"
        )
