"""Which segment is read when: pure functions of (seed, batch number), never remembered.

Each epoch of a source permutes *runs* of contiguous segments, so that a run is one ranged read
while a batch still mixes runs from all over the corpus. The cursor of a training run is one
integer, the batch number, whatever the number of ranks and threads.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RUNS_PER_BATCH = 128
LONGEST_RUN = 16  # segments; 16 of 30 kB make a good ranged read
PADDING = -1  # a slot without a segment: zero weight


def run_length(batch_size: int) -> int:
    """Contiguous segments read together: B // 128, held to 1…16."""
    return min(max(batch_size // RUNS_PER_BATCH, 1), LONGEST_RUN)


def quotas(batch: int, batch_size: int, weights: tuple[int, ...]) -> list[tuple[int, int]]:
    """Each source's stretch [start, stop) of its own stream in global batch `batch`.

    Slot n of the whole run belongs to source `turns(weights)[n mod W]`, so every batch sums to B
    and every W slots hold exactly the weights. (Rounding each source's share down and giving the
    rest to the largest can ask a source for fewer than none when B is small.)
    """
    total, prefix = sum(weights), turns(weights)

    def drawn(slots: int) -> list[int]:
        whole, part = divmod(slots, total)
        return [whole * w + int(p) for w, p in zip(weights, prefix[part], strict=True)]

    return list(zip(drawn(batch * batch_size), drawn((batch + 1) * batch_size), strict=True))


@lru_cache(maxsize=8)
def turns(weights: tuple[int, ...]) -> NDArray[np.int64]:
    """(W + 1, sources) slots of each source among the first 0 … W, as even as they can be."""
    total = sum(weights)
    shares, taken = np.array(weights, np.int64), np.zeros((total + 1, len(weights)), np.int64)
    for slot in range(total):
        taken[slot + 1] = taken[slot]
        taken[slot + 1, np.argmax(shares * (slot + 1) - taken[slot] * total)] += 1
    return taken


@lru_cache(maxsize=8)
def epoch_runs(count: int, run: int, seed: int, epoch: int, source: int) -> NDArray[np.int64]:
    """First segment of every run of `run`, in one epoch's random order; 1 MB for 2 M segments."""
    generator = np.random.Generator(np.random.Philox(key=[seed, (epoch << 16) | source]))
    starts = generator.permutation(-(-count // run)).astype(np.int64) * run
    starts.flags.writeable = False
    return starts


def epoch_stretch(
    places: NDArray[np.int64], count: int, run: int, seed: int, epoch: int, source: int
) -> NDArray[np.int64]:
    """The segments at these places of an epoch, each in [0, count).

    All runs are whole but that of the source's last segments: places after it move up by what it
    lacks.
    """
    starts = epoch_runs(count, run, seed, epoch, source)
    lacking = len(starts) * run - count
    short = int(np.argmax(starts)) * run  # the place where the shorter run begins
    moved = places + np.where(places >= short + run - lacking, lacking, 0)
    return starts[moved // run] + moved % run


def stretch(
    start: int, stop: int, count: int, run: int, seed: int, source: int
) -> NDArray[np.int64]:
    """Segments [start, stop) of a source's endless stream of epochs."""
    parts = []
    while start < stop:
        epoch, offset = divmod(start, count)
        end = min(count, offset + stop - start)
        parts.append(epoch_stretch(np.arange(offset, end), count, run, seed, epoch, source))
        start += end - offset
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def global_batch(
    batch: int, batch_size: int, counts: tuple[int, ...], weights: tuple[int, ...], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(source, segment), each (batch_size,), of every slot of global batch `batch`."""
    run = run_length(batch_size)
    sources, segments = [], []
    for source, (start, stop) in enumerate(quotas(batch, batch_size, weights)):
        sources.append(np.full(stop - start, source))
        segments.append(stretch(start, stop, counts[source], run, seed, source))
    return np.concatenate(sources), np.concatenate(segments)


def rank_slice(batch_size: int, rank: int, world_size: int, micro_batch: int) -> NDArray[np.int64]:
    """Slots of the global batch that a rank takes, whole micro-batches padded with PADDING."""
    share = -(-batch_size // (world_size * micro_batch)) * micro_batch
    slots = np.arange(rank * share, (rank + 1) * share)
    return np.where(slots < batch_size, slots, PADDING)
