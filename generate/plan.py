"""What each shard holds, as a pure function of the recipe: no machine needs to ask another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xxhash

from ..shards.schema import EVALUATION_BIT
from .recipe import SELF, Behaviour, Recipe
from .registry import task_class

MATCHES_PER_SHARD = 1_000_000  # match numbers are shard × this + n


@dataclass(frozen=True)
class Wave:
    """Episodes of one cell of the mixture (task × level × behaviour), played in lockstep."""

    task: str
    level: int
    behaviour: Behaviour
    nsim: int

    @property
    def opponent(self) -> str:
        """Of a match: a name, or `self`; empty for one player."""
        if task_class(self.task).players == 1:
            return ""
        return next(iter(self.behaviour.opponents), SELF)

    @property
    def steps(self) -> int:
        """Steps it writes if no episode ends early."""
        cls = task_class(self.task)
        return self.nsim * cls.players * cls.horizon


def cells(recipe: Recipe) -> list[tuple[Wave, float]]:
    """Each cell's wave and its share of the steps; shares sum to 1."""
    total = sum(behaviour.weight for behaviour in recipe.behaviours)
    found = []
    for behaviour in recipe.behaviours:
        pairs = [(task, level) for task in behaviour.tasks for level in behaviour.levels]
        for task, level in pairs:
            nsim = max(1, recipe.wave // task_class(task).players)
            found.append(
                (Wave(task, level, behaviour, nsim), behaviour.weight / total / len(pairs))
            )
    return found


def plan(recipe: Recipe) -> list[list[Wave]]:
    """The waves of every shard.

    Each next wave goes to the cell that is furthest behind its share, so that any stretch of the
    corpus holds the mixture as nearly as whole waves can.
    """
    if not _plans or _plans[0][0] != recipe:
        _plans[:] = [(recipe, _plan(recipe))]
    return _plans[0][1]


def planned_steps(recipe: Recipe, shards: Iterable[int]) -> int:
    """Steps of some shards if no episode ends early."""
    waves = plan(recipe)
    return sum(wave.steps for shard in shards for wave in waves[shard])


_plans: list[tuple[Recipe, list[list[Wave]]]] = []  # the last: workers ask at every shard


def _plan(recipe: Recipe) -> list[list[Wave]]:
    waves, shares = zip(*cells(recipe), strict=True)
    steps, wanted = np.array([wave.steps for wave in waves], np.float64), np.array(shares)
    written = np.zeros(len(waves))
    total = 0.0
    shards: list[list[Wave]] = [[]]
    room = recipe.shard_steps
    while total < recipe.steps:
        behind = wanted * (total + steps) - written
        cell = int(np.argmax(behind / steps))
        if shards[-1] and steps[cell] > room:
            shards.append([])
            room = recipe.shard_steps
        shards[-1].append(waves[cell])
        room -= int(steps[cell])
        written[cell] += steps[cell]
        total += steps[cell]
    return shards


def episode_seed(corpus_seed: int, match: int) -> int:
    """64-bit seed of a match; without the bit that evaluation reserves."""
    return xxhash.xxh3_64_intdigest(f"{corpus_seed}/{match}".encode()) & ~EVALUATION_BIT
