"""Control steps per second on one core, from bare physics to a written shard.

Per task and level, the first 128 steps of 64 simulations (32 matches) played by the expert, the
same in every variant:

* `mj_step`: the official yardstick, a loop of `mujoco.mj_step(model, data, nstep=substeps)` over
  the controls that the expert gave, one episode after another;
* `Batch.step`: the same controls through `mujoco.batch`, all episodes in lockstep;
* `World`: expert, step, reward and the state observation, without pixels;
* `World + pixels`: with a 64×64 frame per player and step as well;
* `write_shard`: end to end, with resets, encoding, checksums, tar and index written to disk; only
  with `--shards`.

Ratios are to `mj_step`; a step of a match is one step of its simulation. Resets are left out of
all but the last.

Run: python benchmarks/generation.py [--tasks push sumo] [--levels 1] [--shards] [--quick]
"""

from __future__ import annotations

import os

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ.update(dict.fromkeys(("NUMBA_NUM_THREADS", "POLARS_MAX_THREADS"), "1"))

import itertools
import statistics
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
from palaestra.generate.registry import task_class, task_classes
from palaestra.generate.work import manifest_of, write_shard
from palaestra.generate.world import World
from palaestra.shards.corpus import Corpus
from timing import Timing, interleave, pin_to_one_core, print_table

LANES = 64
STEPS = 128
REPETITIONS = 3
QUICK_LANES, QUICK_STEPS = 8, 64
GOALS = {"World": (0.75, 0.5), "World + pixels": (0.5, 0.3)}  # geometric mean, each

Controls = NDArray[np.float64]


def seeds(world: World) -> list[int]:
    """The same episodes at every call."""
    return [episode_seed(1, match) for match in range(world.nsim)]


def record_controls(world: World, steps: int) -> Controls:
    """(steps, nsim, nu) controls of the expert's episodes."""
    expert = make_policy("expert")
    world.reset(seeds(world))
    expert.reset(world, seeds(world))
    controls = []
    for _ in range(steps):
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


def world_loop(world: World, steps: int) -> float:
    """Steps/s of observe, expert and step, into buffers that are reused as a rollout's are."""
    expert = make_policy("expert")
    world.reset(seeds(world))
    expert.reset(world, seeds(world))
    size = world.schema.image_size
    state = np.zeros((world.nlane, world.schema.state_size), np.float32)
    pixels = np.zeros((world.nlane, size, size, 3), np.uint8)
    start = time.perf_counter()
    advanced = 0
    for _ in range(steps):
        advanced += len(world.ids)
        world.step(expert.act(world.observe(state, pixels)))
    return advanced / (time.perf_counter() - start)


def shard(task: str, level: int, folder: str) -> float:
    """Simulation steps/s of a shard of one wave of the expert's episodes."""
    behaviour = Behaviour((task,), "expert", (level,))
    recipe = Recipe("benchmark", 1, (behaviour,), wave=LANES)
    corpus = Corpus.create(folder, manifest_of(recipe))
    start = time.perf_counter()
    report = write_shard(corpus, recipe, 0)
    return report.steps / task_class(task).players / (time.perf_counter() - start)


def check_same_physics(world: World, controls: Controls) -> None:
    """The yardstick must do the same work: both loops end in the same state, to the last bit.

    Neither plays what a task moves by itself (a goal that wanders, a push from outside).
    """
    world.reset(seeds(world))
    model, data = world.batch.get_model(0), world.batch.get_data(0)
    for control in controls:
        data.ctrl[:] = control[0]
        mujoco.mj_step(model, data, nstep=world.task.substeps)
        world.batch.ctrl[:] = control
        world.batch.step(np.arange(world.nsim), nstep=world.task.substeps)
    assert np.array_equal(data.qpos, world.batch.qpos[0]), "mj_step and Batch.step part ways"


def measure(task: str, level: int, shards: bool, quick: bool) -> Timing:
    """Rates of every variant on one task and level."""
    lanes, steps = (QUICK_LANES, QUICK_STEPS) if quick else (LANES, STEPS)
    nsim = lanes // task_class(task).players
    blind, seeing = World(task, level, nsim, pixels=False), World(task, level, nsim)
    controls = record_controls(blind, steps)
    check_same_physics(blind, controls)
    variants = {
        "mj_step": partial(plain_loop, blind, controls),
        "Batch.step": partial(batch_loop, blind, controls),
        "World": partial(world_loop, blind, steps),
        "World + pixels": partial(world_loop, seeing, steps),
    }
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as folder:
        if shards:
            variants["write_shard"] = partial(shard, task, level, folder)
        return interleave(variants, 1 if quick else REPETITIONS)


def main(
    tasks: tuple[str, ...] = (), levels: tuple[int, ...] = (1, 2, 3), shards: bool = False,
    quick: bool = False,
) -> None:  # fmt: skip
    """Print a row per task and level; --quick plays 8 lanes for 64 steps, once."""
    pin_to_one_core()
    raster.compile()
    rows, ratios = [], {name: [] for name in GOALS}
    for task, level in itertools.product(tasks or task_classes(), levels):
        if level > task_class(task).levels:
            continue
        timing = measure(task, level, shards, quick)
        others = [name for name in timing.rates if name != "mj_step"]
        for name in GOALS:
            ratios[name].append(timing.ratio(name, "mj_step"))
        rows.append((
            f"{task} {level}", f"{timing.rate('mj_step'):,.0f}",
            *(f"{timing.ratio(name, 'mj_step'):.2f}" for name in others), f"{timing.share:.0%}",
        ))  # fmt: skip
        print("  ".join(rows[-1]), flush=True)  # so that a long run shows where it stands
    header = ("task", "mj_step/s", *others, "core")
    print_table(f"control steps/s on one core, {LANES} lanes; ratios to mj_step", header, rows)
    for name, (mean, each) in GOALS.items():
        print(
            f"{name}: geometric mean {statistics.geometric_mean(ratios[name]):.2f} "
            f"(goal {mean}), least {min(ratios[name]):.2f} (goal {each})"
        )


if __name__ == "__main__":
    tyro.cli(main)
