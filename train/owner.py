"""One process works on a run at a time: RUN/owner.json says which, and that it still lives.

Any storage that fsspec opens will do, without locks or atomic operations, and no two machines'
clocks are compared. The owner rewrites the file at every beat. Who comes later and finds it

* on the owner's own machine looks whether that process still lives: a killed run goes on at once;
* anywhere else watches for three beats: if the file changes it leaves, else it takes the run over.

What remains: a process that was held up for three beats (suspended, cut off from storage) and comes
back is still running. It learns of its successor at its next beat, and `check` keeps it from
completing a checkpoint; until then two processes compute. Only if a write of its own, begun before
its successor's, arrives after it, does the successor stop instead. One of them goes on.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..shards import storage
from ..shards.config import parse
from ..shards.console import console
from ..shards.errors import CheckpointError, PalaestraError, StorageError

OWNER = "owner.json"
BEAT_S = 20.0
SILENT_BEATS = 3  # without a change, after which an owner elsewhere counts as gone
SETTLE_S = 0.5  # several round trips to a store, in which a rival's simultaneous claim arrives

_log = logging.getLogger("palaestra.train")


@dataclass(frozen=True)
class Claim:
    """What owner.json holds."""

    id: str
    """Of this ownership, unlike any other's."""
    host: str
    machine: str
    """Boot and process namespace in which `pid` means something; empty where there is no /proc."""
    pid: int
    born: int
    """When the process began, in clock ticks since boot: a process id is used again."""
    started: str
    """UTC, by the owner's clock."""
    beat: str
    """UTC, by the owner's clock; others only look whether it changes."""
    beat_s: float
    """Seconds between beats."""

    def is_here(self) -> bool:
        """Whether the owner runs, or ran, where this process could see it."""
        return bool(self.machine) and self.machine == _machine()

    def is_alive(self) -> bool:
        """Whether the very process lives, on its own machine."""
        return _born(self.pid) == self.born

    def __str__(self) -> str:
        place = "this machine" if self.is_here() else self.host
        since = datetime.fromisoformat(self.started)
        return f"process {self.pid} on {place} (since {since:%Y-%m-%d %H:%M:%S} UTC)"


class Owner:
    """This process's claim to a run, renewed by a thread."""

    def __init__(self, run: str, beat_s: float = BEAT_S) -> None:
        self.run, self.url = run, storage.join(run, OWNER)
        self.claim = Claim(
            uuid.uuid4().hex, socket.gethostname(), _machine(), os.getpid(),
            _born(os.getpid()) or 0, _now(), _now(), beat_s,
        )  # fmt: skip
        self.lost = False
        """Whether another owner is known of; asks no storage, for every update."""
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="owner", daemon=True)

    def check(self) -> None:
        """Read the file again; CheckpointError if another process took the run over.

        Called before a checkpoint's marker is written. A file that is gone is no other owner: the
        next beat writes it anew.
        """
        found = read_claim(self.run)
        if found is not None and found.id != self.claim.id:
            self.lost = True
            raise CheckpointError(f"{self.run} was taken over by {found}; this process stops")

    def _take(self) -> None:
        """Claim the run, if nobody trains it; CheckpointError names who does."""
        found = read_claim(self.run)
        if found is not None:
            _wait_until_gone(self.run, found)
        self._write()
        time.sleep(SETTLE_S)  # of two who found nobody in the same instant, the later write stays
        self.check()
        self._renewing.start()

    def _release(self) -> None:
        self._ended.set()
        self._renewing.join()  # a beat under way would bring the file back
        try:
            found = read_claim(self.run)
            if found is not None and found.id == self.claim.id:
                storage.remove(self.url)
        except PalaestraError as error:  # what is left behind counts as silent
            _log.warning(f"{error}")

    def _renew(self) -> None:
        while not self._ended.wait(self.claim.beat_s):
            try:
                self.check()
                self._write()
            except CheckpointError:
                return  # not to be overwritten: the trainer asks `lost` and `check`
            except PalaestraError as error:  # training goes on; others may take the run over
                _log.warning(f"{error}")

    def _write(self) -> None:
        storage.write_json(self.url, dataclasses.asdict(self.claim) | {"beat": _now()})


@contextmanager
def owning(run: str, beat_s: float = BEAT_S) -> Iterator[Owner]:
    """Own the run inside the block; for one process of all that train it together.

    Raises CheckpointError, naming process and machine, if another trains it. Takes half a second,
    or up to three beats to make sure that an owner on another machine is gone.
    """
    owner = Owner(run, beat_s)
    owner._take()
    try:
        yield owner
    finally:
        owner._release()


def read_claim(run: str) -> Claim | None:
    """Who owns the run, or did when it was killed; None if nobody."""
    url = storage.join(run, OWNER)
    try:
        data = storage.read_json(url)
    except StorageError:
        if storage.exists(url):
            raise
        return None  # asked afterwards: it may go at any moment
    claim: Claim = parse(Claim, data, url)
    return claim


def _wait_until_gone(run: str, found: Claim) -> None:
    """Return once it is clear that the owner no longer lives; CheckpointError if it does."""
    if found.is_here():
        if found.is_alive():
            raise CheckpointError(f"{run} is in use by {found}")
        return
    patience = SILENT_BEATS * found.beat_s
    console.print(
        f"{run}: last used by {found}; watching for {patience:.0f} s whether it still is",
        markup=False,
    )
    end = time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(found.beat_s / 4)
        seen = read_claim(run)
        if seen is None:
            return  # it has just ended
        if seen != found:
            raise CheckpointError(f"{run} is in use by {seen}")


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> int | None:
    """Clock ticks from boot to the process's start; None if there is no such process any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # proc_pid_stat(5): state, starttime
