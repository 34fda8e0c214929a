"""`train status RUN`: where a run stands, from its files alone, on any machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import tyro

from ..shards import storage
from ..shards.console import console, data_size, duration
from ..shards.errors import CheckpointError, StorageError
from ..shards.faults import naming
from ..shards.filesystem import call
from ..shards.retry import deadline, retried
from .log import EVALUATIONS, METRICS, read_lines
from .owner import SILENT_BEATS, Claim, read_claim
from .places import (
    MARKER,
    ROLLING,
    SETTINGS,
    checkpoints_url,
    complete_updates,
    update_url,
)

RECENT = 20  # updates whose speed is told
SHOWN = 5  # newest checkpoints


@dataclass(frozen=True)
class StatusArguments:
    """Say where a run stands: losses, speed, time left, checkpoints, and who trains it.

    It reads the run's files and changes nothing.
    """

    run: Annotated[str, tyro.conf.Positional]
    """The run: a folder, s3://, gs://, …"""
    json: bool = False
    """Print one JSON object and nothing else."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint."""

    update: int
    bytes: int
    age_s: float


@dataclass(frozen=True)
class Status:
    """Where a run stands."""

    run: str
    state: str
    """`training`, `silent` (its owner shows no sign of life), `stopped` or `finished`."""
    settings: dict[str, Any]
    """What run.json holds."""
    update: int
    """Updates made."""
    updates: int
    """Of the whole run."""
    steps: int
    """Interaction steps trained on, repetitions included."""
    seconds_left: float | None
    """Of updates alone, at the speed of the last ones."""
    seconds_per_update: float | None
    steps_per_s: float | None
    metrics: dict[str, float]
    """Of the last update."""
    validation: dict[str, float]
    """Of the last update with any; `update` says which."""
    checkpoints: tuple[Saved, ...]
    """Complete ones, newest first."""
    rolling: tuple[Saved, ...]
    """The one between them, where the run's folder holds it."""
    evaluations: tuple[dict[str, Any], ...]
    """Scores in simulation of the newest checkpoint that has any, one a task and level."""
    owner: Claim | None
    silent_s: float | None
    """Since the owner's last beat, as far as its clock and this machine's agree."""


def status_command(arguments: StatusArguments) -> None:
    """Read the run's files and say what they tell."""
    status = read_status(arguments.run)
    if arguments.json:
        print(json.dumps(asdict(status), indent=1, ensure_ascii=False))
        return
    for label, text in _lines(status):
        console.print(f"{label:<13}{text}" if label else text, markup=False)


def read_status(run: str) -> Status:
    """Where the run stands; CheckpointError if there is none."""
    settings, now = _settings(run), datetime.now(UTC)
    owner, metrics = read_claim(run), read_lines(storage.join(run, METRICS))
    checkpoints = _checkpoints(checkpoints_url(run), now)
    rolling = _checkpoints(storage.join(run, ROLLING), now)
    made = [saved.update for saved in (*checkpoints, *rolling)]
    made += [int(line["update"]) + 1 for line in metrics[-1:]]
    update, updates = max(made, default=0), int(settings["updates"])
    scores = read_lines(storage.join(run, EVALUATIONS))
    pace, speed = _pace(metrics[-RECENT:])
    silent = None if owner is None else (now - datetime.fromisoformat(owner.beat)).total_seconds()
    validated = (line for line in reversed(metrics) if any("/policy_loss" in name for name in line))
    return Status(
        run=run, state=_state(owner, silent, update >= updates), settings=settings,
        update=update, updates=updates, steps=round(sum(line["steps"] for line in metrics)),
        seconds_left=None if pace is None else pace * max(0, updates - update),
        seconds_per_update=pace, steps_per_s=speed, metrics=metrics[-1] if metrics else {},
        validation=next(validated, {}), checkpoints=checkpoints, rolling=rolling,
        evaluations=tuple(line for line in scores if line["update"] == scores[-1]["update"]),
        owner=owner, silent_s=None if silent is None else max(0.0, silent),
    )  # fmt: skip


def _pace(metrics: Sequence[dict[str, float]]) -> tuple[float | None, float | None]:
    """Mean seconds of an update, and steps a second, over these updates."""
    if not metrics:
        return None, None
    steps = sum(line["steps"] for line in metrics)
    seconds = sum(line["steps"] / line["steps_per_s"] for line in metrics)
    return seconds / len(metrics), steps / seconds


