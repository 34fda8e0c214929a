"""Search for a better gait of the quadruped, from the one that the task has.

The cross-entropy method (Rubinstein 1999) over `Gait`: every simulation walks with a gait drawn
from a Gaussian, all gaits through the same episodes; the best fit the next Gaussian. A gait's score
is the share of episodes it completes, and a little for haste.

The task's gait is the mean after 13 generations of 40 gaits on level 3, with gaps of 8 to 12 cm,
from an earlier gait tuned on flat ground; rounded.

Run: python benchmarks/tune_quadruped.py --levels 3 --gaits 40
"""

from __future__ import annotations

import os

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import numpy as np
import tyro
from numpy.typing import NDArray
from palaestra.generate.policies import Expert
from palaestra.generate.rollout import Completion
from palaestra.generate.tasks.quadruped import Gait, Quadruped
from palaestra.generate.world import World

LOW = Gait(
    frequency=1.4, stride=0.06, lift=0.05, lead=-1.4, height=0.21, lean=-0.04, turn=0.6, swerve=0.3
)
HIGH = Gait(
    frequency=2.2, stride=0.14, lift=0.15, lead=0.4, height=0.27, lean=0.06, turn=2.4, swerve=1.0
)
START, LEAST = 0.2, 0.04  # deviations, as fractions of the range from LOW to HIGH
ELITE = 6  # gaits that fit the next generation's
KEPT = 0.5  # of the old mean and deviation
HASTE = 0.2  # points lost by completing only at the horizon


def play(
    world: World, gaits: NDArray[np.float64], seeds: list[int], noise: float
) -> NDArray[np.float64]:
    """Mean score (n,) of gaits (n, parameters), each over all seeds."""
    assert isinstance(world.task, Quadruped)
    world.task.gait = Gait(*np.repeat(gaits, len(seeds), axis=0).T[..., None])
    expert, completion = Expert(noise), Completion(world.nlane)
    world.reset(seeds * len(gaits))
    expert.reset(world, seeds * len(gaits))
    while len(world.ids) and world.time < world.horizon:
        active = np.isin(np.arange(world.nsim), world.ids)
        step = world.step(expert.act(world.observe()))
        success, ended = active & (step.success > 0), active & step.terminated
        completion.update(success.astype(np.uint8), ended, world.time - 1)
        world.ids = world.ids[completion.step[world.ids] < 0]
    late = completion.step / world.horizon
    score = np.where(completion.step < 0, 0.0, 1.0 - HASTE * late)
    return score.reshape(len(gaits), len(seeds)).mean(axis=1)


def main(
    levels: tuple[int, ...] = (3,), generations: int = 25, gaits: int = 32, episodes: int = 5,
    noise: float = 0.3, seed: int = 0,
) -> None:  # fmt: skip
    """Print each generation's mean gait and its score, which is of a few episodes only."""
    worlds = [World("quadruped", level, gaits * episodes, pixels=False) for level in levels]
    generator = np.random.Generator(np.random.Philox(seed))
    low, high = np.array(LOW), np.array(HIGH)
    mean = (np.array(Gait()) - low) / (high - low)
    deviation = np.full(len(mean), START)
    for generation in range(generations):
        drawn = mean + deviation * generator.standard_normal((gaits, len(mean)))
        drawn = np.clip(drawn, 0.0, 1.0)
        drawn[0] = mean
        seeds = list(range(generation * episodes, (generation + 1) * episodes))
        scores = [play(world, low + drawn * (high - low), seeds, noise) for world in worlds]
        best = drawn[np.argsort(-np.mean(scores, axis=0))[:ELITE]]
        print(generation, [f"{s[0]:.2f} {s.mean():.2f}" for s in scores])
        mean = KEPT * mean + (1 - KEPT) * best.mean(axis=0)
        deviation = np.maximum(KEPT * deviation + (1 - KEPT) * best.std(axis=0), LEAST)
        print(Gait(*(low + mean * (high - low)).round(3).tolist()), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
