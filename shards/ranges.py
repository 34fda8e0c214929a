"""Many byte ranges of many files at once: what fails is fetched again, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fsspec.asyn import AsyncFileSystem, sync

from .errors import StorageError
from .faults import TransientError, fault
from .filesystem import filesystem, size
from .retry import patience, retried


class ByteRange(NamedTuple):
    """Bytes [start, stop) of the file at a URL."""

    url: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.url}: bytes {self.start} to {self.stop}"


def read_range(url: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file; StorageError if it is shorter than that."""
    return read_ranges([ByteRange(url, start, stop)])[0]


def read_ranges(ranges: Sequence[ByteRange]) -> list[bytes]:
    """The bytes of all ranges, requested together; only those that fail are requested again.

    All are held in memory, so the caller bounds their sum. StorageError names the URL and the range
    that cannot be had, a file that ends too early included.
    """
    found = {i: b"" for i, wanted in enumerate(ranges) if wanted.start == wanted.stop}

    @retried
    def fetch_missing() -> None:
        missing = [i for i in range(len(ranges)) if i not in found]
        faults: list[StorageError] = []
        for i, data in zip(missing, _fetch([ranges[i] for i in missing]), strict=True):
            if isinstance(data, StorageError):
                faults.append(data)
            else:
                found[i] = data
        if faults:  # one that stays, if there is one: then trying the others again is in vain
            raise min(faults, key=lambda error: isinstance(error, TransientError))

    fetch_missing()
    return [found[i] for i in range(len(ranges))]


def _fetch(ranges: Sequence[ByteRange]) -> Iterator[bytes | StorageError]:
    """One attempt at each range, in order."""
    places = [filesystem(wanted.url) for wanted in ranges]
    found: dict[int, Any] = {}
    for fs in {id(fs): fs for fs, _ in places}.values():
        mine = [i for i, (other, _) in enumerate(places) if other is fs]
        jobs = [(places[i][1], ranges[i].start, ranges[i].stop) for i in mine]
        found.update(zip(mine, _cat_ranges(fs, jobs), strict=True))
    return (_checked(wanted, found[i]) for i, wanted in enumerate(ranges))


def _cat_ranges(fs: Any, jobs: Sequence[tuple[str, int, int]]) -> list[bytes | BaseException]:
    """`fs.cat_ranges`, where possible with a time limit on each range.

    One that drips then holds up none of the others. All share the line, so the limit counts the
    bytes of all.
    """
    if not isinstance(fs, AsyncFileSystem):
        paths, starts, stops = map(list, zip(*jobs, strict=True))
        return list(fs.cat_ranges(paths, starts, stops, on_error="return"))
    seconds = patience(sum(stop - start for _, start, stop in jobs))

    async def together() -> list[bytes | BaseException]:
        reads = (fs._cat_file(path, start=start, end=stop) for path, start, stop in jobs)
        limited = (asyncio.wait_for(read, seconds) for read in reads)
        return await asyncio.gather(*limited, return_exceptions=True)

    return list(sync(fs.loop, together))


def _checked(wanted: ByteRange, data: bytes | BaseException) -> bytes | StorageError:
    """The data if they are what was wanted, else what is wrong with them."""
    if isinstance(data, FileNotFoundError):
        return fault(wanted.url, data)
    if isinstance(data, BaseException):
        return fault(str(wanted), data)
    if len(data) == wanted.stop - wanted.start:
        return bytes(data)
    try:
        total = size(wanted.url)
    except StorageError as error:
        return error
    if total is None or total < wanted.stop:
        return StorageError(f"{wanted}: expected in the file, which ends at byte {total}")
    return TransientError(f"{wanted}: received {len(data)} of them")