def _settings(run: str) -> dict[str, Any]:
    where = storage.join(run, SETTINGS)
    if not storage.exists(where):
        found = storage.names(run)
        there = f"found {', '.join(found[:3])}" if found else "nothing there"
        raise CheckpointError(f"{run}: no run here: expected {SETTINGS}, {there}")
    settings = storage.read_json(where)
    if not isinstance(settings, dict) or not isinstance(settings.get("updates"), int):
        raise CheckpointError(f"{where}: not a run's settings: no number of updates")
    return settings


def _checkpoints(folder: str, now: datetime) -> tuple[Saved, ...]:
    found = []
    for update in reversed(complete_updates(folder)):
        try:
            size, written = _look(update_url(folder, update))
        except StorageError:
            if storage.exists(storage.join(update_url(folder, update), MARKER)):
                raise
            continue  # deleted since: a newer one is complete
        found.append(Saved(update, size, max(0.0, (now - written).total_seconds())))
    return tuple(found)


@retried
def _look(url: str) -> tuple[int, datetime]:
    """Bytes of a checkpoint's files, and when its marker was written."""
    fs, path = storage.filesystem(url)
    with naming(url):
        files = call(fs, "find", path, detail=True, seconds=deadline())
        return sum(int(file["size"]) for file in files.values()), fs.modified(f"{path}/{MARKER}")


def _state(owner: Claim | None, silent_s: float | None, finished: bool) -> str:
    if owner is None or silent_s is None:
        return "finished" if finished else "stopped"
    if owner.is_here():
        return "training" if owner.is_alive() else "silent"
    return "training" if silent_s < SILENT_BEATS * owner.beat_s else "silent"


def _lines(status: Status) -> Iterator[tuple[str, str]]:
    """Label and text of what is printed."""
    told = [status.settings.get(name) for name in ("preset", "inputs", "precision")]
    batch = f"batches of {status.settings.get('batch')} segments"
    yield "", f"{status.run}: {', '.join(str(part) for part in (*told, batch) if part)}"
    yield "state", _state_text(status)
    share = status.update / max(1, status.updates)
    steps = f", {status.steps:,} steps seen" if status.steps else ""
    epochs = f", {status.metrics['epoch']:.2f} epochs" if "epoch" in status.metrics else ""
    yield "updates", f"{status.update:,} of {status.updates:,} ({share:.0%}){steps}{epochs}"
    if status.seconds_left:
        yield "left", f"about {duration(status.seconds_left)} of training"
    if status.steps_per_s is not None and status.seconds_per_update is not None:
        pace = f"{status.steps_per_s:,.0f} steps/s, {duration(status.seconds_per_update)} an update"
        yield "speed", ", ".join((pace, *_shares(status.metrics)))
    if status.metrics:
        yield "loss", _losses(status.metrics, "")
    for part in ("validation", "heldout"):
        if f"{part}/policy_loss" in status.validation:
            after = f"after update {status.validation['update'] + 1:,}"
            yield part, f"{_losses(status.validation, f'{part}/')}, {after}"
    if status.evaluations:
        yield "success", _successes(status.evaluations)
    shown = [_saved(saved) for saved in status.checkpoints[:SHOWN]]
    more = len(status.checkpoints) - len(shown)
    yield "checkpoints", ", ".join(shown + [f"{more} older"] * (more > 0)) or "none yet"
    if status.rolling:
        yield "rolling", _saved(status.rolling[0])


def _successes(scores: Sequence[dict[str, Any]]) -> str:
    found = ", ".join(f"{s['task']} {s['level']} {s['success']['value']:.0%}" for s in scores)
    return f"{found}, after update {scores[0]['update']:,}"


def _saved(saved: Saved) -> str:
    return f"update {saved.update:,} ({data_size(saved.bytes)}, {duration(saved.age_s)} ago)"


def _state_text(status: Status) -> str:
    owner, again = status.owner, "the same command goes on"
    if owner is None or status.silent_s is None:
        return status.state if status.state == "finished" else f"stopped; {again}"
    heard = f"{duration(status.silent_s)} ago"
    if status.state == "training":
        return f"trained by {owner}, last sign of life {heard}"
    ended = "ended without a word" if owner.is_here() else "shows no sign of life"
    return f"{owner} {ended}, the last was {heard}; {again}"


def _shares(metrics: dict[str, float]) -> Iterator[str]:
    if "data_wait" in metrics:
        yield f"data wait {100 * metrics['data_wait']:.1f} %"
    if "mfu" in metrics:
        yield f"MFU {100 * metrics['mfu']:.0f} %"


def _losses(metrics: dict[str, float], prefix: str) -> str:
    policy, value = (metrics[f"{prefix}{name}_loss"] for name in ("policy", "value"))
    return f"policy {policy:.3f}, value {value:.3f}"
