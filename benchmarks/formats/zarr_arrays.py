"""Zarr format 3: an array of all segments for each name, one zstd chunk a segment, padded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import zarr

from .segments import ARRAYS, BATCH, LONGEST, READ, Batch, Segments


class Zarr:
    """In a folder, with a file for each chunk; zstd at Zarr's own default."""

    ahead = False

    def __init__(self, folder: Path, segments: Segments) -> None:
        self._folder, self._segments = folder, segments
        zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})

    def write(self) -> None:
        """A group of arrays, with the words in its attributes."""
        group = zarr.open_group(self._folder, mode="w", zarr_format=3)
        group.attrs["words"] = [json.loads(words) for words in self._segments.words]
        group.create_array("steps", data=self._segments.steps)
        for name in ARRAYS:
            array = self._segments.arrays[name]
            group.create_array(
                name, shape=(len(self._segments), LONGEST, *array.shape[1:]), dtype=array.dtype,
                chunks=(1, LONGEST, *array.shape[1:]), fill_value=0,
            )  # fmt: skip
        for number in range(len(self._segments)):
            for name, array in self._segments.arrays_of(number).items():
                group[name][number, : len(array)] = array

    def epoch(self, seed: int) -> Iterator[Batch]:
        """Chunks one by one: a selection of several from such arrays takes 20 times as long."""
        group = zarr.open_group(self._folder, mode="r")
        return self._batches(group, iter(self._segments.order(seed)))

    def _batches(self, group: zarr.Group, order: Iterator[int]) -> Iterator[Batch]:
        arrays, steps = {name: group[name] for name in READ}, group["steps"][:]
        while numbers := list(islice(order, BATCH)):
            found = self._segments.blank()
            for slot, number in enumerate(numbers):
                for name, array in arrays.items():
                    found[name][slot] = array[number]
            yield Batch(numbers, found, steps[numbers])
