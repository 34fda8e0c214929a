"""A recorded episode as arrays of our schema: pure functions of the mapping and its columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...shards.schema import INSTRUCTION_BYTES, Schema
from ..rollout import COMPLETION_STEPS
from .mapping import Action, ColumnMapping, Number, Reward, Success, Text
from .mapping_check import check_instruction, check_task
from .source import Recorded, refuse

TOLERANCE = 1e-6  # by which scaled actions and rewards may leave their range: rounding

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Demonstration:
    """An episode but for its frames; T steps."""

    task: str
    level: int
    instruction: str
    terminated: bool
    """Whether its last step really ended it; else the recording was cut off there."""
    state: NDArray[np.float32]
    """(T, state_size)"""
    action: NDArray[np.float32]
    """(T, action_size)"""
    reward: NDArray[np.float32]
    """(T,)"""
    success: NDArray[np.uint8]
    """(T,)"""


def convert(recorded: Recorded, mapping: ColumnMapping, schema: Schema) -> Demonstration:
    """Raises CorpusError naming episode, row and column of what the mapping cannot take.

    ConfigError or UnknownNameError for a task, level or instruction that may not be in a corpus.
    """
    task = _told(recorded, mapping.task, "text", str)
    level = _told(recorded, mapping.level, "a whole number", int)
    check_task(task, level, recorded.where)
    instruction = _told(recorded, mapping.instruction, "text", str)
    if mapping.instruction.cut:
        instruction = instruction.encode()[:INSTRUCTION_BYTES].decode(errors="ignore")
    check_instruction(instruction, recorded.where)
    success = make_success(recorded, mapping.success)
    return Demonstration(
        task, level, instruction, make_terminated(recorded, mapping),
        make_state(recorded, mapping, schema), make_action(recorded, mapping.action, schema),
        make_reward(recorded, mapping.reward, success, schema.reward_range), success,
    )  # fmt: skip


def _told(
    recorded: Recorded, table: Text | Number, expected: str, kind: type[str] | type[int]
) -> Any:
    """The constant, or what the column says at every step."""
    if table.column is None:
        return table.value
    values = recorded.values(table.column).ravel().tolist()
    plain = [value.decode() if isinstance(value, bytes) else value for value in values]
    if len(plain) != recorded.steps or type(plain[0]) is not kind:
        refuse(recorded, 0, table.column, expected, repr(plain[0]))
    odd = next((i for i, value in enumerate(plain) if value != plain[0]), None)
    if odd is not None:
        expected = f"{plain[0]!r} throughout the episode"
        refuse(recorded, odd, table.column, expected, repr(plain[odd]))
    return plain[0]


def numbers(recorded: Recorded, column: str, entries: tuple[int, ...] = ()) -> Floats:
    """Finite numbers (T, n): those entries of a column, in their order, or all of them."""
    values = recorded.values(column)
    if values.dtype.kind not in "fiub" or values.ndim > 2 or not values.size:
        found = f"{values.dtype}{list(values.shape[1:])}"
        refuse(recorded, 0, column, "a number or a list of numbers", found)
    table = values.reshape(recorded.steps, -1).astype(np.float64)
    if entries and max(entries) >= table.shape[1]:
        refuse(recorded, 0, column, f"an entry {max(entries)}", f"{table.shape[1]} entries")
    chosen = table[:, list(entries)] if entries else table
    _require(np.isfinite(chosen), chosen, recorded, column, "finite numbers")
    return chosen


def _require(
    good: NDArray[np.bool_], values: Floats, recorded: Recorded, column: str, expected: str
) -> None:
    """Refuse the first value (T, n) that is not good."""
    if not good.all():
        step, entry = (int(i) for i in np.argwhere(~good)[0])
        refuse(recorded, step, column, expected, f"{values[step, entry]:g} (its number {entry})")


def require_same_widths(recorded: Recorded, mapping: ColumnMapping, widths: dict[str, int]) -> None:
    """Refuse another number of entries than the first episode's, kept in `widths` by column."""
    for column in sorted({mapping.action.column, *(t.column for t in mapping.state.values())}):
        found = recorded.values(column)[:1].size
        if found != widths.setdefault(column, found):
            expected = f"{widths[column]} entries as in the episodes before"
            refuse(recorded, 0, column, expected, found)


