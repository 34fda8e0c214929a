"""The report's tables, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from ...generate.registry import task_class
from ...shards.page import dot
from ..entrants import Pair
from ..evaluation import DATA, Evaluation
from ..pairs import alone
from ..scores import CellScores, MatchScores
from ..statistics import Estimate
from ..summary import ALL, HELD_OUT, TRAINING, Summary
from ..table import HELD_OUT as HELD_OUT_MARK
from ..table import pair_name
from .headline import main_method, main_policy, percent

TASK_WIDTH, LEVEL_WIDTH, EDGE = 130, 42, 10  # pixels, columns of the matrix
FEW = 12  # tasks and levels up to which every table is open
SCORES = (
    "policy", "success", "", "return", "steps to<br>completion", "if<br>completed", "normalised"
)  # fmt: skip
SUMMARY = (
    "method", "success", "", "normalised return,<br>interquartile mean",
    "normalised return,<br>mean", "steps to completion,<br>share of horizon",
)  # fmt: skip
MATCHES = ("match", "won", "", "drawn", "lost", "return", "steps")
Colours = Mapping[str, str]


def table(caption: str, columns: Sequence[str], bodies: Sequence[str], kind: str) -> str:
    """A table with a caption for those who do not see it; columns are HTML, bodies <tbody>s."""
    return (
        f'<table class="{kind}"><caption class="unseen">{escape(caption)}</caption>\n'
        f"<thead>{head(columns)}</thead>\n{chr(10).join(bodies)}</table>"
    )


def head(columns: Sequence[str]) -> str:
    """A row of column headers; an empty one is of what the column before it says as a bar."""
    cells = (f'<th scope="col">{name}</th>' if name else "<td></td>" for name in columns)
    return f"<tr>{''.join(cells)}</tr>"


def body(title: str, columns: int, rows: Sequence[str]) -> str:
    """A <tbody> under its title (HTML); without one where that is empty."""
    lead = (
        f'<tr class="task"><th scope="rowgroup" colspan="{columns}">{title}</th></tr>\n'
        if title else ""
    )  # fmt: skip
    return f"<tbody>{lead}{chr(10).join(rows)}</tbody>"


def row(label: str, cells: Sequence[str], kind: str = "", colour: str = "inherit") -> str:
    """A row with its header; an empty `label` mark is the caller's."""
    marked = "".join(
        f'<td class="bar">{cell}</td>' if cell.startswith('<div class="track"') else
        f"<td>{cell}</td>"
        for cell in cells
    )  # fmt: skip
    return f'<tr class="{kind}" style="--colour:{colour}"><th scope="row">{label}</th>{marked}</tr>'


def summary_table(evaluation: Evaluation, colours: Colours) -> str:
    """Every method over all tasks, those trained on and those not; others folded where many."""
    groups = {
        name: list(rows) for name, rows in groupby(evaluation.summary, lambda found: found.group)
    }
    first = [name for name in groups if name in (ALL, TRAINING, HELD_OUT)]
    rest = [name for name in groups if name not in first]
    main = main_method(evaluation)
    bodies = {name: _summary_body(name, rows, main, colours) for name, rows in groups.items()}
    text = table("Scores by group of tasks", SUMMARY, [bodies[name] for name in first], "summary")
    if rest:
        fine = table("Scores by family and level", SUMMARY, [bodies[n] for n in rest], "summary")
        text += folded("By family and level", fine, len(rest) * len(groups[ALL]) <= FEW)
    return text


def _summary_body(group: str, rows: Sequence[Summary], main: str, colours: Colours) -> str:
    tasks = rows[0].tasks
    several = f"{tasks} tasks and levels" if tasks > 1 else "1 task"
    lines = [
        row(
            f"{dot(colours[found.method])}{escape(found.method)}{_seeds(found)}",
            (
                percent_of(found.success), bar(found.success), _number(found.normalised),
                _number(found.mean_normalised), percent_of(found.steps),
            ),
            "main" if found.method == main else "", colours[found.method],
        )
        for found in rows
    ]  # fmt: skip
    return body(f"{escape(group)} <small>{several}</small>", len(SUMMARY), lines)


def _seeds(found: Summary) -> str:
    return f" <small>{found.seeds} seeds</small>" if found.seeds > 1 else ""


