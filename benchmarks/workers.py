"""Steps per second of generation and of reading against the number of processes.

* `generate`: the whole command's work, a corpus of equal shards of `--task` on a local disk.
  Starting the processes (import, model, compiled rasteriser from its cache) is taken out of the
  rate by dividing the difference between two sizes of corpus by the difference in time.
* `read`: as many ranks of the reference run's 128 as processes, each a `Reader` of one thread,
  pixels included, from the moment that all have read a first global batch to the last one's end.

Every number of processes has as many cores to itself.

Run: python benchmarks/workers.py [--processes 1 2] [--task push] [--quick]
"""

from __future__ import annotations

import os

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ.update(dict.fromkeys(("NUMBA_NUM_THREADS", "POLARS_MAX_THREADS"), "1"))

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Barrier

import tyro
from palaestra.generate import raster
from palaestra.generate.generation import Options, generate
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.generate.registry import task_class
from palaestra.shards.corpus import Corpus
from palaestra.shards.reader import Reader
from palaestra.shards.segments import Source
from reading import BATCH, MICRO_BATCH, RANKS, STEPS, open_corpus
from timing import interleave, print_table

SHARD_STEPS = 32_768
FEW, MANY = 2, 10  # shards for each process
BATCHES = 300  # of 16 segments a rank
REPETITIONS = 3


@contextmanager
def cores(count: int) -> Iterator[None]:
    """This process and those that it starts, on so many cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def wall(task: str, workers: int, shards: int) -> float:
    """Seconds to generate a corpus of this many shards."""
    behaviour = Behaviour((task,), "expert", noise=0.4)
    recipe = Recipe("benchmark", shards * SHARD_STEPS, (behaviour,), shard_steps=SHARD_STEPS)
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as folder:
        start = time.perf_counter()
        generate(recipe, folder, Options(workers))
        return time.perf_counter() - start


def generating(task: str, many: int, workers: int) -> float:
    """Steps/s once the processes run."""
    with cores(workers):
        seconds = wall(task, workers, many * workers) - wall(task, workers, FEW * workers)
    return (many - FEW) * workers * SHARD_STEPS / seconds


def read(url: str, rank: int, batches: int, ready: Barrier) -> tuple[int, float, float]:
    """Steps that a rank read, when it began and when it ended, by one clock for all processes."""
    reader = Reader(
        [Source(Corpus.open(url))], batch_size=BATCH, micro_batch=MICRO_BATCH, seed=0, rank=rank,
        world_size=RANKS, threads=1,
    )  # fmt: skip
    stream = reader.batches(0, batches + 1)
    next(stream)
    ready.wait()
    start = time.monotonic()
    steps = sum(int(batch.steps.sum()) for micro_batches in stream for batch in micro_batches)
    end = time.monotonic()
    reader.close()
    return steps, start, end


def reading(url: str, batches: int, processes: int) -> float:
    """Steps/s of all ranks together."""
    context = multiprocessing.get_context("spawn")
    with (
        cores(processes), context.Manager() as manager,
        ProcessPoolExecutor(processes, context) as pool,
    ):  # fmt: skip
        task = partial(read, url, batches=batches, ready=manager.Barrier(processes))
        done = list(pool.map(task, range(processes)))
    steps, starts, ends = zip(*done, strict=True)
    return sum(steps) / (max(ends) - min(starts))


def print_rates(title: str, rate: partial[float], counts: Sequence[int], repetitions: int) -> None:
    """Steps/s by number of processes, and over the first number's."""
    variants = {str(count): partial(rate, count) for count in counts}
    timing = interleave(variants, repetitions)
    rows = [
        (name, f"{timing.rate(name):,.0f}", f"{timing.ratio(name, str(counts[0])):.2f}")
        for name in variants
    ]
    print_table(f"{title} (median of {repetitions})", ("processes", "steps/s", "ratio"), rows)


def main(processes: tuple[int, ...] = (1, 2), task: str = "push", quick: bool = False) -> None:
    """Print both tables; --quick writes and reads less, once."""
    available = len(os.sched_getaffinity(0))
    if not processes or min(processes) < 1 or max(processes) > available:
        raise SystemExit(f"--processes should be in [1, {available}], the cores here")
    task_class(task)
    raster.compile()
    repetitions = 1 if quick else REPETITIONS
    write = partial(generating, task, 4 if quick else MANY)
    print_rates(f"generate {task}, {SHARD_STEPS:,} steps a shard", write, processes, repetitions)
    look = partial(reading, open_corpus(None, STEPS).url, 20 if quick else BATCHES)
    print_rates("read with pixels, one thread each", look, processes, repetitions)


if __name__ == "__main__":
    tyro.cli(main)
