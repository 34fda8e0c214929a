"""Steps per second of a worker end to end, over the same waves without writing; and its memory.

On one core, for each task: a shard of one wave of 64 episodes of the expert with noise, simulated,
drawn, encoded, checksummed and written to a local folder, in turn with the same wave only played
(simulated and drawn). Then the peak memory of a worker process that makes a whole shard of
`recipes/small.toml`, and of one whose waves are 64 wide.

Run: python benchmarks/writing.py [--tasks push sumo] [--quick]
"""

from __future__ import annotations

import os

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ.update(dict.fromkeys(("NUMBA_NUM_THREADS", "POLARS_MAX_THREADS"), "1"))

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import tyro
from palaestra.generate import raster
from palaestra.generate.plan import episode_seed, plan
from palaestra.generate.players import label_of, policy_of
from palaestra.generate.pool import Failed, Finished, run
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.generate.recipe_file import load_recipe
from palaestra.generate.registry import task_classes
from palaestra.generate.rollout import play
from palaestra.generate.work import manifest_of, write_shard
from palaestra.generate.world import World
from palaestra.shards.corpus import Corpus
from timing import Timing, interleave, pin_to_one_core, print_table

SMALL = Path(__file__).parent.parent / "recipes/small.toml"
REPETITIONS = 5


def one_wave(task: str, wave: int) -> Recipe:
    """A shard of one wave."""
    return Recipe("benchmark", 1, (Behaviour((task,), "expert", noise=0.4),), wave=wave)


def played(recipe: Recipe) -> float:
    """Steps/s of the shard's wave, simulated and drawn."""
    (wave,) = plan(recipe)[0]
    start = time.perf_counter()
    world = World(wave.task, wave.level, wave.nsim, image_size=recipe.image_size)
    seeds = [episode_seed(recipe.seed, match) for match in range(wave.nsim)]
    episodes = play(world, policy_of(recipe, wave), seeds, label_of(recipe, wave, 0))
    steps = sum(episode.steps for episode in episodes)
    return steps / (time.perf_counter() - start)


def written(recipe: Recipe, corpus: Corpus) -> float:
    """Steps/s of the shard to disk."""
    start = time.perf_counter()
    report = write_shard(corpus, recipe, 0)
    return report.steps / (time.perf_counter() - start)


def measure(task: str, wave: int, repetitions: int) -> Timing:
    """Rates of both."""
    recipe = one_wave(task, wave)
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as folder:
        corpus = Corpus.create(folder, manifest_of(recipe))
        variants = {"played": partial(played, recipe), "written": partial(written, recipe, corpus)}
        return interleave(variants, repetitions)


def peak(corpus: Corpus, recipe: Recipe, shard: int, tell: Callable[[int], None]) -> float:
    """Peak memory in MB of a process that makes a shard."""
    write_shard(corpus, recipe, shard, tell)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def worker_memory(recipe: Recipe) -> float:
    """Of a worker of the pool, which makes the recipe's first shard."""
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as folder:
        corpus = Corpus.create(folder, manifest_of(recipe))
        for event in run(partial(peak, corpus, recipe), [0], 1):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                return event.result
    raise AssertionError


def main(tasks: tuple[str, ...] = (), quick: bool = False) -> None:
    """Print a row per task, and the memory; --quick plays 8 episodes once."""
    raster.compile()
    small = load_recipe(str(SMALL))
    memory = {} if quick else {
        f"{wave} lanes wide": worker_memory(replace(small, wave=wave)) for wave in (32, 64)
    }  # fmt: skip
    pin_to_one_core()
    rows, ratios = [], []
    for task in tasks or task_classes():
        timing = measure(task, 8 if quick else 64, 1 if quick else REPETITIONS)
        ratios.append(timing.ratio("written", "played"))
        rates = [f"{timing.rate(name):,.0f}" for name in timing.rates]
        rows.append((task, *rates, f"{ratios[-1]:.2f}", f"{timing.share:.0%}"))
        print("  ".join(rows[-1]), flush=True)  # so that a long run shows where it stands
    print_table("steps/s on one core", ("task", "played", "written", "ratio", "core"), rows)
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f} (goal 0.8)")
    for name, megabytes in memory.items():
        print(f"peak of a worker, a shard of {small.name}, {name}: {megabytes:,.0f} MB (goal 600)")


if __name__ == "__main__":
    tyro.cli(main)
