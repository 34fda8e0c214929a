"""A folder that appears at its URL as a whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...shards import storage
from ...shards.errors import ConfigError


def require_free(url: str) -> None:
    """Raise ConfigError if there is anything at `url`."""
    if found := storage.names(url):
        raise ConfigError(f"{url}: expected a new destination, found {', '.join(found[:3])}")


@contextmanager
def whole_folder(url: str, marker: str) -> Iterator[Path]:
    """A local folder to fill; what is in it appears at `url` when the block ends without an error.

    A local folder is filled beside its place under a name of its own and renamed. Any other URL is
    uploaded to from a temporary folder, with the file `marker` last: what an upload that ended
    early has left lacks it. Raises ConfigError if there is anything at `url`, or if another process
    is filling it.
    """
    require_free(url)
    local = storage.local_path(url)
    if local is not None:
        with _beside(local) as folder:
            yield folder
            os.sync()  # a rename may reach the disk before the data otherwise
            folder.rename(local)
        return
    with tempfile.TemporaryDirectory(prefix="palaestra-export-") as temporary:
        folder, last = Path(temporary, "files"), Path(temporary, "last", marker)
        folder.mkdir()
        last.parent.mkdir(parents=True)
        yield folder
        (folder / marker).rename(last)
        storage.upload_folder(folder, url)
        storage.upload_folder(Path(temporary, "last"), url)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` that no other process uses, removed after an error.

    The lock goes with the process, so that what a killed one left is found and used again.
    """
    folder = target.with_name(f".{target.name}.exporting")
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder)
        try:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    """Take the folder for this process; ConfigError if another has it, or has just renamed it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), folder.stat()):
            return
    except (BlockingIOError, FileNotFoundError):
        pass
    raise ConfigError(f"{folder}: another export is writing there")
