"""The self-play report's plots, as SVG text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ...generate.league import ANCHORS
from ...shards.plots import EXPERT, LEARNED, RANDOM, STYLE, svg
from ..pairs import alone
from ..report.plots import DPI, PERCENT, SMALL, Points, grid, key, payoff_plot, share_panel, small
from ..standings import ALL
from ..statistics import Estimate
from ..summary import ALL as ALL_TASKS
from .emergence import BEFORE, Emergence
from .rounds import History, outcomes, share_won
from .settings import round_name

ROUNDS = LEARNED[0]  # the colour of their policies
ANCHOR_COLOURS = dict(
    zip((a.name for a in ANCHORS), (RANDOM, LEARNED[3], LEARNED[2], EXPERT), strict=True)
)
WIDE, LARGE_FONT = 5.8, {"font.size": 11, "axes.titlesize": 11}  # of the first plot; inches
BEHIND = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}  # numbers, over lines
LABELLED = 12  # rounds up to which each has its number beside its dot
SHOWN = {
    "contact": "steps in contact", "distance": "distance kept, m", "seconds": "length, s"
}  # fmt: skip
MEAN = "mean"  # over tasks and levels
Shares = dict[str, list[tuple[int, Estimate]]]


def ratings_plot(play: History) -> str:
    """Ratings by round among the anchors': of all matches, and small ones for each task."""
    with rc_context(STYLE | LARGE_FONT):
        whole = _ratings_panel(play, ALL, 3.4, WIDE)
    with rc_context(STYLE):
        rest = [_ratings_panel(play, task, 2.6, SMALL) for task in play.ratings if task != ALL]
    return f'<div style="max-width:{DPI * WIDE:.0f}px">{whole}</div>' + (grid(rest) if rest else "")


def _ratings_panel(play: History, task: str, height: float, width: float) -> str:
    figure, panel = small(height, width)
    found, numbers = play.ratings[task], [one.number for one in play.rounds]
    told = [*_anchor_lines(panel, found), *_round_dots(panel, play, found, task == ALL)]
    panel.set(title=_title(play, task), xlabel="round", ylabel="rating")
    panel.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(len(numbers), 10)))
    panel.yaxis.set_major_formatter(lambda value, _: whole_points(value))
    panel.grid(axis="x", visible=False)
    told_as = f"Ratings by round, {_title(play, task)}"
    return svg(figure, f"ratings {task}", f"{told_as}: {', '.join(told)}")


def _title(play: History, task: str) -> str:
    """Of a panel: the task, or all of them where there are several."""
    tasks = list(dict.fromkeys(row.task for row in play.league.payoff))
    return task if task != ALL else tasks[0] if len(tasks) == 1 else "all match tasks"


def whole_points(value: float) -> str:
    """A rating: `1,012`, `−87`."""
    return f"{round(value):,}".replace("-", "−")


def ranged(rating: Estimate) -> str:
    """`812 [790, 835]`."""
    value, low, high = map(whole_points, (rating.value, rating.low, rating.high))
    return f"{value} [{low}, {high}]"


def _anchor_lines(panel: Axes, found: Mapping[str, Estimate]) -> Iterator[str]:
    """Draw the anchors' ratings; yields them in words."""
    for name, colour in ANCHOR_COLOURS.items():
        if name in found:
            value = found[name].value
            panel.axhline(value, color=colour, linewidth=1, linestyle=(0, (4, 3)))
            panel.text(1.015, value, name, va="center", color=colour,
                       transform=panel.get_yaxis_transform())  # fmt: skip
            yield f"{name} {whole_points(value)}"


def _round_dots(
    panel: Axes, play: History, found: Mapping[str, Estimate], labelled: bool
) -> Iterator[str]:
    """Draw the rounds' ratings and their intervals; yields them in words."""
    known = {one.number: found[one.name] for one in play.rounds if one.name in found}
    ratings = known.values()
    panel.vlines(list(known), [r.low for r in ratings], [r.high for r in ratings], color=ROUNDS,
                 linewidth=5, alpha=0.28)  # fmt: skip
    panel.plot(list(known), [r.value for r in ratings], "o-", color=ROUNDS, markersize=5)
    for number, rating in known.items():
        if labelled and len(known) <= LABELLED:
            rise = known.get(number + 1, rating).value - rating.value
            panel.annotate(
                whole_points(rating.value), (number, rating.value), (9, -9 * np.sign(rise)),
                va="center", textcoords="offset points", weight="bold", color=ROUNDS, bbox=BEHIND,
            )  # fmt: skip
        yield f"{round_name(number)} {ranged(rating)}"


def win_rates(play: History) -> str:
    """All against all, the strongest first and those without a rating last."""
    rated, payoff = play.ratings[ALL], play.payoff
    ranked = {name: -one.value for name, one in rated.items()}
    order = sorted(payoff.names, key=lambda name: (name not in ranked, ranked.get(name, 0.0)))
    rates = dict(zip(payoff.names, payoff.win_rate, strict=True))
    lines = []
    for name in order:
        own = dict(zip(payoff.names, rates[name], strict=True))
        met = [f"{rival} {100 * own[rival]:.0f}" for rival in order if np.isfinite(own[rival])]
        lines += [f"{name} against {', '.join(met)}"] if met else []
    return payoff_plot(payoff, order, f"Win rates in percent: {'; '.join(lines)}")


