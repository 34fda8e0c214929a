"""The report's plots, as SVG text: small panels that a page sets beside or below each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from ...generate.league import ANCHORS
from ...generate.registry import task_class
from ...shards.page import dot
from ...shards.plots import DATA_COLOUR, EXPERT, LEARNED, MUTED, RANDOM, STYLE, WIDTH, svg
from ..entrants import Pair
from ..episodes import KEY, runs_of
from ..evaluation import DATA, Evaluation
from ..pairs import alone
from ..ratings import Payoff, Rating
from ..scores import interval_generator
from ..statistics import Estimate, Profile, resample
from ..summary import methods_of
from ..table import pair_name
from .calibration import Calibration

DPI = 96  # of the page's pixels
SMALL = 3.45  # inches, a panel's width: three are as wide as the page, one as a phone
LONGEST = 18  # letters of a name at an axis
TICKS = 10  # along a panel; of more some are left out
TASKS_APART = 9  # with a panel each; of more, families have one
SHADE = dict(zip((a.name for a in ANCHORS), (RANDOM, "#a9a294", "#7d766a", EXPERT), strict=True))
DIVERGING = LinearSegmentedColormap.from_list(
    "win rate", ("#d98324", "#f7f7f5", "#3f6fd8")
).with_extremes(bad="#e9ecf0")  # where none was played
PERCENT = PercentFormatter(1.0, symbol=" %")
Colours = Mapping[str, str]
Points = Mapping[str, Sequence[tuple[int, Estimate]]]
"""Of each row: (level, success), or where else on an axis which share."""


def colours_of(evaluation: Evaluation) -> dict[str, str]:
    """The colour of each row, method and opponent, the same throughout the report."""
    policies = evaluation.settings.policies
    learned = list(dict.fromkeys(policy.method for policy in policies if policy.learned))
    methods = {method: LEARNED[i % len(LEARNED)] for i, method in enumerate(learned)}
    rows = {policy.name: methods[policy.method] for policy in policies if policy.learned}
    rivals = {rival.name: MUTED for rival in evaluation.settings.opponents}
    return rivals | SHADE | {DATA: DATA_COLOUR, "expert": EXPERT} | methods | rows


def small(height: float, width: float = SMALL) -> tuple[Figure, Axes]:
    """A figure of one panel, in inches."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def grid(figures: Sequence[str]) -> str:
    """Small panels, as many in a row as there is room for."""
    return f'<div class="plots">{"".join(figures)}</div>'


def sized(figure: str, width: float) -> str:
    """A figure of its own size; on a narrower page it is scrolled."""
    return f'<div class="plot" style="width:{DPI * width:.0f}px">{figure}</div>'


def shortened(name: str) -> str:
    """A name as an axis has room for."""
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST // 2]}…{name[-(LONGEST // 2 - 1) :]}"


def key(names: Sequence[str], colours: Colours) -> str:
    """A legend as HTML."""
    entries = (f'<span class="key">{dot(colours[n])}{escape(n)}</span>' for n in names)
    return f'<p class="keys">{"".join(entries)}</p>'


def success_plot(evaluation: Evaluation, colours: Colours) -> str:
    """Success by level: a panel per task, or per family where there are many tasks."""
    pairs = alone(evaluation.settings.tasks)
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    if len(tasks) == len(pairs) <= TASKS_APART:
        return _dots(evaluation, pairs, colours)
    if len(tasks) <= TASKS_APART:
        panels = {task: _task_points(evaluation, task) for task in tasks}
    else:
        panels = _family_points(evaluation)
    rows = list(dict.fromkeys(row for points in panels.values() for row in points))
    with rc_context(STYLE):
        figures = [
            share_panel(title, points, rows, colours, "level", "Success on")
            for title, points in panels.items()
        ]
    return key(rows, colours) + grid(figures)


def _dots(evaluation: Evaluation, pairs: Sequence[Pair], colours: Colours) -> str:
    """A panel per task, a line per policy."""
    with rc_context(STYLE):
        return grid([_dot_panel(evaluation, pair, colours) for pair in pairs])


