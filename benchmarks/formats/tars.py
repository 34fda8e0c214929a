"""webdataset: tars read in sequence, shards shuffled and samples in a buffer, its own decoders."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
import zstandard

from .segments import READ, Arrays, Batch, Segments, gather

SHARDS = 4  # as many as the demo's corpus of 100 000 steps has
BUFFER = 100  # samples shuffled, not yet decoded; plain ones are 3 MB each
GZIP_LEVEL = 6  # of zlib and of the gzip command; savez_compressed has the same
ZSTD_LEVEL = 3  # zstd's default


class Tars:
    """A member for each array (`npy`, `npy.gz`, `npy.zst`), or one `npz` with all of them."""

    ahead = True

    def __init__(
        self, folder: Path, segments: Segments, member: str, deflate: bool = False
    ) -> None:
        self._folder, self._segments, self._member = folder, segments, member
        self._save: Callable[..., None] = np.savez_compressed if deflate else np.savez
        self._decompressor = zstandard.ZstdDecompressor()

    def write(self) -> None:
        """As many shards as our corpus has."""
        size = -(-len(self._segments) // SHARDS)
        for first in range(0, len(self._segments), size):
            path = self._folder / f"shard-{first // size:06d}.tar"
            # without an mtime, each member has extended headers, to read and to store
            with webdataset.TarWriter(str(path), encoder=False, mtime=0) as tar:
                for number in range(first, min(first + size, len(self._segments))):
                    words = self._segments.words[number].encode()
                    tar.write({"__key__": f"{number:06d}", "json": words} | self._encode(number))

    def _encode(self, number: int) -> dict[str, bytes]:
        arrays = self._segments.arrays_of(number)
        if self._member == "npz":
            stream = io.BytesIO()
            self._save(stream, **arrays)
            return {"npz": stream.getvalue()}
        compress: dict[str, Callable[[bytes], bytes]] = {
            "npy": lambda data: data,
            "npy.gz": lambda data: gzip.compress(data, GZIP_LEVEL),
            "npy.zst": zstandard.ZstdCompressor(ZSTD_LEVEL).compress,
        }
        return {
            f"{name}.{self._member}": compress[self._member](_npy(array))
            for name, array in arrays.items()
        }

    def epoch(self, seed: int) -> Iterator[Batch]:
        """Only what training takes is decoded."""
        files = sorted(str(path) for path in self._folder.iterdir())
        wanted = ["npz"] if self._member == "npz" else [f"{n}.{self._member}" for n in READ]
        samples = (
            webdataset.WebDataset(files, shardshuffle=len(files), seed=seed)
            .shuffle(BUFFER, initial=BUFFER, seed=seed)
            .decode(self._decode_zstd, only=wanted)
        )
        return gather(map(self._arrays, samples), self._segments)

    def _decode_zstd(self, key: str, data: bytes) -> Any:
        """A hook, because webdataset has none of its own for zstd; it has the others."""
        if not key.endswith(".npy.zst"):
            return None
        return np.load(io.BytesIO(self._decompressor.decompress(data)))

    def _arrays(self, sample: dict[str, Any]) -> tuple[int, Arrays]:
        if self._member == "npz":
            return int(sample["__key__"]), sample["npz"]
        return int(sample["__key__"]), {name: sample[f"{name}.{self._member}"] for name in READ}


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