def anchors_plot(play: History) -> str:
    """The share of matches that each round wins against each anchor, a draw as half.

    Of all matches, and where there are several tasks of each.
    """
    found = {task: _against_anchors(play, task) for task in play.ratings}
    panels = {task: points for task, points in found.items() if points}
    if not panels:
        return ""
    rows = [name for name in ANCHOR_COLOURS if name in panels[ALL]]
    with rc_context(STYLE):
        figures = [
            share_panel(
                _title(play, task), points, rows, ANCHOR_COLOURS, "round",
                "Win rates against the anchors,",
            )
            for task, points in panels.items()
        ]  # fmt: skip
    return key(rows, ANCHOR_COLOURS) + grid(figures)


def _against_anchors(play: History, task: str) -> Points:
    points: Shares = {}
    for anchor in ANCHOR_COLOURS:
        for one in play.rounds:
            ended = outcomes(play.league, one.name, anchor, task)
            if sum(ended):
                points.setdefault(anchor, []).append((one.number, share_won(*ended)))
    return points


def emergence_plots(rows: Sequence[Emergence]) -> str:
    """Contact, distance and length of matches by round, on each task a line for each opponent."""
    colours = {BEFORE: ROUNDS} | dict(reversed(ANCHOR_COLOURS.items()))
    tasks = dict.fromkeys(row.task for row in rows if row.task != ALL)
    met = [name for name in colours if any(row.rival == name for row in rows)]
    with rc_context(STYLE):
        figures = [
            _emergence_panel([row for row in rows if row.task == task], measure, met, colours)
            for task in tasks for measure in SHOWN
        ]  # fmt: skip
    return key(met, colours) + grid(figures)


def _emergence_panel(
    rows: Sequence[Emergence], measure: str, met: Sequence[str], colours: Mapping[str, str]
) -> str:
    figure, panel = small(2.5)
    title, told = f"{rows[0].task}: {SHOWN[measure]}", []
    apart, numbers = 0.4 / len(met), sorted({row.round for row in rows})
    for place, name in enumerate(met):
        known = [(r.round, r.means[measure]) for r in rows if r.rival == name and r.means]
        x = [number + apart * (place - (len(met) - 1) / 2) for number, _ in known]
        panel.vlines(x, [e.low for _, e in known], [e.high for _, e in known],
                     color=colours[name], linewidth=3.5, alpha=0.28)  # fmt: skip
        panel.plot(x, [e.value for _, e in known], "o-", color=colours[name], markersize=4.5,
                   linewidth=1.3)  # fmt: skip
        told += [f"{name} {', '.join(f'{e.value:.3g}' for _, e in known)}"] if known else []
    panel.set(title=title, xlabel="round", xlim=(numbers[0] - 0.4, numbers[-1] + 0.4))
    panel.set_ylim(bottom=0, top=1 if measure == "contact" else None)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(len(numbers), 10)))
    panel.grid(axis="x", visible=False)
    if measure == "contact":
        panel.yaxis.set_major_formatter(PERCENT)
    return svg(figure, title, f"{title} by round: {'; '.join(told)}")


def success_plot(play: History) -> str:
    """Success by round: over all tasks of one player, and of each by level; empty without any."""
    panels = dict(_successes(play))
    if not panels:
        return ""
    levels = sorted({row for points in panels.values() for row in points} - {MEAN})
    levels = [MEAN] * (len(panels) > 1) + levels
    colours = dict(zip(levels, (ROUNDS, *LEARNED[1:]), strict=False))
    with rc_context(STYLE):
        figures = [
            share_panel(title, points, levels, colours, "round", "Success on")
            for title, points in panels.items()
        ]
    return (key(levels, colours) if len(levels) > 1 else "") + grid(figures)


def _successes(play: History) -> Iterator[tuple[str, Points]]:
    """(title, shares by round of each level): of all tasks, and of each."""
    pairs = list(dict.fromkeys(p for one in play.rounds for p in alone(one.settings.tasks)))
    if len(pairs) > 1:
        yield "all tasks", {MEAN: _points(play, "summary", "method", group=ALL_TASKS)}
    for task in dict.fromkeys(task for task, _ in pairs):
        yield task, {
            f"level {level}": _points(play, "results", "policy", task=task, level=level)
            for level in sorted(level for name, level in pairs if name == task)
        }


def _points(
    play: History, table: str, who: str, **wanted: object
) -> list[tuple[int, Estimate]]:
    """(round, success) of the rows of results that are of the round's policy and what is wanted."""
    return [
        (one.number, Estimate(**row["success"]))
        for one in play.rounds for row in one.results[table]
        if all(row[name] == value for name, value in ({who: one.name} | wanted).items())
    ]  # fmt: skip
