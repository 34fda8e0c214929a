"""What the benchmarks share: variants timed in turn on one core, and a plain table of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

Rates = dict[str, list[float]]
PIPE_WIDTH = 160  # columns


class Timing(NamedTuple):
    """Rates of all variants, by repetition."""

    rates: Rates
    share: float
    """CPU seconds per second: below 0.95, another process was using the core."""

    def rate(self, name: str) -> float:
        """The median rate of a variant."""
        return statistics.median(self.rates[name])

    def ratio(self, name: str, base: str) -> float:
        """The median over repetitions of one variant's rate over another's."""
        pairs = zip(self.rates[name], self.rates[base], strict=True)
        return statistics.median(rate / other for rate, other in pairs)


def pin_to_one_core() -> None:
    """Keep this process, with all threads that it starts from now on, on one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def interleave(variants: Mapping[str, Callable[[], float]], repetitions: int) -> Timing:
    """Each variant's rates, run in turn (A B C A B C …) after a warm-up that does not count.

    A variant measures its own rate, so that it can leave its preparation out. In turn, because
    a machine's speed drifts: what disturbs one repetition then disturbs all variants alike.
    """
    for run in variants.values():
        run()
    rates: Rates = {name: [] for name in variants}
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repetitions):
        for name, run in variants.items():
            rates[name].append(run())
    return Timing(rates, (time.process_time() - cpu) / (time.perf_counter() - wall))


def print_timing(title: str, timing: Timing, base: str) -> None:
    """The median rate of each variant, and its ratio to `base` in the same repetitions."""
    rows = [
        (name, f"{timing.rate(name):,.0f}", f"{timing.ratio(name, base):.2f}")
        for name in timing.rates
    ]
    note = f"median of {len(timing.rates[base])}, {timing.share:.0%} of the core was ours"
    print_table(f"{title} ({note})", ("variant", "per second", "ratio"), rows)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A title and a table without lines; all columns but the first to the right."""
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH  # else a pipe's 80 columns cut figures off
    console.print(f"\n{title}", soft_wrap=True)
    console.print(table)
