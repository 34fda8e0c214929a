"""A pool of processes in which one may die without taking the others' work along.

Each worker has a pipe of its own and shares no lock. The standard library's executor breaks as a
whole when a worker dies, and a shared queue's lock held by a killed worker hangs the others.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Generic, TypeAlias, TypeVar

from ..shards.errors import ConfigError, PalaestraError, StorageError, WorkerDiedError
from .worker import LEAVE_S, Done, Message, Raised, Told, Up, Worker, starting

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Advanced(Generic[Item]):
    """Some of an item's work is done; a negative amount takes back what a failed attempt told."""

    item: Item
    amount: int


@dataclass(frozen=True)
class Finished(Generic[Item, Result]):
    """An item's work is done."""

    item: Item
    result: Result


@dataclass(frozen=True)
class Failed(Generic[Item]):
    """An item was given up after so many attempts; `error` is the last one's."""

    item: Item
    error: Exception
    attempts: int


Event: TypeAlias = Advanced[Item] | Finished[Item, Result] | Failed[Item]
Work: TypeAlias = Callable[[Item, Callable[[int], None]], Result]


def check_workers(workers: int | None) -> None:
    """Raise ConfigError unless there can be so many."""
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers should be positive, is {workers}")


def run(
    work: Work[Item, Result], items: Sequence[Item], workers: int | None, *, attempts: int = 3,
    fatal: tuple[type[Exception], ...] = (StorageError, OSError),
) -> Generator[Event[Item, Result], None, None]:  # fmt: skip
    """Do `work(item, tell)` on all items, in processes of one thread each, by default one per core.

    `tell(amount)` reports progress. An item whose work raises or whose worker dies is tried again
    soon; a dead worker is replaced. Raises what a worker raises of the classes `fatal`,
    and WorkerDiedError when no worker can start.
    Closing the generator ends the workers at once; `contextlib.closing` sees to it on errors.
    Spawned, not forked: a forked child hangs in polars or in its parent's Batch.
    """
    count = workers or len(os.sched_getaffinity(0))
    pool: _Pool[Item, Result] = _Pool(work, items, count, attempts, fatal)
    try:
        pool.employ()
        while pool.waiting or pool.tasks:
            yield from pool.listen()
        pool.let_go()
    finally:  # do not sit out the items in progress
        pool.kill()


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int | None
) -> Iterator[Result]:
    """Results of `function` in order of completion; the first error is raised and ends it all."""
    work: Work[Item, Result] = partial(_without_progress, function)
    try:
        with closing(run(work, items, workers, attempts=1, fatal=())) as events:
            for event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Finished):
                    yield event.result
    except WorkerDiedError as error:
        raise PalaestraError(
            "a worker died, perhaps for want of memory; the same command goes on from "
            "here, with fewer --workers if need be"
        ) from error


def _without_progress(
    function: Callable[[Item], Result], item: Item, tell: Callable[[int], None]
) -> Result:
    return function(item)


@dataclass(eq=False)
class _Task(Generic[Item]):
    """An item on its way through the pool."""

    item: Item
    attempts: int = 0
    told: int = 0  # in this attempt
    shuns: Worker | None = None  # the worker that it failed on


class _Pool(Generic[Item, Result]):
    """Workers, the tasks that they are at, and those that wait."""

    def __init__(
        self, work: Work[Item, Result], items: Sequence[Item], count: int, attempts: int,
        fatal: tuple[type[Exception], ...],
    ) -> None:  # fmt: skip
        self.work, self.fatal = pickle.dumps(work), fatal
        self.count, self.attempts = count, attempts
        self.waiting = deque(_Task(item) for item in items)
        self.tasks: dict[Worker, _Task[Item]] = {}
        self.crew: list[Worker] = []
        self.failed_starts = 0  # in a row

    def employ(self) -> None:
        """Start the workers that are missing and give the idle ones something to do."""
        free = len(self.crew) - len(self.tasks)
        missing = min(self.count - len(self.crew), len(self.waiting) - free)
        if missing > 0:
            with starting():
                for _ in range(missing):
                    self.crew.append(Worker(self.fatal))
        idle = [worker for worker in self.crew if worker.up and worker not in self.tasks]
        while self.waiting and idle:
            pairs = ((task, worker) for task in self.waiting for worker in idle)
            willing = (pair for pair in pairs if pair[0].shuns is not pair[1])
            task, worker = next(willing, (self.waiting[0], idle[0]))
            self.waiting.remove(task)
            idle.remove(worker)
            task.attempts += 1
            self.tasks[worker] = task
            worker.send(pickle.dumps(task.item))

    def listen(self) -> list[Event[Item, Result]]:
        """Wait until workers say something or die; give all something to do, then tell of it."""
        doors: dict[Any, Worker] = {worker.pipe: worker for worker in self.crew}
        doors |= {worker.process.sentinel: worker for worker in self.crew}
        # the timeout: ctrl-C that reaches another thread does not end the wait
        ready = dict.fromkeys(doors[door] for door in wait(list(doors), timeout=1))
        heard = [(worker, message) for worker in ready for message in worker.messages()]
        events = [event for pair in heard for event in self._events(*pair)]
        self.employ()
        return events

    def _events(self, worker: Worker, message: Message) -> list[Event[Item, Result]]:
        match message:
            case Up():
                worker.up, self.failed_starts = True, 0
                worker.send(self.work)
                return []
            case WorkerDiedError():
                return self._bury(worker, message)
            case Told(amount):
                task = self.tasks[worker]
                task.told += amount
                return [Advanced(task.item, amount)]
            case Done(result):
                return [Finished(self.tasks.pop(worker).item, result)]
            case Raised(fatal=True):
                raise message.error()
            case Raised():
                return self._failed(worker, message.error())

    def _bury(self, worker: Worker, error: WorkerDiedError) -> list[Event[Item, Result]]:
        self.crew.remove(worker)
        worker.close()
        if not worker.up:
            self.failed_starts += 1
            if self.failed_starts >= self.attempts:
                self.count = len(self.crew)  # go on with those that there are
            if not self.count:
                raise error
        return self._failed(worker, error) if worker in self.tasks else []

    def _failed(self, worker: Worker, error: Exception) -> list[Event[Item, Result]]:
        """Take back what it told; its turn comes again soon, or it is given up."""
        task = self.tasks.pop(worker)
        events: list[Event[Item, Result]] = []
        if task.told:
            events.append(Advanced(task.item, -task.told))
        task.told, task.shuns = 0, worker
        if task.attempts < self.attempts:
            self.waiting.insert(len(self.crew), task)  # soon: where all fail, it should show early
        else:
            events.append(Failed(task.item, error, task.attempts))
        return events

    def let_go(self) -> None:
        """Let workers leave by themselves, with their exit handlers."""
        deadline = time.monotonic() + LEAVE_S
        for worker in self.crew:
            worker.pipe.close()
        for worker in self.crew:
            worker.process.join(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """End all workers, whatever they are at."""
        for worker in self.crew:
            worker.process.kill()
        for worker in self.crew:
            worker.close()
