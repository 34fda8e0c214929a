"""Arrays to bytes and back: one zstd frame around a plain .npy, one plain tar per shard."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zstandard
from numpy.lib import format as npy
from numpy.typing import NDArray

from .episode import ARRAYS, Episode
from .errors import CorruptionError

ZSTD_LEVEL = 1
TAR_BLOCK = 512
JSON_FIELDS = (
    "task", "level", "instruction", "match", "player", "segment", "policy", "opponent", "rating",
    "opponent_rating", "round", "seed", "terminated", "truncated", "cause", "completion_step",
    "final_state_xxh3",
)  # fmt: skip

_local = threading.local()  # zstd contexts are not thread-safe, and reuse halves small frames' cost


def encode_array(array: NDArray[Any]) -> bytes:
    """One zstd frame (content size and checksum on) of the array as .npy."""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(
            level=ZSTD_LEVEL, write_checksum=True, write_content_size=True
        )
    header = io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
    data = b"".join((header.getvalue(), np.ascontiguousarray(array).data))
    return bytes(_local.compressor.compress(data))


def decode_array(data: bytes | memoryview, where: str, max_bytes: int = 1 << 30) -> NDArray[Any]:
    """The array of one `.npy.zst` member, read-only.

    Raises CorruptionError, naming `where`, for damaged frames, pickled (object) arrays and
    frames that claim more than `max_bytes`.
    """
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= max_bytes:
            raise CorruptionError(f"{where}: frame of {size} bytes, at most {max_bytes} expected")
        plain = _local.decompressor.decompress(data)
        stream = io.BytesIO(plain[:256])
        version = npy.read_magic(stream)
        if version != (1, 0):
            raise CorruptionError(f"{where}: .npy version {version}, expected (1, 0)")
        shape, fortran, dtype = npy.read_array_header_1_0(stream)
        if dtype.hasobject or fortran:
            raise CorruptionError(f"{where}: {dtype} array, expected plain C-ordered numbers")
        return np.frombuffer(plain, dtype, offset=stream.tell()).reshape(shape)
    except (zstandard.ZstdError, ValueError) as error:
        raise CorruptionError(f"{where}: {error}") from error


def encode_episode(episode: Episode) -> dict[str, bytes]:
    """Tar member suffix → bytes, in stored order: json first, pixels last."""
    fields = {name: getattr(episode, name) for name in JSON_FIELDS}
    if episode.final_state_xxh3 is not None:  # datasets overflows on integers above 2^63
        fields["final_state_xxh3"] = f"{episode.final_state_xxh3:016x}"
    members = {"json": json.dumps(fields, separators=(",", ":")).encode()}
    for name in ARRAYS:
        members[f"{name}.npy.zst"] = encode_array(getattr(episode, name))
    return members


def decode_episode(members: Mapping[str, bytes | memoryview], where: str) -> Episode:
    """Inverse of `encode_episode`; raises CorruptionError for a missing or damaged member."""
    try:
        fields = json.loads(bytes(members["json"]))
        if fields["final_state_xxh3"] is not None:
            fields["final_state_xxh3"] = int(fields["final_state_xxh3"], 16)
        arrays: dict[str, Any] = {
            name: decode_array(members[f"{name}.npy.zst"], f"{where}.{name}") for name in ARRAYS
        }
        return Episode(**{name: fields[name] for name in JSON_FIELDS}, **arrays)
    except KeyError as error:
        raise CorruptionError(f"{where}: member or field {error} is missing") from error
    except (TypeError, ValueError) as error:  # not JSON, not UTF-8, or not an object
        raise CorruptionError(f"{where}.json: {error}") from error


def tar_member(name: str, data: bytes) -> bytes:
    """One ustar member with fixed mtime and owner, padded: the same data gives the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    padding = -len(data) % TAR_BLOCK
    return b"".join((info.tobuf(tarfile.USTAR_FORMAT), data, b"\0" * padding))


def split_members(data: memoryview, where: str) -> Iterator[tuple[str, memoryview]]:
    """Name and content of each tar member in a stretch of whole members.

    Ten times faster than `tarfile` and stricter: raises CorruptionError at the first header whose
    checksum, magic or size is wrong, instead of stopping in silence.
    """
    position = 0
    while position < len(data):
        header = bytes(data[position : position + TAR_BLOCK])
        try:
            recorded = int(header[148:156].rstrip(b" \0"), 8)
            size = int(header[124:136].rstrip(b" \0"), 8)
        except ValueError:
            raise CorruptionError(f"{where}: no tar header at byte {position}") from None
        # the checksum counts its own field as eight spaces
        if sum(header) - sum(header[148:156]) + 8 * 0x20 != recorded or header[257:262] != b"ustar":
            raise CorruptionError(f"{where}: damaged tar header at byte {position}")
        start = position + TAR_BLOCK
        if start + size > len(data):
            raise CorruptionError(f"{where}: member at byte {position} is cut short")
        yield header[:100].rstrip(b"\0").decode(), data[start : start + size]
        position = start + size + (-size % TAR_BLOCK)


def decode(key: str, data: bytes) -> Any:
    """Decode hook for webdataset: `WebDataset(urls).decode(decode)` yields NumPy arrays."""
    return decode_array(data, key) if key.endswith(".npy.zst") else None
