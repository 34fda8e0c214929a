"""A round's matches, played again in waves, as a table of what they were like."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...generate.slots import ACTION_SIZE
from ...generate.world import World
from ...shards.errors import RolloutError
from ..video import replays_differently
from .emergence import COLUMNS, MATCH, Tracks, endings, measures

WIDTH = 256  # matches in a wave; each takes 0.4 MB
REACH = 1.0  # m between the middles: no two rovers that are farther apart touch


def measured(
    mine: pl.DataFrame, theirs: pl.DataFrame, versions: Mapping[str, str],
    workers: int | None = None,
) -> pl.DataFrame:  # fmt: skip
    """A table by COLUMNS of matches, from an evaluation's rows of both sides, in the same order.

    Raises RolloutError unless all rewards are what was recorded, to the last bit; `versions` are
    those that made them. `workers` are threads and change no bit.
    """
    threads = workers or len(os.sched_getaffinity(0))
    found = [pl.DataFrame(schema=COLUMNS)]
    numbered = mine.with_row_index("row")
    for _, cell in numbered.group_by("task", "level", maintain_order=True):
        for first in range(0, len(cell), WIDTH):
            wave = cell.slice(first, WIDTH)
            tracks = replay(wave, theirs[wave["row"].to_list()], versions, threads)
            found.append(_table(wave, tracks))
    return pl.concat(found)


def _table(wave: pl.DataFrame, tracks: Tracks) -> pl.DataFrame:
    columns = {name: pl.Series(name, v, nan_to_null=True) for name, v in measures(tracks).items()}
    ended = pl.Series("ending", endings(tracks), pl.String)
    return wave.select(tuple(MATCH)).with_columns(ending=ended, **columns).select(COLUMNS.names())


def replay(
    mine: pl.DataFrame, theirs: pl.DataFrame, versions: Mapping[str, str], threads: int = 1
) -> Tracks:
    """Play matches of one task and level in one world; rows as `measured` takes them."""
    task, level = mine.select("task", "level").row(0)
    world = World(task, level, len(mine), pixels=False, nthread=threads)
    actions, rewards = _recorded(mine, theirs, world)
    seen = _play(world, mine["seed"].to_list(), actions, len(rewards))
    same = (seen.rewards.view(np.uint32) == rewards.view(np.uint32)).all(axis=(0, 2))
    steps = mine["steps"].cast(pl.Int64).to_numpy()
    causes = mine["cause"].to_numpy()
    bad = ~same | (seen.ended != steps) | (np.array(world.causes) != causes)
    if bad.any():
        raise replays_differently(_name(mine.row(int(bad.argmax()), named=True)), versions)
    player = mine["player"].cast(pl.Int64).to_numpy()
    return Tracks(
        task=task, step_s=world.task.substeps * float(world.batch.model.opt.timestep),
        player=player, steps=steps, position=seen.position.swapaxes(0, 1),
        contact=seen.contact.T, action=actions[:, np.arange(len(mine)), player].swapaxes(0, 1),
        won=seen.won, terminated=seen.terminated, diverged=causes != "",
    )  # fmt: skip


def _recorded(
    mine: pl.DataFrame, theirs: pl.DataFrame, world: World
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Actions (T, n, 2, k) and rewards (T, n, 2) of matches, zero and NaN after the end.

    Raises RolloutError where they are not as many as this version's task takes.
    """
    steps, used = mine["steps"].to_list(), world.task.action_size
    longest = max(steps)
    actions = np.zeros((longest, len(steps), 2, used), np.float32)
    rewards = np.full((longest, len(steps), 2), np.nan, np.float32)
    for side in (mine, theirs):
        columns = side.select("player", "steps", "actions", "rewards").iter_rows()
        for sim, (player, count, taken, paid) in enumerate(columns):
            sizes = count, len(taken), len(paid)
            if sizes != (steps[sim], steps[sim] * used, steps[sim]) or count > world.horizon:
                raise RolloutError(
                    f"{_name(side.row(sim, named=True))}: expected {used} actions and a reward in "
                    f"each of {steps[sim]} steps, of at most {world.horizon}; found {sizes[1:]}"
                )
            actions[:count, sim, player] = np.reshape(taken, (count, used))
            rewards[:count, sim, player] = paid
    return actions, rewards


class _Seen:
    """What a world of n matches showed in T steps, step by step."""

    def __init__(self, world: World, steps: int) -> None:
        model, shape = world.batch.model, (steps, world.nsim)
        roots = model.body_rootid[model.geom_bodyid]
        # the first pair of geoms that differ in colour only are the players' own
        self.bodies = [int(roots[model.geom(name).id]) for name in world.task.rivals[0]]
        self.geoms = [set(np.flatnonzero(roots == body).tolist()) for body in self.bodies]
        self.xpos, self.data = world.batch.bind("xpos"), world.batch.get_data(0)
        self.position = np.zeros((steps + 1, world.nsim, 2, 3))
        self.contact = np.zeros(shape, bool)
        self.rewards = np.full((*shape, 2), np.nan, np.float32)
        self.ended = np.zeros(world.nsim, np.int64)
        self.won, self.terminated = np.zeros((world.nsim, 2), bool), np.zeros(world.nsim, bool)

    def look(self, world: World, sims: NDArray[np.int32]) -> None:
        """Where the players of some simulations are now, and which of them touch."""
        time = world.time
        self.position[time] = self.xpos[:, self.bodies]
        if not time:
            return
        gap = np.diff(self.position[time, sims], axis=1)[:, 0, :2]
        for sim in sims[(gap**2).sum(axis=1) < REACH**2]:
            self.contact[time - 1, sim] = self._touching(world, int(sim))

    def _touching(self, world: World, sim: int) -> bool:
        """Whether the engine has a contact between geoms of the two players.

        A batch binds fields of a fixed size only, and contacts are not: they come with a copy of
        the simulation's data, which takes 20 µs.
        """
        world.batch.get_data(sim, self.data)
        one, other = self.geoms
        return any(
            (a in one and b in other) or (a in other and b in one)
            for a, b in self.data.contact.geom.tolist()
        )


def _play(
    world: World, seeds: list[int], actions: NDArray[np.float32], steps: int
) -> _Seen:
    seen, used = _Seen(world, steps), actions.shape[-1]
    applied = np.zeros((world.nlane, ACTION_SIZE), np.float32)
    world.reset(seeds)
    seen.look(world, world.ids)
    for t in range(steps):
        active = world.ids
        if not len(active):
            break
        applied[:, :used] = actions[t].reshape(world.nlane, used)
        step = world.step(applied)
        seen.look(world, active)
        seen.rewards[t, active] = step.reward.reshape(-1, 2)[active]
        over = (step.terminated | step.truncated).reshape(-1, 2)[:, 0]
        ending = active[over[active]]
        seen.ended[ending] = t + 1
        seen.won[ending] = step.success.reshape(-1, 2)[ending] > 0
        seen.terminated[ending] = step.terminated.reshape(-1, 2)[ending, 0]
    return seen


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['task']} level {row['level']}, seed {row['seed']}, against {row['opponent']}"
