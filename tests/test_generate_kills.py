"""Fifty times kill -9, of the command or of one of its workers, at whatever it was doing."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import generate_runs as runs
import numpy as np
import pytest
import waiting

KILLS, SEED = 50, 1
MOMENTS = ("start-up", "playing", "writing", "between tar and index")
DIED = "a worker died (signal 9)"  # we may strike one shard three times, or all that start

Start = Callable[..., subprocess.Popen[str]]


@dataclass(frozen=True)
class Spans:
    """Seconds of an undisturbed run."""

    start_up: float
    """Until the manifest is there: the workers start then."""
    playing: float
    """From there to the end."""


@dataclass
class Tally:
    """What was struck."""

    whom: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    left: int = 0
    """Times that something half-written was left."""
    corpora: int = 0
    """Completed in spite of it."""

    @property
    def kills(self) -> int:
        """Of those that came before the corpus was complete."""
        return self.whom.total()


def half_written(dest: Path) -> set[Path]:
    """Temporary files."""
    return {path for folder in (dest, dest / "data", dest / "index") for path in folder.glob(".*")}


def without_index(dest: Path) -> set[str]:
    """Shards that have a tar and do not count yet."""
    tars, indexes = ({path.stem for path in dest.glob(f"{x}/shard-*")} for x in ("data", "index"))
    return tars - indexes


def reached(process: subprocess.Popen[str], condition: Callable[[], object]) -> bool:
    """Whether the command comes to it before it ends."""
    deadline = time.monotonic() + waiting.PATIENCE_S
    while process.poll() is None:
        if condition():
            return True
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.0005)  # a write takes some milliseconds
    return False


def await_moment(
    moment: str, process: subprocess.Popen[str], dest: Path, spans: Spans, rng: np.random.Generator
) -> bool:
    """Whether the command comes to such a moment, any of all that there are."""
    fraction, number = rng.random(), int(rng.integers(4))
    if moment == "playing" and not reached(process, (dest / "corpus.json").exists):
        return False
    begun, stale, orphans = time.monotonic(), half_written(dest), without_index(dest)
    seen: set[Path] = set()

    def there() -> bool:
        if moment == "writing":
            seen.update(half_written(dest) - stale)
            return len(seen) > number
        if moment == "between tar and index":
            return bool(without_index(dest) - orphans)
        span = spans.start_up if moment == "start-up" else spans.playing
        return time.monotonic() - begun >= fraction * span

    return reached(process, there)


def strike(process: subprocess.Popen[str], dest: Path, rng: np.random.Generator) -> str:
    """Kill the parent, or a worker: one that is writing, if there is one. Says who it was."""
    writers = [int(path.name.split(".")[-2]) for path in half_written(dest)]
    workers = runs.workers_of(process.pid)
    if workers and rng.random() < 0.5:
        victims = [worker for worker in workers if worker in writers] or workers
        return "worker" if runs.kill(int(rng.choice(victims))) else ""
    process.kill()
    struck = process.wait() == -signal.SIGKILL
    waiting.wait_for(lambda: not runs.family(process.pid))
    return "parent" if struck else ""


def ended(process: subprocess.Popen[str], stderr: Path) -> bool:
    """Whether it completed the corpus, and did not give up for the blows."""
    code, told = process.wait(waiting.PATIENCE_S), stderr.read_text()
    if code == 0:
        assert told == ""
    else:
        assert DIED in told.splitlines()[0], told
    return code == 0


def undisturbed(start: Start, recipe: Path, dest: Path) -> Spans:
    begun = time.monotonic()
    process = start(recipe, dest, "--workers", 2)
    assert reached(process, (dest / "corpus.json").exists)
    played = time.monotonic()
    assert process.wait(waiting.PATIENCE_S) == 0
    return Spans(played - begun, time.monotonic() - played)


@pytest.mark.slow
def test_fifty_kills_leave_nothing_but_whole_shards(tmp_path: Path) -> None:
    """After each, what has an index is whole; what is relaunched ends as the undisturbed."""
    recipe, stderr = tmp_path / "tiny.toml", tmp_path / "stderr"
    recipe.write_text(runs.RECIPE)
    rng, tally = np.random.default_rng(SEED), Tally()
    with runs.starter(stderr) as start:
        spans = undisturbed(start, recipe, tmp_path / "undisturbed")
        expected = runs.contents(str(tmp_path / "undisturbed"))
        while tally.kills < KILLS:
            dest = tmp_path / f"corpus-{tally.corpora}"
            complete = False
            while not complete:
                process = start(recipe, dest, "--workers", 2)
                harass(process, dest, spans, expected, tally, rng)
                complete = process.poll() != -signal.SIGKILL and ended(process, stderr)
            assert runs.contents(str(dest)) == expected
            tally.corpora += 1
    print(f"{tally.kills} kills hit before the corpus was complete: {tally}")
    assert tally.kills == sum(tally.moments.values()) == KILLS
    assert all(tally.moments[moment] >= 3 for moment in MOMENTS)
    assert min(tally.whom["parent"], tally.whom["worker"]) >= 10 and tally.left >= 3


def harass(
    process: subprocess.Popen[str], dest: Path, spans: Spans, expected: dict[str, bytes],
    tally: Tally, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Strike until the command has ended, or there were kills enough."""
    while process.poll() is None and tally.kills < KILLS:
        moment, stale = str(rng.choice(MOMENTS)), half_written(dest)
        if not await_moment(moment, process, dest, spans, rng):
            return
        whom = strike(process, dest, rng)
        if whom and not (dest / "index.parquet").exists():  # else it came too late
            tally.whom[whom] += 1
            tally.moments[moment] += 1
            tally.left += bool(half_written(dest) - stale)
        if (dest / "corpus.json").exists():
            runs.assert_whole_shards_only(str(dest), expected)
