"""A pool of processes that end with their parent, and leave ctrl-C to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..shards.errors import ConfigError, PalaestraError

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_workers(workers: int | None) -> None:
    """Raise ConfigError unless there can be so many."""
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers should be positive, is {workers}")


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int | None
) -> Iterator[Result]:
    """Results in order of completion, from processes of one thread each, by default one per core.

    Spawned, not forked: a forked child hangs in polars or in its parent's Batch.
    """
    count = min(len(items), workers or len(os.sched_getaffinity(0)))
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        count, multiprocessing.get_context("spawn"), _start_worker, (Path.cwd(),)
    ) as pool:
        try:
            with _interrupts_held():
                waiting: set[Future[Result]] = {pool.submit(function, item) for item in items}
            while waiting:
                # without a timeout, ctrl-C was seen to wake this thread only when an item ended
                finished, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BaseException as error:  # do not sit out the items in progress
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise PalaestraError(
                    "a worker died, perhaps for want of memory; the same command goes on from "
                    "here, with fewer --workers if need be"
                ) from error
            raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold ctrl-C back: processes started meanwhile never see it, it is the parent's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _start_worker(folder: Path) -> None:
    """Relative URLs mean the same here as in the parent; without it there is no work."""
    os.chdir(folder)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
