"""Play independent runs of a policy in lockstep waves, and keep all that replaying them takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..generate.rollout import Completion, Policy, act
from ..generate.world import World
from ..shards.schema import EVALUATION_BIT

SEED_STRIDE = 1_000_003  # seeds between one evaluation seed's runs and the next's
MAXIMUM_RUNS = 1_000_000


@dataclass(frozen=True)
class Runs:
    """n runs (of a match, players) on one task and level; every array's first axis is the run."""

    task: str
    level: int
    horizon: int
    seeds: tuple[int, ...]
    returns: NDArray[np.float64]
    completion_step: NDArray[np.int64]
    """(n,) first step from which success held for ten; -1 for never, and for a diverged run"""
    steps: NDArray[np.int64]
    """(n,) control steps played"""
    causes: tuple[str, ...]
    """Why the simulation diverged; empty where it did not."""
    actions: NDArray[np.float32]
    """(n, horizon, action_size) as applied; zero after the end"""
    rewards: NDArray[np.float32]
    """(n, horizon); NaN after the end"""

    @property
    def success(self) -> NDArray[np.bool_]:
        """(n,) whether the run was completed."""
        return self.completion_step >= 0


def evaluation_seeds(seed: int, count: int) -> list[int]:
    """Episode seeds of an evaluation's runs: no corpus uses them, every policy gets the same."""
    return [EVALUATION_BIT | (seed * SEED_STRIDE + i) for i in range(count)]


def play_runs(
    policy: Policy, world: World, runs: int, seed: int,
    on_step: Callable[[int], None] = lambda runs: None,
) -> Runs:  # fmt: skip
    """Play `runs` runs, a world's width at a time; `on_step` is told how many advanced.

    A match gives a row to each of its players, one after the other. The last wave is padded with
    further seeds and no lane leaves the batch when it has ended: a learned policy's bits depend
    on the batch's width.
    """
    players = world.task.players
    seeds = evaluation_seeds(seed, -(-runs // world.nsim) * world.nsim)
    waves = []
    for start in range(0, runs, world.nsim):
        wanted = min(world.nsim, runs - start)
        wave = seeds[start : start + world.nsim]
        played = _play_wave(policy, world, wave, wanted, on_step)
        waves.append(_first(played, wanted * players))
    return _joined(waves)


def _play_wave(
    policy: Policy, world: World, seeds: Sequence[int], wanted: int, on_step: Callable[[int], None]
) -> Runs:
    world.reset(seeds)
    policy.reset(world, seeds)
    shape, used = (world.nlane, world.horizon), world.task.action_size
    actions = np.zeros((*shape, world.schema.action_size), np.float32)
    rewards = np.full(shape, np.nan, np.float32)
    returns, steps = np.zeros(world.nlane), np.zeros(world.nlane, np.int64)
    completion, active = Completion(world.nlane), np.ones(world.nlane, bool)
    observation = world.observe()
    while active.any():
        t = world.time
        # a diverged lane's NaN stays in it, and must not reach the simulator's checks
        with np.errstate(invalid="ignore", over="ignore"):
            observation = world.observe(observation.state, observation.pixels)
            actions[active, t, :used] = act(policy, observation, world)[active, :used]
            step = world.step(actions[:, t])
        rewards[active, t] = step.reward[active]
        returns += np.where(active, step.reward, 0.0)
        steps += active
        completion.update(
            np.where(active, step.success, 0).astype(np.uint8), step.terminated, t
        )
        active &= ~(step.terminated | step.truncated)
        on_step(wanted)
    on_step(wanted * (world.horizon - world.time))  # a wave that ended early counts in full
    sims = [lane // world.task.players for lane in range(world.nlane)]
    causes = tuple(world.causes[sim] for sim in sims)
    failed = np.array([bool(cause) for cause in causes])
    return Runs(
        world.task.name, world.task.level, world.horizon, tuple(seeds[sim] for sim in sims),
        returns, np.where(failed, -1, completion.step), steps, causes, actions, rewards,
    )  # fmt: skip


def _first(runs: Runs, count: int) -> Runs:
    return _map(lambda values: values[:count], runs)


def _joined(waves: Sequence[Runs]) -> Runs:
    return _map(_concatenated, *waves)


def _concatenated(*values: Any) -> Any:
    if isinstance(values[0], tuple):
        return tuple(itertools.chain(*values))
    return np.concatenate(values)


def _map(change: Callable[..., Any], *runs: Runs) -> Runs:
    """Runs whose every per-run field is `change` of the given ones' fields."""
    fields = ("seeds", "returns", "completion_step", "steps", "causes", "actions", "rewards")
    return replace(runs[0], **{n: change(*(getattr(r, n) for r in runs)) for n in fields})