def make_state(recorded: Recorded, mapping: ColumnMapping, schema: Schema) -> NDArray[np.float32]:
    """(T, state_size); what no table of the mapping fills is zero."""
    state = np.zeros((recorded.steps, schema.state_size), np.float32)
    places = schema.slices()
    for slot, table in mapping.state.items():
        place = places[slot]
        values = numbers(recorded, table.column, table.entries)
        room = place.stop - place.start
        if values.shape[1] > room:
            expected = f"at most {room} entries for slot {slot!r}"
            refuse(recorded, 0, table.column, expected, values.shape[1])
        with np.errstate(over="ignore"):  # found on the next line
            scaled = (values * table.scale).astype(np.float32)
        _require(np.isfinite(scaled), values, recorded, table.column, "numbers that float32 holds")
        state[:, place.start : place.start + values.shape[1]] = scaled
    return state


def make_action(recorded: Recorded, table: Action, schema: Schema) -> NDArray[np.float32]:
    """(T, action_size) in [-1, 1]; those that the mapping does not fill are zero."""
    values, size = numbers(recorded, table.column, table.entries), len(table.low)
    if values.shape[1] != size:
        expected = f"{size} entries, as low and high have"
        refuse(recorded, 0, table.column, expected, values.shape[1])
    low, high = np.array(table.low), np.array(table.high)
    scaled = 2 * (values - low) / (high - low) - 1
    if not table.clip:
        good = np.abs(scaled) <= 1 + TOLERANCE
        expected = "numbers from low to high (clip = true clips them)"
        _require(good, values, recorded, table.column, expected)
    action = np.zeros((recorded.steps, schema.action_size), np.float32)
    action[:, :size] = np.clip(scaled, -1, 1)
    return action


def make_reward(
    recorded: Recorded, table: Reward | None, success: NDArray[np.uint8],
    reward_range: tuple[float, float],
) -> NDArray[np.float32]:  # fmt: skip
    """(T,) in reward_range."""
    if table is None:
        return success.astype(np.float32)
    low, high = reward_range
    values = _single(numbers(recorded, table.column), recorded, table.column)
    scaled = values
    if table.low is not None and table.high is not None:
        scaled = low + (values - table.low) * (high - low) / (table.high - table.low)
    allowed = TOLERANCE * (high - low)
    good = (scaled >= low - allowed) & (scaled <= high + allowed)
    expected = f"a reward that becomes {low:g} to {high:g}"
    _require(good[:, None], values[:, None], recorded, table.column, expected)
    # not beyond the range where float32 holds its ends only nearly
    bottom, top = (np.float32(end) for end in reward_range)
    bottom = np.nextafter(bottom, np.float32(np.inf)) if bottom < low else bottom
    top = np.nextafter(top, np.float32(-np.inf)) if top > high else top
    return np.clip(scaled.astype(np.float32), bottom, top)


def _single(values: Floats, recorded: Recorded, column: str) -> Floats:
    """(T,) of (T, 1)."""
    if values.shape[1] != 1:
        refuse(recorded, 0, column, "one number", f"{values.shape[1]} entries")
    return values[:, 0]


def flags(recorded: Recorded, column: str) -> NDArray[np.bool_]:
    """(T,) of a column of booleans, or of 0 and 1."""
    values = numbers(recorded, column)
    _require((values == 0) | (values == 1), values, recorded, column, "true or false, 1 or 0")
    return _single(values, recorded, column) > 0


def make_success(recorded: Recorded, table: Success) -> NDArray[np.uint8]:
    """(T,) as the column says, or as is assumed."""
    success = np.zeros(recorded.steps, np.uint8)
    if table.column is not None:
        success[:] = flags(recorded, table.column)
    elif table.assume == "end":
        success[-COMPLETION_STEPS:] = 1
    return success


def make_terminated(recorded: Recorded, mapping: ColumnMapping) -> bool:
    """Whether the last step is a real ending; CorpusError where an earlier one ends the episode.

    What is both terminated and truncated is terminated.
    """
    if mapping.truncated is not None:
        _ends(recorded, mapping.truncated.column)
    return mapping.terminated is not None and _ends(recorded, mapping.terminated.column)


def _ends(recorded: Recorded, column: str) -> bool:
    """Whether the column is true at the last step; it may be at no other."""
    ended = flags(recorded, column)
    if ended[:-1].any():
        step = int(np.flatnonzero(ended)[0])
        expected = f"true at the last step of {recorded.steps} only"
        refuse(recorded, step, column, expected, "true")
    return bool(ended[-1])
