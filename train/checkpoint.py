"""Save and restore, on all ranks: written locally, uploaded, complete once the marker is there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shards import storage
from .engine_protocol import CheckpointEngine
from .export import write_weights
from .fragment_files import rank_file, read_fragments, write_fragments
from .places import (
    WEIGHTS,
    Keep,
    Marker,
    newest,
    prune,
    read_marker,
    remove,
    update_url,
    write_marker,
)


@dataclass(frozen=True)
class Place:
    """A folder of checkpoints, as one rank sees it."""

    folder: str
    chief: bool
    """Whether this rank writes the markers and deletes: the first of those that share the folder"""
    shared: bool = True
    """Whether all ranks see the same folder; if not, each node has its own ranks' files only"""

    def newest(self, rank: int, ranks: int) -> int:
        """Updates of the newest checkpoint that this rank could restore; -1 if there is none."""
        marker = newest(self.folder)
        if marker is None or self.shared:
            return -1 if marker is None else marker.update
        own = storage.join(update_url(self.folder, marker.update), rank_file(rank))
        return marker.update if marker.ranks == ranks and storage.exists(own) else -1


def save(
    place: Place, marker: Marker, engine: CheckpointEngine, keep: Keep,
    metadata: dict[str, Any] | None = None, approve: Callable[[], object] = bool,
) -> None:  # fmt: skip
    """Write a complete checkpoint, on all ranks; with metadata, exported weights too.

    `approve` is asked just before the marker is written, and may raise.
    """
    url = update_url(place.folder, marker.update)
    if place.chief:
        remove(place.folder, marker.update)  # what a killed run left
    engine.barrier()
    with local_folder(url) as folder:
        write_fragments(folder / rank_file(engine.rank), engine.fragments())
        if metadata is not None:
            weights = engine.weights()
            if engine.rank == 0:
                write_weights(folder / WEIGHTS, weights, metadata | {"update": marker.update})
    engine.barrier()
    if place.chief:
        approve()
        write_marker(place.folder, marker)
    engine.barrier()  # none is deleted before all nodes have declared the new one complete
    if place.chief:
        prune(place.folder, marker.update, keep)
    engine.barrier()


def restore(place: Place, update: int, engine: CheckpointEngine) -> Marker:
    """Load the checkpoint into the engine, on all ranks, whatever their number."""
    url, marker = update_url(place.folder, update), read_marker(place.folder, update)
    ranks: Sequence[int] = range(marker.ranks) if place.shared else [engine.rank]
    files = [storage.join(url, rank_file(rank)) for rank in ranks]
    read_fragments(files, engine.fragments(updates=update))
    engine.publish()
    return marker


@contextmanager
def local_folder(url: str) -> Iterator[Path]:
    """A local folder to write into: the URL's own, or a temporary one that is then uploaded."""
    local = storage.local_path(url)
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="palaestra-checkpoint-") as temporary:
        yield Path(temporary)
        storage.upload_folder(Path(temporary), url)
