"""Stream a corpus as micro-batches of padded arrays: exact order, verified bytes, no state."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from . import order, storage
from .codec import decode_array, split_members
from .corpus import Corpus
from .errors import CorpusError, CorruptionError
from .schema import INSTRUCTION_BYTES, SEGMENT_STEPS, Schema


@dataclass(frozen=True)
class SegmentBatch:
    """b segments padded to 256 steps, T = 256; padding is zero and False."""

    state: NDArray[np.float32]
    """(b, T, state_size)"""
    action: NDArray[np.float32]
    """(b, T, action_size)"""
    reward: NDArray[np.float32]
    """(b, T)"""
    pixels: NDArray[np.uint8] | None
    """(b, T, H, H, 3), or None for a reader that leaves them out"""
    steps: NDArray[np.int64]
    """(b,) valid steps; 0 for a padding slot"""
    terminated: NDArray[np.bool_]
    """(b,) whether the last valid step ended the episode for good"""
    instruction: NDArray[np.uint8]
    """(b, 64) UTF-8, zero-padded"""
    behaviour: NDArray[np.int64]
    """(b,) index into the reader's `behaviours`"""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(b, T)"""
        return np.arange(SEGMENT_STEPS) < self.steps[:, None]


@dataclass(frozen=True)
class Source:
    """A corpus, or the part of it that a filter leaves, and its share of every batch."""

    corpus: Corpus
    weight: int = 1
    where: pl.Expr | None = None
    """Keeps the index rows for which it holds."""

    def rows(self) -> pl.DataFrame:
        """Index rows to draw from, in stored order."""
        index = self.corpus.index
        return index if self.where is None else index.filter(self.where)


