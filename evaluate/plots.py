"""The report's plots, as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from ..shards import storage
from ..shards.plots import (
    BEHAVIOURS,
    DATA_COLOUR,
    EXPERT,
    LEARNED,
    MUTED,
    RANDOM,
    STYLE,
    legend,
    panels,
    svg,
)
from ..train.log import read_lines
from .evaluation import DATA, Evaluation
from .runs import Runs
from .table import pair_name

POINTS = 800  # of a learning curve; longer ones are averaged


def colours_of(evaluation: Evaluation) -> dict[str, str]:
    """Each row's colour, the same throughout the report."""
    fixed = {"random": RANDOM, DATA: DATA_COLOUR, "expert": EXPERT}
    learned = [player.name for player in evaluation.players if player.learned]
    return fixed | {name: LEARNED[i % len(LEARNED)] for i, name in enumerate(learned)}


def success_plot(evaluation: Evaluation, colours: Mapping[str, str]) -> str:
    """Success with its interval, a panel per task, a line per policy."""
    pairs, rows = evaluation.settings.tasks, evaluation.rows
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(pairs), 0.7 + 0.34 * len(rows), share_y=True)
        for panel, pair in zip(axes, pairs, strict=False):
            panel.set_title(pair_name(pair))
            for place, row in enumerate(rows):
                cell = evaluation.cell(row, pair)
                if cell is None:
                    continue
                s, colour = cell.scores.success, colours[row]
                panel.plot((s.low, s.high), (place, place), color=colour, linewidth=5, alpha=0.28,
                           solid_capstyle="round")  # fmt: skip
                panel.plot(s.value, place, "o", color=colour, markersize=6.5)
                share = f"{100 * s.value:.0f} %"
                panel.text(1.06, place, share, va="center", weight="bold", color=colour)
            panel.set(xlim=(-0.03, 1.03), ylim=(len(rows) - 0.4, -0.6))
            panel.set_yticks(range(len(rows)), rows)
            panel.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            panel.spines["left"].set_visible(False)
            panel.grid(axis="y", visible=False)
        return svg(figure, "success")


def reward_plot(evaluation: Evaluation, colours: Mapping[str, str]) -> str:
    """Mean reward at each step with the mean's 95 % band, a panel per task."""
    pairs = evaluation.settings.tasks
    played = [row for row in evaluation.rows if (row, pairs[0]) in evaluation.runs]
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(pairs), 2.6, share_y=False)
        for panel, pair in zip(axes, pairs, strict=False):
            panel.set(title=pair_name(pair), xlabel="control step")
            for row in played:
                mean, half = _mean_reward(evaluation.runs[row, pair])
                steps = np.arange(len(mean))
                panel.fill_between(
                    steps, mean - half, mean + half, color=colours[row], alpha=0.15, linewidth=0
                )
                panel.plot(steps, mean, color=colours[row], label=row)
            panel.set_xlim(0, evaluation.runs[played[0], pair].horizon)
        axes[0].set_ylabel("reward")
        legend(figure, axes[0])
        return svg(figure, "reward")


def _mean_reward(runs: Runs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over the runs still going and half its 95 % interval, up to the last run's end."""
    rewards = runs.rewards[:, : int(runs.steps.max())].astype(np.float64)
    count = np.isfinite(rewards).sum(axis=0)
    return np.nanmean(rewards, axis=0), 1.96 * np.nanstd(rewards, axis=0) / np.sqrt(count)


def read_metrics(source: str) -> list[dict[str, float]]:
    """A run's metrics, found from the URL of the run, a checkpoint in it or its weights."""
    url = source.rstrip("/")
    for _ in range(4):
        where = storage.join(url, "metrics.jsonl")
        if not url.endswith(".safetensors") and storage.exists(where):
            return read_lines(where)
        url = url.rpartition("/")[0]
        if not url.rpartition("/")[2]:
            break
    return []


def learning_plot(name: str, metrics: Sequence[Mapping[str, float]], colour: str) -> str:
    """Policy loss with validation, kept share by behaviour, and speed, by update."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(3, 2.5, share_y=False)
        loss, kept, speed = axes
        _curve(loss, metrics, "policy_loss", colour, "training", raw=True)
        _curve(loss, metrics, "validation/policy_loss", "#1f8a5f", "held-out matches", points=True)
        loss.set_title("policy loss")
        names = sorted({key for row in metrics for key in row if key.startswith("kept/")})
        own = iter(BEHAVIOURS * (1 + len(names) // len(BEHAVIOURS)))
        fixed = {"kept/expert": EXPERT, "kept/random": RANDOM}
        for key in names:
            _curve(kept, metrics, key, fixed.get(key) or next(own), key.removeprefix("kept/"))
        kept.set(title="kept by the advantage filter", ylim=(-0.02, 1.02))
        kept.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        _curve(speed, metrics, "steps_per_s", colour, "")
        speed.set_title("steps per second")
        speed.set_ylim(bottom=0)
        speed.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        for panel in axes:
            panel.set_xlabel("update")
            if panel.get_legend_handles_labels()[1]:
                panel.legend(fontsize=8.5, labelcolor=MUTED, handlelength=1.3)
        return svg(figure, f"learning {name}")


def _curve(
    panel: Axes, metrics: Sequence[Mapping[str, float]], key: str, colour: str, label: str,
    *, raw: bool = False, points: bool = False,
) -> None:  # fmt: skip
    """A smoothed curve; with `raw` the values behind it, with `points` only the values."""
    pairs = [(row["update"], row[key]) for row in metrics if key in row]
    if not pairs:
        return
    x, y = _thinned(np.array(pairs, np.float64))
    if points:
        panel.plot(x, y, "o-", color=colour, label=label, markersize=4, linewidth=1.2)
        return
    if raw:
        panel.plot(x, y, color=colour, alpha=0.22, linewidth=0.8)
    panel.plot(x, smoothed(y), color=colour, label=label)


def _thinned(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns x and y, averaged to at most POINTS."""
    parts = np.array_split(rows, min(len(rows), POINTS))
    means = np.array([part.mean(axis=0) for part in parts])
    return means[:, 0], means[:, 1]


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A centred moving average over about a thirtieth of the curve, unbiased at its ends."""
    width = max(1, len(values) // 30) | 1
    kernel = np.ones(width)
    count = np.convolve(np.ones(len(values)), kernel, "same")
    return np.convolve(values, kernel, "same") / count
