"""From planned waves and measured costs to a corpus's size and time: the arithmetic of a plan."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..shards.schema import SEGMENT_STEPS
from .draft import Draft
from .measure import Cost
from .plan import Wave, cells, plan
from .recipe import SELF, Recipe
from .slots import make_schema

SUMS = ("waves", "steps", "written", "segments", "bytes", "seconds")
PROCESS_BYTES = 260e6  # libraries, models, and what the allocator keeps of compressed frames


class Cell(NamedTuple):
    """What is measured together; scripts go by what they do, whatever the recipe calls them."""

    task: str
    level: int
    policy: str
    opponent: str
    """Of learned ones with the same `module:function`, one stands for all."""
    keep: str


@dataclass(frozen=True)
class Row:
    """What a policy plays in a part, alone or against one opponent."""

    policy: str
    opponent: str
    unknown: bool
    """Whether a stand-in was measured, for want of a value."""
    waves: int
    steps: int
    """Planned, as if no episode ended early."""
    written: float
    segments: float
    bytes: float
    seconds: float
    """Of one core."""


@dataclass(frozen=True)
class Part:
    """One corpus."""

    name: str
    shards: int
    memory: float
    """Bytes of a process at its peak, without learned policies."""
    rows: tuple[Row, ...]

    def total(self, what: str) -> float:
        """The sum of one of SUMS."""
        return total(self.rows, what)

    def hours(self, cores: int) -> float:
        """With a process on each core, all equally fast; a shard is one process's work."""
        return self.total("seconds") / 3600 * math.ceil(self.shards / cores) / self.shards


def total(rows: Iterable[Row], what: str) -> float:
    """The sum of one of SUMS."""
    return sum(getattr(row, what) for row in rows)


def count(recipe: Recipe) -> list[tuple[Wave, int]]:
    """The cells of a resolved recipe's mixture in its order, and how many waves each plays."""
    counts = Counter(_key(wave) for shard in plan(recipe) for wave in shard)
    waves = {_key(wave): wave for wave, _ in cells(recipe)}
    return [(wave, counts[key]) for key, wave in waves.items() if counts[key]]


def _key(wave: Wave) -> tuple[str, int, str, str]:
    return wave.task, wave.level, wave.behaviour.label, wave.opponent


def choose(playing: Iterable[tuple[Recipe, Wave]], most: float) -> dict[Cell, Recipe]:
    """What to measure, as recipes of one wave: every cell or, of more than `most`, at one level.

    That is the middle one of the levels that play.
    """
    levels: dict[Cell, dict[int, Recipe]] = defaultdict(dict)
    for recipe, wave in playing:
        levels[_cell(recipe, wave)._replace(level=0)][wave.level] = _one_wave(recipe, wave)
    every = sum(map(len, levels.values())) <= most
    return {
        cell._replace(level=level): found[level]
        for cell, found in levels.items()
        for level in (sorted(found) if every else [sorted(found)[len(found) // 2]])
    }


def _cell(recipe: Recipe, wave: Wave) -> Cell:
    player, opponent = recipe.player_of(wave.behaviour), wave.opponent
    policy = player.label if player.scripted else wave.behaviour.label
    if opponent not in ("", SELF):
        opponent = recipe.player(opponent).label  # of a learned one, its module:function
    if opponent == policy:
        opponent = SELF
    return Cell(wave.task, wave.level, policy, opponent, recipe.keep)


def _one_wave(recipe: Recipe, wave: Wave) -> Recipe:
    behaviour = replace(wave.behaviour, tasks=(wave.task,), levels=(wave.level,))
    one = replace(recipe, steps=1, behaviours=(behaviour,))
    playing = one.players()
    return replace(one, policies={n: p for n, p in recipe.policies.items() if n in playing})


def part_of(draft: Draft, waves: Sequence[tuple[Wave, int]], costs: Mapping[Cell, Cost]) -> Part:
    """Planned steps times what each costs, at the nearest level that was measured."""
    groups: dict[tuple[str, str], list[tuple[int, int, Cost]]] = defaultdict(list)
    for wave, number in waves:
        cell = _cell(draft.recipe, wave)
        nearest = min(
            (other for other in costs if other._replace(level=wave.level) == cell),
            key=lambda other: abs(other.level - wave.level),
        )
        group = groups[wave.behaviour.label, wave.opponent]
        group.append((number, number * wave.steps, costs[nearest]))
    rows = tuple(
        Row(
            *key, not draft.unknown.isdisjoint(key),
            sum(number for number, _, _ in group), sum(steps for _, steps, _ in group),
            *(sum(steps * getattr(cost, what) for _, steps, cost in group) for what in SUMS[2:]),
        )
        for key, group in groups.items()
    )  # fmt: skip
    shards, size = len(plan(draft.recipe)), total(rows, "bytes")
    recipe = draft.recipe
    memory = worker_memory(
        recipe.wave, recipe.image_size, size / shards, size / total(rows, "waves")
    )
    return Part(draft.name, shards, memory, rows)


def worker_memory(lanes: int, image_size: int, shard: float, wave: float) -> float:
    """Bytes of a process at its peak, from those of a shard's tar and of a wave's part in it.

    Itself, a segment's arrays for every lane, and a shard that grows in memory. Of seven shards of
    4 k to 262 k steps, within -1 and +7 % of the measured peak.
    """
    schema = make_schema(image_size, (0.0, 1.0))
    floats = schema.state_size + schema.action_size + 1  # the reward
    step = 3 * image_size**2 + 4 * floats + 1
    return PROCESS_BYTES + lanes * SEGMENT_STEPS * step + 1.2 * shard + wave