class Reader:
    """Micro-batches of a rank's share of global batches 0, 1, 2, …

    Every rank computes the whole order and reads its own slice: one ranged GET per run of
    contiguous segments, checked by xxh3, decompressed by threads (zstd releases the GIL) straight
    into the batch arrays. Micro-batches in flight: `prefetch` + 1.
    """

    def __init__(
        self, sources: Sequence[Source], *, batch_size: int, micro_batch: int, seed: int,
        rank: int = 0, world_size: int = 1, pixels: bool = True, threads: int = 2,
        prefetch: int = 2,
    ) -> None:  # fmt: skip
        """Raises SchemaMismatchError if the sources differ, CorpusError if one is empty."""
        self.schema: Schema = sources[0].corpus.schema
        self.sources = list(sources)
        for source in sources:
            self.schema.require_equal(source.corpus.schema, source.corpus.url)
        self.rows = [source.rows() for source in sources]
        for source, rows in zip(sources, self.rows, strict=True):
            if rows.is_empty():
                raise CorpusError(f"{source.corpus.url}: no segment passes the filter")
        self.counts = tuple(len(rows) for rows in self.rows)
        divisor = math.gcd(*(source.weight for source in sources))
        self.weights = tuple(source.weight // divisor for source in sources)
        self.batch_size, self.micro_batch, self.seed = batch_size, micro_batch, seed
        self.rank, self.world_size = rank, world_size
        self.slots = order.rank_slice(batch_size, rank, world_size, micro_batch)
        self.accumulation = len(self.slots) // micro_batch
        self.pixels, self.prefetch = pixels, prefetch
        labels = pl.concat([rows["policy"] for rows in self.rows]).unique().sort()
        self.behaviours: list[str] = labels.to_list()
        self._columns = [_columns(rows, self.behaviours) for rows in self.rows]
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")

    def close(self) -> None:
        """Stop the threads."""
        self.pool.shutdown(cancel_futures=True)

    def global_batch(self, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(source, segment) of every slot of a global batch, the same on every rank."""
        return order.global_batch(batch, self.batch_size, self.counts, self.weights, self.seed)

    def valid_steps(self, batch: int) -> int:
        """Steps in the whole global batch, by which the loss is divided on every rank."""
        source, segment = self.global_batch(batch)
        return int(sum(c["steps"][segment[source == s]].sum() for s, c in enumerate(self._columns)))

    def digest(self, batch: int, previous: int) -> int:
        """Rolling hash of all keys consumed up to and with this global batch."""
        source, segment = self.global_batch(batch)
        state = xxhash.xxh3_64(previous.to_bytes(8, "little"))
        for number, rows in enumerate(self.rows):
            for key in rows["key"].gather(segment[source == number]):
                state.update(key.encode())
        return state.intdigest()

    @property
    def padded_size(self) -> int:
        """Slots of a global batch over all ranks, padding included."""
        return len(self.slots) * self.world_size

    def part_slots(self, part: int) -> NDArray[np.int64]:
        """This rank's places in the padded global batch of its micro-batch `part`."""
        start = self.rank * len(self.slots) + part * self.micro_batch
        return np.arange(start, start + self.micro_batch)

    def keys(self, batch: int) -> list[str]:
        """Sample keys of a global batch."""
        source, segment = self.global_batch(batch)
        return [self.rows[s]["key"][int(i)] for s, i in zip(source, segment, strict=True)]

    def batches(self, start: int, stop: int) -> Iterator[list[SegmentBatch]]:
        """This rank's micro-batches of global batches [start, stop), a list for each."""
        stream = self.stream(start, stop)
        while micro_batches := list(islice(stream, self.accumulation)):
            yield micro_batches

    def stream(self, start: int, stop: int) -> Iterator[SegmentBatch]:
        """The same one by one, `accumulation` for each global batch."""
        ready: deque[_Pending] = deque()
        for batch in range(start, stop):
            source, segment = self.global_batch(batch)
            for part in range(self.accumulation):
                ready.append(self._submit(part, source, segment))
                if len(ready) > self.prefetch:
                    yield ready.popleft().result()
        while ready:
            yield ready.popleft().result()

    def _submit(
        self, part: int, source: NDArray[np.int64], segment: NDArray[np.int64]
    ) -> _Pending:
        slots = self.slots[part * self.micro_batch : (part + 1) * self.micro_batch]
        real = np.flatnonzero(slots != order.PADDING)
        target = self._empty()
        futures: list[Future[None]] = []
        for first, last in _runs(source[slots[real]], segment[slots[real]], self._columns):
            places = real[first:last]
            futures.append(
                self.pool.submit(
                    self._read_run,
                    target,
                    places,
                    int(source[slots[places[0]]]),
                    segment[slots[places]],
                )
            )
        return _Pending(target, futures)

    def _empty(self) -> SegmentBatch:
        b, schema = self.micro_batch, self.schema
        size = schema.image_size
        return SegmentBatch(
            state=np.zeros((b, SEGMENT_STEPS, schema.state_size), np.float32),
            action=np.zeros((b, SEGMENT_STEPS, schema.action_size), np.float32),
            reward=np.zeros((b, SEGMENT_STEPS), np.float32),
            pixels=np.zeros((b, SEGMENT_STEPS, size, size, 3), np.uint8) if self.pixels else None,
            steps=np.zeros(b, np.int64),
            terminated=np.zeros(b, bool),
            instruction=np.zeros((b, INSTRUCTION_BYTES), np.uint8),
            behaviour=np.zeros(b, np.int64),
        )

    def _read_run(
        self, target: SegmentBatch, places: NDArray[np.int64], source: int,
        segments: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Fill `places` of the target with contiguous segments of one shard, in one read."""
        columns = self._columns[source]
        url = self.sources[source].corpus.tar_url(int(columns["shard"][segments[0]]))
        start, last = int(columns["offset"][segments[0]]), segments[-1]
        stop = int(columns["offset"][last] + columns["bytes"][last])
        data = memoryview(storage.read_range(url, start, stop))
        for place, segment in zip(places, segments, strict=True):
            offset = int(columns["offset"][segment]) - start
            piece = data[offset : offset + int(columns["bytes"][segment])]
            key = self.rows[source]["key"][int(segment)]
            if xxhash.xxh3_64_intdigest(piece) != columns["xxh3"][segment]:
                raise CorruptionError(f"{url}: sample {key}: checksum differs from its index")
            self._fill(target, int(place), columns, int(segment), piece, f"{url}: sample {key}")

    def _fill(
        self, target: SegmentBatch, place: int, columns: dict[str, Any], segment: int,
        piece: memoryview, where: str,
    ) -> None:  # fmt: skip
        names = ["state", "action", "reward"] + (["pixels"] if self.pixels else [])
        members = {name.partition(".")[2]: data for name, data in split_members(piece, where)}
        steps = int(columns["steps"][segment])
        for name in names:
            into = getattr(target, name)[place]
            member = members.get(f"{name}.npy.zst")
            if member is None:
                raise CorruptionError(f"{where}: member {name}.npy.zst is missing")
            array = decode_array(member, f"{where}.{name}", max_bytes=into.nbytes + 256)
            if array.shape != (steps, *into.shape[1:]) or array.dtype != into.dtype:
                raise CorruptionError(
                    f"{where}.{name}: expected {into.dtype}{(steps, *into.shape[1:])}, "
                    f"found {array.dtype}{array.shape}"
                )
            into[:steps] = array
        target.steps[place] = steps
        target.terminated[place] = columns["terminated"][segment]
        target.instruction[place] = columns["instruction"][segment]
        target.behaviour[place] = columns["behaviour"][segment]


@dataclass(frozen=True)
class _Pending:
    target: SegmentBatch
    futures: list[Future[None]]

    def result(self) -> SegmentBatch:
        """The filled batch; raises what a thread raised."""
        for future in self.futures:
            future.result()
        return self.target


def _columns(rows: pl.DataFrame, behaviours: list[str]) -> dict[str, Any]:
    """What reading needs of the index, as arrays; about 25 bytes a segment."""
    names = ("shard", "offset", "bytes", "xxh3", "steps", "terminated")
    codes = {text: encode_instruction(text) for text in rows["instruction"].unique()}
    return {name: rows[name].to_numpy() for name in names} | {
        "behaviour": np.searchsorted(np.array(behaviours), rows["policy"].to_numpy()),
        "instruction": _Lookup(rows["instruction"], codes),
    }


@dataclass(frozen=True)
class _Lookup:
    texts: pl.Series
    codes: dict[str, NDArray[np.uint8]]

    def __getitem__(self, segment: int) -> NDArray[np.uint8]:
        return self.codes[self.texts[segment]]


def encode_instruction(text: str) -> NDArray[np.uint8]:
    """(64,) UTF-8 bytes, zero-padded."""
    data = text.encode()[:INSTRUCTION_BYTES]
    return np.frombuffer(data.ljust(INSTRUCTION_BYTES, b"\0"), np.uint8)


def _runs(
    source: NDArray[np.int64], segment: NDArray[np.int64], columns: list[dict[str, Any]]
) -> list[tuple[int, int]]:
    """Stretches [first, last) of consecutive segments that lie in one shard without a gap."""
    if not len(source):
        return []
    breaks = [0]
    for i in range(1, len(source)):
        s, previous, current = source[i], segment[i - 1], segment[i]
        table = columns[s]
        joined = (
            source[i - 1] == s
            and current == previous + 1
            and table["shard"][current] == table["shard"][previous]
            and table["offset"][current] == table["offset"][previous] + table["bytes"][previous]
        )
        if not joined:
            breaks.append(i)
    return list(zip(breaks, [*breaks[1:], len(source)], strict=True))


def split_by_match(share: float) -> tuple[pl.Expr, pl.Expr]:
    """Filters for training and for an in-distribution validation split, by match.

    A multiplicative hash of the match decides (Knuth 6.4), so that both players and all segments
    stay together and every machine agrees.
    """
    match = pl.col("match").cast(pl.UInt64) + 1
    bucket = (match * pl.lit(0x9E3779B97F4A7C15, pl.UInt64)) // (1 << 50)
    held = bucket < round(share * (1 << 14))
    return ~held, held
