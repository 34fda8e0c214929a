"""A process that is measured: it makes runs by name, and times them when asked, a line each.

Imports nothing but the standard library, for it is used in every peer's environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Run = Callable[[], int]
"""Does some work and returns the control steps or frames that it was."""


def serve(makers: Mapping[str, Callable[..., Run]], **deeds: Callable[..., Any]) -> None:
    """Answer `make` (a run, of settings), `time` (a run that was made) and other deeds."""
    runs: list[Run] = []

    def make(name: str, settings: dict[str, Any]) -> int:
        runs.append(makers[name](**settings))
        return len(runs) - 1

    def timed(number: int) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        steps = runs[number]()
        return {
            "steps": steps,
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }

    answer({"make": make, "time": timed} | deeds)


def answer(deeds: Mapping[str, Callable[..., Any]]) -> None:
    """Do what the input asks, a line each, until it ends; what fails is a reply too."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    for line in sys.stdin:
        name, settings = json.loads(line)
        try:
            reply = {"result": deeds[name](**settings)}
        except Exception as error:  # a peer may raise anything; the parent leaves it out
            reply = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(reply), file=replies, flush=True)
