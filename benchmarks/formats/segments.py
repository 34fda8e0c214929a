"""The segments that every format stores, and the batches that every format must give back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

ARRAYS = ("action", "reward", "success", "state", "pixels")
READ = ("pixels", "state", "action", "reward")  # what training takes; a reader may skip the rest
LONGEST = 256  # steps of a segment, to which batches are padded
BATCH = 8  # segments

Arrays = Mapping[str, NDArray[Any]]


class Segments:
    """Segments in a folder of plain .npy files, mapped: the original that all are compared with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, NDArray[Any]] = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS
        }
        self.starts: NDArray[np.int64] = np.load(folder / "starts.npy")
        """(segments + 1,) where each one's steps begin."""
        self.words: list[str] = json.loads((folder / "words.json").read_text())
        """JSON of what is said of each segment."""
        self.steps = np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.words)

    def arrays_of(self, number: int) -> dict[str, NDArray[Any]]:
        """One segment's."""
        steps = slice(self.starts[number], self.starts[number + 1])
        return {name: np.asarray(array[steps]) for name, array in self.arrays.items()}

    def order(self, seed: int) -> list[int]:
        """All segments, shuffled."""
        return np.random.default_rng(seed).permutation(len(self)).tolist()

    def blank(self, slots: int = BATCH) -> dict[str, NDArray[Any]]:
        """Fresh arrays of a batch, not yet filled: every reader pays for their memory alike."""
        return {
            name: np.empty((slots, LONGEST, *self.arrays[name].shape[1:]), self.arrays[name].dtype)
            for name in READ
        }


@dataclass(frozen=True)
class Batch:
    """8 segments (the last batch may have fewer), padded with zeros."""

    numbers: list[int]
    """Which segments these are."""
    arrays: Arrays
    """Of READ, each (8, 256, …)."""
    steps: NDArray[np.int64]
    """(8,) valid steps."""


class Format(Protocol):
    """A way to store segments, with its best documented settings for reading whole ones at random.

    It is made with a folder of its own for all that counts as on disk, and the segments.
    """

    ahead: bool
    """It reads ahead, so that only a whole epoch can be timed."""

    def write(self) -> None:
        """Store all segments in the folder, which is empty."""

    def epoch(self, seed: int) -> Iterator[Batch]:
        """All segments once, shuffled; what is done before the iterator is there is not timed."""


def gather(samples: Iterable[tuple[int, Arrays]], segments: Segments) -> Iterator[Batch]:
    """Batches of samples, each copied to its place as soon as it is decoded."""
    iterator = iter(samples)
    while first := next(iterator, None):
        arrays, numbers, steps = segments.blank(), [], np.zeros(BATCH, np.int64)
        for slot, (number, sample) in enumerate(_chain(first, islice(iterator, BATCH - 1))):
            steps[slot] = len(sample["reward"])
            for name, array in arrays.items():
                array[slot, : steps[slot]] = sample[name]
                array[slot, steps[slot] :] = 0
            numbers.append(number)
        yield Batch(numbers, arrays, steps)


def _chain(
    first: tuple[int, Arrays], others: Iterable[tuple[int, Arrays]]
) -> Iterator[tuple[int, Arrays]]:
    yield first
    yield from others


def folder_bytes(folder: Path) -> int:
    """Of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