def matrix(evaluation: Evaluation, colours: Colours) -> str:
    """Success in percent by task (rows), method and level (columns); of seeds the mean."""
    pairs = alone(evaluation.settings.tasks)
    levels = sorted({level for _, level in pairs})
    methods = {policy.name: policy.method for policy in evaluation.settings.policies}
    rows = list(dict.fromkeys(methods.get(name, name) for name in evaluation.rows))
    found: dict[tuple[str, str, int], list[float]] = {}
    for cell in evaluation.cells:
        of = methods.get(cell.policy, cell.policy), *cell.pair
        found.setdefault(of, []).append(cell.scores.success.value)
    cells = {of: sum(values) / len(values) for of, values in found.items()}
    columns = [(method, level) for method in rows for level in levels]
    lines = []
    for task in dict.fromkeys(task for task, _ in pairs):
        entries = [
            _heat(cells.get((method, task, level)), level == levels[0])
            for method, level in columns
        ]
        name = f"{escape(task)}{_hidden(task, levels)}"
        lines.append(f'<tr><th scope="row">{name}</th>{"".join(entries)}</tr>')
    names = "".join(
        f'<th scope="colgroup" class="edge" colspan="{len(levels)}">{dot(colours[method])}'
        f"{escape(method)}</th>"
        for method in rows
    )
    sizes = [TASK_WIDTH, *(LEVEL_WIDTH + (level == levels[0]) * EDGE for _, level in columns)]
    widths = "".join(f'<col style="width:{size}px">' for size in sizes)
    numbers = "".join(
        f'<th scope="col"{_edge(level == levels[0])}>{level}</th>' for _, level in columns
    )
    top = (
        f'<tr><th scope="col" rowspan="2">task</th>{names}</tr>\n'
        f"<tr>{numbers}</tr>"
    )  # fmt: skip
    lines = [f"<tbody>{chr(10).join(lines)}</tbody>"]
    return (
        f'<table class="heat" style="width:{sum(sizes)}px">'
        f'<caption class="unseen">Success in percent, by task, method and level</caption>\n'
        f"<colgroup>{widths}</colgroup><thead>{top}</thead>\n{''.join(lines)}</table>"
    )


def _hidden(task: str, levels: Sequence[int]) -> str:
    """A dagger and, where not all are, which levels are held out of training."""
    hidden = [level for level in levels if level in task_class(task).held_out]
    some = f" {', '.join(map(str, hidden))}" if len(hidden) < len(levels) else ""
    return f" <small>{HELD_OUT_MARK}{some}</small>" if hidden else ""


def _edge(first: bool) -> str:
    return ' class="edge"' if first else ""


def _heat(share: float | None, first: bool) -> str:
    if share is None:
        return f"<td{_edge(first)}>–</td>"
    edge = " edge" if first else ""
    return f'<td class="hot{edge}" style="--heat:{100 * share:.0f}%">{100 * share:.0f}</td>'


def score_tables(evaluation: Evaluation, colours: Colours) -> str:
    """All scores by task, level and policy; folded by task where there are many."""
    pairs = alone(evaluation.settings.tasks)
    bodies = {pair: _task_body(evaluation, pair, colours) for pair in by_task(pairs)}
    if len(pairs) <= FEW:
        return table("Scores by task and level", SCORES, list(bodies.values()), "scores")
    parts = []
    for task, own in groupby(bodies, lambda pair: pair[0]):
        mine = [bodies[pair] for pair in own]
        shares = _shares(evaluation, task)
        text = table(f"Scores on {task}", SCORES, mine, "scores")
        parts.append(folded(f"{escape(task)} <small>{shares}</small>", text, False))
    return "".join(parts)


def by_task(pairs: Sequence[Pair]) -> list[Pair]:
    """Each task's levels together; tasks as they come first."""
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    return sorted(pairs, key=lambda pair: (tasks.index(pair[0]), pair[1]))


def folded(title: str, content: str, opened: bool) -> str:
    """A part that opens at its title (HTML); printed whole."""
    return (
        f"<details{' open' if opened else ''}><summary>{title}</summary>\n"
        f'<div class="scroll">{content}</div></details>'
    )


def _shares(evaluation: Evaluation, task: str) -> str:
    """`run2: 97 · 84 · 40 %`."""
    main = main_policy(evaluation)
    cells = [cell for cell in evaluation.cells if (cell.policy, cell.task) == (main, task)]
    shares = " · ".join(f"{100 * cell.scores.success.value:.0f}" for cell in cells)
    return f"{escape(main)}: {shares} %" if cells else ""


