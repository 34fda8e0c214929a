"""Several ranks on one machine, without a launcher: `train --ranks N`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence


def launch(ranks: int, argv: Sequence[str]) -> int:
    """Run this command once per rank, cores shared evenly; returns the first bad exit code.

    When one rank fails the others are told to stop: they would wait for it forever.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    shared = os.environ | {
        "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }  # fmt: skip
    command = [sys.executable, "-m", "palaestra.train", *argv]
    children = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(ranks)
    ]
    previous = signal.signal(signal.SIGTERM, lambda *_: _tell(children, signal.SIGTERM))
    try:
        return _wait(children)
    finally:
        signal.signal(signal.SIGTERM, previous)
        _tell(children, signal.SIGKILL)


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [child.poll() for child in children]
        bad = [code for code in codes if code]
        if bad or all(code == 0 for code in codes):
            _tell(children, signal.SIGTERM)
            return bad[0] if bad else 0
        time.sleep(0.1)


def _tell(children: list[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)
