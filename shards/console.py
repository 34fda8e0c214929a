"""What the four commands share: parsing, one-line errors, progress."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .errors import PalaestraError

Arguments = TypeVar("Arguments")
PLAIN_INTERVAL_S = 10.0  # between progress lines when the output is no terminal

console = Console(highlight=False, soft_wrap=True)


def run_command(
    kind: type[Arguments],
    command: Callable[[Arguments], int | None],
    prog: str,
    argv: Sequence[str] | None = None,
    error_code: int = 1,
) -> None:
    """Parse `kind` from the command line, run `command`, exit with its code.

    A PalaestraError becomes one line on stderr and `error_code`; `--debug` shows the traceback.
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
        fail(prog, "interrupted; the same command goes on from here")
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


@contextmanager
def progress(title: str, total: float, unit: str = "steps") -> Iterator[Advance]:
    """A bar with rate and time left on a terminal; a plain line every ten seconds elsewhere."""
    if not console.is_terminal or os.environ.get("TERM") == "dumb":
        plain = _PlainProgress(title, total, unit)
        yield plain
        plain.line()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, rate="", note="")

        def advance(amount: float, note: str = "") -> None:
            state = bar.tasks[0]
            rate = f"{state.speed or 0:,.0f} {unit}/s"
            bar.update(task, advance=amount, rate=rate, note=note or state.fields["note"])

        yield advance


class _PlainProgress:
    def __init__(self, title: str, total: float, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self.note = 0.0, ""
        self.start = self.printed = time.monotonic()

    def __call__(self, amount: float, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        if time.monotonic() - self.printed >= PLAIN_INTERVAL_S:
            self.line()

    def line(self) -> None:
        """Print where it stands."""
        self.printed = time.monotonic()
        elapsed = self.printed - self.start
        rate = self.done / max(elapsed, 1e-9)
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate else "nothing done yet"
        print(
            f"{self.title}: {self.done:,.0f} of {self.total:,.0f} {self.unit}, "
            f"{rate:,.0f} {self.unit}/s, {elapsed:.0f} s, {left}"
            f"{', ' + self.note if self.note else ''}",
            flush=True,
        )
