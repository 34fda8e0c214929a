"""Several ranks on one machine, without a launcher: `train --ranks N`."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from ..shards.console import fail
from .stop import INTERRUPTED, STOP

LAUNCHER = "PALAESTRA_LAUNCHER"  # in a rank's environment: the launcher's process id
GRACE_S = 10.0  # for ranks to report and leave by themselves after one has failed
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def launch(ranks: int, argv: Sequence[str]) -> int:
    """Run this command once per rank, cores shared evenly; returns the first bad exit code.

    When one rank fails the others are ended: they would wait for it forever.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, not in __all__

    # held here, the ranks' meeting point outlives rank 0, and its port is never given away
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    shared = os.environ | {
        "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        LAUNCHER: str(os.getpid()),
    }  # fmt: skip
    command = [sys.executable, "-m", "palaestra.train", *argv]
    children = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(ranks)
    ]

    def stop(number: int, frame: object) -> None:
        """They save and leave; a second ctrl-C is for this process, whose end is theirs."""
        _tell(children, signal.SIGTERM)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, stop) for number in STOP}
    try:
        return _wait(children)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _tell(children, signal.SIGKILL)


def end_with_launcher() -> None:
    """Have this rank killed when its launcher dies: an orphan would go on writing to the run."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):  # it died before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    deadline = float("inf")
    while True:
        codes = [child.poll() for child in children]
        bad = [rank for rank, code in enumerate(codes) if code not in (None, 0, INTERRUPTED)]
        if bad and deadline == float("inf"):
            deadline = time.monotonic() + GRACE_S
        if None not in codes or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if not bad:
        return max(code or 0 for code in codes)
    code = codes[bad[0]] or 0
    if code < 0:  # it could not say so itself
        fail("train", f"rank {bad[0]} was ended by {signal.Signals(-code).name}")
    return code if code > 0 else 128 - code


def _tell(children: list[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)
