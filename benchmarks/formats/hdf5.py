"""HDF5 by h5py: an array of all segments for each name, one chunk a segment, padded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .segments import ARRAYS, BATCH, LONGEST, READ, Batch, Segments


class Hdf5:
    """With a filter: `gzip` or `lzf` of h5py, or `zstd` of the package hdf5plugin."""

    ahead = False

    def __init__(self, folder: Path, segments: Segments, filter: str) -> None:
        self._path, self._segments, self._filter = folder / "segments.h5", segments, filter
        if filter == "zstd":
            import hdf5plugin  # noqa: F401 — reading finds the filter once it is imported

    def _compression(self) -> dict[str, Any]:
        if self._filter != "zstd":
            return {"compression": self._filter}
        import hdf5plugin

        return dict(hdf5plugin.Zstd())

    def write(self) -> None:
        """One file."""
        count = len(self._segments)
        with h5py.File(self._path, "w", libver="latest") as file:
            file["steps"] = self._segments.steps
            file["words"] = self._segments.words
            for name in ARRAYS:
                array = self._segments.arrays[name]
                file.create_dataset(
                    name, (count, LONGEST, *array.shape[1:]), array.dtype,
                    chunks=(1, LONGEST, *array.shape[1:]), **self._compression(),
                )  # fmt: skip
            for number in range(count):
                for name, array in self._segments.arrays_of(number).items():
                    padded = np.zeros((LONGEST, *array.shape[1:]), array.dtype)
                    padded[: len(array)] = array
                    file[name][number] = padded

    def epoch(self, seed: int) -> Iterator[Batch]:
        """Chunks are decompressed and copied straight into the batch."""
        file = h5py.File(self._path)
        return self._batches(file, iter(self._segments.order(seed)))

    def _batches(self, file: h5py.File, order: Iterator[int]) -> Iterator[Batch]:
        with file:
            datasets, all_steps = {name: file[name] for name in READ}, file["steps"][:]
            while numbers := list(islice(order, BATCH)):
                arrays = self._segments.blank()
                for slot, number in enumerate(numbers):
                    for name, array in arrays.items():
                        datasets[name].read_direct(array, np.s_[number], np.s_[slot])
                yield Batch(numbers, arrays, all_steps[numbers])
