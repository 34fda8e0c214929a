"""mosaicml-streaming: MDS shards compressed whole by zstd, `ndarray` columns, its shuffle py1e."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .segments import ARRAYS, BATCH, Arrays, Batch, Segments, gather

# its vision datasets, which have no part here, import torchvision, whose wheel does not load beside
# a torch without CUDA
sys.modules["streaming.vision"] = ModuleType("streaming.vision")

from streaming import MDSWriter, StreamingDataset  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402

SEED = 9176  # of the shuffle; the number of the epoch does the rest


class Mds:
    """Its cache of decompressed shards is kept, as for later epochs, or emptied before each.

    What is kept counts as on disk.
    """

    ahead = True

    def __init__(self, folder: Path, segments: Segments, keep: bool) -> None:
        self._remote, self._segments, self._keep = folder / "remote", segments, keep
        self._local = folder / "local" if keep else folder.with_name(f"{folder.name}-cache")
        self._dataset: StreamingDataset | None = None

    def write(self) -> None:
        """Shards of MDS's own default size, at its zstd's default level."""
        columns = {"number": "int", "words": "str"} | {
            name: f"ndarray:{self._segments.arrays[name].dtype}" for name in ARRAYS
        }
        with MDSWriter(out=str(self._remote), columns=columns, compression="zstd") as writer:
            for number, words in enumerate(self._segments.words):
                arrays = self._segments.arrays_of(number)
                writer.write({"number": number, "words": words} | arrays)

    def epoch(self, seed: int) -> Iterator[Batch]:
        """In this process, without workers."""
        if not self._keep:
            self._dataset = None
            shutil.rmtree(self._local, ignore_errors=True)
        if self._dataset is None:
            clean_stale_shared_memory()
            self._dataset = StreamingDataset(
                remote=str(self._remote), local=str(self._local), shuffle=True, batch_size=BATCH,
                shuffle_seed=SEED + (0 if self._keep else seed),
            )  # fmt: skip
        return gather(map(self._sample, self._dataset), self._segments)

    def _sample(self, sample: dict[str, Any]) -> tuple[int, Arrays]:
        return sample["number"], {
            name: np.asarray(array) for name, array in sample.items() if name in ARRAYS
        }
