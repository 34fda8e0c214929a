"""The pool's work on the machines of a Ray cluster. The one file that imports Ray."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ..shards.errors import ConfigError, StorageError, WorkerDiedError
from .pool import Advanced, Event, Failed, Finished, Item, Result, Work
from .worker import ENVIRONMENT, Done, Raised, raised, starting

REACH_S = 10.0  # for a first answer of a cluster; Ray itself would try for 14 minutes
STORE_BYTES = 100 << 20  # Ray would take 30 % of memory, for results of some hundred bytes


def run(
    work: Work[Item, Result], items: Sequence[Item], address: str | None, *, attempts: int = 3,
    fatal: tuple[type[Exception], ...] = (StorageError, OSError), workers: int | None = None,
) -> Generator[Event[Item, Result], None, None]:  # fmt: skip
    """Do `work(item, tell)` on all items as Ray tasks of one CPU and one thread each.

    Without an address, Ray starts on this machine, with `workers` CPUs or one per core of the
    affinity mask, and ends with the generator. With one (HOST:PORT, ray://HOST:PORT, auto), that
    cluster is joined and goes on afterwards; `workers` bounds the tasks at a time. Its machines
    need this package, Python and Ray at the same versions, the modules that the work names (at the
    same paths as here, or by Ray's own means), and storage that all of them reach.

    Attempts, events and `fatal` are as in the pool; progress is told when an item ends. Raises
    ConfigError without Ray or its cluster, and WorkerDiedError if this machine's part of Ray dies.
    """
    if not items:
        return
    with _joined(address, min(len(items), workers or len(os.sched_getaffinity(0)))) as ray:
        # on this machine workers have it from us, and need not wait for an agent to set it
        environment = None if address is None else {"env_vars": ENVIRONMENT}
        attempt = ray.remote(num_cpus=1, max_retries=0, runtime_env=environment)(_attempt)
        modules = [folder or str(Path.cwd()) for folder in sys.path]
        waiting, running = deque((item, 0) for item in items), dict[Any, tuple[Item, int]]()
        try:
            while waiting or running:
                # two per CPU, so that none idles until we hear of it; clusters may grow from none
                room = workers or max(2, 2 * int(ray.cluster_resources().get("CPU", 0)))
                while waiting and len(running) < room:
                    item, made = waiting.popleft()
                    pickled = ray.cloudpickle.dumps((work, item, fatal))
                    running[attempt.remote(modules, pickled)] = item, made + 1
                for task in ray.wait(list(running), timeout=1)[0]:
                    item, made = running.pop(task)
                    told, reply = _reply(ray, task)
                    if isinstance(reply, Done):
                        yield from [Advanced(item, told)] if told else []
                        yield Finished(item, reply.result)
                    elif made < attempts:
                        waiting.insert(len(running), (item, made))  # soon, as in the pool
                    else:
                        yield Failed(item, reply, made)
        finally:  # do not sit out the items in progress
            for task in running:
                ray.cancel(task, force=True)


@contextmanager
def _joined(address: str | None, count: int) -> Iterator[Any]:
    """Ray, ready for tasks; on this machine, with so many CPUs."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is not None:
        if address != "auto":
            _reach(address)
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # each of 40 s; read on import
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'palaestra[ray]'") from error
    if ray.is_initialized():
        raise ConfigError("--engine ray: Ray is in use in this process; ray.shutdown() ends that")
    driver: Any = ray._private.worker
    shown, driver._worker_logs_enabled = driver._worker_logs_enabled, False  # tells of each death
    before, main = signal.getsignal(signal.SIGTERM), threading.main_thread()
    try:
        _start(ray, address, count)
        if threading.current_thread() is main:  # Ray's own handler aborts
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        yield ray
    finally:
        ray.shutdown()
        driver._worker_logs_enabled = shown
        if threading.current_thread() is main:
            signal.signal(signal.SIGTERM, before)


def _reach(address: str) -> None:
    """Raise ConfigError unless something listens there."""
    place = re.fullmatch(r"(?:ray://)?\[?([^/[\]]+)\]?:(\d+)", address)
    if place is None:
        raise ConfigError(f"--ray-address should be HOST:PORT, ray://HOST:PORT or auto: {address}")
    try:
        socket.create_connection((place[1], int(place[2])), REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--ray-address {address}: no Ray cluster answers: {error}") from error


def _start(ray: Any, address: str | None, count: int) -> None:
    """Start Ray here or join it there; raises ConfigError if it will not."""
    here = {"num_cpus": count, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    own = {} if address else here
    try:
        with nullcontext() if address else starting():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        hint = "; a cluster with tokens needs RAY_AUTH_MODE=token" if address else ""
        text = " ".join(str(error).split())
        raise ConfigError(f"Ray at {address or 'this machine'}: {text}{hint}") from error


def _attempt(modules: list[str], pickled: bytes) -> bytes:
    """In Ray's worker: one attempt at an item; how much it told of, and what came of it."""
    import ray

    sys.path.extend(folder for folder in modules if folder not in sys.path)
    told: list[int] = []
    fatal: tuple[type[Exception], ...] = ()
    try:
        work, item, fatal = ray.cloudpickle.loads(pickled)
        result = work(item, told.append)
        return ray.cloudpickle.dumps((sum(told), Done(result)))
    except Exception as error:  # run() raises it again, or counts it
        return ray.cloudpickle.dumps((0, raised(error, isinstance(error, fatal))))


def _reply(ray: Any, task: Any) -> tuple[int, Done | Exception]:
    """How much a task that has ended told of, and its result or error; raises what is fatal."""
    try:
        told, reply = ray.cloudpickle.loads(ray.get(task))
    except ray.exceptions.LocalRayletDiedError as error:  # as would be all that follow
        raise WorkerDiedError("Ray's process on this machine died") from error
    except ray.exceptions.RayError as error:
        return 0, WorkerDiedError(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    if isinstance(reply, Raised) and reply.fatal:
        raise reply.error()
    return told, reply.error() if isinstance(reply, Raised) else reply
