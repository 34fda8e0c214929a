"""A run's metrics for programs and people: metrics.jsonl and TensorBoard's event files."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..shards import storage
from ..shards.errors import StorageError

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
EVALUATIONS = "evaluations.jsonl"  # scores in simulation, by `evaluate RUN --watch`
UPLOAD_EVERY_S = 60.0
UPLOAD_RATE = 1e6  # bytes/s that uploads take at most, averaged: files grow, and go up whole
BOARD_EVERY_S = 30  # between writes of TensorBoard's own buffer

_log = logging.getLogger("palaestra.train")


class Log:
    """Writes a run's metrics, one line and some points an update; for one rank.

    At a local URL every line is in its file at once. Elsewhere the files grow in a temporary
    folder, whose copy at the run is renewed once a minute (and a second later for each MB) by a
    thread of its own, so that a slow store delays no update and a failing one costs a warning; a
    killed run loses the lines since. `flush` comes before a checkpoint's marker: what a resumed
    run keeps, lines of updates before `start`, is always there.
    """

    def __init__(self, run: str, start: int) -> None:
        """Go on at update `start`: lines and points of a killed run from there on are dropped."""
        from torch.utils.tensorboard import SummaryWriter  # a second, that readers do without

        local = storage.local_path(run)
        self.run, self.is_local = run, local is not None
        self.folder = local or Path(tempfile.mkdtemp(prefix="palaestra-log-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep_before(start)
        self._lines = (self.folder / METRICS).open("a")
        self._board = SummaryWriter(
            str(self.folder / TENSORBOARD), purge_step=start, flush_secs=BOARD_EVERY_S
        )
        self._uploader = ThreadPoolExecutor(1, "log")
        self._upload: Future[None] | None = None
        self._due = time.monotonic()

    def write(self, update: int, metrics: dict[str, float]) -> None:
        """One line, and one point a metric."""
        self._lines.write(json.dumps({"update": update} | metrics) + "\n")
        self._lines.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, update)
        busy = self._upload is not None and not self._upload.done()
        if not self.is_local and not busy and time.monotonic() >= self._due:
            self._warn()
            self._upload = self._start()

    def flush(self) -> None:
        """Return when all that was written stands at the run; StorageError if it cannot."""
        os.fsync(self._lines.fileno())
        if self.is_local:
            self._board.flush()
        else:
            self._start().result()

    def close(self, upload: bool = True) -> None:
        """End, with a last upload: not once another process writes to the run.

        What cannot be uploaded any more costs a warning.
        """
        try:
            if upload:
                self.flush()
        except StorageError as error:
            _log.warning(f"{self.run}: the last metrics are lost: {error}")
        self._uploader.shutdown()
        self._lines.close()
        self._board.close()
        if not self.is_local:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _keep_before(self, start: int) -> None:
        """Leave only lines of earlier updates in the local file, fetched where the run is not."""
        url = storage.join(self.run, METRICS)
        if storage.exists(url):
            lines = storage.read_bytes(url).splitlines()
            kept = b"".join(line + b"\n" for line in lines if _update_of(line) < start)
            storage.write_bytes(str(self.folder / METRICS), kept)

    def _start(self) -> Future[None]:
        """An upload, after the one under way."""
        self._board.flush()
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        self._due = time.monotonic() + UPLOAD_EVERY_S + size / UPLOAD_RATE
        return self._uploader.submit(self._copy, files)

    def _copy(self, files: Iterable[Path]) -> None:
        for path in files:  # as bytes: a file that grows while it is sent fails its checksum
            url = storage.join(self.run, path.relative_to(self.folder).as_posix())
            storage.write_bytes(url, path.read_bytes())

    def _warn(self) -> None:
        """Say how the last upload failed, if it did."""
        error = self._upload.exception() if self._upload else None
        if isinstance(error, StorageError):
            _log.warning(f"{error}; metrics are uploaded later")
        elif error is not None:
            raise error


def read_lines(url: str) -> list[dict[str, Any]]:
    """The lines of such a file, in order, but for what a kill cut off; none where no file is."""
    if not storage.exists(url):
        return []
    lines = storage.read_bytes(url).splitlines()
    return [json.loads(line) for line in lines if math.isfinite(_update_of(line))]


def _update_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # half a line of a killed run
