"""What the benchmarks share: variants timed in turn on one core, and a plain table of them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

Rates = dict[str, list[float]]


def pin_to_one_core() -> None:
    """Keep this process, with all threads that it starts from now on, on one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def interleave(variants: Mapping[str, Callable[[], float]], repetitions: int) -> Rates:
    """Each variant's rates, run in turn (A B C A B C …) after a warm-up that does not count.

    A variant measures its own rate, so that it can leave its preparation out. In turn, because
    a machine's speed drifts: what disturbs one repetition then disturbs all variants alike.
    """
    for run in variants.values():
        run()
    rates: Rates = {name: [] for name in variants}
    for _ in range(repetitions):
        for name, run in variants.items():
            rates[name].append(run())
    return rates


def ratio(rates: Rates, name: str, base: str) -> float:
    """The median over repetitions of one variant's rate over another's."""
    return statistics.median(a / b for a, b in zip(rates[name], rates[base], strict=True))


def print_rates(title: str, rates: Rates, base: str) -> None:
    """The median rate of each variant, and its ratio to `base` in the same repetitions."""
    rows = [
        (name, f"{statistics.median(found):,.1f}" if found[0] < 100 else
         f"{statistics.median(found):,.0f}", f"{ratio(rates, name, base):.2f}")
        for name, found in rates.items()
    ]  # fmt: skip
    repetitions = len(rates[base])
    print_table(f"{title}; median of {repetitions}", ("variant", "per second", "ratio"), rows)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A title and a table without lines; all columns but the first to the right."""
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(f"\n{title}", soft_wrap=True)
    console.print(table)
