"""LitData: chunks of samples, each sample a zstd frame of its own, its own shuffle."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from litdata import StreamingDataset, optimize

from .segments import ARRAYS, Arrays, Batch, Segments, gather

CHUNK = "64MB"


def sample_of(folder: str, number: int) -> dict[str, Any]:
    """What LitData's processes store for a segment."""
    segments = Segments(Path(folder))
    arrays = segments.arrays_of(number)
    return {"number": number, "words": segments.words[number]} | arrays


class LitData:
    """With a frame for each sample: its default, one for each 256 of them, is for small ones."""

    ahead = True

    def __init__(self, folder: Path, segments: Segments) -> None:
        self._folder, self._segments = folder, segments

    def write(self) -> None:
        """By one process of LitData's."""
        optimize(
            partial(sample_of, str(self._segments.folder)),
            list(range(len(self._segments))), str(self._folder / "chunks"), chunk_bytes=CHUNK,
            compression="zstd", compression_level="sample", num_workers=1, verbose=False,
        )  # fmt: skip

    def epoch(self, seed: int) -> Iterator[Batch]:
        """In this process, without workers."""
        dataset = StreamingDataset(
            str(self._folder / "chunks"), cache_dir=str(self._folder / "cache"), shuffle=True,
            drop_last=False, seed=seed,
        )  # fmt: skip
        return gather(map(self._sample, dataset), self._segments)

    def _sample(self, sample: dict[str, Any]) -> tuple[int, Arrays]:
        return sample["number"], {name: sample[name] for name in ARRAYS}
