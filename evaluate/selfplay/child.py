"""One command at a time as a child process, and the signals that it has to hear of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ...train.ranks import LAUNCHER
from ...train.stop import STOP

MODULES = {name: f"palaestra.{name}" for name in ("generate", "train", "evaluate")} | {
    "audit": "palaestra.shards"
}


class Children:
    """Runs commands; `stop` is the signal that asked this process to end, or None."""

    def __init__(self) -> None:
        self.stop: int | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, words: Sequence[str]) -> int:
        """Run `generate …`, say, with this process's output; returns its exit code.

        128 and the signal's number, as a shell has it, if a signal ended it.
        """
        command = list(words)
        if words[0] in MODULES:
            command[:1] = [sys.executable, "-m", MODULES[words[0]]]
        tied = [sys.executable, "-m", f"{__package__}.tethered", *command]
        environment = os.environ | {LAUNCHER: str(os.getpid())}
        # a group of its own: a signal reaches it once, from here, whoever sent it
        with subprocess.Popen(tied, env=environment, process_group=0) as child:
            self._child = child
            if self.stop is not None:  # it came while the child was being made
                self._tell(self.stop)
            code = child.wait()
        self._child = None
        return code if code >= 0 else 128 - code

    def hear(self, number: int, frame: object) -> None:
        """Remember the signal and pass it on."""
        self.stop = number
        self._tell(number)

    def _tell(self, number: int) -> None:
        if self._child is None or self._child.poll() is not None:
            return
        if number == signal.SIGINT:  # as a terminal sends it, to all of the command's processes
            os.killpg(self._child.pid, number)
        else:
            self._child.send_signal(number)


@contextmanager
def children() -> Iterator[Children]:
    """Heed signals inside the block: none of them ends this process before its child."""
    found = Children()
    previous = {number: signal.signal(number, found.hear) for number in STOP}
    try:
        yield found
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
