"""An evaluation as one HTML file that opens offline."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from html import escape

from ..shards.page import dot, facts, page, section
from . import plots, video
from .evaluation import DATA, Cell, Evaluation, Pair
from .headline import headline, lede, main_policy
from .statistics import Estimate
from .style import CSS
from .table import HELD_OUT, pair_name

COLUMNS = (
    "", "success", "", "return", "steps to<br>completion", "if<br>completed", "normal-<br>ised",
)  # fmt: skip


def build_report(evaluation: Evaluation) -> str:
    """The whole page; replays some runs for its videos."""
    colours = plots.colours_of(evaluation)
    parts = [
        _table(evaluation, colours),
        section("Success", plots.success_plot(evaluation, colours)),
        section("Reward over time", plots.reward_plot(evaluation, colours)),
        *_learning(evaluation, colours),
        _videos(evaluation, colours),
        _reproduce(evaluation),
    ]
    return page("Palaestra evaluation", headline(evaluation), lede(evaluation), parts, CSS)


def _table(evaluation: Evaluation, colours: Mapping[str, str]) -> str:
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "\n".join(
        row for pair in evaluation.settings.tasks for row in _task_rows(evaluation, pair, colours)
    )
    note = (
        "Brackets are 95 % intervals over the runs (Wilson for success, bootstrap for means); they "
        "leave out how much training itself varies from seed to seed. Steps to completion count a "
        "failed run at the horizon, the next column only completed ones. Normalised return is 0 "
        "for random play and 1 for the expert."
    )
    if HELD_OUT in body:
        note += f" {HELD_OUT} held out: no training corpus holds this task."
    return (
        f'<div class="card"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n'
        f'</tbody></table></div>\n<p class="note">{note}</p>'
    )


def _task_rows(evaluation: Evaluation, pair: Pair, colours: Mapping[str, str]) -> list[str]:
    name = escape(pair_name(pair))
    rows = [f'<tr class="task"><td colspan="{len(COLUMNS)}">{name}</td></tr>']
    main = main_policy(evaluation)
    for policy in evaluation.rows:
        cell = evaluation.cell(policy, pair)
        if cell is None:
            continue
        kind = "main" if policy == main else ""
        rows.append(_row(cell, policy, colours[policy], kind))
        if policy == DATA:
            parts = [c for c in evaluation.behaviours if (c.task, c.level) == pair]
            rows += [_row(c, c.behaviour, colours[DATA], "part") for c in parts]
    return rows


def _row(cell: Cell, label: str, colour: str, kind: str) -> str:
    scores = cell.scores
    mark = "" if kind == "part" else dot(colour)
    completed = "–" if scores.completed_steps is None else f"{scores.completed_steps:.0f}"
    normal = "–" if cell.normalised is None else f"{cell.normalised:.2f}"
    diverged = f" ({cell.diverged} diverged)" if cell.diverged else ""
    if kind == "part":
        diverged = f" · {scores.runs:,} episodes"
    entries = (
        f"{mark}{escape(label)}{diverged}",
        _ranged(scores.success, 100, 0, " %"),
        _bar(scores.success),
        _ranged(scores.mean_return, 1, 1),
        _ranged(scores.steps, 1, 0),
        completed,
        normal,
    )
    cells = "".join(
        f'<td class="bar">{entry}</td>' if column == 2 else f"<td>{entry}</td>"
        for column, entry in enumerate(entries)
    )
    return f'<tr class="{kind}" style="--colour:{colour}">{cells}</tr>'


def _ranged(estimate: Estimate, scale: float, digits: int, unit: str = "") -> str:
    value, low, high = (
        f"{scale * x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high)
    )
    return f'{value}{unit}<span class="range">[{low}, {high}]</span>'


def _bar(estimate: Estimate) -> str:
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return (
        f'<div class="track"><i style="width:{value:.1f}%"></i>'
        f'<b style="left:{low:.1f}%;width:{high - low:.1f}%"></b></div>'
    )


def _learning(evaluation: Evaluation, colours: Mapping[str, str]) -> list[str]:
    """A section per run whose metrics are found."""
    sections = []
    for player in evaluation.players:
        metrics = plots.read_metrics(player.source) if player.learned else []
        if metrics:
            plot = plots.learning_plot(player.name, metrics, colours[player.name])
            sections.append(section(f"How {player.name} learned", plot))
    return sections


def _videos(evaluation: Evaluation, colours: Mapping[str, str]) -> str:
    figures = []
    for pair in evaluation.settings.tasks:
        figures.append(f'<h3>{escape(pair_name(pair))}</h3>\n<div class="videos">')
        figures += [
            _figure(evaluation, row, pair, colours[row])
            for row in _main_first(evaluation)
            if (row, pair) in evaluation.runs
        ]
        figures.append("</div>")
    note = (
        "Recorded actions, replayed: typical successes, and a failure where there is one. The bar "
        "below each run is time, green where the task is solved."
    )
    return section("Runs", "\n".join(figures), note)


def _main_first(evaluation: Evaluation) -> list[str]:
    main = main_policy(evaluation)
    return [main, *(row for row in reversed(evaluation.rows) if row != main)]


def _figure(evaluation: Evaluation, policy: str, pair: Pair, colour: str) -> str:
    runs = evaluation.runs[policy, pair]
    data = base64.b64encode(video.record(runs)).decode()
    rate = f"{runs.success.sum():,} of {len(runs.seeds):,} runs completed"
    return (
        f"<figure><figcaption>{dot(colour)}{escape(policy)} <span>· {rate}</span></figcaption>"
        f'<img alt="{escape(policy)} on {escape(pair_name(pair))}" loading="lazy" '
        f'src="data:image/gif;base64,{data}"></figure>'
    )


def command_line(evaluation: Evaluation) -> str:
    """A command that repeats the evaluation, up to where the output goes."""
    settings = evaluation.settings
    words = ["evaluate", *(str(policy["source"]) for policy in settings.policies)]
    tasks, levels = zip(*settings.tasks, strict=True)
    chosen = list(dict.fromkeys(tasks)), list(dict.fromkeys(levels))
    if len(settings.tasks) == len(chosen[0]) * len(chosen[1]):  # else the checkpoint's own pairs
        words += ["--tasks", *chosen[0], "--levels", *map(str, chosen[1])]
    words += ["--corpus", settings.corpus] if settings.corpus else []
    words += ["--history", "on" if settings.history else "off"]
    for flag in ("runs", "seed", "width", "threads"):
        words += [f"--{flag}", str(getattr(settings, flag))]
    return f"{shlex.join(words)} --output DIR"


def _reproduce(evaluation: Evaluation) -> str:
    settings = evaluation.settings
    first = next(iter(evaluation.runs.values())).seeds
    checkpoints = [
        f"{player.name}: update {player.update:,} of {player.source}"
        for player in evaluation.players if player.update is not None
    ]  # fmt: skip
    entries = {
        "checkpoints": "; ".join(checkpoints),
        "corpus": f"{settings.corpus} ({settings.corpus_fingerprint})" if settings.corpus else "",
        "episode seeds": f"{first[0]:#x} to {first[-1]:#x}; no corpus sets the top bit",
        "versions": ", ".join(f"{name} {value}" for name, value in evaluation.versions.items()),
    }
    note = (
        "The same command prints the same table. episodes.parquet beside this file has one row per "
        "run, results.json every number."
    )
    content = f"<pre>{escape(command_line(evaluation))}</pre>\n{facts(entries)}"
    return f'<h2>How to reproduce</h2>\n<p class="note">{note}</p>\n{content}'
