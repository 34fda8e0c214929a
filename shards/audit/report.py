"""What an audit found: named checks, totals, a table of cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from .sampling import CONFIDENCE

CELL = ["task", "level", "policy"]  # the mixture's unit
GROUP = [*CELL, "opponent", "round"]  # a row of the report's table


@dataclass(frozen=True)
class Check:
    """One named finding; `passed` is None where the corpus leaves nothing to judge yet."""

    name: str
    passed: bool | None
    finding: str


@dataclass
class Tally:
    """The faults of one check: their number and the first, all that a report of millions needs."""

    count: int = 0
    first: str = ""

    def add(self, first: str, count: int = 1) -> None:
        """Take in `count` more faults, of which `first` is the first."""
        if count and not self.count:
            self.first = first
        self.count += count


def judge(name: str, faults: Tally, good: str, of: str = "") -> Check:
    """Passed with `good`, or failed with the first fault and their number."""
    if not faults.count:
        return Check(name, True, good)
    more = f" ({faults.count:,}{' of ' + of if of else ''} in all)" if faults.count > 1 else ""
    return Check(name, False, faults.first + more)


@dataclass(frozen=True)
class Verified:
    """What was read of the tars, besides their index."""

    mode: str = "none"
    """none, sample or all: whose checksums and values were compared."""
    segments: int = 0
    corrupt: int = 0
    bound: float = 1.0
    """Of all segments at most this share is corrupt, at 99 % confidence."""
    steps: int = 0
    bytes_by_member: dict[str, int] = field(default_factory=dict)
    """Of the verified segments' `steps`: json, each array, and the tar's headers and padding."""

    def bytes_per_step(self) -> dict[str, float]:
        """By member, the largest first; empty if nothing was verified."""
        sizes = sorted(self.bytes_by_member.items(), key=lambda item: -item[1])
        return {name: size / max(self.steps, 1) for name, size in sizes}

    def sentence(self, total: int) -> str:
        """How far the tars were verified, and what that says of all `total` segments."""
        if self.mode == "none":
            return "not read: --deep verifies all of them, --sample N some segments"
        corrupt = f"{self.corrupt:,} of {self.segments:,} segments are corrupt"
        if self.segments == total:
            return f"verified: {corrupt}"
        bound = f"fewer than {100 * self.bound:.2g}% of all {total:,} are"
        return f"verified by a sample: {corrupt}, so at {CONFIDENCE:.0%} confidence {bound}"


@dataclass(frozen=True)
class Report:
    """What an audit found."""

    url: str
    fingerprint: str
    totals: dict[str, float]
    """shards, matches, episodes, segments, steps, bytes, bytes_per_step."""
    checks: tuple[Check, ...]
    table: pl.DataFrame
    """A row per task × level × policy × opponent × round, columns as `summary.summarise` says."""
    episodes: pl.DataFrame
    """A row per player's episode, columns as `episodes.by_episode` says; for plots, not in JSON."""
    verified: Verified

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [check.name for check in self.checks if check.passed is False]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a mean that is not finite is null."""
        finite = pl.col(pl.Float64).is_finite()
        rows = self.table.with_columns(pl.when(finite).then(pl.col(pl.Float64))).to_dicts()
        return {
            "url": self.url, "fingerprint": self.fingerprint, "passed": self.passed,
            "verified": vars(self.verified) | {"confidence": CONFIDENCE}, "totals": self.totals,
            "checks": [vars(check) for check in self.checks], "table": rows,
        }  # fmt: skip
