"""Try storage again while its faults may pass: exponential backoff, full jitter, a deadline.

The pause before attempt n + 1 is drawn from [0, min(CAP_S, BASE_S · 2ⁿ)] ("Exponential Backoff And
Jitter", AWS Architecture Blog, 2015). No attempt begins later than DEADLINE_S after the call's
first fault; the environment variable PALAESTRA_STORAGE_DEADLINE sets other seconds, 0 tries once.
Every retry is logged as a warning and counted.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from .errors import ConfigError, StorageError
from .faults import TransientError

DEADLINE_S = 60.0
BASE_S, CAP_S = 0.1, 10.0
ATTEMPTS = 4  # that take as long as they may, before the deadline
SHORTEST_S = 1.0  # time that an attempt has at least
SLOWEST = 250_000  # bytes/s; a transfer below that has stalled
VARIABLE = "PALAESTRA_STORAGE_DEADLINE"

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("palaestra.storage")
# not the global generator: scripts seed that alike on every rank, and all would come back at once
_random = random.SystemRandom()
_lock = threading.Lock()
_retries = 0


def retries() -> int:
    """How often this process has tried storage again so far."""
    return _retries


def deadline() -> float:
    """Seconds after a call's first fault in which it is tried again."""
    text = os.environ.get(VARIABLE, str(DEADLINE_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ConfigError(f"{VARIABLE}: expected a number of seconds, found {text!r}")
    return seconds


def patience(size: int = 0) -> float:
    """Seconds that one attempt to move `size` bytes may take; a slower one is a fault."""
    return max(SHORTEST_S, deadline() / ATTEMPTS) + size / SLOWEST


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds to wait after a failed attempt, counted from 1."""
    return rng.uniform(0, min(CAP_S, BASE_S * 2 ** min(attempt, 20)))


def retried(call: Callable[P, T]) -> Callable[P, T]:
    """Decorator: repeat the call after each TransientError; other errors pass through at once.

    At the deadline raises a StorageError: the last fault, the attempts, the seconds they took.
    """

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        limit, start, last_begin, attempt = deadline(), time.monotonic(), float("inf"), 0
        while True:
            attempt += 1
            try:
                return call(*args, **kwargs)
            except TransientError as error:
                now, pause = time.monotonic(), backoff(attempt, _random)
                last_begin = min(last_begin, now + limit)
                if now + pause > last_begin:
                    attempts = f"{attempt} attempt{'s' * (attempt > 1)}"
                    raise StorageError(
                        f"{error}; gave up after {attempts} in {now - start:.1f} s"
                    ) from error
                _count(f"{error}; trying again in {pause:.1f} s")
            time.sleep(pause)

    return wrapped


def _count(message: str) -> None:
    global _retries
    with _lock:
        _retries += 1
    _log.warning(message)
