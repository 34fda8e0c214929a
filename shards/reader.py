"""Stream a corpus as micro-batches of padded arrays: exact order, verified bytes, no state."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import xxhash
from numpy.typing import NDArray

from . import order
from .batch import BatchArrays, SegmentBatch
from .cache import RangeCache
from .codec import sample_members
from .fetch import Fetched, Fetcher, Piece
from .schema import Schema
from .segments import Source, behaviours_of, load_segments

READ_AHEAD = 64 << 20  # bytes fetched or being fetched, and not yet decoded


class Reader:
    """Micro-batches of a rank's share of global batches 0, 1, 2, …

    Every rank computes the whole order and reads its own slice: one ranged GET per run of
    contiguous segments, checked by xxh3, decompressed by `threads` (zstd releases the GIL) straight
    into the batch arrays. In memory are, beside the columns of the index that the order needs
    (about 50 bytes a segment), at most `read_ahead` compressed bytes, the share of one global batch
    beyond that, and `prefetch` + 1 micro-batches.
    """

    def __init__(
        self, sources: Sequence[Source], *, batch_size: int, micro_batch: int, seed: int,
        rank: int = 0, world_size: int = 1, pixels: bool = True, threads: int = 2,
        prefetch: int = 2, read_ahead: int = READ_AHEAD, requests: int = 8,
        cache: RangeCache | None = None,
    ) -> None:  # fmt: skip
        """`requests` are made at once, each of one run or of several small ones.

        Raises SchemaMismatchError if the sources differ, CorpusError if one is empty.
        """
        self.schema: Schema = sources[0].corpus.schema
        self.sources = list(sources)
        for source in sources:
            self.schema.require_equal(source.corpus.schema, source.corpus.url)
        self.tables = [load_segments(source) for source in sources]
        self.counts = tuple(map(len, self.tables))
        divisor = math.gcd(*(source.weight for source in sources))
        self.weights = tuple(source.weight // divisor for source in sources)
        self.batch_size, self.micro_batch, self.seed = batch_size, micro_batch, seed
        self.rank, self.world_size = rank, world_size
        self.slots = order.rank_slice(batch_size, rank, world_size, micro_batch)
        self.accumulation = len(self.slots) // micro_batch
        self.pixels, self.prefetch, self.read_ahead = pixels, prefetch, read_ahead
        self.behaviours = behaviours_of(self.tables)
        self._behaviour = [np.searchsorted(self.behaviours, t.policies) for t in self.tables]
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._fetcher = Fetcher(self.sources, self.tables, requests, cache)

    def close(self) -> None:
        """Stop the threads."""
        self._fetcher.close()
        self.pool.shutdown(cancel_futures=True)

    def global_batch(self, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(source, segment) of every slot of a global batch, the same on every rank."""
        return order.global_batch(batch, self.batch_size, self.counts, self.weights, self.seed)

    def valid_steps(self, batch: int) -> int:
        """Steps in the whole global batch, by which the loss is divided on every rank."""
        source, segment = self.global_batch(batch)
        each = (t.steps[segment[source == s]].sum() for s, t in enumerate(self.tables))
        return int(sum(each))

    def digest(self, batch: int, previous: int) -> int:
        """Rolling hash of all keys consumed up to and with this global batch."""
        source, segment = self.global_batch(batch)
        state = xxhash.xxh3_64(previous.to_bytes(8, "little"))
        for number, table in enumerate(self.tables):
            table.update(state, segment[source == number])
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
        return [self.tables[s].key(int(n)) for s, n in zip(source, segment, strict=True)]

    def batches(self, start: int, stop: int) -> Iterator[list[SegmentBatch]]:
        """This rank's micro-batches of global batches [start, stop), a list for each."""
        stream = self.stream(start, stop)
        while micro_batches := list(islice(stream, self.accumulation)):
            yield micro_batches

    def stream(self, start: int, stop: int) -> Iterator[SegmentBatch]:
        """The same one by one, `accumulation` for each global batch."""
        batches = iter(range(start, stop))
        fetching: deque[_MicroBatch] = deque()
        decoding: deque[_Pending] = deque()
        held = 0
        while True:
            while held < self.read_ahead and (batch := next(batches, None)) is not None:
                parts = self._fetch(batch)
                held += sum(part.size for part in parts)
                fetching += parts
            while fetching and len(decoding) <= self.prefetch:
                decoding.append(self._decode(fetching.popleft()))
            if not decoding:
                return
            pending = decoding.popleft()
            yield pending.result()
            held -= pending.size

    def _fetch(self, batch: int) -> list[_MicroBatch]:
        """Begin to fetch this rank's share of a global batch."""
        source, segment = self.global_batch(batch)
        places = np.flatnonzero(self.slots != order.PADDING)
        slots = self.slots[places]
        parts = [_MicroBatch([]) for _ in range(self.accumulation)]
        place = iter(places.tolist())
        for run, fetched in self._fetcher.fetch(
            list(self._fetcher.runs(source[slots], segment[slots]))
        ):
            for piece in run.pieces:
                part, slot = divmod(next(place), self.micro_batch)
                parts[part].pieces.append((slot, piece, fetched))
        return parts

    def _decode(self, part: _MicroBatch) -> _Pending:
        arrays = BatchArrays(self.schema, self.micro_batch, self.pixels)
        futures = [self.pool.submit(self._fill, arrays, *item) for item in part.pieces]
        return _Pending(arrays, futures, part.size)

    def _fill(self, arrays: BatchArrays, slot: int, piece: Piece, fetched: Fetched) -> None:
        table, number = self.tables[piece.source], piece.number
        url = self.sources[piece.source].corpus.tar_url(int(table.shard[number]))
        key = table.key(number)
        where = f"{url}: sample {key}"
        members = sample_members(fetched.bytes_of(piece), key, where)
        arrays.fill(
            slot, members, int(table.steps[number]), where,
            terminated=bool(table.terminated[number]),
            instruction=table.instructions[table.instruction[number]],
            behaviour=int(self._behaviour[piece.source][table.policy[number]]),
            top=bool(table.top[number]),
        )  # fmt: skip


@dataclass(frozen=True)
class _MicroBatch:
    pieces: list[tuple[int, Piece, Fetched]]
    """(slot, segment, where its bytes are)"""

    @property
    def size(self) -> int:
        """Compressed bytes."""
        return sum(piece.stop - piece.start for _, piece, _ in self.pieces)


@dataclass(frozen=True)
class _Pending:
    arrays: BatchArrays
    futures: list[Future[None]]
    size: int

    def result(self) -> SegmentBatch:
        """The filled batch; raises what a thread raised."""
        for future in self.futures:
            future.result()
        return self.arrays.batch()
