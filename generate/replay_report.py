"""What replaying a corpus found, and how it prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from statistics import median
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ..shards.audit.sampling import CONFIDENCE, upper_bound
from ..shards.console import console, fit
from .compare import EARLY_STEPS, PIXEL_LEVELS, PIXEL_SHARE, TOLERANCE, Difference

SHOWN = 10  # differing episodes that are named on the terminal; --json names all


@dataclass(frozen=True)
class Outcome:
    """One player's episode, replayed."""

    task: str
    level: int
    match: int
    player: int
    steps: int
    differences: tuple[Difference, ...]
    """At most one for each array and field; the earliest first."""

    @property
    def state_identical(self) -> bool:
        """Whether all but the frames is the same to the last bit: the final physics state too."""
        return all(d.what == "pixels" for d in self.differences)

    @property
    def frames_identical(self) -> bool:
        """Whether every frame is the same to the last bit."""
        return all(d.what != "pixels" for d in self.differences)

    @property
    def departure(self) -> Difference | None:
        """What leaves the tolerance first."""
        found = [d for d in self.differences if d.departs is not None]
        return min(found, key=lambda d: d.departs or 0, default=None)


@dataclass(frozen=True)
class Replay:
    """Some or all matches of a corpus, replayed."""

    url: str
    total: int
    """Matches in the corpus."""
    versions: tuple[str, ...]
    """What decides bits and is not here as it was there; none where bits must be the same."""
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> list[Outcome]:
        """Episodes that are not what the corpus says."""
        return [outcome for outcome in self.outcomes if self.fault(outcome)]

    def fault(self, outcome: Outcome) -> str:
        """What is wrong with an episode, if anything."""
        name = f"({outcome.task} {outcome.level})"
        if not self.versions:
            first = next(iter(outcome.differences), None)
            return f"{first.key} {name}: step {first.step}: {first.told}" if first else ""
        departure = outcome.departure
        if departure is None or departure.departs is None or departure.departs >= EARLY_STEPS:
            return ""
        return (
            f"{departure.key} {name}: step {departure.departs}: {departure.what} leaves the "
            f"tolerance; at step {departure.step} {departure.told}"
        )

    @property
    def matches(self) -> int:
        """How many were replayed."""
        return len({outcome.match for outcome in self.outcomes})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a difference to a NaN, which is infinite, is null."""
        table = [asdict(row) for row in rows(self)]
        for row in table:
            row["largest"] = {n: x if isfinite(x) else None for n, x in row["largest"].items()}
        return {
            "url": self.url, "passed": not self.failed, "exact": not self.versions,
            "versions": list(self.versions), "matches": self.total, "replayed": self.matches,
            "table": table, "faults": [self.fault(outcome) for outcome in self.failed],
        }  # fmt: skip


@dataclass(frozen=True)
class Row:
    """The episodes of one task and level."""

    task: str
    level: int
    episodes: int
    steps: int
    state_identical: int
    frames_identical: int
    largest: dict[str, float]
    """Difference by array; where versions differ, within the first EARLY_STEPS."""
    departed: int
    """Episodes that leave the tolerance, in the first EARLY_STEPS or later."""
    first_departure: int | None
    median_departure: float | None


def rows(replay: Replay) -> Iterator[Row]:
    """The table, by task × level."""
    for task, level in sorted({(o.task, o.level) for o in replay.outcomes}):
        cell = [o for o in replay.outcomes if (o.task, o.level) == (task, level)]
        departures = [d.departs for o in cell if (d := o.departure) and d.departs is not None]
        yield Row(
            task, level, len(cell), sum(o.steps for o in cell),
            sum(o.state_identical for o in cell), sum(o.frames_identical for o in cell),
            _largest(cell, bool(replay.versions)), len(departures),
            min(departures, default=None), median(departures) if departures else None,
        )  # fmt: skip


def _largest(cell: Sequence[Outcome], early: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    for difference in (d for outcome in cell for d in outcome.differences):
        size = difference.early if early else difference.largest
        if size:
            found[difference.what] = max(size, found.get(difference.what, 0.0))
    return found


def print_replay(replay: Replay) -> None:
    """The versions where they differ, the table, the first faults and the verdict."""
    episodes, steps = len(replay.outcomes), sum(o.steps for o in replay.outcomes)
    console.print(
        f"{replay.url}: {replay.matches:,} of {replay.total:,} matches replayed: "
        f"{episodes:,} episodes, {steps:,} steps", markup=False,
    )  # fmt: skip
    if replay.versions:
        console.print(
            f"made with {', '.join(replay.versions)}: bits may differ, so the first {EARLY_STEPS} "
            f"steps are compared within a tolerance: state and reward {TOLERANCE['state']:g}, "
            f"frames {PIXEL_LEVELS} levels in {PIXEL_SHARE:.0%} of the pixels; contacts amplify "
            f"rounding, so later steps and final states may depart",
            style="yellow", markup=False,
        )  # fmt: skip
    console.print(fit(_table(replay)))
    failed = replay.failed
    for outcome in failed[:SHOWN]:
        console.print(replay.fault(outcome), markup=False)
    if len(failed) > SHOWN:
        console.print(f"… and {len(failed) - SHOWN:,} more; --json names all")
    console.print(_verdict(replay), style="bold red" if failed else "green")


def _table(replay: Replay) -> Table:
    table = Table("task", box=box.SIMPLE_HEAD)
    early = f"\nin {EARLY_STEPS} steps" if replay.versions else ""
    titles = ["episodes", "steps", "state\nidentical", "frames\nidentical"]
    titles += [f"largest difference{early}", *(["departures"] if replay.versions else [])]
    for title in titles:
        table.add_column(title, justify="right", vertical="bottom")
    for row in rows(replay):
        cells = [f"{row.task} {row.level}", f"{row.episodes:,}", f"{row.steps:,}"]
        cells += [f"{row.state_identical:,}", f"{row.frames_identical:,}", _sizes(row.largest)]
        if replay.versions:
            first = f", first at step {row.first_departure}" if row.departed else ""
            cells.append(f"{row.departed:,}{first}")
        table.add_row(*map(escape, cells))
    return table


def _sizes(largest: dict[str, float]) -> str:
    """Of state and frames; of the rest only where these are the same."""
    shown = {name: largest[name] for name in ("state", "pixels") if name in largest} or largest
    forms = {"pixels": ".0f"}
    return ", ".join(f"{n} {size:{forms.get(n, '.1g')}}" for n, size in shown.items()) or "–"


def _verdict(replay: Replay) -> str:
    """One sentence, with what it says of the matches that were not replayed."""
    episodes, failed = len(replay.outcomes), replay.failed
    if failed:
        said = f"{len(failed):,} of {episodes:,} episodes differ"
    elif all(not outcome.differences for outcome in replay.outcomes):
        said = "all identical, to the last bit"
    else:
        said = f"all alike in their first {EARLY_STEPS} steps"
    if replay.matches == replay.total:
        return said
    bad = len({outcome.match for outcome in failed})
    bound = 100 * upper_bound(bad, replay.matches)
    rest = f"fewer than {bound:.2g}% of all {replay.total:,} matches differ"
    return f"{said}; at {CONFIDENCE:.0%} confidence {rest}"
