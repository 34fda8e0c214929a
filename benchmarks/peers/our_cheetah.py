"""The cheetah in `mujoco.batch`, in our world, recorded as episodes, and written as a shard."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from cheetah_task import SETTLING_STEPS, Cheetah, register
from palaestra.generate.policies import Random
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.generate.rollout import Label, play
from palaestra.generate.slots import ACTION_SIZE
from palaestra.generate.work import manifest_of
from palaestra.generate.world import World
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from palaestra.shards.writer import ShardWriter
from serve import Run, serve
from stepping import stepping

TABLE = 50  # steps of actions, played over and over
VELOCITY = mujoco.mjtStage.mjSTAGE_VEL.value
SMALLEST = 2  # pixels: a shard has frames; without drawing, these are black
SIZE = 64


def make_world(width: int, pixels: bool = False) -> World:
    """So many cheetahs."""
    return World(Cheetah.name, 1, width, image_size=SIZE if pixels else SMALLEST, pixels=pixels)


def actions(width: int) -> Any:
    """(TABLE, width, ACTION_SIZE), uniform where they are used."""
    drawn = np.zeros((TABLE, width, ACTION_SIZE), np.float32)
    drawn[..., : Cheetah.action_size] = np.random.default_rng(0).uniform(
        -1, 1, (TABLE, width, Cheetah.action_size)
    )
    return drawn


def batch(width: int, steps: int) -> Run:
    """Physics alone, reset and settled as all are, sensors current after every step."""
    world, table, rng = make_world(width), actions(width), np.random.default_rng(0)
    task, simulations = world.task, world.batch
    assert isinstance(task, Cheetah)

    def run() -> int:
        if steps >= Cheetah.horizon:
            simulations.reset()
            task.qpos[:, task.limited] = rng.uniform(*task.range, (width, len(task.limited)))
            simulations.forward()
            simulations.step(nstep=SETTLING_STEPS)
        for t in range(steps):
            task.ctrl[:] = table[t % TABLE, :, : Cheetah.action_size]
            simulations.step(world.ids, nstep=1, stage=VELOCITY)
        return steps * width

    return run


def in_world(width: int, steps: int, pixels: bool = False) -> Run:
    """Observe and step."""
    resets = steps >= Cheetah.horizon
    return stepping(make_world(width, pixels), actions(width), steps, resets)


def recorded(width: int, steps: int) -> Run:
    """A rollout's wave of episodes."""
    world = make_world(width)
    return lambda: sum(episode.steps for episode in episodes(world, steps))


def written(width: int, steps: int) -> Run:
    """The same as a shard on disk."""
    world = make_world(width)
    recipe = Recipe(
        "cheetah", 1, (Behaviour((Cheetah.name,), "random"),), wave=width, image_size=SMALLEST
    )
    folder = tempfile.TemporaryDirectory(prefix="palaestra-benchmark-")
    corpus = Corpus.create(folder.name, manifest_of(recipe))

    def run() -> int:
        writer = ShardWriter(corpus, 0)
        assert folder  # is removed when it is let go
        for episode in episodes(world, steps):
            frames = np.zeros((episode.steps, SMALLEST, SMALLEST, 3), np.uint8)
            writer.add(replace(episode, pixels=frames))
        writer.end_wave()
        writer.commit()
        return sum(row["steps"] for row in writer.rows)

    return run


def episodes(world: World, steps: int) -> Iterator[Episode]:
    """A wave of random behaviour; a quick run's episodes are shorter."""
    Cheetah.horizon = steps
    return play(world, Random(), range(world.nsim), Label("random"))


def compare(path: str) -> dict[str, float]:
    """The largest differences from what a peer saw and earned in `path`, all steps played."""
    theirs, world = np.load(path), make_world(1)
    world.reset([0])
    task = world.task
    assert isinstance(task, Cheetah)
    if "state" in theirs:
        model, data = world.batch.model, mujoco.MjData(world.batch.model)
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(model, data, theirs["state"], kind)
        world.batch.bind("qacc_warmstart")[0] = data.qacc_warmstart
        task.qpos[0], task.qvel[0] = data.qpos, data.qvel
    else:  # where along the track does not matter
        task.qpos[0, 0] = 0.0
        task.qpos[0, 1:], task.qvel[0] = np.split(theirs["observation"][0], [8])
    world.batch.forward()
    action = np.zeros((1, ACTION_SIZE), np.float32)
    seen, rewards = [], []
    for action[0, : Cheetah.action_size] in theirs["action"]:
        rewards.append(world.step(action).reward[0])
        seen.append(np.concatenate((task.qpos[0, 1:], task.qvel[0])))
    gap = np.abs(np.array(seen) - theirs["observation"][1:]).max()
    return {
        "observation": float(gap), "reward": float(np.abs(rewards - theirs["reward"]).max())
    }  # fmt: skip


if __name__ == "__main__":
    register(Path(sys.argv[1]))
    makers = {
        "batch": batch, "world": in_world, "recorded": recorded, "written": written,
        "pixels": partial(in_world, pixels=True),
    }  # fmt: skip
    serve(makers, compare=compare)
