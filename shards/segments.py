"""What the reader keeps of a corpus's index: which segments there are, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from .corpus import Corpus
from .episode import ARRAYS, sample_key
from .errors import ConfigError, CorpusError, CorruptionError, UnknownNameError
from .index import COLUMNS
from .schema import INSTRUCTION_BYTES, SEGMENT_STEPS

NUMBERS: dict[str, Any] = {  # as narrow as the values allow: a rank holds 2 M rows in 90 MB
    "shard": pl.Int32, "offset": pl.Int64, "bytes": pl.Int32, "xxh3": pl.UInt64,
    "steps": pl.Int16, "terminated": pl.Boolean,
    "match": pl.Int64, "player": pl.Int8, "segment": pl.Int16,
}  # fmt: skip
TEXTS = ("policy", "instruction")


@dataclass(frozen=True)
class Source:
    """A corpus, or the part of it that a filter leaves, and its share of every batch."""

    corpus: Corpus
    weight: int = 1
    where: pl.Expr | None = None
    """Keeps the index rows for which it holds."""
    top: pl.Expr | None = None
    """Marks segments; by default all. Like `where` it sees all rows of a shard together."""


@dataclass(frozen=True)
class Segments:
    """A source's segments in stored order, an array for each thing that reading needs."""

    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    """First byte in the shard's tar."""
    bytes: NDArray[np.int32]
    xxh3: NDArray[np.uint64]
    """Of those bytes."""
    steps: NDArray[np.int16]
    terminated: NDArray[np.bool_]
    top: NDArray[np.bool_]
    """Whether the source's `top` holds."""
    match: NDArray[np.int64]
    player: NDArray[np.int8]
    segment: NDArray[np.int16]
    policy: NDArray[np.int16]
    """Index into `policies`."""
    instruction: NDArray[np.int16]
    """Index into `instructions`."""
    policies: tuple[str, ...]
    instructions: NDArray[np.uint8]
    """(distinct, 64) UTF-8, zero-padded."""

    def __len__(self) -> int:
        return len(self.shard)

    def key(self, number: int) -> str:
        """The sample key of a segment."""
        names = (self.match, self.player, self.segment)
        return sample_key(*(int(column[number]) for column in names))

    def update(self, digest: xxhash.xxh3_64, numbers: NDArray[np.int64]) -> None:
        """Hash the keys of these segments, in that order."""
        rows = zip(
            self.match[numbers].tolist(), self.player[numbers].tolist(),
            self.segment[numbers].tolist(), strict=True,
        )  # fmt: skip
        digest.update("".join(sample_key(*row) for row in rows).encode())


def load_segments(source: Source) -> Segments:
    """Read what is needed of the index; CorpusError if no segment passes the filter."""
    columns = [pl.col(name).cast(kind) for name, kind in NUMBERS.items()]
    columns.append(pl.sum_horizontal(f"{name}_nan" for name in ARRAYS).alias("nan"))
    # beside the rows, not by filtering them first: `top` may look at an episode's other segments
    marks = {"wanted": source.where, "top": source.top}
    columns += [(pl.lit(True) if e is None else e).alias(name) for name, e in marks.items()]
    arrays: dict[str, NDArray[Any]] = {}
    codes = {name: _Codes() for name in TEXTS}
    for rows in source.corpus.frames(*columns, *TEXTS):
        frame = rows.filter("wanted")
        _require_numbers(frame, source.corpus.url)
        for name in (*NUMBERS, "top", *TEXTS):
            values = codes[name].take(frame[name]) if name in codes else frame[name].to_numpy()
            array = arrays.setdefault(name, np.empty(0, values.dtype))
            # a large array grows where it is: pieces put together would be in memory twice
            array.resize(len(array) + len(values), refcheck=False)
            array[len(array) - len(values) :] = values
    url, steps = source.corpus.url, arrays["steps"]
    if not len(steps):
        raise CorpusError(f"{url}: no segment passes the filter")
    if steps.min() < 1 or steps.max() > SEGMENT_STEPS:
        raise CorpusError(f"{url}: its index has segments beyond 1 to {SEGMENT_STEPS} steps")
    return Segments(
        **arrays, policies=tuple(codes["policy"].texts),
        instructions=np.stack([encode_instruction(text) for text in codes["instruction"].texts]),
    )  # fmt: skip


def _require_numbers(frame: pl.DataFrame, url: str) -> None:
    """Raise CorruptionError if the index tells of NaN: one would spread through all weights."""
    for row in frame.filter(pl.col("nan") > 0).head(1).iter_rows(named=True):
        key = sample_key(row["match"], row["player"], row["segment"])
        found = f"expected no NaN, found {row['nan']} by its index"
        raise CorruptionError(f"{url}: sample {key}: {found}")


class _Codes:
    """Numbers texts in the order in which they are met."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def take(self, column: pl.Series) -> NDArray[np.int16]:
        """Each text's number."""
        for text in column.unique(maintain_order=True).to_list():
            self.texts.setdefault(text, len(self.texts))
        return column.replace_strict(self.texts, return_dtype=pl.Int16).to_numpy()


def encode_instruction(text: str) -> NDArray[np.uint8]:
    """(64,) UTF-8 bytes, zero-padded."""
    data = text.encode()[:INSTRUCTION_BYTES]
    return np.frombuffer(data.ljust(INSTRUCTION_BYTES, b"\0"), np.uint8)


def split_by_match(share: float) -> tuple[pl.Expr, pl.Expr]:
    """Filters for training and for an in-distribution validation split, by match.

    A multiplicative hash of the match decides (Knuth 6.4), so that both players and all segments
    stay together and every machine agrees.
    """
    match = pl.col("match").cast(pl.UInt64) + 1
    bucket = (match * pl.lit(0x9E3779B97F4A7C15, pl.UInt64)) // (1 << 50)
    held = bucket < round(share * (1 << 14))
    return ~held, held


def parse_where(text: str, flag: str = "--where") -> pl.Expr:
    """A filter over index columns in SQL's words: `success and level >= 2 and task in ('push')`.

    Raises UnknownNameError for a column that the index lacks, ConfigError for anything else.
    """
    try:
        condition = pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{flag} {text!r}: {_first_line(error)}") from error
    for name in condition.meta.root_names():
        if name not in COLUMNS:
            raise UnknownNameError("column", name, COLUMNS, flag)
    rows = pl.DataFrame({name: [None, None] for name in COLUMNS}, schema=COLUMNS)
    try:
        found = rows.select(condition).to_series()
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{flag} {text!r}: {_first_line(error)}") from error
    if found.dtype != pl.Boolean or len(found) != len(rows):  # an aggregate gives one value
        raise ConfigError(f"{flag} {text!r}: expected a condition on a row, found {found.dtype}")
    return condition


def behaviours_of(tables: Sequence[Segments]) -> list[str]:
    """Every policy of any source, sorted."""
    return sorted({policy for table in tables for policy in table.policies})


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
