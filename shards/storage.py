"""Files at URLs: everything that opens a path goes through fsspec here."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from .errors import StorageError


def join(url: str, *parts: str) -> str:
    """URL of something below `url`."""
    return "/".join((url.rstrip("/"), *parts))


@contextmanager
def naming(url: str) -> Iterator[None]:
    """Turn any storage failure inside into a StorageError that names `url`."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{url}: not found") from error
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(f"{url}: {reason}") from error


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL and the path on it."""
    with naming(url):
        fs, path = fsspec.core.url_to_fs(url)
        return fs, path


def local_path(url: str) -> Path | None:
    """The path of a local URL; None for any other."""
    fs, path = filesystem(url)
    return Path(path) if isinstance(fs, LocalFileSystem) else None


def exists(url: str) -> bool:
    """Whether there is a file or folder at `url`."""
    fs, path = filesystem(url)
    with naming(url):
        return bool(fs.exists(path))


def size(url: str) -> int | None:
    """Bytes of the file at `url`, or None if there is none."""
    fs, path = filesystem(url)
    with naming(url):
        try:
            return int(fs.size(path))
        except FileNotFoundError:
            return None


def names(url: str) -> list[str]:
    """Sorted names directly below `url`; empty if it does not exist."""
    fs, path = filesystem(url)
    with naming(url):
        fs.invalidate_cache(path)
        try:
            found = fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in found)


def read_bytes(url: str) -> bytes:
    """The whole file; StorageError if it cannot be read."""
    fs, path = filesystem(url)
    with naming(url):
        return bytes(fs.cat_file(path))


def read_json(url: str) -> Any:
    """The file as JSON; StorageError names the URL if it is not."""
    try:
        return json.loads(read_bytes(url))
    except ValueError as error:
        raise StorageError(f"{url}: not JSON ({error})") from error


def write_bytes(url: str, data: bytes) -> None:
    """Write a whole file so that it appears complete or not at all."""
    fs, path = filesystem(url)
    with naming(url):
        if not isinstance(fs, LocalFileSystem):
            fs.pipe_file(path, data)  # object stores commit a put as a whole
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # a rename may reach the disk before the data otherwise
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(url: str, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    write_bytes(url, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_range(url: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file; StorageError if it is shorter than that."""
    fs, path = filesystem(url)
    with naming(url):
        data = bytes(fs.cat_file(path, start=start, end=stop))
    if len(data) != stop - start:
        raise StorageError(f"{url}: expected bytes {start} to {stop}, found {len(data)} of them")
    return data


def remove(url: str) -> None:
    """Delete a file or a whole folder, if it is there."""
    fs, path = filesystem(url)
    with naming(url):
        if fs.exists(path):
            fs.rm(path, recursive=True)


def upload_folder(folder: Path, url: str) -> None:
    """Copy a local folder's files to `url`."""
    fs, path = filesystem(url)
    with naming(url):
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                fs.put_file(str(file), f"{path.rstrip('/')}/{file.relative_to(folder).as_posix()}")


def download_folder(url: str, folder: Path) -> None:
    """Copy everything below `url` into a local folder."""
    fs, path = filesystem(url)
    with naming(url):
        fs.get(path.rstrip("/") + "/", str(folder) + "/", recursive=True)


def append_line(url: str, text: str) -> None:
    """Add a line to a local file, or rewrite a remote one with it."""
    local = local_path(url)
    if local is None:
        before = read_bytes(url) if exists(url) else b""
        write_bytes(url, before + text.encode() + b"\n")
        return
    local.parent.mkdir(parents=True, exist_ok=True)
    with naming(url), local.open("a") as file:
        file.write(text + "\n")
