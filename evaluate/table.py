"""The scores as tables on the console."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from ..generate.registry import task_class
from ..shards.console import console, fit
from .entrants import Pair
from .evaluation import Evaluation
from .pairs import alone
from .ratings import Rating
from .scores import CellScores
from .standings import ALL
from .statistics import Estimate

PAIRS_ACROSS = 3  # side by side; more go into further tables
WIDE = 6  # pairs up to which every one has its return and steps; of more, success alone is shown
HELD_OUT = "†"


def print_table(evaluation: Evaluation) -> None:
    """Scores by policy and task, over groups of tasks where there are several, and matches."""
    for table in tables(evaluation):
        console.print(fit(table))


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """What `print_table` prints."""
    pairs = alone(evaluation.settings.tasks)
    if len(pairs) > WIDE:
        yield _success_table(evaluation, pairs)
    else:
        for start in range(0, len(pairs), PAIRS_ACROSS):
            yield _task_table(evaluation, pairs[start : start + PAIRS_ACROSS])
    if len(pairs) > 1:
        yield _summary_table(evaluation)
    if evaluation.matches:
        yield _match_table(evaluation)
        yield _rating_table(evaluation)


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD)


def _task_table(evaluation: Evaluation, pairs: Sequence[Pair]) -> Table:
    table = _table("policy")
    for pair in pairs:
        table.add_column(f"{pair_name(pair)}\nsuccess")
        table.add_column("return", justify="right", vertical="bottom")
        table.add_column("steps", justify="right")
    for row in evaluation.rows:
        cells = [evaluation.cell(row, pair) for pair in pairs]
        table.add_row(escape(row), *(text for cell in cells for text in _texts(cell)))
    return table


def _texts(cell: CellScores | None) -> tuple[str, str, str]:
    if cell is None:
        return "–", "–", "–"
    scores = cell.scores
    return percent(scores.success), f"{scores.mean_return.value:.1f}", f"{scores.steps.value:.0f}"


def _success_table(evaluation: Evaluation, pairs: Sequence[Pair]) -> Table:
    """A line per task and level, a column per policy."""
    table = _table("success")
    for row in evaluation.rows:
        table.add_column(escape(row), justify="right")
    for pair in pairs:
        cells = [evaluation.cell(row, pair) for row in evaluation.rows]
        shown = ("–" if cell is None else percent(cell.scores.success) for cell in cells)
        table.add_row(pair_name(pair), *shown)
    return table


def _summary_table(evaluation: Evaluation) -> Table:
    table = _table("tasks", "policy", "success", "normalised return", "steps")
    before = ""
    for row in evaluation.summary:
        seeds = f" ({row.seeds} seeds)" if row.seeds > 1 else ""
        normal = "–" if row.normalised is None else ranged(row.normalised, 1, 2)
        group = "" if row.group == before else f"{row.group} ({row.tasks})"
        steps = share(row.steps.value)
        table.add_row(group, escape(row.method) + seeds, percent(row.success), normal, steps)
        before = row.group
    return table


def _match_table(evaluation: Evaluation) -> Table:
    """Wins, draws and losses: a line per task, level and opponent."""
    table = _table("match", "policy", "against", "won", "drawn", "lost", "return")
    before = ("", "")
    for match in sorted(evaluation.matches, key=lambda m: (m.task, m.level)):
        where = pair_name((match.task, match.level))
        table.add_row(
            "" if before[0] == where else where,
            "" if before == (where, match.policy) else escape(match.policy),
            escape(match.opponent), percent(match.won), share(match.draws / match.matches),
            share(match.losses / match.matches), f"{match.mean_return.value:.2f}",
        )  # fmt: skip
        before = (where, match.policy)
    return table


def _rating_table(evaluation: Evaluation) -> Table:
    table = _table("rating", *evaluation.ratings)
    by_task = [{r.name: r for r in ratings} for ratings in evaluation.ratings.values()]
    for rating in evaluation.ratings[ALL]:
        table.add_row(escape(rating.name), *(_rated(found.get(rating.name)) for found in by_task))
    return table


def _rated(rating: Rating | None) -> str:
    if rating is None or rating.value is None:
        return "–"
    return f"{rating.value:.0f} [{rating.low:.0f}, {rating.high:.0f}]"


def ranged(estimate: Estimate, scale: float, digits: int) -> str:
    """`0.57 [0.49, 0.66]`."""
    value, low, high = (scale * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def percent(estimate: Estimate) -> str:
    """`97 % [92, 99]`."""
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:.0f} % [{low:.0f}, {high:.0f}]"


def share(value: float) -> str:
    """`97 %`."""
    return f"{100 * value:.0f} %"


def pair_name(pair: Pair) -> str:
    """`reach 1`, with a dagger where training never sees the task."""
    task, level = pair
    return f"{task} {level}{' ' + HELD_OUT if level in task_class(task).held_out else ''}"
