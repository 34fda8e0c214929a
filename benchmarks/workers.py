"""Steps per second of `generate` with two worker processes over one, on two cores.

The whole command's work: a corpus of equal shards of `--task`, written to a local folder. Starting
the processes (import, model, compiled rasteriser from its cache) is taken out of the rate by
measuring two sizes of corpus and dividing the difference in steps by the difference in time.

Run: python benchmarks/workers.py [--task push] [--quick]
"""

from __future__ import annotations

import os

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ.update(dict.fromkeys(("NUMBA_NUM_THREADS", "POLARS_MAX_THREADS"), "1"))

import tempfile
import time
from functools import partial

import tyro
from palaestra.generate import raster
from palaestra.generate.generation import Options, generate
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.generate.registry import task_class
from timing import interleave, print_table

SHARD_STEPS = 32_768
FEW, MANY = 2, 10  # shards
REPETITIONS = 3


def wall(task: str, workers: int, shards: int) -> float:
    """Seconds to generate a corpus of this many shards."""
    behaviour = Behaviour((task,), "expert", noise=0.4)
    recipe = Recipe("benchmark", shards * SHARD_STEPS, (behaviour,), shard_steps=SHARD_STEPS)
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as folder:
        start = time.perf_counter()
        generate(recipe, folder, Options(workers))
        return time.perf_counter() - start


def rate(task: str, workers: int, many: int) -> float:
    """Steps/s once the processes run."""
    seconds = wall(task, workers, many) - wall(task, workers, FEW)
    return (many - FEW) * SHARD_STEPS / seconds


def main(task: str = "push", quick: bool = False) -> None:
    """Print steps/s of one and of two workers; --quick writes fewer shards, once."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed")
    task_class(task)
    raster.compile()
    many = 4 if quick else MANY
    variants = {f"{n} worker(s)": partial(rate, task, n, many) for n in (1, 2)}
    timing = interleave(variants, 1 if quick else REPETITIONS)
    rows = [
        (name, f"{timing.rate(name):,.0f}", f"{timing.ratio(name, '1 worker(s)'):.2f}")
        for name in variants
    ]
    print_table(f"generate {task}, {SHARD_STEPS:,} steps a shard", ("", "steps/s", "ratio"), rows)


if __name__ == "__main__":
    tyro.cli(main)
