"""Play independent runs of a policy in lockstep, and keep all that replaying them takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..generate.rollout import Completion, Policy, act, outcome
from ..generate.world import World
from ..shards.schema import EVALUATION_BIT

SEED_STRIDE = 1_000_003  # seeds between one evaluation seed's runs and the next's
MAXIMUM_RUNS = 1_000_000


@dataclass(frozen=True)
class Runs:
    """A wave on one task and level, by lane: a run, or one player's side of a match."""

    task: str
    level: int
    players: int
    horizon: int
    seeds: tuple[int, ...]
    returns: NDArray[np.float64]
    completion_step: NDArray[np.int64]
    """(n,) first step from which success held for ten; -1 for never, and for a diverged run"""
    steps: NDArray[np.int64]
    """(n,) control steps played"""
    causes: tuple[str, ...]
    """Why the simulation diverged; empty where it did not."""
    outcomes: tuple[str | None, ...]
    """Of a match: `win`, `loss` or `draw`."""
    actions: NDArray[np.float32]
    """(n, horizon, action_size) as applied, those that the task uses; zero after the end"""
    rewards: NDArray[np.float32]
    """(n, horizon); NaN after the end"""
    values: NDArray[np.float32] | None
    """(n, horizon) the critic's estimate before each step, in units of (1 − γ) · return; NaN after
    the end. None of a script, and in a match."""

    @property
    def success(self) -> NDArray[np.bool_]:
        """(n,) whether the run was completed."""
        return self.completion_step >= 0


def evaluation_seeds(seed: int, count: int, first: int = 0) -> list[int]:
    """Episode seeds of an evaluation's runs: no corpus uses them, every policy gets the same."""
    return [EVALUATION_BIT | (seed * SEED_STRIDE + first + i) for i in range(count)]


def play_wave(
    policy: Policy, world: World, seeds: Sequence[int],
    on_step: Callable[[int], None] = lambda runs: None,
) -> Runs:  # fmt: skip
    """Play a run of every seed, one for each simulation; `on_step` is told how many advanced.

    No lane leaves the batch when it has ended: a learned policy's bits depend on its width.
    """
    world.reset(seeds)
    policy.reset(world, seeds)
    shape, used, players = (world.nlane, world.horizon), world.task.action_size, world.task.players
    actions = np.zeros((*shape, used), np.float32)
    rewards, values = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    returns, steps = np.zeros(world.nlane), np.zeros(world.nlane, np.int64)
    completion, active = Completion(world.nlane), np.ones(world.nlane, bool)
    outcomes: list[str | None] = [None] * world.nlane
    applied = np.zeros((world.nlane, world.schema.action_size), np.float32)
    observation = world.observe()
    while active.any():
        t = world.time
        # a diverged lane's NaN stays in it, and must not reach the simulator's checks
        with np.errstate(invalid="ignore", over="ignore"):
            observation = world.observe(observation.state, observation.pixels)
            applied[:, :used] = np.where(
                active[:, None], act(policy, observation, world)[:, :used], 0.0
            )
            step = world.step(applied)
        actions[:, t] = applied[:, :used]
        rewards[active, t] = step.reward[active]
        value = getattr(policy, "value", None)
        if value is not None:
            values[active, t] = value[active]
        returns += np.where(active, step.reward, 0.0)
        steps += active
        completion.update(
            np.where(active, step.success, 0).astype(np.uint8), step.terminated, t
        )
        ended = active & (step.terminated | step.truncated)
        for lane in np.flatnonzero(ended).tolist():
            outcomes[lane] = outcome(step.success, lane, players)
        active &= ~ended
        on_step(world.nsim)
    on_step(world.nsim * (world.horizon - world.time))  # a wave that ended early counts in full
    sims = [lane // players for lane in range(world.nlane)]
    causes = tuple(world.causes[sim] for sim in sims)
    failed = np.array([bool(cause) for cause in causes])
    return Runs(
        world.task.name, world.task.level, players, world.horizon,
        tuple(seeds[sim] for sim in sims), returns, np.where(failed, -1, completion.step), steps,
        causes, tuple(outcomes), actions, rewards, None if np.isnan(values).all() else values,
    )  # fmt: skip
