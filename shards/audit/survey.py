"""Read all of a corpus's index files, a few shards at a time, and see what else lies there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import polars as pl

from .. import index, storage
from ..corpus import Corpus
from ..errors import CorpusError
from ..writer import END_OF_TAR

SHARDS_AT_ONCE = 64  # their rows make one frame: 65 000 of them at 0.25 M steps a shard, 25 MB
ROWS = index.COLUMNS | {"file": pl.Int32}

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """Which files are there."""

    present: list[int]
    """Shards that have an index, in order."""
    missing: list[int]
    strays: list[str]
    """Files that belong to no complete shard of this corpus."""


@dataclass(frozen=True)
class Part:
    """Some shards' index files."""

    infos: dict[int, index.ShardInfo]
    rows: pl.DataFrame
    """Of all that could be read, in stored order; `file` is the shard each was read from."""
    faults: tuple[str, ...]
    """Unusable indexes, and tars of another size than their index says."""

    def segments(self) -> dict[int, int]:
        """How many each shard has."""
        counts = dict(self.rows.group_by("file").len().iter_rows())
        return {shard: counts.get(shard, 0) for shard in self.infos}


def list_files(corpus: Corpus) -> Listing:
    """Which shards have an index, which have none, and what belongs to neither."""
    present = corpus.complete_shards()
    ours = [shard for shard in present if shard < corpus.manifest.shards]
    urls = [url for shard in ours for url in (corpus.tar_url(shard), corpus.index_url(shard))]
    known = {url.rpartition("/")[2] for url in urls}
    strays = [
        f"{folder}/{name}"
        for folder in ("data", "index")
        for name in storage.names(storage.join(corpus.url, folder))
        if name not in known and not name.startswith(".")  # dot: cut-off writes, which no one reads
    ]
    return Listing(present, sorted(set(range(corpus.manifest.shards)) - set(ours)), strays)


def read_parts(corpus: Corpus, shards: list[int]) -> Iterator[Part]:
    """The shards' index files in order, SHARDS_AT_ONCE of them a part; the next is read ahead."""
    with ThreadPoolExecutor(8) as pool:  # of a remote corpus, as many reads at once
        starts = range(0, len(shards), SHARDS_AT_ONCE)
        parts = (_read_part(corpus, shards[at : at + SHARDS_AT_ONCE], pool) for at in starts)
        yield from ahead(parts)


def _read_part(corpus: Corpus, shards: list[int], pool: ThreadPoolExecutor) -> Part:
    infos, frames, faults = {}, [pl.DataFrame(schema=ROWS)], []
    for shard, found in zip(shards, pool.map(partial(_read_shard, corpus), shards), strict=True):
        if isinstance(found, str):
            faults.append(found)
            continue
        infos[shard], rows, size = found
        frames.append(rows.with_columns(file=pl.lit(shard, pl.Int32)))
        if size != (expected := infos[shard].tar_bytes):
            told = "no file" if size is None else size
            faults.append(f"{corpus.tar_url(shard)}: expected {expected} bytes, found {told}")
    return Part(infos, pl.concat(frames), tuple(faults))


def _read_shard(
    corpus: Corpus, shard: int
) -> tuple[index.ShardInfo, pl.DataFrame, int | None] | str:
    """Metadata, rows and the size of the tar; or why the index is unusable."""
    try:
        return *corpus.read_index(shard), storage.size(corpus.tar_url(shard))
    except CorpusError as error:
        return str(error)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made in a thread while this one is used."""
    with ThreadPoolExecutor(1) as thread:
        end = object()
        waiting: Future[T | object] = thread.submit(next, items, end)
        while (item := waiting.result()) is not end:
            waiting = thread.submit(next, items, end)
            yield item  # type: ignore[misc]


def uncovered(part: Part) -> Iterator[str]:
    """Shards whose rows do not reach to the end of their tar."""
    ends = part.rows.group_by("file").agg((pl.col("offset") + pl.col("bytes")).max())
    known = dict(ends.iter_rows())
    for shard, info in part.infos.items():
        end = known.get(shard, 0)
        if end + len(END_OF_TAR) != info.tar_bytes:
            yield f"shard {shard}: the rows cover {end} of {info.tar_bytes} bytes"
