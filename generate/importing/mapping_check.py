"""What can be known to be wrong with a mapping before its source is opened."""

from __future__ import annotations

import math
import re

from ...shards.errors import ConfigError, UnknownNameError
from ...shards.schema import INSTRUCTION_BYTES
from ..recipe_check import LIMITS
from ..registry import check_level, task_class, task_classes
from ..slots import ACTION_SIZE, SLOTS
from .mapping import ASSUMED, FITS, FORMATS, Action, ColumnMapping, Entries, Number, Reward, Text

NEW_TASK = re.compile(r"[\w.-]+/[\w./-]+")


def check(mapping: ColumnMapping, where: str) -> None:
    """Raise a ConfigError that names the first key that cannot be met."""
    if not mapping.name:
        raise ConfigError(f"{where}: name should not be empty")
    for kind, value, known, key in (
        ("format", mapping.source.format, FORMATS, "source"),
        ("value of assume", mapping.success.assume, ASSUMED, "success"),
        ("value of fit", mapping.pixels.fit if mapping.pixels else "crop", FITS, "pixels"),
    ):
        if value not in known:
            raise UnknownNameError(kind, value, known, f"{where}: {key}")
    for name in ("image_size", "shard_steps"):
        value, (low, high) = getattr(mapping, name), LIMITS[name]
        if not low <= value <= high:
            raise ConfigError(f"{where}: {name} should be from {low:,} to {high:,}, is {value:,}")
    if not mapping.policy or not mapping.policy.isprintable():
        raise ConfigError(f"{where}: policy should be a name, is {mapping.policy!r}")
    _check_told(mapping, where)
    _check_state(mapping.state, where)
    _check_action(mapping.action, f"{where}: action")
    _check_reward(mapping, where)


def check_task(task: str, level: int, where: str) -> None:
    """Raise ConfigError or UnknownNameError unless a corpus may hold demonstrations of it."""
    if task not in task_classes() and NEW_TASK.fullmatch(task):
        if not 1 <= level < 2**31:
            raise ConfigError(f"{where}: level should be positive, is {level}")
        return
    cls = task_class(task, f"{where} (a name of your own has a slash, as in `lab/fold`)")
    check_level(cls, level, where)
    if cls.players > 1:
        raise ConfigError(f"{where}: {task} is a match of two players, which cannot be imported")
    if level in cls.held_out:
        raise ConfigError(f"{where}: {task} level {level} is held out of training")


def check_instruction(text: str, where: str) -> None:
    """Raise ConfigError if it is longer than a model reads."""
    if (size := len(text.encode())) > INSTRUCTION_BYTES:
        raise ConfigError(
            f"{where}: instruction: expected at most {INSTRUCTION_BYTES} bytes, found {size}; "
            "cut = true cuts it"
        )


def _check_told(mapping: ColumnMapping, where: str) -> None:
    tables: dict[str, Text | Number] = {
        "task": mapping.task, "level": mapping.level, "instruction": mapping.instruction,
    }  # fmt: skip
    for key, table in tables.items():
        if (table.value is None) == (table.column is None):
            raise ConfigError(f"{where}: {key}: expected either value or column")
    if mapping.task.value is not None and mapping.level.value is not None:
        check_task(mapping.task.value, mapping.level.value, f"{where}: task")
    if mapping.instruction.value is not None and not mapping.instruction.cut:
        check_instruction(mapping.instruction.value, where)


def _check_state(state: dict[str, Entries], where: str) -> None:
    sizes = {slot.name: slot.size for slot in SLOTS}
    for name, table in state.items():
        key = f"{where}: state.{name}"
        if name not in sizes:
            raise UnknownNameError("slot", name, sizes, f"{where}: state")
        _check_entries(table.entries, sizes[name], key)
        if not math.isfinite(table.scale):
            raise ConfigError(f"{key}: scale should be finite, is {table.scale}")


def _check_entries(entries: tuple[int, ...], room: int, key: str) -> None:
    if any(entry < 0 for entry in entries):
        raise ConfigError(f"{key}: entries should not be negative, are {list(entries)}")
    if len(entries) > room:
        raise ConfigError(f"{key}: expected at most {room} entries, found {len(entries)}")


def _check_action(action: Action, key: str) -> None:
    _check_entries(action.entries, ACTION_SIZE, key)
    size = len(action.low)
    if not 1 <= size <= ACTION_SIZE or len(action.high) != size:
        raise ConfigError(
            f"{key}: expected 1 to {ACTION_SIZE} of low and as many of high, "
            f"found {size} and {len(action.high)}"
        )
    if action.entries and len(action.entries) != size:
        raise ConfigError(f"{key}: expected low of {len(action.entries)} entries, found {size}")
    for i, (low, high) in enumerate(zip(action.low, action.high, strict=True)):
        _check_range(low, high, f"{key}: entry {i}")


def _check_range(low: float, high: float, key: str) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{key}: expected a finite low below high, found {low:g} and {high:g}")


def _check_reward(mapping: ColumnMapping, where: str) -> None:
    _check_range(*mapping.reward_range, f"{where}: reward_range")
    reward = mapping.reward
    if reward is None:
        low, high = mapping.reward_range
        if not low <= 0 < 1 <= high:
            raise ConfigError(f"{where}: reward_range should hold 0 and 1, what success is worth")
        return
    _check_scale(reward, f"{where}: reward")


def _check_scale(reward: Reward, key: str) -> None:
    if (reward.low is None) != (reward.high is None):
        raise ConfigError(f"{key}: expected both of low and high, or neither")
    if reward.low is not None and reward.high is not None:
        _check_range(reward.low, reward.high, key)
