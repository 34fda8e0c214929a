"""Rows of Arrow tables as episodes: found by their number, checked for order, turned to arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...shards.errors import CorpusError
from .images import NO_IMAGE, Images
from .mapping import SourceTable
from .source import refuse


@dataclass(frozen=True)
class TableEpisode:
    """The rows of one episode."""

    url: str
    number: int
    first_row: int
    """Of the source."""
    table: pa.Table
    images: Images
    """Of the source; decodes those of the rows."""

    @property
    def where(self) -> str:
        """Source and episode."""
        return f"{self.url}: episode {self.number}"

    @property
    def steps(self) -> int:
        """Its rows."""
        return int(self.table.num_rows)

    def place(self, step: int) -> str:
        """`where`, and the row."""
        return f"{self.where}: row {self.first_row + step}"

    def values(self, column: str) -> NDArray[Any]:
        """Its values, (steps, …); CorpusError names an empty row, or one of another shape."""
        array = _plain(self.table.column(column))
        shape, inner = [len(array)], 1

        def require(good: NDArray[np.bool_], expected: str, found: object) -> None:
            if not good.all():
                refuse(self, int(np.argmin(good)) // inner, column, expected, found)

        while _is_list(array.type):
            require(np.asarray(array.is_valid()), "a list", "none")  # flattening drops it
            lengths = np.asarray(pc.list_value_length(array))
            require(lengths > 0, "at least one entry", "none")
            same = lengths == lengths[0]
            require(same, f"{lengths[0]} entries as before", lengths[np.argmin(same)])
            inner *= int(lengths[0])
            shape.append(int(lengths[0]))
            array = pc.list_flatten(array)
        require(np.asarray(array.is_valid()), "a value", "none")
        return array.to_numpy(zero_copy_only=False).reshape(shape)

    def frames(self, column: str) -> Iterator[NDArray[np.uint8]]:
        """Its images, stored as arrays or as `datasets` does."""
        if not pa.types.is_struct(self.table.schema.field(column).type):
            values = self.values(column)
            if values.ndim != 4 or values.shape[3] != 3 or values.dtype != np.uint8:
                found = f"{values.dtype}{list(values.shape[1:])}"
                refuse(self, 0, column, "images, uint8 [height, width, 3]", found)
            yield from values
            return
        for step in range(self.steps):
            image = self.table.column(column)[step].as_py() or {}
            try:
                frame = self.images.decode(image)
            except NO_IMAGE as error:
                refuse(self, step, column, "an image", repr(error))
            yield frame


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """One array of a column, without an extension type around it."""
    if isinstance(column.type, pa.ExtensionType):
        chunks = [chunk.storage for chunk in column.chunks]
        return pa.chunked_array(chunks, column.type.storage_type).combine_chunks()
    return column.combine_chunks()


def _is_list(kind: pa.DataType) -> bool:
    return any((pa.types.is_list(kind), pa.types.is_large_list(kind),
                pa.types.is_fixed_size_list(kind)))  # fmt: skip


def by_episode(
    tables: Iterable[pa.Table], source: SourceTable, images: Images
) -> Iterator[TableEpisode]:
    """Consecutive rows of one number as an episode, and the next of the next number.

    Raises CorpusError naming the row where a number jumps or comes again, or a step is missing.
    """
    waiting: list[pa.Table] = []
    row = first = 0
    number: int | None = None
    for table in tables:
        numbers = _integers(table, source.episode, f"{source.url}: row {row}")
        cuts = np.flatnonzero(np.diff(numbers)) + 1
        for start, stop in pairwise((0, *cuts.tolist(), len(numbers))):
            if start == stop:
                continue
            if waiting and numbers[start] != number:
                yield _whole(source, number, first, waiting, images)
                waiting = []
            if not waiting:
                first = row + start
                _require_next(source, number, int(numbers[start]), first)
                number = int(numbers[start])
            waiting.append(table.slice(start, stop - start))
        row += len(numbers)
    if waiting:
        yield _whole(source, number, first, waiting, images)


def _integers(table: pa.Table, column: str, where: str) -> NDArray[np.int64]:
    kind = table.schema.field(column).type
    if not pa.types.is_integer(kind) or table.column(column).null_count:
        raise CorpusError(f"{where}: column {column!r}: expected whole numbers, found {kind}")
    return np.asarray(table.column(column)).astype(np.int64)


def _require_next(source: SourceTable, before: int | None, number: int, row: int) -> None:
    if before is not None and number != before + 1:
        raise CorpusError(
            f"{source.url}: row {row}: column {source.episode!r}: expected episode {before} or "
            f"{before + 1}, found {number}"
        )


def _whole(
    source: SourceTable, number: int | None, first: int, pieces: list[pa.Table], images: Images
) -> TableEpisode:
    assert number is not None
    episode = TableEpisode(source.url, number, first, pa.concat_tables(pieces), images)
    if source.frame:
        found = _integers(episode.table, source.frame, episode.where)
        odd = np.flatnonzero(found != np.arange(len(found)))
        if odd.size:
            step = int(odd[0])
            refuse(episode, step, source.frame, f"step {step}", found[step])
    return episode
