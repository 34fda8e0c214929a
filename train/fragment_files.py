"""A checkpoint's weights and moments: a safetensors file from every rank, read by any number.

A rank reads the fragments that overlap its own, whoever wrote them: as many bytes as it keeps where
the number of ranks is the same, at most twice as many where it differs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import xxhash

from ..shards import storage
from ..shards.errors import CheckpointError
from .fragments import Fragment

TOGETHER = 64 << 20  # bytes of neighbouring fragments that one request reads
LENGTH = 8  # bytes that tell a safetensors header's


@dataclass(frozen=True)
class Piece:
    """One kind of one fragment, and where its bytes lie in the file."""

    name: str
    kind: str
    start: int
    """First element, in the flattened parameter."""
    begin: int
    end: int
    """Bytes [begin, end) of the file."""
    xxh3: str

    @property
    def stop(self) -> int:
        """One past the last element; they have four bytes each."""
        return self.start + (self.end - self.begin) // 4


def rank_file(rank: int) -> str:
    """Name of a rank's file in a checkpoint."""
    return f"state/rank-{rank:05d}.safetensors"


def write_fragments(path: Path, fragments: Sequence[Fragment]) -> None:
    """This rank's fragments, on disk when the call returns."""
    tensors = {
        f"{kind}/{fragment.name}": values.cpu()
        for fragment in fragments
        for kind, values in fragment.values.items()
    }
    metadata = {
        "starts": json.dumps({fragment.name: fragment.start for fragment in fragments}),
        "xxh3": json.dumps({key: _xxh3(values) for key, values in tensors.items()}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, path, metadata)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_fragments(urls: Sequence[str], wanted: Sequence[Fragment]) -> None:
    """Fill a rank's fragments from all ranks' files.

    Raises CheckpointError for bytes that are not those written, and if the files lack a part.
    """
    own = {fragment.name: fragment for fragment in wanted}
    missing = {(f.name, kind): f.stop - f.start for f in wanted for kind in f.values}
    for url in urls:
        pieces = [p for p in _pieces(url) if p.name in own and _overlap(p, own[p.name]) > 0]
        for run in _runs(pieces):
            data = memoryview(storage.read_range(url, run[0].begin, run[-1].end))
            for piece in run:
                part = data[piece.begin - run[0].begin : piece.end - run[0].begin]
                if xxhash.xxh3_64_hexdigest(part) != piece.xxh3:
                    raise CheckpointError(f"{url}: {piece.kind} of {piece.name}: checksum differs")
                missing[piece.name, piece.kind] -= _copy(piece, part, own[piece.name])
    for (name, kind), count in missing.items():
        if count:
            raise CheckpointError(
                f"{urls[0]} and the other ranks' files: {kind} of {name}: {count} of this rank's "
                "elements missing"
            )


def _copy(piece: Piece, data: memoryview, fragment: Fragment) -> int:
    """Copy what overlaps; returns the number of elements."""
    first, count = max(piece.start, fragment.start), _overlap(piece, fragment)
    values = torch.from_numpy(np.frombuffer(data, np.float32).copy())
    source = values.narrow(0, first - piece.start, count)
    fragment.values[piece.kind].narrow(0, first - fragment.start, count).copy_(source)
    return count


def _overlap(piece: Piece, fragment: Fragment) -> int:
    return min(piece.stop, fragment.stop) - max(piece.start, fragment.start)


def _pieces(url: str) -> Iterator[Piece]:
    """What a rank's file holds, by its header."""
    length = int.from_bytes(storage.read_range(url, 0, LENGTH), "little")
    size = storage.size(url) or 0
    if not 0 < length <= size - LENGTH:
        raise CheckpointError(f"{url}: expected a safetensors header, of {length} bytes")
    try:
        header = json.loads(storage.read_range(url, LENGTH, LENGTH + length))
        metadata = header.pop("__metadata__")
        starts, sums = json.loads(metadata["starts"]), json.loads(metadata["xxh3"])
        for key, entry in header.items():
            kind, _, name = key.partition("/")
            begin, end = (LENGTH + length + int(at) for at in entry["data_offsets"])
            yield Piece(name, kind, int(starts[name]), begin, end, sums[key])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{url}: not a rank's file of ours ({error!r})") from error


def _runs(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Neighbours in the file, as many as one request reads."""
    run: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: p.begin):
        if run and (piece.begin != run[-1].end or piece.end - run[0].begin > TOGETHER):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _xxh3(values: torch.Tensor) -> str:
    return xxhash.xxh3_64_hexdigest(values.numpy().view(np.uint8).data)
