"""Which shards of a corpus are not whole, and what still says how they were."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import polars as pl
import xxhash

from ..shards import index, storage
from ..shards.console import Advance, no_progress
from ..shards.corpus import Corpus
from ..shards.errors import CorpusError

THREADS = min(4, os.cpu_count() or 1)  # each holds a tar, 60 MB


@dataclass(frozen=True)
class Damage:
    """What is wrong with a shard, and what still says how it was."""

    shard: int
    fault: str
    tar_xxh3: int | None = None
    """Of the tar, from the shard's index, if that can be read."""
    rows: pl.DataFrame | None = None
    """Of the shard in the merged index, where its own index is lost."""


def find_damage(corpus: Corpus, advance: Advance = no_progress) -> list[Damage]:
    """Every shard that is not whole: its index lost or foreign, or its tar not as that says.

    Reads all indexes and all tars; `advance` is told of shards. StorageError for a file that is
    there but cannot be read: that is no damage that another copy would mend.
    """
    found = []
    with ThreadPoolExecutor(THREADS) as pool:
        for damage in pool.map(partial(_look, corpus), range(corpus.manifest.shards)):
            found += [damage] if damage else []
            advance(1, f"{len(found):,} damaged")
    merged = _merged_rows(corpus, [damage.shard for damage in found if damage.tar_xxh3 is None])
    return [replace(damage, rows=merged.get(damage.shard)) for damage in found]


def _look(corpus: Corpus, shard: int) -> Damage | None:
    where, tar = corpus.index_url(shard), corpus.tar_url(shard)
    if not storage.exists(where):
        return Damage(shard, f"{where}: missing")
    try:
        info, _ = corpus.read_index(shard)
    except CorpusError as error:
        return Damage(shard, str(error))
    size = storage.size(tar)
    if size is None:
        return Damage(shard, f"{tar}: missing", info.tar_xxh3)
    if size != info.tar_bytes:
        fault = f"{tar}: expected {info.tar_bytes:,} bytes, found {size:,}"
        return Damage(shard, fault, info.tar_xxh3)
    if xxhash.xxh3_64_intdigest(storage.read_bytes(tar)) != info.tar_xxh3:
        return Damage(shard, f"{tar}: checksum differs from its index", info.tar_xxh3)
    return None


def _merged_rows(corpus: Corpus, shards: list[int]) -> dict[int, pl.DataFrame]:
    """What the merged index, if it can be read, says of these shards."""
    if not shards or not storage.exists(corpus.merged_url):
        return {}
    try:
        rows = corpus.select(*index.COLUMNS, where=pl.col("shard").is_in(shards))
    except CorpusError:
        return {}
    return {frame["shard"][0]: frame for frame in rows.partition_by("shard")}
