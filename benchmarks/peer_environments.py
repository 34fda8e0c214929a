"""Peers in virtual environments of their own, and long-lived processes in them that answer."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SIMULATORS = {
    "envpool": ("envpool==1.2.5", "gymnasium==1.4.0", "numpy==2.4.6"),
    "dm_control": (
        "dm_control==1.0.50",
        "mujoco==3.17.0",  # it does not run with 4.0.0
        "gymnasium==1.4.0",
        "Shimmy==2.0.1",
        "imageio==2.38.1",  # Shimmy needs this and the next, and does not say so
        "packaging==26.4",
        "numpy==2.4.6",
    ),
}
FORMATS = {  # those that would not go together with ours, or are not in it
    "hdf5plugin": ("numpy==2.4.6", "h5py==3.16.0", "hdf5plugin==7.1.0"),
    # an exact torch comes without CUDA where the index offers it
    "litdata": ("torch==2.13.0", "numpy==2.4.6", "litdata==0.2.76", "zstd==1.5.7.2"),
    "mosaicml": ("torch==2.13.0", "numpy==2.1.3", "mosaicml-streaming==0.13.0"),
    "zarr": ("numpy==2.4.6", "zarr==3.1.6", "numcodecs==0.16.6"),
}
THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
)  # fmt: skip
SETTINGS = dict.fromkeys(THREADS, "1") | {"LP_NUM_THREADS": "0", "MUJOCO_GL": "egl"}
"""One thread each; llvmpipe's 0 draws in the caller's."""


class PeerError(Exception):
    """A peer that cannot be measured, and why, in one line."""


def interpreter(environment: str, folder: Path) -> Path:
    """The Python of an environment, installed on first use; PeerError if that fails."""
    packages = (SIMULATORS | FORMATS)[environment]
    home = folder / f"env-{environment}"
    python, mark = home / "bin" / "python", home / "installed"
    if mark.exists() and mark.read_text() == "\n".join(packages):
        return python
    print(f"installing {' '.join(packages)} into {home}", flush=True)
    venv.create(home, clear=True, with_pip=True)
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{environment} does not install: {_last_line(done.stderr)}")
    mark.write_text("\n".join(packages))
    return python


class Peer:
    """A process, begun with `words`, that answers one request at a time; close it."""

    def __init__(self, words: Sequence[str | Path], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                cwd=Path(__file__).parent, env=os.environ | SETTINGS,
            )  # fmt: skip

    def ask(self, deed: str, **settings: Any) -> Any:
        """What the process replies; PeerError if it fails."""
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps([deed, settings]), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"its process ended: {_last_line(self._log.read_text())}")
        reply = json.loads(line)
        if "error" in reply:
            raise PeerError(reply["error"])
        return reply["result"]

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # of a process that has ended
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
