"""Control steps per second on one core, from bare physics to a written shard.

Per task, 64 episodes of the expert, the same in every variant:

* `mj_step`: the official yardstick, a loop of `mujoco.mj_step(model, data, nstep=substeps)` over
  the controls that the expert gave, one episode after another;
* `Batch.step`: the same controls through `mujoco.batch`, all episodes in lockstep;
* `World`: expert, step, reward and the state observation, without pixels;
* `World + pixels`: with a 64×64 frame per step as well;
* `write_shard`: end to end, with resets, encoding, checksums, tar and index written to disk.

Ratios are to `mj_step`. Resets are left out of all but the last.

Run: python benchmarks/generation.py [--quick]
"""

from __future__ import annotations

import os

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ.update(dict.fromkeys(("NUMBA_NUM_THREADS", "POLARS_MAX_THREADS"), "1"))

import tempfile
import time
from functools import partial

import mujoco
import numpy as np
import tyro
from numpy.typing import NDArray
from palaestra.generate import raster
from palaestra.generate.plan import episode_seed
from palaestra.generate.policies import make_policy
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.generate.registry import task_classes
from palaestra.generate.work import manifest_of, write_shard
from palaestra.generate.world import World
from palaestra.shards.corpus import Corpus
from timing import interleave, pin_to_one_core, print_timing

NSIM = 64
REPETITIONS = 9
QUICK_NSIM = 8

Controls = NDArray[np.float64]


def seeds(world: World) -> list[int]:
    """The same episodes at every call."""
    return [episode_seed(1, match) for match in range(world.nsim)]


def record_controls(world: World) -> Controls:
    """(horizon, nsim, nu) controls of the expert's episodes."""
    expert = make_policy("expert")
    world.reset(seeds(world))
    expert.reset(world, seeds(world))
    controls = []
    for _ in range(world.horizon):
        world.step(expert.act(world.observe()))
        controls.append(world.batch.ctrl.copy())
    return np.array(controls)


def plain_loop(world: World, controls: Controls) -> float:
    """Steps/s of mj_step with each simulation's own model and data."""
    world.reset(seeds(world))
    seconds, substeps = 0.0, world.task.substeps
    for sim in range(world.nsim):
        model, data = world.batch.get_model(sim), world.batch.get_data(sim)
        ctrl = data.ctrl
        start = time.perf_counter()
        for control in controls[:, sim]:
            ctrl[:] = control
            mujoco.mj_step(model, data, nstep=substeps)
        seconds += time.perf_counter() - start
    return len(controls) * world.nsim / seconds


def batch_loop(world: World, controls: Controls) -> float:
    """Steps/s of Batch.step alone."""
    world.reset(seeds(world))
    start = time.perf_counter()
    for control in controls:
        world.batch.ctrl[:] = control
        world.batch.step(world.ids, nstep=world.task.substeps)
    return len(controls) * world.nsim / (time.perf_counter() - start)


def world_loop(world: World) -> float:
    """Steps/s of observe, expert and step, into buffers that are reused as a rollout's are."""
    expert = make_policy("expert")
    world.reset(seeds(world))
    expert.reset(world, seeds(world))
    size = world.schema.image_size
    state = np.zeros((world.nsim, world.schema.state_size), np.float32)
    pixels = np.zeros((world.nsim, size, size, 3), np.uint8)
    start = time.perf_counter()
    for _ in range(world.horizon):
        world.step(expert.act(world.observe(state, pixels)))
    return world.horizon * world.nsim / (time.perf_counter() - start)


def shard(task: str, nsim: int, folder: str) -> float:
    """Steps/s of a shard of one wave of the expert's episodes."""
    recipe = Recipe("benchmark", 1, (Behaviour((task,), "expert"),), wave=nsim)
    corpus = Corpus.create(folder, manifest_of(recipe))
    start = time.perf_counter()
    report = write_shard(corpus, recipe, 0)
    return report.steps / (time.perf_counter() - start)


def check_same_physics(world: World, controls: Controls) -> None:
    """The yardstick must do the same work: both loops end in the same state, to the last bit."""
    world.reset(seeds(world))
    model, data = world.batch.get_model(0), world.batch.get_data(0)
    for control in controls:
        data.ctrl[:] = control[0]
        mujoco.mj_step(model, data, nstep=world.task.substeps)
        world.batch.ctrl[:] = control
        world.batch.step(world.ids, nstep=world.task.substeps)
    assert np.array_equal(data.qpos, world.batch.qpos[0]), "mj_step and Batch.step part ways"


def main(quick: bool = False) -> None:
    """Print a table per task; --quick plays 8 episodes instead of 64, and repeats once."""
    pin_to_one_core()
    raster.compile()
    nsim = QUICK_NSIM if quick else NSIM
    for task in task_classes():
        blind, seeing = World(task, 1, nsim, pixels=False), World(task, 1, nsim)
        controls = record_controls(blind)
        check_same_physics(blind, controls)
        with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as folder:
            variants = {
                "mj_step": partial(plain_loop, blind, controls),
                "Batch.step": partial(batch_loop, blind, controls),
                "World": partial(world_loop, blind),
                "World + pixels": partial(world_loop, seeing),
                "write_shard": partial(shard, task, nsim, folder),
            }
            timing = interleave(variants, 1 if quick else REPETITIONS)
        print_timing(f"{task}: control steps/s on one core, width {nsim}", timing, "mj_step")


if __name__ == "__main__":
    tyro.cli(main)
