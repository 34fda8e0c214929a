"""Where a run keeps its checkpoints; one is complete once its marker is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..shards import storage
from ..shards.config import parse

SETTINGS = "run.json"
ROLLING = "rolling"
MARKER = "checkpoint.json"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Marker:
    """What a checkpoint's marker tells."""

    update: int
    """Updates made."""
    digest: int
    """Rolling hash of the keys of all segments trained on."""
    ranks: int
    """That wrote it, a file each."""
    corpora: tuple[tuple[str, ...], ...]
    """What must not change while a run goes on: fingerprint and contents of every corpus."""
    statistics: tuple[tuple[float, ...], ...] = ()
    """Mean and scale of every state entry, fp32, where a warm start kept another run's; empty for
    those of the corpora."""


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay."""

    last: int = 2
    """Newest ones."""
    every: int = 0
    """Besides, the first after each so many updates; 0 for none."""


def checkpoints_url(run: str) -> str:
    """Folder of a run's checkpoints."""
    return storage.join(run, "checkpoints")


def update_url(folder: str, update: int) -> str:
    """The checkpoint after `update` updates in a folder of checkpoints."""
    return storage.join(folder, f"update-{update:08d}")


def checkpoint_url(run: str, update: int) -> str:
    """Folder of a run's checkpoint after `update` updates."""
    return update_url(checkpoints_url(run), update)


def saved_updates(folder: str) -> list[int]:
    """Updates of all checkpoints in a folder, in order, complete or not."""
    names = [name.removeprefix("update-") for name in storage.names(folder)]
    return sorted(int(name) for name in names if name.isdigit())


def complete_updates(folder: str) -> list[int]:
    """Those of the complete ones."""
    return [u for u in saved_updates(folder) if storage.exists(_marker_url(folder, u))]


def complete_checkpoints(run: str) -> list[int]:
    """Updates of a run's complete checkpoints, in order."""
    return complete_updates(checkpoints_url(run))


def write_marker(folder: str, marker: Marker) -> None:
    """Declare a checkpoint complete."""
    storage.write_json(_marker_url(folder, marker.update), asdict(marker))


def read_marker(folder: str, update: int) -> Marker:
    """ConfigError if it is of another format."""
    where = _marker_url(folder, update)
    marker: Marker = parse(Marker, storage.read_json(where), where)
    return marker


def newest(folder: str) -> Marker | None:
    """Of the newest complete checkpoint in a folder."""
    found = complete_updates(folder)
    return read_marker(folder, found[-1]) if found else None


def kept(updates: Sequence[int], keep: Keep) -> set[int]:
    """Which of these checkpoints stay; updates in order."""
    stay = set(updates[-keep.last :])
    if keep.every:
        periods: dict[int, int] = {}
        for update in updates:
            periods.setdefault(update // keep.every, update)
        stay |= {update for period, update in periods.items() if period}
    return stay


def prune(folder: str, newest: int, keep: Keep) -> None:
    """Delete what does not stay now that `newest` is complete, and what a killed run left half."""
    complete = complete_updates(folder)
    stay = kept([update for update in complete if update <= newest], keep)
    for update in saved_updates(folder):
        if update < newest and update not in stay:
            remove(folder, update)


def remove(folder: str, update: int) -> None:
    """Delete a checkpoint, the marker first: half of one must not look whole."""
    storage.remove(_marker_url(folder, update))
    storage.remove(update_url(folder, update))


def _marker_url(folder: str, update: int) -> str:
    return storage.join(update_url(folder, update), MARKER)
