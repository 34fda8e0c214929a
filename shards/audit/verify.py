"""Read and verify a corpus's tars: every byte of them, or a sample of their segments."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import xxhash
from numpy.typing import NDArray

from .. import index, storage
from ..codec import JSON_FIELDS, decode_episode, sample_members
from ..console import Advance
from ..corpus import Corpus
from ..episode import ARRAYS, Episode
from ..errors import CorruptionError, RolloutError
from ..storage import ByteRange
from .episodes import SAMPLE, copies
from .merged import moments_equal
from .report import Check, Tally, Verified, judge
from .rules import KEY
from .sampling import upper_bound

DEEP_CHECKS = (
    "tar checksums", "segment checksums", "decoding", "schema", "index values", "contents",
)  # fmt: skip
HEADERS = "tar headers, padding"
THREADS = min(4, os.cpu_count() or 1)  # zstd and xxh3 release the GIL; each holds a tar, 150 MB

Rows = NDArray[Any] | None  # numbers of a shard's rows; None for all of them and the tar as a whole
Piece = bytes | memoryview


@dataclass
class Findings:
    """Of some segments' bytes, which it adds up."""

    tallies: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Faults by check."""
    segments: int = 0
    corrupt: int = 0
    steps: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    """Bytes by member."""
    contents: pl.DataFrame = field(default_factory=pl.DataFrame)
    """SAMPLE and `contents`, the hash of the arrays, null where they are damaged."""

    @property
    def faults(self) -> int:
        """How many there are."""
        return sum(tally.count for tally in self.tallies.values())


def verify(corpus: Corpus, chosen: Mapping[int, Rows], advance: Advance) -> Findings:
    """What is wrong with the chosen rows of each shard."""
    total = Findings()
    contents = []
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(lambda shard: verify_shard(corpus, shard, chosen[shard]), chosen):
            for name, tally in found.tallies.items():
                total.tallies[name].add(tally.first, tally.count)
            total.segments += found.segments
            total.corrupt += found.corrupt
            total.steps += found.steps
            total.sizes += found.sizes
            contents.append(found.contents)
            advance(1, f"{total.faults:,} faults")
    if contents:
        total.contents = pl.concat(contents)
    return total


def deep_checks(found: Findings, whole: bool) -> Iterator[Check]:
    """DEEP_CHECKS; without the first unless the tars were read whole."""
    for name in DEEP_CHECKS[0 if whole else 1 : -1]:
        yield judge(name, found.tallies[name], f"{found.segments:,} segments verified")
    alike = Tally()
    if not found.contents.is_empty():
        sample = pl.format("sample {}", KEY)
        alike = copies(found.contents, "contents", sample, "holds the arrays of")
    yield judge("contents", alike, f"no two of {found.segments:,} segments alike")


def summary(found: Findings, mode: str, total: int) -> Verified:
    """The findings in numbers; `total` are the corpus's segments."""
    if found.segments == total:
        bound = found.corrupt / max(total, 1)
    else:
        bound = upper_bound(found.corrupt, found.segments)
    return Verified(mode, found.segments, found.corrupt, bound, found.steps, dict(found.sizes))


def verify_shard(corpus: Corpus, shard: int, chosen: Rows = None) -> Findings:
    """Read and verify the chosen rows of a shard, by ranges; or all of it."""
    where, found, moments = corpus.tar_url(shard), Findings(), index.Moments()
    info, rows = corpus.read_index(shard)
    rows = rows if chosen is None else rows[chosen]
    pieces: Iterable[Piece]
    if chosen is None:
        data = _read_whole(where, info, found)
        places = rows.select("offset", "bytes").iter_rows()
        pieces = (data[start : start + size] for start, size in places)
    else:
        pieces = _read_pieces(where, rows)
    hashes: list[int | None] = []
    for row, piece in zip(rows.iter_rows(named=True), pieces, strict=True):
        before = found.faults
        episode = _verify_segment(piece, row, corpus, where, found)
        found.corrupt += found.faults > before
        hashes.append(None if episode is None else content_hash(episode))
        if episode is not None:
            moments.add(episode.state)
    found.segments = len(rows)
    found.contents = rows.select(*SAMPLE, contents=pl.Series(hashes, dtype=pl.UInt64))
    if chosen is None and None not in hashes and not moments_equal(moments, info.moments):
        fault = f"{corpus.index_url(shard)}: the state's moments differ"
        found.tallies["index values"].add(fault)
    return found


def _read_whole(where: str, info: index.ShardInfo, found: Findings) -> memoryview:
    """All bytes of a tar, none if it is not there."""
    data = storage.read_bytes(where) if storage.exists(where) else b""
    if len(data) != info.tar_bytes or xxhash.xxh3_64_intdigest(data) != info.tar_xxh3:
        found.tallies["tar checksums"].add(f"{where}: differs from its index")
    return memoryview(data)


def _read_pieces(where: str, rows: pl.DataFrame) -> list[bytes]:
    """Each row's bytes, none where the tar ends before them."""
    size = storage.size(where) or 0
    ends = [(start, start + count) for start, count in rows.select("offset", "bytes").iter_rows()]
    return storage.read_ranges(
        [ByteRange(where, *((start, end) if end <= size else (0, 0))) for start, end in ends]
    )


def _verify_segment(
    piece: Piece, row: dict[str, Any], corpus: Corpus, where: str, found: Findings
) -> Episode | None:
    """The segment if it is what its index row says; else its faults go to `found`."""
    place = f"{where}: sample {row['key']}"
    digest = xxhash.xxh3_64_intdigest(piece)
    if len(piece) != row["bytes"] or digest != row["xxh3"]:
        found.tallies["segment checksums"].add(f"{place}: differs from its index")
    try:
        members = sample_members(memoryview(piece), row["key"], place)
        episode = decode_episode(members, place)
    except CorruptionError as error:
        found.tallies["decoding"].add(str(error))
        return None
    found.steps += episode.steps
    sizes = {name.partition(".")[0]: len(content) for name, content in members.items()}
    found.sizes.update(sizes | {HEADERS: len(piece) - sum(sizes.values())})
    differing = [name for name in JSON_FIELDS if getattr(episode, name) != row[name]]
    if not differing:
        try:
            episode.validate(corpus.schema)
        except RolloutError as error:
            found.tallies["schema"].add(f"{where}: {error}")
            return None
        expected = index.row(episode, row["shard"], row["offset"], row["bytes"], row["xxh3"])
        differing = [name for name in expected if not _same(row[name], expected[name])]
    if differing:
        fault = f"{place}: {', '.join(differing)} differ from the sample"
        found.tallies["index values"].add(fault)
    return episode


def content_hash(episode: Episode) -> int:
    """Of the arrays alone: a copy under another key has the same."""
    state = xxhash.xxh3_64()
    for name in ARRAYS:
        state.update(getattr(episode, name))
    return state.intdigest()


def _same(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))  # NaN equals NaN here
