"""Read and verify every byte of a corpus's tars: the deep part of an audit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import xxhash

from . import index, storage
from .codec import JSON_FIELDS, decode_episode, split_members
from .console import Advance
from .corpus import Corpus
from .episode import Episode
from .errors import CorruptionError, RolloutError
from .report import Check, judge

DEEP_CHECKS = ("tar checksums", "segment checksums", "decoding", "schema", "index values")


def deep_checks(
    corpus: Corpus, rows: pl.DataFrame, infos: dict[int, index.ShardInfo], advance: Advance
) -> list[Check]:
    """Read and verify every tar that has an index."""
    faults: dict[str, list[str]] = {name: [] for name in DEEP_CHECKS}
    shards = [(s, rows.filter(pl.col("file") == s), i) for s, i in infos.items()]
    # zstd and xxh3 release the GIL; a shard takes about 60 MB
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for found in pool.map(lambda job: list(verify_shard(corpus, *job)), shards):
            for name, fault in found:
                faults[name].append(fault)
            advance(1, f"{sum(map(len, faults.values()))} faults")
    return [judge(name, faults[name], f"{len(shards)} shards verified") for name in DEEP_CHECKS]


def verify_shard(
    corpus: Corpus, shard: int, rows: pl.DataFrame, info: index.ShardInfo
) -> Iterator[tuple[str, str]]:
    """(name of the deep check, fault) for everything wrong with a shard's bytes."""
    where = corpus.tar_url(shard)
    data = storage.read_bytes(where) if storage.exists(where) else b""
    if len(data) != info.tar_bytes or xxhash.xxh3_64_intdigest(data) != info.tar_xxh3:
        yield "tar checksums", f"{where}: differs from its index"
    moments, whole = index.Moments(), True
    for row in rows.drop("file").iter_rows(named=True):
        piece = memoryview(data)[row["offset"] : row["offset"] + row["bytes"]]
        place = f"{where}: sample {row['key']}"
        digest = xxhash.xxh3_64_intdigest(piece)
        if len(piece) != row["bytes"] or digest != row["xxh3"]:
            yield "segment checksums", f"{place}: differs from its index"
        try:
            episode = decode_sample(piece, row["key"], place)
        except CorruptionError as error:
            yield "decoding", str(error)
            whole = False
            continue
        if differing := [n for n in JSON_FIELDS if getattr(episode, n) != row[n]]:
            yield "index values", f"{place}: {', '.join(differing)} differ from the sample"
            whole = False
            continue
        try:
            episode.validate(corpus.schema)
        except RolloutError as error:
            yield "schema", f"{where}: {error}"
            whole = False
            continue
        expected = index.row(episode, shard, row["offset"], row["bytes"], digest)
        if differing := [n for n in expected if n != "xxh3" and not _same(row[n], expected[n])]:
            yield "index values", f"{place}: {', '.join(differing)} differ from the sample"
        moments.add(episode.state)
    if whole and not moments_equal(moments, info.moments):
        yield "index values", f"{corpus.index_url(shard)}: the state's moments differ"


def decode_sample(piece: memoryview, key: str, place: str) -> Episode:
    """The episode in a stretch of tar members; CorruptionError if they are not all of `key`."""
    members = {}
    for name, content in split_members(piece, place):
        prefix, _, suffix = name.partition(".")
        if prefix != key or suffix in members:
            raise CorruptionError(f"{place}: found member {name}")
        members[suffix] = content
    return decode_episode(members, place)


def _same(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))  # NaN equals NaN here


def moments_equal(a: index.Moments, b: index.Moments) -> bool:
    """Whether two sums of the state agree to the last bit."""
    pairs = ((a.total, b.total), (a.squares, b.squares))
    return a.count == b.count and all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)
