"""What a corpus is expected to be: bounds in a TOML file, each of which becomes a check."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from .. import storage
from ..config import parse
from ..errors import ConfigError
from .report import CELL, Check, Tally, judge
from .summary import summarise


@dataclass(frozen=True)
class Range:
    """`{ min = 0.9 }`, `{ max = 0.1 }` or both; the ends belong to it."""

    min: float = -math.inf
    max: float = math.inf

    def __str__(self) -> str:
        """As a finding says it: `at least 0.9`."""
        low = [f"at least {_number(self.min)}"] if self.min > -math.inf else []
        high = [f"at most {_number(self.max)}"] if self.max < math.inf else []
        return " and ".join(low + high)


def _number(value: float) -> str:
    whole = math.isfinite(value) and value == round(value)
    return f"{value:,.0f}" if whole else f"{value:.4g}"


@dataclass(frozen=True)
class Bounds:
    """Bounds on columns of the audit's table, which have the same names."""

    episodes: Range | None = None
    """Of all players."""
    segments: Range | None = None
    steps: Range | None = None
    bytes_per_step: Range | None = None
    """In the tars, headers included."""
    success_rate: Range | None = None
    """Share of the episodes that were completed."""
    return_mean: Range | None = None
    """Return of an episode; p05, p50 and p95 are the quantiles at 5, 50 and 95 %."""
    return_p05: Range | None = None
    return_p50: Range | None = None
    return_p95: Range | None = None
    length_mean: Range | None = None
    """Steps of an episode."""
    completion_p50: Range | None = None
    """Step by which half of the completed episodes were completed."""
    saturation: Range | None = None
    """Share of the action entries at -1 or 1."""
    frozen: Range | None = None
    """Share of the frames, up to completion, that equal the one before."""


@dataclass(frozen=True)
class CellBounds(Bounds):
    """Bounds on every task × level × policy that it selects, each by itself; there must be one."""

    task: str | None = None
    """Without a task, level or policy it selects all of them."""
    level: int | None = None
    policy: str | None = None
    """As the table names it, noise included: `expert+noise0.4`."""
    share: Range | None = None
    """Of all steps."""

    def __str__(self) -> str:
        """The selection in words."""
        chosen = {"": self.task, "level ": self.level, "policy ": self.policy}
        return " ".join(f"{k}{v}" for k, v in chosen.items() if v is not None) or "each cell"


@dataclass(frozen=True)
class Expectations:
    """What a file of expectations may say; what it leaves out is not judged."""

    tasks: tuple[str, ...] = ()
    """The only tasks that the corpus may hold."""
    corpus: Bounds | None = None
    """Bounds on the corpus as a whole."""
    cells: tuple[CellBounds, ...] = ()
    """Bounds on the cells of its mixture."""


def load_expectations(url: str) -> Expectations:
    """Read and check a file of expectations; ConfigError names the file and the key."""
    try:
        data = tomllib.loads(storage.read_bytes(url).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{url}: malformed TOML: {error}") from error
    expected: Expectations = parse(Expectations, data, url)
    named = {"corpus": expected.corpus or Bounds()}
    named |= {f"cells[{i}]": bounds for i, bounds in enumerate(expected.cells)}
    for place, bounds in named.items():
        for name, wanted in ranges(bounds):
            if not wanted.min <= wanted.max or not str(wanted):  # also NaN
                raise ConfigError(
                    f"{url}: {place}: {name}: expected min, max or both, min ≤ max, "
                    f"found {dataclasses.asdict(wanted)}"
                )
    if not expected.tasks and not any(list(ranges(bounds)) for bounds in named.values()):
        raise ConfigError(f"{url}: expects nothing: no tasks, and no bounds in corpus or cells")
    return expected


def ranges(bounds: Bounds) -> Iterator[tuple[str, Range]]:
    """The columns that are bounded, and how."""
    for spec in dataclasses.fields(bounds):
        if isinstance(value := getattr(bounds, spec.name), Range):
            yield spec.name, value


def expectation_checks(expected: Expectations, episodes: pl.DataFrame) -> Iterator[Check]:
    """A check for each entry; `episodes` as `by_episode` makes them."""
    if expected.tasks:
        yield _task_check(expected.tasks, set(episodes["task"]))
    whole = summarise(episodes, [])
    for name, wanted in ranges(expected.corpus or Bounds()):
        yield _range_check(f"expect {name}", whole, name, wanted)
    table = summarise(episodes, CELL)
    for bounds in expected.cells:
        chosen = {name: getattr(bounds, name) for name in CELL}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        cells = table.filter(**chosen)
        for name, wanted in ranges(bounds):
            yield _range_check(f"expect {bounds} {name}", cells, name, wanted)


def _task_check(allowed: tuple[str, ...], found: set[str]) -> Check:
    faults = Tally()
    for task in sorted(found.difference(allowed)):
        faults.add(f"{task} is there, expected only {', '.join(allowed)}")
    return judge("expect tasks", faults, f"no other than {', '.join(allowed)}")


def _range_check(name: str, cells: pl.DataFrame, column: str, wanted: Range) -> Check:
    """Whether the column is within bounds in each of the cells."""
    if cells.is_empty():
        return Check(name, False, f"expected {wanted}, found no such cell")
    values, faults = cells[column].cast(pl.Float64).to_list(), Tally()
    for cell, value in zip(cells.iter_rows(named=True), values, strict=True):
        where = f"{cell['task']} level {cell['level']} {cell['policy']}: " if "task" in cell else ""
        if value is None or not wanted.min <= value <= wanted.max:
            found = "none" if value is None else _number(value)
            faults.add(f"{where}expected {wanted}, found {found}")
    if faults.count:
        return judge(name, faults, "", of=f"{len(cells):,}")
    span = _number(min(values)) + (f" to {_number(max(values))}" if len(cells) > 1 else "")
    return Check(name, True, f"{span}, expected {wanted}")
