"""Parquet by pyarrow: a row and a row group for each segment, arrays as binary, pages in zstd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .segments import ARRAYS, READ, Arrays, Batch, Segments, gather

SCHEMA = pa.schema(
    [("steps", pa.int32()), ("words", pa.string()), *((name, pa.binary()) for name in ARRAYS)]
)


class Parquet:
    """A row group is what can be read by itself: with one segment in each, none is read in vain."""

    ahead = False

    def __init__(self, folder: Path, segments: Segments) -> None:
        self._path, self._segments = folder / "segments.parquet", segments

    def write(self) -> None:
        """One file; dictionaries and statistics of whole arrays would be of no use."""
        options: dict[str, Any] = {
            "compression": "zstd", "use_dictionary": False, "write_statistics": False,
        }  # fmt: skip
        with pq.ParquetWriter(self._path, SCHEMA, **options) as writer:
            for number, words in enumerate(self._segments.words):
                arrays = self._segments.arrays_of(number)
                row = {"steps": [len(arrays["reward"])], "words": [words]}
                row |= {name: [array.tobytes()] for name, array in arrays.items()}
                writer.write_table(pa.table(row, SCHEMA))

    def epoch(self, seed: int) -> Iterator[Batch]:
        """Only the columns that training takes."""
        file = pq.ParquetFile(self._path, memory_map=True)
        return gather(
            ((number, self._row(file, number)) for number in self._segments.order(seed)),
            self._segments,
        )

    def _row(self, file: pq.ParquetFile, number: int) -> Arrays:
        group = file.read_row_group(number, columns=["steps", *READ], use_threads=False)
        steps = group["steps"][0].as_py()
        return {name: self._array(group[name][0].as_buffer(), name, steps) for name in READ}

    def _array(self, data: pa.Buffer, name: str, steps: int) -> NDArray[Any]:
        like = self._segments.arrays[name]
        return np.frombuffer(data, like.dtype).reshape(steps, *like.shape[1:])
