"""Decoded steps per second from a real object store, without and with 20 ms of latency.

The store is OpenStack Swift's S3 API on loopback (`make .venv-s3/installed` installs it), each
request through a proxy that waits 0 or 20 ms: the same path for both, so that the ratio is what
latency costs. The reader has a core for itself, shared by its threads, as a rank of the reference
run (shuffled order, ranged reads, xxh3 checks, padded batches); store and proxies have the others.
A share of the core below 95 % means here that it waited for the store.

Run: python benchmarks/object_store.py [--quick] [--corpus FOLDER] [--latency SECONDS]
"""

from __future__ import annotations

import os

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ["POLARS_MAX_THREADS"] = "1"

import sys
import time
import uuid
from functools import partial
from pathlib import Path

import fsspec
import tyro

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from palaestra.shards import storage
from palaestra.shards.corpus import Corpus
from palaestra.shards.reader import READ_AHEAD, Reader
from palaestra.shards.segments import Source
from reading import BATCH, MICRO_BATCH, RANKS, REPETITIONS, STEPS, open_corpus
from s3_store import delayed, environment, swift
from timing import interleave, pin_to_one_core, print_timing


def leave_one_core() -> set[int]:
    """Keep the processes started from now on off the core that `pin_to_one_core` takes."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores - {max(cores)} or cores)
    return cores


def upload(corpus: Corpus, endpoint: str) -> str:
    """Copy a local corpus into a new bucket; its URL."""
    folder = storage.local_path(corpus.url)
    assert folder is not None, "--corpus should be a local folder"
    use(endpoint)
    bucket = f"s3://benchmark-{uuid.uuid4().hex}"
    fs, path = storage.filesystem(bucket)
    fs.mkdir(path)
    storage.upload_folder(folder, f"{bucket}/corpus")
    return f"{bucket}/corpus"


def use(endpoint: str) -> None:
    """Let s3:// mean the store at this URL."""
    fsspec.config.conf["s3"] = {"endpoint_url": endpoint}


def read_batches(url: str, endpoint: str, batches: int) -> float:
    """Steps/s of the reader over so many global batches, its index not counted."""
    use(endpoint)
    reader = Reader(
        [Source(Corpus.open(url))], batch_size=BATCH, micro_batch=MICRO_BATCH, seed=0,
        world_size=RANKS, threads=1,
    )  # fmt: skip
    start, steps = time.perf_counter(), 0
    for micro_batches in reader.batches(0, batches):
        steps += sum(int(batch.steps.sum()) for batch in micro_batches)
    seconds = time.perf_counter() - start
    reader.close()
    return steps / seconds


def main(quick: bool = False, corpus: str | None = None, latency: float = 0.02) -> None:
    """Print both rates and their ratio; --quick repeats once."""
    opened = open_corpus(corpus, STEPS)
    batches = -(-len(opened.select("shard")) * RANKS // BATCH)
    cores = leave_one_core()
    with swift() as port, delayed(port, 0) as near, delayed(port, latency) as far:
        os.sched_setaffinity(0, cores)
        pin_to_one_core()
        os.environ.update(environment(near))
        url = upload(opened, near)
        variants = {
            "no latency": partial(read_batches, url, near, batches),
            f"{latency * 1000:g} ms": partial(read_batches, url, far, batches),
        }
        timing = interleave(variants, 1 if quick else REPETITIONS)
    title = f"decoded steps/s on one core, at most {READ_AHEAD >> 20} MB ahead"
    print_timing(title, timing, "no latency")
    print(f"storage was tried again {storage.retries()} times")


if __name__ == "__main__":
    tyro.cli(main)
