"""What an audit found, and how it prints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich import box
from rich.markup import escape
from rich.table import Table

from .console import console, fit

CELL = ["task", "level", "policy"]  # the mixture's unit
MARKS = {True: "[green]pass[/]", False: "[bold red]FAIL[/]", None: "[yellow]open[/]"}


@dataclass(frozen=True)
class Check:
    """One named finding; `passed` is None where the corpus leaves nothing to judge yet."""

    name: str
    passed: bool | None
    finding: str


@dataclass(frozen=True)
class Report:
    """What an audit found."""

    url: str
    deep: bool
    totals: dict[str, float]
    checks: tuple[Check, ...]
    table: pl.DataFrame
    """By task × level × policy: episodes, steps and what came of them."""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a mean that is not a number is null."""
        rows = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
            for row in self.table.to_dicts()
        ]
        return {
            "url": self.url, "passed": self.passed, "deep": self.deep, "totals": self.totals,
            "checks": [vars(check) for check in self.checks], "table": rows,
        }  # fmt: skip


def judge(name: str, faults: list[str], good: str, of: str = "") -> Check:
    """Passed with `good`, or failed with the first fault and their number."""
    if not faults:
        return Check(name, True, good)
    more = f" ({len(faults):,}{' of ' + of if of else ''} in all)" if len(faults) > 1 else ""
    return Check(name, False, faults[0] + more)


def print_report(report: Report) -> None:
    """Totals, the mixture and the checks as tables; the same words where it is no terminal."""
    totals = report.totals
    console.print(
        f"{report.url}: {totals['steps']:,} steps, {totals['segments']:,} segments, "
        f"{totals['episodes']:,} episodes in {totals['shards']:,} shards, "
        f"{totals['bytes']:,} bytes, {totals['bytes_per_step']:.0f} a step"
    )
    console.print(fit(_mixture_table(report.table)))
    checks = Table("", "check", "finding", box=box.SIMPLE_HEAD)
    for check in report.checks:
        checks.add_row(MARKS[check.passed], check.name, escape(check.finding))
    console.print(fit(checks))
    failed = [check.name for check in report.checks if check.passed is False]
    verdict = f"failed: {', '.join(failed)}" if failed else "no check failed"
    console.print(verdict, style="bold red" if failed else "green")


def _mixture_table(rows: pl.DataFrame) -> Table:
    table = Table("task", "level", "policy", box=box.SIMPLE_HEAD)
    titles = ("episodes", "steps", "share", "return", "success", "median completion", "saturation")
    for title in titles:
        table.add_column(title, justify="right")
    for row in rows.iter_rows(named=True):
        median = row["median_completion_step"]
        table.add_row(
            row["task"], str(row["level"]), escape(row["policy"]), f"{row['episodes']:,}",
            f"{row['steps']:,}", f"{row['share']:.1%}", f"{row['mean_return']:.3f}",
            f"{row['success_rate']:.1%}", "–" if median is None else f"{median:g}",
            f"{row['saturation']:.1%}",
        )  # fmt: skip
    return table
