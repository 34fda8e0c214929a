"""Files at URLs: everything that opens a path goes through fsspec, and through here.

Every function tries again after faults that may pass (`faults`, `retry`), and raises a StorageError
of one line that names the URL. Where the filesystem is asynchronous (s3, gs, abfs, http) each
attempt has a time limit by its bytes: a server that drips or falls silent is a fault as well.
"""

from __future__ import annotations

import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from .columns import parquet_source as parquet_source
from .errors import StorageError
from .faults import TransientError, naming
from .filesystem import call, info
from .filesystem import filesystem as filesystem
from .filesystem import local_path as local_path
from .filesystem import size as size
from .ranges import ByteRange as ByteRange
from .ranges import read_range as read_range
from .ranges import read_ranges as read_ranges
from .retry import deadline, patience, retried
from .retry import retries as retries

PIECE = 16 << 20  # bytes of a whole file that one request reads
COPIES = 4  # files of a folder copied at once


def join(url: str, *parts: str) -> str:
    """URL of something below `url`."""
    return "/".join((url.rstrip("/"), *parts))


def exists(url: str) -> bool:
    """Whether there is a file or folder at `url`."""
    return info(url) is not None


@retried
def names(url: str) -> list[str]:
    """Sorted names directly below `url`; empty if it does not exist."""
    fs, path = filesystem(url)
    with naming(url):
        fs.invalidate_cache(path)
        try:
            found = call(fs, "ls", path, detail=False, seconds=deadline())
        except FileNotFoundError:
            return []
    return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in found)


def read_bytes(url: str) -> bytes:
    """The whole file; StorageError if it cannot be read."""
    local = local_path(url)
    if local is not None:
        return _read_local(url, local)
    total = size(url)
    if total is None:
        raise StorageError(f"{url}: not found")
    starts = range(0, total, PIECE)
    return b"".join(read_ranges([ByteRange(url, s, min(s + PIECE, total)) for s in starts]))


@retried
def _read_local(url: str, path: Path) -> bytes:
    with naming(url):
        return path.read_bytes()  # a pipe as well, whose size is not known


def read_json(url: str) -> Any:
    """The file as JSON; StorageError names the URL if it is not."""
    try:
        return json.loads(read_bytes(url))
    except ValueError as error:
        raise StorageError(f"{url}: not JSON ({error})") from error


@retried
def write_bytes(url: str, data: bytes | memoryview) -> None:
    """Write a whole file so that it appears complete or not at all."""
    fs, path = filesystem(url)
    with naming(url):
        if isinstance(fs, LocalFileSystem):
            _write_local(Path(path), data)
        else:  # object stores commit a put as a whole
            call(fs, "pipe_file", path, bytes(data), seconds=patience(len(data)))


def _write_local(target: Path, data: bytes | memoryview) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{_owner()}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the data otherwise
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _owner() -> str:
    """This process, in a file name."""
    return f"{os.uname().nodename.replace('.', '-')}.{os.getpid()}"


def remove_leftovers(*folders: str) -> None:
    """Delete what processes of this machine that are no more left half-written in local folders."""
    for url in folders:
        local = local_path(url)
        for path in [] if local is None else local.glob(".*.*.*.*"):
            machine, process, _ = path.name.split(".")[-3:]
            if machine == _owner().partition(".")[0] and not _alive(process):
                path.unlink(missing_ok=True)


def _alive(process: str) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        os.kill(int(process), 0)
        # dead, but nobody has asked how it ended: a container's first process may never do so
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError, ValueError):
        return False


def write_json(url: str, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    write_bytes(url, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def append_line(url: str, text: str) -> None:
    """Add a line to a local file, or rewrite a remote one with it."""
    local = local_path(url)
    if local is None:
        before = read_bytes(url) if exists(url) else b""
        write_bytes(url, before + text.encode() + b"\n")
        return
    with naming(url):
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("a") as file:
            file.write(text + "\n")


@retried
def remove(url: str) -> None:
    """Delete a file or a whole folder, if it is there."""
    fs, path = filesystem(url)
    with naming(url):
        try:
            call(fs, "rm", path, recursive=True, seconds=deadline())
        except FileNotFoundError:
            return


def upload_folder(folder: Path, url: str) -> None:
    """Copy a local folder's files to `url`."""
    fs, root = filesystem(url)

    @retried
    def put(file: Path) -> None:
        name = file.relative_to(folder).as_posix()
        with naming(join(url, name)):
            seconds = patience(file.stat().st_size)
            call(fs, "put_file", str(file), join(root, name), seconds=seconds)

    with ThreadPoolExecutor(COPIES) as pool:
        list(pool.map(put, sorted(file for file in folder.rglob("*") if file.is_file())))


def download_folder(url: str, folder: Path) -> None:
    """Copy everything below `url` into a local folder; StorageError if there is nothing."""
    fs, root = filesystem(url)

    @retried
    def find() -> dict[str, dict[str, Any]]:
        with naming(url):
            return dict(call(fs, "find", root, detail=True, seconds=deadline()))

    @retried
    def get(path: str, expected: int) -> None:
        name = path.removeprefix(root).strip("/")
        target = folder / name
        with naming(join(url, name)):
            target.parent.mkdir(parents=True, exist_ok=True)
            call(fs, "get_file", path, str(target), seconds=patience(expected))
            found = target.stat().st_size
        if found != expected:
            raise TransientError(f"{join(url, name)}: received {found} of {expected} bytes")

    files = find()
    if not files:
        raise StorageError(f"{url}: not found")
    with ThreadPoolExecutor(COPIES) as pool:
        list(pool.map(lambda item: get(item[0], int(item[1]["size"])), files.items()))
