"""One process of the pool: the parent's side of it, and what runs in it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from ..shards.errors import PalaestraError, WorkerDiedError

TELL_S = 0.5  # between a worker's words on progress: of 100 workers, 200 messages a second
LEAVE_S = 5.0  # from the end of a worker's pipe to its own
ENVIRONMENT = {
    f"{name}_THREADS": "1"
    for name in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "NUMBA_NUM", "POLARS_MAX")
} | {
    # give freed worlds back to the system: with glibc's own thresholds, which grow, a shard of 29
    # waves peaked at 865 MB instead of 551
    f"MALLOC_{name}_THRESHOLD_": "1000000" for name in ("MMAP", "TRIM")
}


@dataclass(frozen=True)
class Up:
    """A worker has started: it can be sent the work, then an item."""


@dataclass(frozen=True)
class Told:
    """Progress of the item."""

    amount: int


@dataclass(frozen=True)
class Done:
    """The item's result."""

    result: Any


@dataclass(frozen=True)
class Raised:
    """The item's exception, pickled, and what remains of it if that cannot be undone."""

    pickled: bytes
    text: str
    trace: str
    fatal: bool

    def error(self) -> Exception:
        """The exception or, for want of it, a PalaestraError; with the worker's traceback."""
        error: Exception
        try:
            error = pickle.loads(self.pickled)
        except Exception:
            error = PalaestraError(self.text)
        error.add_note(self.trace)
        return error


Message: TypeAlias = Up | Told | Done | Raised | WorkerDiedError


class Worker:
    """A spawned process, in the same folder, and our end of its pipe; it ends with this process."""

    def __init__(self, fatal: tuple[type[Exception], ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.up = False
        # small arguments only: start() waits until the child has read large ones
        self.process = context.Process(target=_serve, args=(theirs, fatal), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, data: bytes) -> None:
        """Give it something pickled; if it is dead, its messages will say so."""
        with suppress(ConnectionError):
            self.pipe.send_bytes(data)

    def messages(self) -> list[Message]:
        """What it has said since; the last is a WorkerDiedError if it is dead."""
        said: list[Message] = []
        alive = self.process.is_alive()  # asked first: it may say something and then die
        try:
            while self.pipe.poll():
                said.append(pickle.loads(self.pipe.recv_bytes()))
        except (EOFError, OSError):  # OSError: killed in the middle of a message
            alive = False
        return said if alive else [*said, self._death()]

    def _death(self) -> WorkerDiedError:
        self.process.join(LEAVE_S)
        self.process.kill()  # closed its pipe and lives
        self.process.join()
        code = self.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return WorkerDiedError(f"a worker died ({how}){hint}")

    def close(self) -> None:
        """Let go of a process that has been killed or has died."""
        self.pipe.close()
        self.process.join()
        self.process.close()


@contextmanager
def starting() -> Iterator[None]:
    """Processes started meanwhile never see ctrl-C, it is the parent's, and use one core each."""
    resource_tracker.ensure_running()  # else the first start does it, which unblocks SIGINT
    before = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name in ENVIRONMENT:
            del os.environ[name]
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(pipe: Connection, fatal: tuple[type[Exception], ...]) -> None:
    """A worker's life: be sent the work, then items, one after the other."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):  # the parent has gone or wants no more
        pipe.send(Up())
        pickled, work = pipe.recv_bytes(), None
        while True:
            item, telling = pipe.recv_bytes(), _Telling(pipe)
            try:
                work = work or pickle.loads(pickled)
                result = work(pickle.loads(item), telling)
                telling.flush()
                reply = pickle.dumps(Done(result))
            except Exception as error:  # the parent raises it again
                reply = pickle.dumps(raised(error, isinstance(error, fatal)))
            pipe.send_bytes(reply)


class _Telling:
    """Passes progress on, summed up."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.amount, self.last = pipe, 0, time.monotonic()

    def __call__(self, amount: int) -> None:
        self.amount += amount
        if time.monotonic() - self.last >= TELL_S:
            self.flush()

    def flush(self) -> None:
        if self.amount:
            self.pipe.send(Told(self.amount))
        self.amount, self.last = 0, time.monotonic()


def raised(error: Exception, fatal: bool) -> Raised:
    """What to send home of an exception."""
    try:
        pickled = pickle.dumps(error)
    except Exception:
        pickled = b""
    trace = "".join(traceback.format_exception(error))
    return Raised(pickled, f"{type(error).__name__}: {error}", trace, fatal)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