def _dot_panel(evaluation: Evaluation, pair: Pair, colours: Colours) -> str:
    rows = evaluation.rows
    figure, panel = small(0.7 + 0.34 * len(rows))
    panel.set_title(pair_name(pair))
    told = []
    for place, row in enumerate(rows):
        cell = evaluation.cell(row, pair)
        if cell is None:
            continue
        s, colour = cell.scores.success, colours[row]
        share = f"{100 * s.value:.0f} %"
        told.append(f"{row} {share}")
        panel.plot((s.low, s.high), (place, place), color=colour, linewidth=5, alpha=0.28,
                   solid_capstyle="round")  # fmt: skip
        panel.plot(s.value, place, "o", color=colour, markersize=6.5)
        panel.text(1.06, place, share, va="center", weight="bold", color=colour)
    panel.set(xlim=(-0.03, 1.03), ylim=(len(rows) - 0.4, -0.6))
    panel.set_yticks(range(len(rows)), map(shortened, rows))
    panel.xaxis.set_major_formatter(PERCENT)
    panel.spines["left"].set_visible(False)
    panel.grid(axis="y", visible=False)
    name = f"Success on {pair_name(pair)}"
    return svg(figure, name, f"{name}: {', '.join(told)}")


def _task_points(evaluation: Evaluation, task: str) -> Points:
    points: dict[str, list[tuple[int, Estimate]]] = {row: [] for row in evaluation.rows}
    for cell in evaluation.cells:
        if cell.task == task:
            points[cell.policy].append((cell.level, cell.scores.success))
    return {row: sorted(own, key=lambda p: p[0]) for row, own in points.items() if own}


def _family_points(evaluation: Evaluation) -> dict[str, Points]:
    """Of all tasks and each family, mean success with a stratified bootstrap interval."""
    settings = evaluation.settings
    frame = evaluation.recorded.frame.select(*KEY, "run", "success")
    groups: dict[tuple[str, int], list[Pair]] = {}
    for pair in sorted(alone(settings.tasks), key=lambda pair: pair[1]):
        for family in ("all tasks", task_class(pair[0]).family):
            groups.setdefault((family, pair[1]), []).append(pair)
    panels: dict[str, dict[str, list[tuple[int, Estimate]]]] = {}
    for (family, level), pairs in groups.items():
        for method, names in methods_of(settings).items():
            found = _mean_success(frame, names, pairs, settings.seed)
            panels.setdefault(family, {}).setdefault(method, []).append((level, found))
    return dict(panels)


def _mean_success(
    frame: pl.DataFrame, names: Sequence[str], pairs: Sequence[Pair], seed: int
) -> Estimate:
    cells = [
        np.stack([runs_of(frame, name, pair)["success"].to_numpy() for name in names])
        for pair in pairs
    ]
    drawn = resample([c.astype(np.float64) for c in cells], interval_generator(seed))
    return drawn.estimate(np.mean)


