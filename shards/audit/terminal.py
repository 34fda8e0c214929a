"""An audit on the terminal: totals, mixture, checks; the same words where it is no terminal."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl
from rich import box
from rich.markup import escape
from rich.table import Table

from ..console import console, fit
from .report import Report
from .summary import finest

MARKS = {True: "[green]pass[/]", False: "[bold red]FAIL[/]", None: "[yellow]open[/]"}
ROWS = 60  # of the mixture; where there are more, it is shown coarser


class Column(NamedTuple):
    """How a column of `summarise` shows; where a terminal is narrow, the highest `rank` goes."""

    name: str
    title: str
    form: str
    rank: int
    note: str = ""


COLUMNS = (
    Column("episodes", "episodes", ",", 2),
    Column("steps", "steps", ",", 0),
    Column("share", "share", ".1%", 0),
    Column("bytes_per_step", "bytes/step", ",.0f", 5),
    Column("success_rate", "success", ".1%", 0),
    Column("completion_p50", "done at", ",.0f", 1, "done at: median step of completion"),
    Column("return_mean", "return", ",.1f", 0, "return: mean of an episode"),
    Column("return_p05", "5 %", ",.1f", 3, "5, 50, 95 %: quantiles of the return"),
    Column("return_p50", "50 %", ",.1f", 3),
    Column("return_p95", "95 %", ",.1f", 3),
    Column("length_mean", "length", ",.0f", 4, "length: mean steps of an episode"),
    Column("saturation", "saturated", ".1%", 6, "saturated: of action entries, at -1 or 1"),
    Column("frozen", "frozen", ".1%", 6, "frozen: of frames up to completion, equal to the last"),
)


def print_report(report: Report) -> None:
    """Everything that fits."""
    totals = report.totals
    console.print(
        f"{report.url}: {totals['steps']:,} steps, {totals['segments']:,} segments, "
        f"{totals['episodes']:,} episodes in {totals['shards']:,} shards, "
        f"{totals['bytes']:,} bytes, {totals['bytes_per_step']:.0f} a step"
    )
    console.print(fit(_mixture(report.episodes)))
    checks = Table("", "check", "finding", box=box.SIMPLE_HEAD)
    for check in report.checks:
        checks.add_row(MARKS[check.passed], check.name, escape(check.finding))
    console.print(fit(checks))
    console.print(f"tars {report.verified.sentence(int(totals['segments']))}")
    if sizes := report.verified.bytes_per_step():
        shown = ", ".join(f"{name} {size:.3g}" for name, size in sizes.items())
        console.print(f"bytes per step: {shown}")
    failed = report.failed
    verdict = f"failed: {', '.join(failed)}" if failed else "no check failed"
    console.print(verdict, style="bold red" if failed else "green")


def _mixture(episodes: pl.DataFrame) -> Table:
    """All columns for which the console has room."""
    rows, by = finest(episodes, ROWS)
    wide = console.options.update(width=10_000)
    for rank in range(max(column.rank for column in COLUMNS), -1, -1):
        table = _table(rows, by, [column for column in COLUMNS if column.rank <= rank])
        if not console.is_terminal or console.measure(table, options=wide).maximum <= console.width:
            break
    return table


def _table(rows: pl.DataFrame, by: list[str], columns: list[Column]) -> Table:
    notes = "; ".join(column.note for column in columns if column.note)
    names = [name for name in by if name != "level"]
    table = Table(*names, box=box.SIMPLE_HEAD, caption=notes, caption_justify="left")
    for column in columns:
        table.add_column(column.title, justify="right")
    for row in rows.iter_rows(named=True):
        values = ((row[column.name], column.form) for column in columns)
        shown = ("–" if value is None else format(value, form) for value, form in values)
        level = f" {row['level']}" if "level" in row else ""
        words = [f"{row[name]}{level if name == 'task' else ''}" for name in names]
        table.add_row(*map(escape, words), *shown)
    return table
