"""Signals that ask a run to end: it saves after the present update, and leaves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: told to stop, saved, and not finished


@dataclass
class Stop:
    """Whether such a signal has come."""

    wanted: bool = False


@contextmanager
def heeding_signals() -> Iterator[Stop]:
    """Take in signals from now on; a second ctrl-C ends the process at once."""
    found = Stop()

    def stop(number: int, frame: object) -> None:
        found.wanted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, stop) for number in STOP}
    try:
        yield found
    finally:
        if not found.wanted:  # a rank that is leaving must not die of being told again
            for number, handler in previous.items():
                signal.signal(number, handler)
