"""Tune the runner's gaits by the cross-entropy method; prints them for `generate/tasks/runner.py`.

Each generation plays all candidates at once, as the simulations of one world, so the whole of it
is as fast as generating data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import tyro
from palaestra.generate.task import Floats
from palaestra.generate.tasks.runner import Gait, Runner
from palaestra.generate.world import World

SIZES = {"frequency": 1, "offset": 6, "amplitude": 6, "shift": 6, "pitch": 6, "drive": 2}
MEAN = {"frequency": 2.0, "offset": 0.0, "amplitude": 0.4, "shift": 0.0, "pitch": 0.0, "drive": 0.3}
SPREAD = {
    "frequency": 0.4, "offset": 0.2, "amplitude": 0.2, "shift": 1.5, "pitch": 0.2, "drive": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class Search:
    """A search for one level's gait."""

    level: int
    generations: int = 60
    candidates: int = 32
    episodes: int = 4
    """Of each candidate, with other masses, friction, target speed, and noise."""
    elite: int = 6
    noise: float = 0.5
    """Deviation of the noise on actions, in the last of the episodes; the first has none."""
    seed: int = 0
    resume: bool = False
    """Start from the gait that the task has."""


def unpack(vectors: Floats) -> Gait:
    """Gaits of all rows of (n, 27)."""
    parts = np.split(vectors, np.cumsum(list(SIZES.values()))[:-1], axis=1)
    return Gait(parts[0][:, 0], *parts[1:])


def spread(values: dict[str, float]) -> Floats:
    """(27,) the value of each of a gait's numbers."""
    return np.concatenate([np.full(size, values[name]) for name, size in SIZES.items()])


def fitness(world: World, vectors: Floats, search: Search, generation: int) -> Floats:
    """Mean over a candidate's episodes of its return and of how long it was successful."""
    task = cast(Runner, world.task)
    task.gait = unpack(np.repeat(vectors, search.episodes, axis=0))
    # the same episodes for all candidates
    seeds = np.tile(np.arange(search.episodes), search.candidates) + generation * search.episodes
    world.reset(seeds.tolist())
    generator = np.random.default_rng(generation)
    noise = np.tile(np.linspace(0, search.noise, search.episodes), search.candidates)[:, None]
    total = np.zeros(world.nsim)
    while len(world.ids) and world.time < world.horizon:
        action = task.expert()
        action[:, : task.action_size] += noise * generator.standard_normal(task.action_size)
        active = np.isin(np.arange(world.nsim), world.ids)
        step = world.step(np.clip(action, -1, 1))
        total += np.where(active, step.reward + step.success, 0.0)
    return total.reshape(search.candidates, search.episodes).mean(axis=1) / world.horizon


def tune(search: Search) -> Floats:
    """The mean of the last elite, after reporting each tenth generation."""
    generator = np.random.default_rng(search.seed)
    world = World("runner", search.level, search.candidates * search.episodes, pixels=False)
    mean, deviation = spread(MEAN), spread(SPREAD)
    if search.resume:
        mean = np.concatenate([np.atleast_1d(x) for x in cast(Runner, world.task).gait])
        deviation = deviation * 0.25
    floor = 0.1 * spread(SPREAD)
    for generation in range(search.generations):
        vectors = generator.normal(mean, deviation, (search.candidates, len(mean)))
        vectors[0] = mean
        scores = fitness(world, vectors, search, generation)
        elite = vectors[np.argsort(scores)[-search.elite :]]
        mean = 0.3 * mean + 0.7 * elite.mean(axis=0)
        # the floor shrinks to nothing: explore, then settle
        left = 1.0 - generation / search.generations
        deviation = 0.3 * deviation + 0.7 * (elite.std(axis=0) + floor * left)
        if generation % 10 == 9:
            print(f"{generation + 1:4d}: best {scores.max():.3f}, mean {scores[0]:.3f}", flush=True)
    return mean


if __name__ == "__main__":
    for name, value in zip(Gait._fields, unpack(tune(tyro.cli(Search))[None]), strict=True):
        print(f"{name} = {np.round(value[0], 3).tolist()}")