def _task_body(evaluation: Evaluation, pair: Pair, colours: Colours) -> str:
    lines = []
    main = main_policy(evaluation)
    for policy in evaluation.rows:
        cell = evaluation.cell(policy, pair)
        if cell is None:
            continue
        lines.append(_scores(cell, policy, colours[policy], "main" if policy == main else ""))
        if policy == DATA:
            parts = [c for c in evaluation.behaviours if c.pair == pair]
            lines += [_scores(c, c.behaviour, colours[DATA], "part") for c in parts]
    return body(escape(pair_name(pair)), len(SCORES), lines)


def _scores(cell: CellScores, label: str, colour: str, kind: str) -> str:
    scores = cell.scores
    mark = "" if kind == "part" else dot(colour)
    told = f" <small>{cell.diverged} diverged</small>" if cell.diverged else ""
    if kind == "part":
        told = f" <small>{scores.runs:,} episodes</small>"
    return row(
        f"{mark}{escape(label)}{told}",
        (
            percent_of(scores.success), bar(scores.success), ranged(scores.mean_return, 1, 1),
            ranged(scores.steps, 1, 0),
            "–" if scores.completed_steps is None else f"{scores.completed_steps:.0f}",
            "–" if cell.normalised is None else f"{cell.normalised:.2f}",
        ),
        kind, colour,
    )  # fmt: skip


def match_tables(evaluation: Evaluation, colours: Colours) -> str:
    """How matches ended, by task, level and opponents; folded by task where there are many."""
    by_pair: dict[Pair, list[MatchScores]] = {}
    for match in evaluation.matches:
        by_pair.setdefault((match.task, match.level), []).append(match)
    by_pair = {pair: by_pair[pair] for pair in by_task(list(by_pair))}
    main = main_policy(evaluation)
    bodies = {
        pair: body(
            escape(pair_name(pair)), len(MATCHES),
            [_match(match, colours, main) for match in found],
        )
        for pair, found in by_pair.items()
    }  # fmt: skip
    if len(evaluation.matches) <= 2 * FEW:
        return table("Matches by task and level", MATCHES, list(bodies.values()), "scores")
    parts = []
    for task, own in groupby(bodies, lambda pair: pair[0]):
        text = table(f"Matches of {task}", MATCHES, [bodies[pair] for pair in own], "scores")
        share = _share_won([m for m in evaluation.matches if (m.task, m.policy) == (task, main)])
        lead = f" <small>{escape(main)}: {share} won</small>" if share else ""
        parts.append(folded(f"{escape(task)}{lead}", text, False))
    return "".join(parts)


def _share_won(matches: Sequence[MatchScores]) -> str:
    played = sum(match.matches for match in matches)
    return percent(sum(match.wins for match in matches) / played) if played else ""


def _match(match: MatchScores, colours: Colours, main: str) -> str:
    mark, colour = dot(colours[match.policy]), colours[match.policy]
    told = f" <small>{match.diverged} diverged</small>" if match.diverged else ""
    return row(
        f"{mark}{escape(match.policy)} <small>against</small> {escape(match.opponent)}{told}",
        (
            percent_of(match.won), bar(match.won), percent(match.draws / match.matches),
            percent(match.losses / match.matches), ranged(match.mean_return, 1, 2),
            f"{match.steps:.0f}",
        ),
        "main" if match.policy == main else "", colour,
    )  # fmt: skip


def percent_of(estimate: Estimate) -> str:
    """`97 % [92, 99]`."""
    return ranged(estimate, 100, 0, "\u00a0%")


def _number(estimate: Estimate | None) -> str:
    return "–" if estimate is None else ranged(estimate, 1, 2)


def ranged(estimate: Estimate, scale: float, digits: int, unit: str = "") -> str:
    """A value and, smaller, its interval."""
    value, low, high = (
        f"{round(scale * x, digits) + 0.0:.{digits}f}"  # no -0.00
        for x in (estimate.value, estimate.low, estimate.high)
    )
    return f'{value}{unit} <span class="range">[{low}, {high}]</span>'


def bar(estimate: Estimate) -> str:
    """A share as a bar with its interval."""
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return (
        f'<div class="track"><i style="width:{value:.1f}%"></i>'
        f'<b style="left:{low:.1f}%;width:{high - low:.1f}%"></b></div>'
    )
