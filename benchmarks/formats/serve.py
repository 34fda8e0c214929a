"""The process that writes and reads one format: a request a line, a reply a line, both JSON.

Run: python -m formats.serve MODULE:CLASS SETTINGS FOLDER SEGMENTS
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from peers.serve import answer

from .segments import READ, Format, Segments

LONGEST_READ = 2.0  # s

Reply = dict[str, Any]


@contextmanager
def timed(reply: Reply) -> Iterator[None]:
    """Add wall and CPU seconds, of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    reply["seconds"] = time.perf_counter() - wall
    reply["cpu_seconds"] = time.process_time() - cpu


def write(form: Format) -> Reply:
    """Store all segments."""
    reply: Reply = {}
    with timed(reply):
        form.write()
    return reply


def read(form: Format, seed: int) -> Reply:
    """Read an epoch, or of a slow format a part of it."""
    reply: Reply = {"steps": 0}
    epoch = form.epoch(seed)
    with timed(reply):
        stop = time.perf_counter() + LONGEST_READ
        for batch in epoch:
            reply["steps"] += int(batch.steps.sum())
            if not form.ahead and time.perf_counter() > stop:
                break
    return reply


def check(form: Format, segments: Segments, seed: int) -> Reply:
    """Read an epoch, compare every value with the original, and say what differs.

    Raises ValueError unless all segments are there, whole, padded with zeros, and all but pixels
    are equal. Of pixels that differ, the PSNR in dB is in the reply.
    """
    seen, differing, error, values = set(), 0, 0.0, 0
    for batch in form.epoch(seed):
        for slot, number in enumerate(batch.numbers):
            seen.add(number)
            original, steps = segments.arrays_of(number), int(batch.steps[slot])
            for name in READ:
                found, expected = batch.arrays[name][slot], original[name]
                same = found.dtype == expected.dtype and np.array_equal(found[:steps], expected)
                if found[steps:].any() or not (same or name == "pixels"):
                    raise ValueError(f"segment {number}: {name} differs")
                if not same:
                    gap = found[:steps].astype(np.float32) - expected
                    differing, error = differing + 1, error + float(np.square(gap).sum())
                values += expected.size if name == "pixels" else 0
    if seen != set(range(len(segments))):
        raise ValueError(f"{len(seen)} of {len(segments)} segments were read")
    psnr = 10 * np.log10(255**2 / (error / values)) if differing else None
    return {"psnr": psnr}


def main(place: str, settings: str, folder: str, original: str) -> None:
    """Answer until the input ends."""
    segments = Segments(Path(original))
    module, name = place.split(":")
    made = getattr(importlib.import_module(f"formats.{module}"), name)
    form: Format = made(Path(folder), segments, **json.loads(settings))
    answer(
        {
            "write": partial(write, form),
            "check": partial(check, form, segments),
            "read": partial(read, form),
        }
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