def share_panel(
    title: str, points: Points, rows: Sequence[str], colours: Colours, axis: str, told_as: str
) -> str:
    """Shares by level, or whatever the axis counts, a line for each row.

    In words it is `told_as` and the title: `Success on reach by level`.
    """
    figure, panel = small(2.5)
    panel.set(title=title, xlabel=axis)
    apart = min(0.09, 0.5 / len(rows))
    told, levels = [], sorted({level for own in points.values() for level, _ in own})
    for place, row in enumerate(rows):
        if row in points:
            estimates = [estimate for _, estimate in points[row]]
            x = [level + apart * (place - (len(rows) - 1) / 2) for level, _ in points[row]]
            panel.vlines(x, [e.low for e in estimates], [e.high for e in estimates],
                         color=colours[row], linewidth=3.5, alpha=0.28)  # fmt: skip
            y = [e.value for e in estimates]
            panel.plot(x, y, "o-", color=colours[row], markersize=4.5, linewidth=1.3)
            told.append(f"{row} {', '.join(f'{100 * value:.0f} %' for value in y)}")
    panel.set(ylim=(-0.03, 1.03), xlim=(levels[0] - 0.4, levels[-1] + 0.4))
    panel.set_xticks(levels[:: 1 + (len(levels) - 1) // TICKS])
    panel.grid(axis="x", visible=False)
    panel.yaxis.set_major_formatter(PERCENT)
    name = f"{told_as} {title} by {axis}"
    return svg(figure, name, f"{name}: {'; '.join(told)}")


def profile_plot(profiles: Mapping[str, Profile], colours: Colours) -> str:
    """Share of scores above each threshold, by method, with its band."""
    with rc_context(STYLE):
        figure, panel = small(3.2, 6.6)
        for method, profile in profiles.items():
            colour = colours[method]
            panel.fill_between(profile.thresholds, profile.low, profile.high, color=colour,
                               alpha=0.15, linewidth=0, step="post")  # fmt: skip
            panel.step(profile.thresholds, profile.share, color=colour, where="post")
        ends = next(iter(profiles.values())).thresholds[[0, -1]]
        panel.set(xlim=ends, ylim=(-0.02, 1.02), xlabel="normalised return τ")
        panel.set_ylabel("share of scores above τ")
        panel.yaxis.set_major_formatter(PERCENT)
        means = (f"{name} {profile.share.mean():.0%}" for name, profile in profiles.items())
        told = f"Performance profiles; on average above a threshold: {', '.join(means)}"
        return key(list(profiles), colours) + sized(svg(figure, "profile", told), 6.6)


def payoff_plot(payoff: Payoff, order: Sequence[str], told: str = "") -> str:
    """Win rate of each row against each column, a draw as half, in percent.

    `told` is what it shows, in words; by default who is compared.
    """
    names = [name for name in order if name in payoff.names]
    places = [payoff.names.index(name) for name in names]
    rate, count = payoff.win_rate[np.ix_(places, places)], len(names)
    height, width = 1.0 + 0.36 * count, min(WIDTH, 2.2 + 0.62 * count)
    with rc_context(STYLE):
        figure, panel = small(height, width)
        shown = np.ma.masked_invalid(rate)
        panel.pcolormesh(shown, cmap=DIVERGING, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
        for (i, j), value in np.ndenumerate(rate):
            if np.isfinite(value):
                ink = "white" if value > 0.88 else EXPERT
                panel.text(j + 0.5, i + 0.5, f"{100 * value:.0f}", ha="center", va="center",
                           color=ink, fontsize=9 if count <= 14 else 7)  # fmt: skip
        short = [shortened(name) for name in names]
        panel.set_yticks(np.arange(count) + 0.5, short)
        panel.set_xticks(
            np.arange(count) + 0.5, short, rotation=35, ha="left", rotation_mode="anchor"
        )
        panel.xaxis.tick_top()
        panel.invert_yaxis()
        panel.grid(visible=False)
        for side in panel.spines.values():
            side.set_visible(False)
        told = told or f"Win rates of each of {', '.join(names)} against each other, in percent"
        return sized(svg(figure, "payoff", told), width)


def rating_plot(ratings: Mapping[str, Sequence[Rating]], colours: Colours) -> str:
    """Ratings with their intervals: a panel for all tasks and for each, in one order."""
    order = [rating.name for rating in next(iter(ratings.values()))]
    with rc_context(STYLE):
        return grid([_rating_panel(name, own, order, colours) for name, own in ratings.items()])


def _rating_panel(
    title: str, ratings: Sequence[Rating], order: Sequence[str], colours: Colours
) -> str:
    figure, panel = small(0.75 + 0.3 * len(order))
    told = []
    for rating in ratings:
        if rating.value is None or rating.low is None or rating.high is None:
            continue
        place, colour = order.index(rating.name), colours.get(rating.name, MUTED)
        fixed = rating.low == rating.high
        panel.plot((rating.low, rating.high), (place, place), color=colour, linewidth=5,
                   alpha=0.28, solid_capstyle="round")  # fmt: skip
        panel.plot(rating.value, place, "o", color=colour, markersize=6.5,
                   markerfacecolor="white" if fixed else colour)  # fmt: skip
        panel.text(1.03, place, f"{rating.value:.0f}", va="center", weight="bold", color=colour,
                   transform=panel.get_yaxis_transform())  # fmt: skip
        told.append(f"{rating.name} {rating.value:.0f}")
    panel.set_title("all tasks" if title == "all" else title)
    panel.set_yticks(range(len(order)), map(shortened, order))
    panel.set_ylim(len(order) - 0.4, -0.6)
    panel.margins(x=0.08)
    panel.xaxis.set_major_locator(MaxNLocator(3))
    panel.spines["left"].set_visible(False)
    panel.grid(axis="y", visible=False)
    return svg(figure, f"ratings {title}", f"Ratings, {title}: {', '.join(told)}")


def calibration_plot(found: Mapping[str, Calibration], colours: Colours) -> str:
    """Mean realised return against mean predicted value by bin, with quartiles; a panel each."""
    with rc_context(STYLE):
        return grid([_calibration_panel(name, c, colours[name]) for name, c in found.items()])


def _calibration_panel(name: str, found: Calibration, colour: str) -> str:
    figure, panel = small(3.3)
    ends = np.concatenate((found.predicted, found.low, found.high, found.realised))
    low, high = float(ends.min()), float(ends.max())
    edge = 0.05 * max(high - low, 1e-3)
    low, high = low - edge, high + edge
    panel.plot((low, high), (low, high), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    panel.vlines(found.predicted, found.low, found.high, color=colour, alpha=0.28, linewidth=4)
    panel.plot(found.predicted, found.realised, "o", color=colour, markersize=5)
    panel.set(xlim=(low, high), ylim=(low, high), xlabel="predicted", ylabel="realised")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    slope = "–" if found.slope is None else f"{found.slope:.2f}"
    explained = "–" if found.explained is None else f"{100 * found.explained:.0f} %"
    bias = f"{found.bias:+.3f}"
    panel.set_title(f"{name}\n", linespacing=1.5)
    panel.text(0, 1.025, f"slope {slope}, bias {bias}, explained {explained}", fontsize=9,
               color=MUTED, transform=panel.transAxes)  # fmt: skip
    told = f"Calibration of {name}: slope {slope}, bias {bias}, explained variance {explained}"
    return svg(figure, f"calibration {name}", told)


def reward_plot(evaluation: Evaluation, colours: Colours) -> str:
    """Mean reward at each step with the mean's 95 % band, a panel per task."""
    names = [row for row in evaluation.rows if row != DATA]
    pairs = alone(evaluation.settings.tasks)
    with rc_context(STYLE):
        figures = [_reward_panel(evaluation, pair, names, colours) for pair in pairs]
    return key(names, colours) + grid(figures)


def _reward_panel(
    evaluation: Evaluation, pair: Pair, names: Sequence[str], colours: Colours
) -> str:
    figure, panel = small(2.5)
    panel.set(title=pair_name(pair), xlabel="control step", ylabel="reward")
    for name in names:
        mean, half = _mean_reward(runs_of(evaluation.recorded.frame, name, pair))
        steps = np.arange(len(mean))
        band = (mean - half, mean + half)
        panel.fill_between(steps, *band, color=colours[name], alpha=0.15, linewidth=0)
        panel.plot(steps, mean, color=colours[name])
    panel.set_xlim(0, task_class(pair[0]).horizon)
    name = f"Mean reward over time on {pair_name(pair)}"
    return svg(figure, name, f"{name}: {', '.join(names)}")


def _mean_reward(rows: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over the runs still going and half its 95 % interval, up to the last run's end."""
    steps = rows["steps"].to_numpy()
    played = np.arange(steps.max()) < steps[:, None]
    rewards = np.full(played.shape, np.nan)
    rewards[played] = rows["rewards"].explode().to_numpy()
    count = played.sum(axis=0)
    return np.nanmean(rewards, axis=0), 1.96 * np.nanstd(rewards, axis=0) / np.sqrt(count)
