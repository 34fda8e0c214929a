"""Seconds and peak memory of `audit` on a large corpus's index.

Makes a corpus of 2 000 shards and 2 million segments without simulating it: the shards' index
files and the merged one are real, their values drawn at random; a tar is a hole of the right size.
Then the command runs as a user would run it, in its own process: it reads and checks every index
file, compares the merged index to them row by row, and looks at every tar's size.

Run: python benchmarks/auditing.py [--quick] [--folder FOLDER]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tyro
from palaestra.shards import index
from palaestra.shards.corpus import Corpus, Manifest
from palaestra.shards.schema import SEGMENT_STEPS, Schema, Slot
from palaestra.shards.writer import END_OF_TAR
from timing import print_table

SHARDS, QUICK_SHARDS = 2_000, 20
WAVES, WAVE_SEGMENTS = 5, 200  # of a shard: 1 000 segments, 256 000 steps
TASKS = {f"task_{number}": (256, 512, 1024)[number % 3] for number in range(16)}  # their horizons
LEVELS = (1, 2, 3)
POLICIES = ("expert", "expert+noise0.4", "random")
CELLS = [(task, level, policy) for task in TASKS for level in LEVELS for policy in POLICIES]
SCHEMA = Schema((Slot("state", 166),), action_size=8, image_size=64, reward_range=(0.0, 1.0))


def manifest(shards: int) -> Manifest:
    """Of a recipe that gives every cell the same share."""
    behaviours = [
        {"tasks": list(TASKS), "levels": list(LEVELS), "policy": policy, "weight": 1.0,
         "noise": float(noise or 0), "opponents": []}
        for policy, _, noise in (name.partition("+noise") for name in POLICIES)
    ]  # fmt: skip
    recipe = {
        "name": "synthetic", "steps": shards * WAVES * WAVE_SEGMENTS * SEGMENT_STEPS,
        "wave": WAVE_SEGMENTS, "behaviours": behaviours,
    }  # fmt: skip
    return Manifest(SCHEMA, recipe, 0, shards, {})


def wave_columns(shard: int, wave: int, rng: np.random.Generator) -> dict[str, Any]:
    """A wave of whole episodes of one cell, their segments in the order they are played."""
    task, level, policy = CELLS[(shard * WAVES + wave) % len(CELLS)]
    segments = TASKS[task] // SEGMENT_STEPS
    episodes = WAVE_SEGMENTS // segments
    episode = np.tile(np.arange(episodes), segments)
    segment = np.repeat(np.arange(segments), episodes)
    return {
        "task": task, "level": level, "policy": policy, "segment": segment,
        "match": shard * 1_000_000 + wave * WAVE_SEGMENTS + episode,
        "truncated": segment == segments - 1,
        "seed": rng.integers(0, 1 << 63, episodes, np.uint64)[episode],
        "completion_step": rng.integers(0, 2 * TASKS[task], episodes)[episode],
    }  # fmt: skip


def shard_rows(shard: int) -> pl.DataFrame:
    """A shard's index rows: each wave's columns, the rest constant or at random."""
    rng, col = np.random.default_rng(shard), pl.col
    rows = pl.concat(pl.DataFrame(wave_columns(shard, w, rng)) for w in range(WAVES))
    count = len(rows)
    known_by = (col("segment") + 1) * SEGMENT_STEPS
    completed = pl.when(col("completion_step") < known_by).then("completion_step")
    extremes = {
        f"{name}_{kind}": rng.uniform(low, high, count)
        for name in ("action", "reward", "success", "state", "pixels")
        for kind, low, high in (("min", -1.0, 0.0), ("max", 0.0, 1.0))
    } | {"reward_min": np.zeros(count)}
    values: dict[str, Any] = extremes | {
        "return": rng.uniform(0, SEGMENT_STEPS, count), "saturation": rng.random(count),
        "frozen_frames": rng.integers(0, 100, count), "bytes": 512 * rng.integers(120, 600, count),
        "xxh3": rng.integers(0, 1 << 64, count, np.uint64), "key": pl.format(
            "{}-0-{}", col("match").cast(pl.String).str.zfill(12),
            col("segment").cast(pl.String).str.zfill(2),
        ),
        "instruction": col("task").str.replace("task_", "do task "), "steps": SEGMENT_STEPS,
        "completion_step": completed, "success": completed.is_not_null(), "shard": shard,
        "final_state_xxh3": pl.when("truncated").then(col("seed") + 1),
        "terminated": False, "cause": "", "opponent": "", "sampling": "", "player": 0, "round": 0,
        **{name: 0 for name in index.COLUMNS if name.endswith("_nan")},
    }  # fmt: skip
    rows = rows.with_columns(
        **{name: pl.lit(v) if isinstance(v, bool | int | str) else v for name, v in values.items()}
    )
    rows = rows.with_columns(
        pl.lit(None).alias("rating"), pl.lit(None).alias("opponent_rating"),
        pl.lit(None).alias("outcome"), pl.lit(None).alias("sampling_probability"),
        offset=col("bytes").cum_sum() - col("bytes"),
    )
    return rows.select(col(name).cast(kind) for name, kind in index.COLUMNS.items())


def write_shard(corpus: Corpus, shard: int) -> None:
    """Its index, and a sparse file for its tar."""
    rows = shard_rows(shard)
    size = int(rows["bytes"].sum()) + len(END_OF_TAR)
    zeros = np.zeros(SCHEMA.state_size)
    moments = index.Moments(int(rows["steps"].sum()), zeros, zeros)
    info = index.ShardInfo(corpus.manifest.fingerprint, size, 0, moments)
    Path(corpus.index_url(shard)).write_bytes(index.to_parquet([rows], info))
    with Path(corpus.tar_url(shard)).open("wb") as tar:
        tar.truncate(size)


def make_corpus(folder: Path, shards: int) -> Corpus:
    """The whole corpus but for the tars' contents."""
    corpus = Corpus.create(str(folder), manifest(shards))
    for name in ("data", "index"):
        (folder / name).mkdir(exist_ok=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda shard: write_shard(corpus, shard), range(shards)))
    corpus.write_merged()
    return corpus


def audit(corpus: Corpus) -> tuple[float, int]:
    """Seconds and peak bytes of the command; it must find nothing wrong."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "palaestra.shards", corpus.url], stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stdout
    return seconds, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def main(quick: bool = False, folder: Path | None = None) -> None:
    """Print seconds and gigabytes; --folder keeps the corpus there for the next time."""
    shards = QUICK_SHARDS if quick else SHARDS
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as temporary:
        place = folder or Path(temporary)
        made = (place / "index.parquet").exists()
        corpus = Corpus.open(str(place)) if made else make_corpus(place, shards)
        seconds, peak = audit(corpus)
        index_bytes = sum(file.stat().st_size for file in place.rglob("*.parquet"))
    count = corpus.manifest.shards
    row = (
        f"{count:,}", f"{count * WAVES * WAVE_SEGMENTS:,}", f"{index_bytes / 1e6:,.0f} MB",
        f"{seconds:.1f} s", f"{peak / 1e9:.2f} GB",
    )  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    header = ("shards", "segments", "index files", "audit", "peak memory")
    print_table(f"audit of the index on {cores} cores", header, [row])


if __name__ == "__main__":
    tyro.cli(main)
