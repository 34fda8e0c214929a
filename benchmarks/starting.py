"""Seconds and peak memory from starting a process to its first batch, on a large corpus.

The corpus has 2 000 shards and 2 million segments: the index is whole, as `auditing.py` makes it,
and all tars are one real tar of 1 000 segments under many names. A rank of the reference run (128
ranks, global batches of 2 048 segments) starts at several places of the run, each time in a process
of its own; the seconds include starting Python and its imports. The first row only imports.

Run: python benchmarks/starting.py [--quick] [--folder FOLDER]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import auditing
import numpy as np
import polars as pl
import tyro
from palaestra.shards import index
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from palaestra.shards.reader import Reader
from palaestra.shards.schema import SEGMENT_STEPS
from palaestra.shards.segments import Source, split_by_match
from palaestra.shards.writer import ShardWriter
from timing import print_table

SHARDS, QUICK_SHARDS = 2_000, 20
SEGMENTS = auditing.WAVES * auditing.WAVE_SEGMENTS
RANKS, BATCH, MICRO_BATCH = 128, 2048, 2
STARTS = (0, 1, 953, 50_000)  # global batches; an epoch has about 960
HELD = 0.02  # of the matches, for validation: the filter is part of the work
# columns of the real tar, so that all shards hold the same matches
OWN = ("key", "match", "player", "segment", "offset", "bytes", "xxh3", "steps", "terminated")
REPETITIONS = 3


def segment(number: int) -> Episode:
    """256 steps whose frames and state change a little from step to step."""
    steps, schema = np.arange(SEGMENT_STEPS), auditing.SCHEMA
    pixels = np.zeros((SEGMENT_STEPS, schema.image_size, schema.image_size, 3), np.uint8)
    pixels[..., 0] = number % 251
    pixels[steps, steps % schema.image_size] = steps[:, None, None]
    state = np.zeros((SEGMENT_STEPS, schema.state_size), np.float32)
    state[:, :30] = np.random.default_rng(number).standard_normal((SEGMENT_STEPS, 30))
    return Episode(
        task="task_0", level=1, instruction="do task 0", match=number, player=0, segment=0,
        policy="random", opponent="", rating=None, opponent_rating=None, sampling="",
        sampling_probability=None, round=0, outcome=None, seed=number,
        terminated=False, truncated=True, cause="", completion_step=None, final_state_xxh3=number,
        pixels=pixels, state=state, action=state[:, : schema.action_size].clip(-1, 1),
        reward=np.zeros(SEGMENT_STEPS, np.float32), success=np.zeros(SEGMENT_STEPS, np.uint8),
    )  # fmt: skip


def make_corpus(folder: Path, shards: int) -> Corpus:
    """One tar under many names, and an index of all of them."""
    corpus = Corpus.create(str(folder), auditing.manifest(shards))
    writer = ShardWriter(corpus, 0)
    for number in range(SEGMENTS):
        writer.add(segment(number))
    tar, _ = writer.finish()
    (folder / "data").mkdir()
    first = Path(corpus.tar_url(0))
    first.write_bytes(tar)
    own = pl.DataFrame(writer.rows, schema=index.COLUMNS).select(OWN)
    for shard in range(1, shards):
        Path(corpus.tar_url(shard)).hardlink_to(first)
    rows = (auditing.shard_rows(shard).with_columns(own) for shard in range(shards))
    zeros = np.zeros(auditing.SCHEMA.state_size)
    moments = index.Moments(shards * SEGMENTS * SEGMENT_STEPS, zeros, zeros)
    info = index.ShardInfo(corpus.manifest.fingerprint, 0, 0, moments)
    Path(corpus.merged_url).write_bytes(index.to_parquet(index.regrouped(rows), info))
    return corpus


def first_batch(url: str, start: int) -> None:
    """What a rank does: open, read what the order needs of the index, deliver a micro-batch."""
    training, _ = split_by_match(HELD)
    reader = Reader(
        [Source(Corpus.open(url), where=training)], batch_size=BATCH, micro_batch=MICRO_BATCH,
        seed=0, rank=7, world_size=RANKS,
    )  # fmt: skip
    assert next(reader.stream(start, start + 1)).steps.all()
    reader.close()


def child(url: str, start: int | None, began: float) -> None:
    """Print seconds since `began` and peak bytes of this process."""
    if start is not None:
        first_batch(url, start)
    seconds = time.time() - began
    # getrusage would count what the parent held when it forked
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "peak": 1024 * int(peak.split()[1])}))


def measure(url: str, start: int | None) -> tuple[float, float]:
    """Median seconds and megabytes of several processes."""
    found = []
    for _ in range(REPETITIONS):
        code = f"import starting; starting.child({url!r}, {start!r}, {time.time()!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parent, check=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        found.append(json.loads(done.stdout))
    middle = sorted(found, key=lambda one: one["seconds"])[REPETITIONS // 2]
    return middle["seconds"], max(one["peak"] for one in found) / 1e6


def main(quick: bool = False, folder: Path | None = None) -> None:
    """Print a row per place to start at; --folder keeps the corpus there for the next time."""
    shards = QUICK_SHARDS if quick else SHARDS
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as temporary:
        place = (folder or Path(temporary)).absolute()
        made = (place / "index.parquet").exists()
        corpus = Corpus.open(str(place)) if made else make_corpus(place, shards)
        rows = []
        for start in (None, *STARTS):
            seconds, peak = measure(corpus.url, start)
            name = "imports only" if start is None else f"global batch {start:,}"
            rows.append((name, f"{seconds:.2f} s", f"{peak:,.0f} MB"))
    cores = len(os.sched_getaffinity(0))
    title = f"to the first batch of {shards * SEGMENTS:,} segments, {cores} cores"
    print_table(title, ("start at", "seconds", "peak memory"), rows)


if __name__ == "__main__":
    tyro.cli(main)
