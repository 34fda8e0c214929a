"""Decoded steps per second on one core, pixels included, and what a step costs on disk.

* `zstd`: the yardstick, the pixel members decompressed from memory and nothing else;
* `Reader`: ours with one thread, as a rank of the reference run: shuffled order, ranged reads,
  xxh3 checks, every array that training needs, into padded batches;
* `webdataset`: a plain pass over the same tars, zstd and `np.load` on every array;
* `datasets` (with --datasets): Hugging Face streaming as the corpus's card declares it.

Ratios are to `zstd`. The files are in the page cache for all. The second table is bytes per step.

Run: python benchmarks/reading.py [--quick] [--corpus CORPUS] [--datasets]
"""

from __future__ import annotations

import os

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ.update({"POLARS_MAX_THREADS": "1", "HF_HUB_OFFLINE": "1"})

import io
import json
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tyro
import zstandard
from palaestra.generate.generation import generate
from palaestra.generate.recipe_file import load_recipe
from palaestra.shards import storage
from palaestra.shards.codec import split_members
from palaestra.shards.corpus import Corpus
from palaestra.shards.reader import Reader
from palaestra.shards.segments import Source
from timing import interleave, pin_to_one_core, print_table, print_timing

REPETITIONS = 9
STEPS = 100_000  # fewer do not hold the mixture
SHARDS = 4  # of a larger corpus; their pixels are held in memory, compressed
BATCH, RANKS, MICRO_BATCH = 2048, 128, 2  # the reference run, of which one rank reads
DATASETS_SAMPLES = 32
RECIPE = Path(__file__).parents[1] / "recipes" / "demo.toml"

Members = dict[str, list[bytes]]


def open_corpus(url: str | None, steps: int) -> Corpus:
    """The corpus at `url`, or the demo's recipe, generated on first use and kept."""
    if url is not None:
        return Corpus.open(url)
    folder = Path(tempfile.gettempdir()) / f"palaestra-benchmark-{steps}"
    return generate(load_recipe(str(RECIPE), steps), str(folder)).corpus


def read_members(urls: list[str]) -> tuple[Members, int]:
    """Contents of all tar members by suffix, and the bytes of the tars."""
    found, total = defaultdict(list), 0
    for url in urls:
        data = memoryview(storage.read_bytes(url))
        total += len(data)
        for name, content in split_members(data[:-1024], url):  # without the end-of-tar mark
            found[name.partition(".")[2]].append(bytes(content))
    return found, total


def decompress(frames: list[bytes], steps: int) -> float:
    """Steps/s of zstd on the pixels."""
    decompressor = zstandard.ZstdDecompressor()
    start = time.perf_counter()
    for frame in frames:
        decompressor.decompress(frame)
    return steps / (time.perf_counter() - start)


def read_batches(corpus: Corpus, shards: list[int], segments: int) -> float:
    """Steps/s of our reader over about as many segments."""
    reader = Reader(
        [Source(corpus, where=pl.col("shard").is_in(shards))], batch_size=BATCH,
        micro_batch=MICRO_BATCH, seed=0, world_size=RANKS, threads=1,
    )  # fmt: skip
    start, steps = time.perf_counter(), 0
    for micro_batches in reader.batches(0, -(-segments * RANKS // BATCH)):
        steps += sum(int(batch.steps.sum()) for batch in micro_batches)
    seconds = time.perf_counter() - start
    reader.close()
    return steps / seconds


def read_webdataset(files: list[str], steps: int) -> float:
    """Steps/s of webdataset with the shortest decoder that serves."""
    import webdataset  # here: it imports torch, which the generating processes need not load

    decompressor = zstandard.ZstdDecompressor()

    def decode(key: str, data: bytes) -> Any:
        if key.endswith(".npy.zst"):
            return np.load(io.BytesIO(decompressor.decompress(data)))
        return json.loads(data) if key.endswith(".json") else None

    samples = webdataset.WebDataset(files, shardshuffle=False).decode(decode)
    start = time.perf_counter()
    found = sum(len(sample["pixels.npy.zst"]) for sample in samples)
    seconds = time.perf_counter() - start
    assert found == steps, f"webdataset read {found} of {steps} steps"
    return steps / seconds


def read_datasets(corpus: Corpus) -> float:
    """Steps/s of datasets' streaming, over the first few samples."""
    import datasets

    stream = datasets.load_dataset(corpus.url, split="train", streaming=True)
    samples = iter(stream.with_format("numpy"))
    next(samples)  # opening the stream is not reading
    start = time.perf_counter()
    steps = sum(len(next(samples)["pixels.npy.zst"]) for _ in range(DATASETS_SAMPLES))
    return steps / (time.perf_counter() - start)


def print_sizes(members: Members, tar_bytes: int, steps: int) -> None:
    """Bytes per step of every array and of what surrounds them."""
    sizes = {suffix.partition(".")[0]: sum(map(len, m)) for suffix, m in members.items()}
    sizes["tar headers, padding"] = tar_bytes - sum(sizes.values())
    rows = [
        (name, f"{size / steps:.1f}", f"{size / tar_bytes:.3f}") for name, size in sizes.items()
    ]
    rows.append(("all", f"{tar_bytes / steps:.1f}", "1.000"))
    print_table(f"bytes per step, of {steps:,} steps", ("member", "bytes", "share"), rows)


def main(quick: bool = False, corpus: str | None = None, datasets: bool = False) -> None:
    """Print both tables; --quick repeats once."""
    opened = open_corpus(corpus, STEPS)
    pin_to_one_core()
    shards = opened.complete_shards()[:SHARDS]
    steps = int(opened.index.filter(pl.col("shard").is_in(shards))["steps"].sum())
    members, tar_bytes = read_members([opened.tar_url(shard) for shard in shards])
    files = [str(storage.local_path(opened.tar_url(shard))) for shard in shards]
    variants = {
        "zstd": partial(decompress, members["pixels.npy.zst"], steps),
        "Reader": partial(read_batches, opened, shards, len(members["json"])),
        "webdataset": partial(read_webdataset, files, steps),
    }
    if datasets:
        variants["datasets"] = partial(read_datasets, opened)
    timing = interleave(variants, 1 if quick else REPETITIONS)
    print_timing("decoded steps/s on one core, with pixels", timing, "zstd")
    print_sizes(members, tar_bytes, steps)


if __name__ == "__main__":
    tyro.cli(main)
