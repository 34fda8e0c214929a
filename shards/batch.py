"""Micro-batches as arrays, laid out so that zstd writes into them and nothing is copied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .codec import HEADER_BYTES, decode_into
from .errors import CorruptionError
from .schema import INSTRUCTION_BYTES, SEGMENT_STEPS, Schema


@dataclass(frozen=True)
class SegmentBatch:
    """b segments padded to 256 steps, T = 256; padding is zero and False."""

    state: NDArray[np.float32]
    """(b, T, state_size)"""
    action: NDArray[np.float32]
    """(b, T, action_size)"""
    reward: NDArray[np.float32]
    """(b, T)"""
    pixels: NDArray[np.uint8] | None
    """(b, T, H, H, 3), or None for a reader that leaves them out"""
    steps: NDArray[np.int64]
    """(b,) valid steps; 0 for a padding slot"""
    terminated: NDArray[np.bool_]
    """(b,) whether the last valid step ended the episode for good"""
    instruction: NDArray[np.uint8]
    """(b, 64) UTF-8, zero-padded"""
    behaviour: NDArray[np.int64]
    """(b,) index into the reader's `behaviours`"""
    top: NDArray[np.bool_]
    """(b,) whether the source's `top` holds; True where it has none"""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(b, T)"""
        return np.arange(SEGMENT_STEPS) < self.steps[:, None]


class BatchArrays:
    """The memory of one batch; each slot is filled once, by any thread."""

    def __init__(self, schema: Schema, slots: int, pixels: bool) -> None:
        size = schema.image_size
        shapes: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            "state": ((schema.state_size,), np.float32),
            "action": ((schema.action_size,), np.float32),
            "reward": ((), np.float32),
        }
        if pixels:
            shapes["pixels"] = ((size, size, 3), np.uint8)
        self._rows = {name: _Rows(slots, *shape) for name, shape in shapes.items()}
        self._slots = slots
        self._filled: set[int] = set()
        self._steps = np.zeros(slots, np.int64)
        self._terminated = np.zeros(slots, bool)
        self._instruction = np.zeros((slots, INSTRUCTION_BYTES), np.uint8)
        self._behaviour = np.zeros(slots, np.int64)
        self._top = np.zeros(slots, bool)

    def fill(
        self, slot: int, members: dict[str, memoryview], steps: int, where: str, *,
        terminated: bool, instruction: NDArray[np.uint8], behaviour: int, top: bool,
    ) -> None:  # fmt: skip
        """Decode a sample's members, named by suffix, into a slot and zero what lies behind them.

        Raises CorruptionError, naming `where`, for a member that is missing or not as expected.
        """
        for name, rows in self._rows.items():
            member = members.get(f"{name}.npy.zst")
            if member is None:
                raise CorruptionError(f"{where}: member {name}.npy.zst is missing")
            rows.fill(slot, member, steps, f"{where}.{name}")
        self._steps[slot], self._terminated[slot] = steps, terminated
        self._instruction[slot], self._behaviour[slot] = instruction, behaviour
        self._top[slot] = top
        self._filled.add(slot)

    def batch(self) -> SegmentBatch:
        """The arrays; slots that were not filled are padding."""
        for slot in set(range(self._slots)) - self._filled:
            for rows in self._rows.values():
                rows.values[slot] = 0
        arrays = {name: rows.values for name, rows in self._rows.items()}
        return SegmentBatch(
            **{"pixels": None, **arrays},  # type: ignore[arg-type]
            steps=self._steps, terminated=self._terminated, instruction=self._instruction,
            behaviour=self._behaviour, top=self._top,
        )  # fmt: skip


class _Rows:
    """An array of segments, each behind room for the .npy header with which it decompresses.

    Decompressing a segment's frame straight to where it belongs saves a copy of its pixels, 3 MB,
    at the price of rows that are 128 bytes apart: `values` is not contiguous as a whole.
    """

    def __init__(self, slots: int, step: tuple[int, ...], dtype: type[np.generic]) -> None:
        shape = (SEGMENT_STEPS, *step)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._room = np.empty((slots, HEADER_BYTES + size), np.uint8)
        self.values = self._room[:, HEADER_BYTES:].view(dtype).reshape(slots, *shape)

    def fill(self, slot: int, member: memoryview, steps: int, where: str) -> None:
        """Decompress `steps` steps into a slot, and zero its rest."""
        decode_into(member, self._room[slot], self.values[slot][:steps], where)
        self.values[slot][steps:] = 0
