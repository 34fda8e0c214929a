"""Some columns of a Parquet file at a URL, without fetching the rest of it."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import CorruptionError, StorageError
from .faults import naming
from .filesystem import local_path, size
from .ranges import ByteRange, read_ranges

FOOTER = 1 << 18  # bytes first read of a file's end; the index of 2 M segments needs 200 kB
GAP = 1 << 16  # ranges closer than that are read as one

Span = tuple[int, int]


@contextmanager
def parquet_source(url: str, columns: Sequence[str]) -> Iterator[BinaryIO | Path]:
    """What to read these columns of a Parquet file from: a local path, or their bytes.

    Of a remote file only the footer and the columns' ranges are fetched, concurrently.
    `fsspec.parquet.open_parquet_file` would do, but in 2026.9 it takes a failed request's exception
    for data. Raises CorruptionError for a file that is not Parquet.
    """
    local = local_path(url)
    if local is None:
        yield _fetch(url, columns)
        return
    with naming(url):
        local.stat()
    yield local


def _fetch(url: str, columns: Sequence[str]) -> BinaryIO:
    """The file with holes in place of its other columns."""
    total = size(url)
    if total is None:
        raise StorageError(f"{url}: not found")
    image = mmap.mmap(-1, total or 1)  # anonymous: pages that are never written take no memory

    def load(spans: Iterable[Span]) -> None:
        ranges = [ByteRange(url, *span) for span in spans]
        for wanted, data in zip(ranges, read_ranges(ranges), strict=True):
            image[wanted.start : wanted.stop] = data

    start = max(0, total - FOOTER)
    load([(start, total)])
    footer = 8 + int.from_bytes(image[total - 8 : total - 4], "little")  # length, then "PAR1"
    load([(min(start, max(0, total - footer)), start)])
    file = pa.BufferReader(pa.py_buffer(image))
    try:
        spans = _merged(_chunks(pq.read_metadata(file), set(columns)))
        if not all(0 <= first <= last <= total for first, last in spans):
            raise ValueError("chunks beyond its end")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptionError(f"{url}: not Parquet ({str(error).splitlines()[0]})") from error
    load(span for span in spans if span[0] < start)
    file.seek(0)
    return file


def _chunks(metadata: pq.FileMetaData, columns: set[str]) -> Iterator[Span]:
    """Where the columns' chunks lie."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.path_in_schema.partition(".")[0] in columns:
                pages = (chunk.dictionary_page_offset, chunk.data_page_offset)
                start = min(page for page in pages if page is not None)
                yield start, start + chunk.total_compressed_size


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The same in order, those closer than GAP as one."""
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start - merged[-1][1] <= GAP:
            start = merged.pop()[0]
        merged.append((start, stop))
    return merged
