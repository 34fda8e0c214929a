"""`generate plan`: what a recipe will take, counted and measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..shards.console import console, data_size, duration, fit
from ..shards.errors import ConfigError
from .draft import STAND_IN, draft
from .measure import MEASURE_S, Cost, measure_all
from .tally import SUMS, Cell, Part, Row, choose, count, part_of, total
from .work import TRIES

LEVEL_S = 1.0  # levels are measured one by one if there is so much time for each
SHOWN = 10  # rows of a part
WHOLE = 0.995  # of the planned steps: with fewer, the table tells how many are written


@dataclass(frozen=True)
class Estimate:
    """A recipe's parts, and what a step of each of their cells costs."""

    url: str
    parts: tuple[Part, ...]
    missing: tuple[str, ...]
    """Names that need a `--set` before the policies that ask for them can be measured."""
    costs: Mapping[Cell, Cost]

    def total(self, what: str) -> float:
        """The sum of one of SUMS over all parts."""
        return sum(part.total(what) for part in self.parts)

    def hours(self, cores: int) -> float:
        """Of all parts, one after the other."""
        return sum(part.hours(cores) for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        parts = [asdict(part) | {what: part.total(what) for what in SUMS} for part in self.parts]
        measured = [cell._asdict() | asdict(cost) for cell, cost in self.costs.items()]
        totals = {what: self.total(what) for what in SUMS}
        return {
            "recipe": self.url, **totals, "parts": parts, "missing": list(self.missing),
            "measured": measured,
        }  # fmt: skip


def estimate(
    url: str, steps: int | None = None, part: str | None = None,
    values: Mapping[str, str] | None = None, allow_code: bool = False,
) -> Estimate:  # fmt: skip
    """Count what a recipe plans, in all its parts or one, and measure what that costs here.

    It takes ten to twenty seconds on two cores, fewer on more. Where a value is missing, a
    stand-in plays, and the network's time is left out. Raises what `load_recipe` raises
    otherwise, and what playing raises.
    """
    drafts = draft(url, steps, part, values or {}, allow_code)
    counted = [(each, count(each.recipe)) for each in drafts]
    playing = [(each.recipe, wave) for each, waves in counted for wave, _ in waves]
    cells = choose(playing, MEASURE_S * len(os.sched_getaffinity(0)) / LEVEL_S)
    with Console(stderr=True).status(f"measuring {len(cells)} pairs of task and policy"):
        costs = dict(zip(cells, measure_all(list(cells.values())), strict=True))
    parts = tuple(part_of(each, waves, costs) for each, waves in counted)
    missing = tuple(sorted({name for each in drafts for name in each.missing}))
    return Estimate(url, parts, missing, costs)


def check_cores(cores: Sequence[int]) -> None:
    """Raise ConfigError unless there can be so many."""
    for number in cores:
        if number < 1:
            raise ConfigError(f"--cores should be positive, is {number}")


def print_estimate(estimate: Estimate, cores: Sequence[int]) -> None:
    """What each behaviour takes, by part; the time by cores; and what that rests on."""
    console.print(fit(_table(estimate)))
    hours = Table("cores", box=box.SIMPLE_HEAD, pad_edge=False)
    for number in cores:
        hours.add_column(f"{number:,}", justify="right")
    hours.add_row("time", *(duration(3600 * estimate.hours(number)) for number in cores))
    console.print(fit(hours))
    for note in _notes(estimate):
        console.print(note, markup=False)


def _table(estimate: Estimate) -> Table:
    early = estimate.total("written") < WHOLE * estimate.total("steps")
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    titles = ("waves", "steps", *(["written"] if early else []), "segments", "B/step", "bytes")
    for title in (*titles, "steps/s"):
        table.add_column(title, justify="right", no_wrap=True)

    def add(label: str, of: Callable[[str], float], style: str = "") -> None:
        written = of("written")
        table.add_row(
            escape(label), f"{of('waves'):,}", f"{of('steps'):,}",
            *([f"{written / of('steps'):.0%}"] if early else []),
            f"{of('segments'):,.0f}", f"{of('bytes') / written:,.0f}", data_size(of("bytes")),
            f"{written / of('seconds'):,.0f}", style=style,
        )  # fmt: skip

    for part in estimate.parts:
        for label, rows in _shown(part.rows):
            add(label, partial(total, rows))
        shards = "1 shard" if part.shards == 1 else f"{part.shards:,} shards"
        add(f"{part.name}, {shards}", part.total, "bold")
        table.add_section()
    if len(estimate.parts) > 1:
        add("all parts", estimate.total, "bold")
    return table


def _shown(rows: Sequence[Row]) -> Iterator[tuple[str, Sequence[Row]]]:
    """The largest rows in the recipe's order, and the rest as one."""
    largest = sorted(rows, key=lambda row: row.steps, reverse=True)[: SHOWN - 1]
    rest = [row for row in rows if row not in largest]
    for row in rows:
        if row in largest or len(rest) == 1:
            rival = f" vs {row.opponent}" if row.opponent else ""
            yield f"{row.policy}{rival}{' *' if row.unknown else ''}", [row]
    if len(rest) > 1:
        star = " *" if any(row.unknown for row in rest) else ""
        yield f"{len(rest)} others{star}", rest


def _notes(estimate: Estimate) -> Iterator[str]:
    if estimate.missing:
        flags = " ".join(f"--set {name}=…" for name in estimate.missing)
        yield (
            f"* not measured: {flags}; {STAND_IN.label} played instead, and the time is without "
            "their networks'"
        )
    if estimate.total("written") < WHOLE * estimate.total("steps"):
        yield "steps: planned, at most; written: those left by episodes that end early"
    if any(cell.keep == "success" for cell in estimate.costs):
        yield 'steps/s: on one core, of what is kept: with keep = "success" more is played'
    else:
        yield "steps/s: written, on one core"
    for cell in (cell for cell, cost in estimate.costs.items() if cost.tries > TRIES):
        yield (
            f"{cell.task} {cell.level}, {cell.policy}: not one in {TRIES} succeeds, so that its "
            "shards will fail"
        )
    devices = sorted({cost.device for cost in estimate.costs.values()} - {""})
    if devices:
        yield f"learned policies: measured in one process, on {', '.join(devices)}"
    yield (
        "time: as if linear in cores, with one process on each (two on two cores do 1.9 times "
        "one's work), at most one a shard"
    )
    apart = ", learned policies apart" if devices or estimate.missing else ""
    memory = max(part.memory for part in estimate.parts)
    yield f"memory: about {data_size(memory)} a process{apart}"
    kinds = {cell._replace(level=0) for cell in estimate.costs}
    levels = "every level" if len(kinds) < len(estimate.costs) else "the middle one of its levels"
    pairs = "pair" if len(kinds) == 1 else "pairs"
    yield f"measured here: {len(kinds)} {pairs} of task and policy, each at {levels}"
