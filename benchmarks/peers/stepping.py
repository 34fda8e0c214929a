"""The loop in which our worlds are measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from palaestra.generate.world import World
from serve import Run


def stepping(world: World, table: Any, steps: int, resets: bool) -> Run:
    """Observe and step, into buffers that are reused as a rollout's are.

    table (n, nlane, ACTION_SIZE) are actions, played over and over; with `resets` every run begins
    new episodes, else they go on.
    """
    size, seeds = world.schema.image_size, range(world.nsim)
    state = np.zeros((world.nlane, world.schema.state_size), np.float32)
    frames = np.zeros((world.nlane, size, size, 3), np.uint8) if world.pixels else None
    world.reset(seeds)

    def run() -> int:
        if resets:
            world.reset(seeds)
        for t in range(steps):
            world.observe(state, frames)
            world.step(table[t % len(table)])
        return steps * world.nsim

    return run
