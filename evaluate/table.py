"""The scores as a table on the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from ..generate.registry import task_class
from ..shards.console import console, fit
from .evaluation import Cell, Evaluation, Pair
from .statistics import Estimate

PAIRS_ACROSS = 3  # side by side; more go into further tables
HELD_OUT = "†"


def print_table(evaluation: Evaluation) -> None:
    """Success with its interval, mean return and mean completion step, by policy and task."""
    pairs = evaluation.settings.tasks
    for start in range(0, len(pairs), PAIRS_ACROSS):
        table = _table(evaluation, pairs[start : start + PAIRS_ACROSS])
        console.print(fit(table))


def _table(evaluation: Evaluation, pairs: Sequence[Pair]) -> Table:
    table = Table("policy", box=box.SIMPLE_HEAD)
    for pair in pairs:
        table.add_column(f"{pair_name(pair)}\nsuccess")
        table.add_column("return", justify="right", vertical="bottom")
        table.add_column("steps", justify="right")
    for row in evaluation.rows:
        cells = [evaluation.cell(row, pair) for pair in pairs]
        table.add_row(escape(row), *(text for cell in cells for text in _texts(cell)))
    return table


def _texts(cell: Cell | None) -> tuple[str, str, str]:
    if cell is None:
        return "–", "–", "–"
    scores = cell.scores
    return percent(scores.success), f"{scores.mean_return.value:.1f}", f"{scores.steps.value:.0f}"


def percent(estimate: Estimate) -> str:
    """`97 % [92, 99]`."""
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:.0f} % [{low:.0f}, {high:.0f}]"


def pair_name(pair: Pair) -> str:
    """`reach 1`, with a dagger where training never sees the task."""
    task, level = pair
    return f"{task} {level}{' ' + HELD_OUT if level in task_class(task).held_out else ''}"
