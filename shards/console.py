"""What the four commands share: parsing, one-line errors, progress."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TypeVar

import tyro
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from .errors import PalaestraError

Arguments = TypeVar("Arguments")
PLAIN_INTERVAL_S = 10.0  # between progress lines when the output is no terminal
SPEED_PERIOD_S = 3600.0  # over which a bar's rate is measured, though at most 1,000 advances

console = Console(highlight=False, soft_wrap=True)


def run_command(
    kind: type[Arguments],
    command: Callable[[Arguments], int | None],
    prog: str,
    argv: Sequence[str] | None = None,
    error_code: int = 1,
    interrupted: str = "goes on from here",
) -> None:
    """Parse `kind` from the command line, run `command`, exit with its code.

    A PalaestraError becomes one line on stderr and `error_code`; `--debug` shows the traceback.
    `interrupted` says what the same command does after ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    arguments = tyro.cli(kind, prog=prog, args=words)
    try:
        code = command(arguments) or 0
    except PalaestraError as error:
        if debug:
            raise
        fail(prog, str(error))
        code = error_code
    except KeyboardInterrupt:
        fail(prog, f"interrupted; the same command {interrupted}")
        code = 130
    except OSError as error:
        if debug:
            raise
        fail(prog, str(error))  # a full disk, say: the message names the file
        code = error_code
    sys.exit(code)


def fit(table: Table) -> Table:
    """Give the table its full width where no terminal limits it: rich assumes 80 columns."""
    if not console.is_terminal:
        wide = console.options.update(width=10_000)
        table.width = console.measure(table, options=wide).maximum
    return table


def fail(prog: str, message: str) -> None:
    """Print a one-line error on stderr."""
    print(f"{prog}: error: {message}", file=sys.stderr, flush=True)


class Advance(Protocol):
    """Reports progress: units done since the last call, and a note to show."""

    def __call__(self, amount: float, note: str = "") -> None: ...


def no_progress(amount: float, note: str = "") -> None:
    """An Advance that says nothing."""


def duration(seconds: float) -> str:
    """`0.35 s`, `48 s`, `12.5 min`, `3.2 h`, and from three days on `4.1 days`."""
    for unit, length, least in (("days", 86400, 3), ("h", 3600, 1), ("min", 60, 1)):
        if seconds >= least * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def data_size(number: float) -> str:
    """Bytes as `3.1 MB`, `31 MB`, `3.1 GB` or `3.1 TB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1e6:,.{0 if number >= 1e7 else 1}f} MB"


@contextmanager
def progress(title: str, total: float, unit: str = "steps", start: float = 0) -> Iterator[Advance]:
    """A bar with rate and time left on a terminal; a plain line every ten seconds elsewhere.

    `start` units of the total were done before.
    """
    if not console.is_terminal or os.environ.get("TERM") == "dumb":
        plain = _PlainProgress(title, total, unit, start)
        yield plain
        plain.line()
        return
    # where the digits would fill a line the share has to do
    counts = [TextColumn("{task.completed:,.0f} of {task.total:,.0f}")] if total < 1e6 else []
    columns = (
        TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:>3.0f} %"),
        *counts, _Rate(unit), _Times(),
    )  # fmt: skip
    with _Bar(*columns, console=console, speed_estimate_period=SPEED_PERIOD_S) as bar:
        task = bar.add_task(title, total=total, note="")
        bar.update(task, completed=start)

        def advance(amount: float, note: str = "") -> None:
            bar.update(task, advance=amount, note=note or bar.tasks[0].fields["note"])

        yield advance


class _Bar(Progress):
    """A bar, and the note below it: one line would not fit into 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"]:
                yield Text(task.fields["note"])


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{_rate(task.finished_speed or task.speed or 0)} {self.unit}/s")


class _Times(ProgressColumn):
    max_refresh = 0.5  # seconds; digits that race cannot be read

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        elapsed, left = task.finished_time or task.elapsed or 0, task.time_remaining
        return Text(_clock(elapsed) + (f", {_clock(left)} left" if left else ""))


def _clock(seconds: float) -> str:
    """`0:12:30`; days in words."""
    return str(timedelta(seconds=int(seconds))) if seconds < 86400 else duration(seconds)


def _rate(value: float) -> str:
    """`12,345` or `0.034`."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


class _PlainProgress:
    def __init__(self, title: str, total: float, unit: str, start: float) -> None:
        self.title, self.total, self.unit, self.start = title, total, unit, start
        self.done, self.note = start, ""
        self.began = self.printed = time.monotonic()

    def __call__(self, amount: float, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        if time.monotonic() - self.printed >= PLAIN_INTERVAL_S:
            self.line()

    def line(self) -> None:
        """Print where it stands."""
        self.printed = time.monotonic()
        elapsed = self.printed - self.began
        rate = (self.done - self.start) / max(elapsed, 1e-9)
        left = f"{duration((self.total - self.done) / rate)} left" if rate else "nothing done yet"
        print(
            f"{self.title}: {self.done:,.0f} of {self.total:,.0f} {self.unit}, "
            f"{_rate(rate)} {self.unit}/s, {duration(elapsed)}, {left}"
            f"{', ' + self.note if self.note else ''}",
            flush=True,
        )
