"""Byte ranges kept on a local disk, up to a size: an accelerator for slow or distant storage."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import xxhash

from .ranges import ByteRange

SLACK = 1 / 16  # share of the cap that an eviction frees beyond what it must: it stats every file
UNSEEN = 1 / 64  # share of the cap that a process writes before it looks at what the others wrote

_log = logging.getLogger("palaestra.storage")


class RangeCache:
    """A folder of files, one for each byte range, of at most `max_bytes` in all.

    The range and a `tag` of its contents (the checksum that they should have) name a file, so a
    range rewritten in place is another. Files appear whole or not at all, but no one keeps a disk
    from damaging them: verify what `get` returns, and `put` it anew if it is wrong.

    Threads and processes may share a folder; each looks at the whole of it after writing a 64th of
    the cap, and the least recently used files go first. A disk that cannot be written (full,
    read-only) ends the writing, with one warning.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._lock = threading.Lock()
        self._total = 0  # bytes in the folder when it was last looked at, and ours since
        self._unseen: float = max_bytes  # bytes written since: the first write looks
        self._writable = True

    def get(self, wanted: ByteRange, tag: int) -> bytes | None:
        """What was put, to be verified; None if it is not there (any more)."""
        path = self._path(wanted, tag)
        try:
            data = path.read_bytes()
            os.utime(path)  # used just now; reading alone need not move a time
        except OSError:  # evicted by another process, never put, or a disk that fails
            return None
        return data

    def put(self, wanted: ByteRange, tag: int, data: bytes) -> None:
        """Keep the data, if there is a place to."""
        if not self._writable or len(data) > self.max_bytes:
            return
        try:
            with self._lock:
                self._make_room(len(data))
            self._write(self._path(wanted, tag), data)
        except FileNotFoundError:  # another process evicted it, or somebody the whole folder
            self._unseen = self.max_bytes
        except OSError as error:
            self._writable = False
            _log.warning(f"{self.folder}: {error.strerror or error}; nothing more is cached")

    def _path(self, wanted: ByteRange, tag: int) -> Path:
        name = f"{wanted.url}\n{wanted.start}\n{wanted.stop}\n{tag}"
        return self.folder / xxhash.xxh3_128_hexdigest(name.encode())

    def _write(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        try:
            temporary.write_bytes(data)  # not synced: whatever a crash leaves is verified
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Account for `size` bytes to come; evict if they do not fit."""
        if self._unseen + size > UNSEEN * self.max_bytes or self._total + size > self.max_bytes:
            self.folder.mkdir(parents=True, exist_ok=True)
            files = sorted(self._files())
            self._total, self._unseen = sum(bytes_ for _, bytes_, _ in files), 0
            if self._total + size > self.max_bytes:
                self._evict(files, self._total + size - (1 - SLACK) * self.max_bytes)
        self._total += size
        self._unseen += size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Time of last use, bytes and path of each file, what a killed process left included."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    yield status.st_mtime_ns, status.st_size, Path(entry.path)

    def _evict(self, files: list[tuple[int, int, Path]], excess: float) -> None:
        for _, size, path in files:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            self._total -= size
            excess -= size
