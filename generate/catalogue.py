"""The suite as a table: what tasks there are, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.table import Table

from ..shards.console import console, fit
from .registry import make_task, task_classes
from .slots import ACTION_SIZE, SLOTS
from .task import Task
from .world import World

HELD_OUT = "†"
NARROW = 100  # columns; a table would leave the instructions too few


@dataclass(frozen=True)
class Row:
    """One task, as shown."""

    task: str
    levels: str
    players: str
    steps: str
    state: str
    actions: str
    instructions: tuple[str, ...]


def print_tasks() -> None:
    """One row per task; the same words where it is no terminal, or a narrow one."""
    rows = [task_row(name, cls) for name, cls in task_classes().items()]
    if console.is_terminal and console.width < NARROW:
        for row in rows:
            players = "player" if row.players == "1" else "players"
            console.print(
                f"[bold]{row.task}[/] {row.levels}: {row.players} {players}, {row.steps} steps, "
                f"state {row.state}, actions {row.actions}", *row.instructions, sep="\n  ",
            )  # fmt: skip
    else:
        console.print(fit(_table(rows)))
    console.print(
        f"state, actions: entries in use, of {sum(slot.size for slot in SLOTS)} and {ACTION_SIZE}\n"
        f"{HELD_OUT} held out: never in a training corpus"
    )


def task_row(name: str, cls: type[Task]) -> Row:
    """What the table says of a task."""
    levels = range(1, cls.levels + 1)
    sizes = {state_in_use(name, level) for level in levels}
    told = [text for level in levels for text in make_task(name, level).instructions()]
    return Row(
        name, level_names(cls), str(cls.players), f"{cls.horizon:,}",
        "–".join(str(size) for size in sorted({min(sizes), max(sizes)})), str(cls.action_size),
        tuple(dict.fromkeys(told)),
    )  # fmt: skip


def _table(rows: Sequence[Row]) -> Table:
    table = Table("task", "levels", box=box.SIMPLE_HEAD)
    for title in ("players", "steps", "state", "actions"):
        table.add_column(title, justify="right")
    table.add_column("instruction")
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        *short, instructions = vars(row).values()
        table.add_row(*short, "\n".join(instructions))
    return table


def level_names(cls: type[Task]) -> str:
    """`1 2 3†`."""
    levels = range(1, cls.levels + 1)
    return " ".join(f"{n}{HELD_OUT if n in cls.held_out else ''}" for n in levels)


def state_in_use(task: str, level: int) -> int:
    """Entries of the state vector that a task fills at a level."""
    world = World(task, level, 1, pixels=False)
    world.reset([0])
    untouched = np.float32(np.nan)
    slots = {slot.name: np.full((world.nlane, slot.size), untouched) for slot in SLOTS}
    world.task.observe(slots)
    return sum(int((~np.isnan(values[0])).sum()) for values in slots.values())
