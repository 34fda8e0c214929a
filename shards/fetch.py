"""Runs of contiguous segments, fetched ahead of the reader: concurrent, bounded, verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from . import storage
from .cache import RangeCache
from .errors import CorruptionError
from .segments import Segments, Source
from .storage import ByteRange

GROUP_BYTES = 2 << 20  # read by one call; smaller runs are read together, concurrently


class Piece(NamedTuple):
    """One segment's place in what a run holds."""

    source: int
    number: int
    """Of the segment in its source."""
    start: int
    stop: int


class Run(NamedTuple):
    """Contiguous segments of one shard: one ranged read."""

    place: ByteRange
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Fetched:
    """A group of runs under way or there."""

    future: Future[list[memoryview]]
    run: int
    """Which of the group's."""

    def bytes_of(self, piece: Piece) -> memoryview:
        """A segment's verified bytes; raises what the fetch raised."""
        return self.future.result()[self.run][piece.start : piece.stop]


class Fetcher:
    """Fetches runs with a pool of threads, from a local cache where there is one.

    Every segment is compared with its xxh3. One that differs is read once more from storage, past
    the cache, for bits may flip on the way as well; then it is a CorruptionError that names the URL
    and the key.
    """

    def __init__(
        self, sources: Sequence[Source], tables: Sequence[Segments], threads: int,
        cache: RangeCache | None = None,
    ) -> None:  # fmt: skip
        self._sources, self._tables, self._cache = sources, tables, cache
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")

    def close(self) -> None:
        """Drop what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def runs(self, source: NDArray[np.int64], number: NDArray[np.int64]) -> Iterator[Run]:
        """Runs that hold these segments, in this order."""
        pieces: list[Piece] = []
        shard = first = end = -1
        for s, n in zip(source.tolist(), number.tolist(), strict=True):
            table = self._tables[s]
            here, start = int(table.shard[n]), int(table.offset[n])
            stop = start + int(table.bytes[n])
            if pieces and (pieces[-1].source, shard, end) != (s, here, start):
                yield self._run(shard, first, end, pieces)
                pieces = []
            if not pieces:
                shard, first = here, start
            pieces.append(Piece(s, n, start - first, stop - first))
            end = stop
        if pieces:
            yield self._run(shard, first, end, pieces)

    def _run(self, shard: int, first: int, end: int, pieces: list[Piece]) -> Run:
        url = self._sources[pieces[0].source].corpus.tar_url(shard)
        return Run(ByteRange(url, first, end), tuple(pieces))

    def fetch(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Fetched]]:
        """Begin to fetch these runs, in groups; each run with where its bytes will be."""
        group: list[Run] = []
        size = 0
        for run in runs:
            group.append(run)
            size += run.place.stop - run.place.start
            if size >= GROUP_BYTES:
                yield from self._submit(group)
                group, size = [], 0
        if group:
            yield from self._submit(group)

    def _submit(self, group: list[Run]) -> Iterator[tuple[Run, Fetched]]:
        future = self._pool.submit(self._read, tuple(group))
        return ((run, Fetched(future, place)) for place, run in enumerate(group))

    def _read(self, group: Sequence[Run]) -> list[memoryview]:
        tags = [self._tag(run) for run in group]
        cache = self._cache
        found = [cache.get(r.place, t) if cache else None for r, t in zip(group, tags, strict=True)]
        missing = [run.place for run, data in zip(group, found, strict=True) if data is None]
        fresh = iter(storage.read_ranges(missing) if missing else [])
        whole = []
        for run, tag, data in zip(group, tags, found, strict=True):
            held = data is not None and not self._damaged(run, data)
            if data is None:
                data = next(fresh)
            if not held and self._damaged(run, data):
                (data,) = storage.read_ranges([run.place])
                if key := self._damaged(run, data):
                    raise CorruptionError(
                        f"{run.place.url}: sample {key}: checksum differs from its index"
                    )
            if cache and not held:
                cache.put(run.place, tag, data)
            whole.append(memoryview(data))
        return whole

    def _tag(self, run: Run) -> int:
        """What the cache knows the run's bytes by, beside their place."""
        sums = [int(self._tables[piece.source].xxh3[piece.number]) for piece in run.pieces]
        return xxhash.xxh3_64_intdigest(np.array(sums, np.uint64).tobytes())

    def _damaged(self, run: Run, data: bytes) -> str:
        """Key of the first segment whose checksum differs; empty if none does."""
        view = memoryview(data)
        for piece in run.pieces:
            table = self._tables[piece.source]
            digest = xxhash.xxh3_64_intdigest(view[piece.start : piece.stop])
            if digest != table.xxh3[piece.number]:
                return table.key(piece.number)
        return ""
