"""Where a figure comes from: the commit and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """Of this checkout, with a + if files that it tracks differ from it."""
    here = Path(__file__).parent
    words = ("git", "-C", str(here), "describe", "--always", "--abbrev=10", "--dirty=+")
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def hardware() -> str:
    """Processor, cores that this process may use, memory."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.processor()}, {cores} cores, {memory:.0f} GiB"
