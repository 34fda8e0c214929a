"""Matches between two networks on one CPU thread: in waves, and one at a time.

Two drawn `tiny` networks, which see the state and draw their actions, play each other on sumo and
tag, as `generate` has them: seats alternate, the lanes of each network are one batch. Two tables,
each from waves of several widths in turn:

* simulation and networks alone, as `evaluate` plays them;
* a corpus's matches, with 64×64 frames drawn and every segment encoded.

The last column is the share of time in the networks.

Run: python benchmarks/matches.py [--quick] [--cpu-time]
"""

from __future__ import annotations

import os

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import tyro
from inference import load_agent
from numpy.typing import NDArray
from palaestra.generate.policies import Match
from palaestra.generate.rollout import Label, play
from palaestra.generate.world import Observation, World
from palaestra.shards.codec import encode_episode
from palaestra.train.agent import Agent
from timing import interleave, pin_to_one_core, print_table

TASKS = ("sumo", "tag")
WIDTHS = (1, 8, 16, 32, 64)  # matches at once; `wave = 64` of a recipe is 32
REPETITIONS, QUICK_REPETITIONS = 3, 1
TARGET = 10.0  # times the matches of one at a time

Clock = Callable[[], float]


@dataclass
class Timed:
    """A network that counts its own seconds."""

    agent: Agent
    clock: Clock
    seconds: float = 0.0
    observes_only: bool = field(default=True, init=False)

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        """As the agent's."""
        self.agent.reset(world, seeds)

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """As the agent's."""
        begun = self.clock()
        action = self.agent.act(observation)
        self.seconds += self.clock() - begun
        return action


def matches_per_second(
    world: World, policies: Sequence[Timed], encode: bool, clock: Clock, shares: list[float]
) -> float:
    """Of one wave, played to the end of its last match; appends the networks' share of the time."""
    seeds = list(range(world.nsim))
    for policy in policies:
        policy.seconds = 0.0
    begun = clock()
    for episode in play(world, Match(policies, alternate=True), seeds, Label("one", "other")):
        if encode:
            encode_episode(episode)
    seconds = clock() - begun
    shares.append(sum(policy.seconds for policy in policies) / seconds)
    return world.nsim / seconds


def main(quick: bool = False, cpu_time: bool = False) -> None:
    """Print the tables; --quick plays narrow waves once.

    --cpu-time counts the process's own seconds, which hold on a busy machine too.
    """
    pin_to_one_core()
    torch.set_num_threads(1)
    clock = time.process_time if cpu_time else time.perf_counter
    repetitions, widths = (QUICK_REPETITIONS, WIDTHS[:2]) if quick else (REPETITIONS, WIDTHS)
    policies = [Timed(load_agent("tiny"), clock) for _ in range(2)]
    for policy in policies:
        policy.agent.temperature = 1.0
    for encode in (False, True):
        rows = []
        for task in TASKS:
            shares: dict[str, list[float]] = {str(width): [] for width in widths}
            variants = {
                name: partial(
                    matches_per_second, World(task, 1, int(name), pixels=encode), policies, encode,
                    clock, shares[name],
                )
                for name in shares
            }  # fmt: skip
            timing = interleave(variants, repetitions)
            rows += [
                (f"{task}, {name}", f"{timing.rate(name):,.2f}", f"{timing.ratio(name, '1'):.1f}",
                 f"{statistics.median(shares[name]):.0%}")
                for name in variants
            ]  # fmt: skip
        what = "drawn and encoded" if encode else "state alone"
        title = f"matches/s, {what} (median of {repetitions}; goal: {TARGET:.0f} times)"
        print_table(title, ("task, matches at once", "per second", "ratio", "networks"), rows)


if __name__ == "__main__":
    tyro.cli(main)
