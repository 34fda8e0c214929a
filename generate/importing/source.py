"""What all sources have in common: columns, files, and episodes one after another."""

from __future__ import annotations

import glob
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from ...shards import storage
from ...shards.errors import ConfigError, CorpusError, StorageError
from ...shards.filesystem import info
from .mapping import SourceTable


class Recorded(Protocol):
    """One episode of a source; nothing is read of it before it is asked for."""

    @property
    def where(self) -> str:
        """Source and episode."""
        ...

    @property
    def steps(self) -> int:
        """How many."""
        ...

    def values(self, column: str) -> NDArray[Any]:
        """Its values, (steps, …); CorpusError for ragged ones."""
        ...

    def frames(self, column: str) -> Iterator[NDArray[np.uint8]]:
        """Its images, each (height, width, 3); CorpusError for anything else."""
        ...

    def place(self, step: int) -> str:
        """`where`, and the row or step."""
        ...


class Source(Protocol):
    """Demonstrations on this machine."""

    @property
    def columns(self) -> frozenset[str]:
        """Their names; none if there is no episode."""
        ...

    @property
    def fps(self) -> float | None:
        """Its steps a second, where it tells."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """What reads them, and decides what is read."""
        ...

    def episodes(self) -> Iterator[Recorded]:
        """All of them, in order, from the start at each call."""
        ...


def refuse(recorded: Recorded, step: int, column: str, expected: str, found: object) -> NoReturn:
    """Raise the CorpusError of one value."""
    place = recorded.place(step)
    raise CorpusError(f"{place}: column {column!r}: expected {expected}, found {found}")


def open_source(table: SourceTable, path: Path) -> Source:
    """The source at a local path; CorpusError or StorageError if it is not what it should be.

    ConfigError where what reads it is not installed.
    """
    try:
        return _open(table, path)
    except ModuleNotFoundError as error:
        needed = f"format {table.format!r} needs palaestra[{table.format}]"
        raise ConfigError(f"{table.url}: {needed}: {error}") from error


def _open(table: SourceTable, path: Path) -> Source:
    # each imports what not every installation has
    if table.format == "minari":
        from .minari_source import MinariSource

        return MinariSource(table.url, path)
    if table.format == "lerobot":
        from .lerobot import LeRobotSource

        return LeRobotSource(table, path)
    from .hub import HubSource

    return HubSource(table, path)


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """The source itself where it is local, else a copy for as long as it is needed."""
    path = storage.local_path(url)
    if path is not None:
        if not files_of(path):
            raise StorageError(
                f"{url}: not found: expected a file, a folder or a pattern; a dataset of the Hub "
                "is hf://datasets/OWNER/NAME"
            )
        yield path
        return
    if "*" in url:
        raise ConfigError(f"{url}: a pattern is for local files; name a folder")
    with tempfile.TemporaryDirectory(prefix="palaestra-") as folder:
        found = info(url)
        # over HTTP a folder that ends in a slash is a file too
        if found and found.get("type") == "file" and not url.endswith("/"):
            yield _copied(url, int(found["size"]), Path(folder))
            return
        storage.download_folder(url, Path(folder))
        yield Path(folder)


def _copied(url: str, size: int, folder: Path) -> Path:
    """A remote file in that folder, by its name, which tells its format."""
    path = folder / Path(storage.filesystem(url)[1]).name
    with path.open("wb") as file:
        for start in range(0, size, storage.PIECE):
            file.write(storage.read_range(url, start, min(start + storage.PIECE, size)))
    return path


def files_of(path: Path) -> list[Path]:
    """Every file of a source in order, but for hidden ones; `path` may be a pattern."""
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.is_file())
        return sorted(file for file in inside if not _hidden(file.relative_to(path)))
    if path.is_file():
        return [path]
    found = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 (it may be absolute)
    return sorted(file for file in found if file.is_file())


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def checksums(url: str, path: Path) -> dict[str, str]:
    """URL → sha256 of every file."""
    found = {}
    for file in files_of(path):
        with file.open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
        if path.is_dir():
            found[storage.join(url, file.relative_to(path).as_posix())] = digest
        else:
            found[url if file == path else str(file)] = digest
    return found
