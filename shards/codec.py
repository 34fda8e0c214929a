"""Arrays to bytes and back: one zstd frame around a plain .npy, one plain tar per shard."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, cast

import numpy as np
import zstandard
from numpy.lib import format as npy
from numpy.typing import NDArray

from .episode import ADDED, ARRAYS, Episode
from .errors import CorruptionError

LEVEL = 1  # of zstd
# frames repeat whole rows, now and a few frames ago: to look at 32 places for a match of 6 bytes
# saves 18 to 24 % and decodes 1.1 to 1.3 times as fast, for 16 µs a step more than level 1 takes;
# floats gain nothing (docs/format.md)
SEARCH = {
    "strategy": zstandard.STRATEGY_GREEDY, "search_log": 5, "min_match": 6, "window_log": 21,
    "hash_log": 17, "chain_log": 17,
}  # fmt: skip
TAR_BLOCK = 512
REGULAR = (b"0", b"\0")  # type flags of a file in a tar
FRAME_DESCRIPTOR, CHECKSUM_FLAG = 4, 0x04  # a zstd frame's byte and bit that announce a checksum
HEADER_BYTES = 128  # of every .npy we write: NumPy pads to leave room for a longer first axis
JSON_FIELDS = (
    "task", "level", "instruction", "match", "player", "segment", "policy", "opponent", "rating",
    "opponent_rating", "sampling", "sampling_probability", "round", "outcome", "seed",
    "terminated", "truncated", "cause", "completion_step", "final_state_xxh3",
)  # fmt: skip

_local = threading.local()  # zstd contexts are not thread-safe, and reuse halves small frames' cost


def encode_array(array: NDArray[Any]) -> bytes:
    """One zstd frame (content size and checksum on) of the array as .npy."""
    data = b"".join((npy_header(array.dtype, array.shape), np.ascontiguousarray(array).data))
    return _compressor(frames=array.dtype == np.uint8 and array.ndim == 4).compress(data)


def _compressor(*, frames: bool) -> zstandard.ZstdCompressor:
    """For frames (T, H, W, 3), or for anything else."""
    name = "frames" if frames else "numbers"
    if not hasattr(_local, name):
        parameters = zstandard.ZstdCompressionParameters.from_level(
            LEVEL, write_checksum=True, write_content_size=True, **(SEARCH if frames else {})
        )
        setattr(_local, name, zstandard.ZstdCompressor(compression_params=parameters))
    return cast(zstandard.ZstdCompressor, getattr(_local, name))


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    return cast(zstandard.ZstdDecompressor, _local.decompressor)


def decode_array(data: bytes | memoryview, where: str, max_bytes: int = 1 << 30) -> NDArray[Any]:
    """The array of one `.npy.zst` member, read-only.

    Raises CorruptionError, naming `where`, for damaged frames, pickled (object) arrays and
    frames that claim more than `max_bytes`.
    """
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= max_bytes:
            raise CorruptionError(f"{where}: frame of {size} bytes, at most {max_bytes} expected")
        plain = _decompressor().decompress(data)
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


@lru_cache(maxsize=1024)
def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What numpy.save writes before a C-ordered array: HEADER_BYTES for all of ours."""
    header = io.BytesIO()
    fields = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(header, fields)
    return header.getvalue()


def decode_into(
    data: memoryview, room: NDArray[np.uint8], values: NDArray[Any], where: str
) -> None:
    """Decompress a verified `.npy.zst` member so that its array comes to lie in `values`.

    `values` are bytes of `room`, after the HEADER_BYTES at its start that take the .npy header.
    The header is compared, not parsed, which takes 40 times as long; only where it differs is the
    array decoded by itself and copied. Raises CorruptionError, naming `where`, for a damaged frame
    and for any other dtype or shape than that of `values`.
    """
    header = npy_header(values.dtype, values.shape)
    size = len(header) + values.nbytes
    try:
        if len(header) == HEADER_BYTES and zstandard.frame_content_size(data) == size:
            # all input at once, and room for all output: only then does zstd write to it directly
            frame = without_checksum(data)
            reader = _decompressor().stream_reader(frame, read_size=len(frame))
            if reader.readinto(room[:size]) == size and room[:HEADER_BYTES].tobytes() == header:
                return
    except zstandard.ZstdError as error:
        raise CorruptionError(f"{where}: {error}") from error
    array = decode_array(data, where, max_bytes=size + HEADER_BYTES)
    if array.shape != values.shape or array.dtype != values.dtype:
        raise CorruptionError(
            f"{where}: expected {values.dtype}{values.shape}, found {array.dtype}{array.shape}"
        )
    values[:] = array


def without_checksum(frame: memoryview) -> bytearray:
    """The same zstd frame, which does not ask to be verified (RFC 8878, 3.1.1).

    Its checksum is of the decompressed bytes, 12 kB a step, and takes a quarter of the time; the
    segment's xxh3 has vouched for the compressed ones.
    """
    copy = bytearray(frame)
    if len(copy) > FRAME_DESCRIPTOR + 4 and copy[FRAME_DESCRIPTOR] & CHECKSUM_FLAG:
        copy[FRAME_DESCRIPTOR] &= ~CHECKSUM_FLAG
        del copy[-4:]
    return copy


def encode_episode(episode: Episode) -> dict[str, bytes]:
    """Tar member suffix → bytes, in stored order: json first, pixels last."""
    return {"json": encode_fields(fields_of(episode))} | encode_arrays(episode)


def encode_arrays(episode: Episode) -> dict[str, bytes]:
    """The members of its arrays, pixels last."""
    return {f"{name}.npy.zst": encode_array(getattr(episode, name)) for name in ARRAYS}


def fields_of(episode: Episode) -> dict[str, Any]:
    """What its json holds."""
    fields = {name: getattr(episode, name) for name in JSON_FIELDS}
    if episode.final_state_xxh3 is not None:  # datasets overflows on integers above 2^63
        fields["final_state_xxh3"] = f"{episode.final_state_xxh3:016x}"
    return fields


def encode_fields(fields: Mapping[str, Any]) -> bytes:
    """The json member."""
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_episode(members: Mapping[str, bytes | memoryview], where: str) -> Episode:
    """Inverse of `encode_episode`; raises CorruptionError for a missing or damaged member."""
    try:
        fields = json.loads(bytes(members["json"]))
        if fields["final_state_xxh3"] is not None:
            fields["final_state_xxh3"] = int(fields["final_state_xxh3"], 16)
        fields = ADDED | fields
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
        if header[156:157] in REGULAR:  # others are pax records, with times we have no use for
            yield header[:100].rstrip(b"\0").decode(), data[start : start + size]
        position = start + size + (-size % TAR_BLOCK)


def sample_members(piece: memoryview, key: str, place: str) -> dict[str, memoryview]:
    """A sample's members by suffix; CorruptionError if there are others in its stretch of tar."""
    members: dict[str, memoryview] = {}
    for name, content in split_members(piece, place):
        prefix, _, suffix = name.rpartition("/")[2].partition(".")
        if prefix != key or suffix in members:
            raise CorruptionError(f"{place}: found member {name}")
        members[suffix] = content
    return members


def decode_sample(piece: memoryview, key: str, place: str) -> Episode:
    """The episode in a stretch of tar members; CorruptionError if they are not all of `key`."""
    return decode_episode(sample_members(piece, key, place), place)


def decode(key: str, data: bytes) -> Any:
    """Decode hook for webdataset: `WebDataset(urls).decode(decode)` yields NumPy arrays."""
    return decode_array(data, key) if key.endswith(".npy.zst") else None
