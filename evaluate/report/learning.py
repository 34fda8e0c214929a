"""How a run learned, as far as its own files tell: metrics, and scores of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from ...shards import storage
from ...shards.plots import BEHAVIOURS, EXPERT, LEARNED, MUTED, RANDOM, STYLE, svg
from ...train.log import EVALUATIONS, METRICS, read_lines
from ..entrants import Entrant
from ..table import pair_name
from .plots import grid, small

POINTS = 800  # of a learning curve; longer ones are averaged
HEIGHT = 2.7  # inches
ONE_BY_ONE = len(LEARNED)  # tasks whose checkpoints' scores are drawn each; of more, the mean is
Lines = Sequence[Mapping[str, Any]]


def read_metrics(source: str) -> list[dict[str, Any]]:
    """A run's metrics, found from the URL of the run, a checkpoint in it or its weights."""
    return _read(source, METRICS)


def read_evaluations(entrant: Entrant) -> list[dict[str, Any]]:
    """Scores of the checkpoints of an entrant's run, of the latest runs and seed only.

    They are of policies with the same action history, matches left out; by update, then task and
    level.
    """
    found = (row for row in _read(entrant.source, EVALUATIONS) if "opponent" not in row)
    mine = [row for row in found if row["history"] == entrant.history]
    if not mine:
        return []
    how = (mine[-1]["runs"], mine[-1]["seed"])
    kept = [row for row in mine if (row["runs"], row["seed"]) == how]
    return sorted(kept, key=lambda row: (row["update"], row["task"], row["level"]))


def _read(source: str, name: str) -> list[dict[str, Any]]:
    url = source.rstrip("/")
    for _ in range(4):
        where = storage.join(url, name)
        if not url.endswith(".safetensors") and storage.exists(where):
            return read_lines(where)
        url = url.rpartition("/")[0]
        if not url.rpartition("/")[2]:
            break
    return []


def learning_plot(name: str, metrics: Lines, colour: str) -> str:
    """Policy loss with validation, kept share by behaviour, and speed, by update."""
    with rc_context(STYLE):
        figures = [small(HEIGHT) for _ in range(3)]
        loss, kept, speed = (panel for _, panel in figures)
        _curve(loss, metrics, "policy_loss", colour, "training", raw=True)
        _curve(loss, metrics, "validation/policy_loss", "#1f8a5f", "held-out matches", points=True)
        names = sorted({key for row in metrics for key in row if key.startswith("kept/")})
        own = iter(BEHAVIOURS * (1 + len(names) // len(BEHAVIOURS)))
        fixed = {"kept/expert": EXPERT, "kept/random": RANDOM}
        for key in names:
            _curve(kept, metrics, key, fixed.get(key) or next(own), key.removeprefix("kept/"))
        kept.set_ylim(-0.02, 1.02)
        kept.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        _curve(speed, metrics, "steps_per_s", colour, "")
        speed.set_ylim(bottom=0)
        speed.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        titles = ("policy loss", "kept by the advantage filter", "steps per second")
        return _finished(name, figures, titles)


def checkpoint_plot(name: str, lines: Lines, colour: str) -> str:
    """Success and normalised return of a run's checkpoints, by update.

    A line for each task and level with its interval, or the mean over those that all were played
    on where there are more than ONE_BY_ONE.
    """
    updates = sorted({row["update"] for row in lines})
    pairs = list(dict.fromkeys((row["task"], row["level"]) for row in lines))
    by_pair = {pair: [r for r in lines if (r["task"], r["level"]) == pair] for pair in pairs}
    whole = [pair for pair in pairs if len(by_pair[pair]) == len(updates)]
    with rc_context(STYLE):
        figures = [small(HEIGHT) for _ in range(2)]
        success, normal = (panel for _, panel in figures)
        if len(pairs) <= ONE_BY_ONE:
            for pair, own in zip(pairs, LEARNED, strict=False):
                _scores(success, normal, by_pair[pair], own, pair_name(pair))
        else:
            _means(success, normal, updates, [by_pair[pair] for pair in whole or pairs], colour)
        success.set_ylim(-0.03, 1.03)
        success.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        normal.axhline(1, color=EXPERT, linewidth=1, linestyle=(0, (4, 3)))
        normal.axhline(0, color=RANDOM, linewidth=1, linestyle=(0, (4, 3)))
        return _finished(f"{name} checkpoints", figures, ("success", "normalised return"))


def _scores(success: Axes, normal: Axes, rows: Lines, colour: str, label: str) -> None:
    x = [row["update"] for row in rows]
    low, value, high = ([row["success"][k] for row in rows] for k in ("low", "value", "high"))
    success.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    success.plot(x, value, "o-", color=colour, label=label, markersize=4)
    known = [(row["update"], row["normalised"]) for row in rows if row["normalised"] is not None]
    if known:
        normal.plot(*zip(*known, strict=True), "o-", color=colour, label=label, markersize=4)


def _means(
    success: Axes, normal: Axes, updates: Sequence[int], groups: Sequence[Lines], colour: str
) -> None:
    """Each group's lines thinly, and their mean at every update that all of them have."""
    for panel, read in ((success, _success), (normal, _normalised)):
        tables = [
            {row["update"]: value for row in rows if (value := read(row)) is not None}
            for rows in groups
        ]
        tables = [table for table in tables if table]
        for table in tables:
            panel.plot(list(table), list(table.values()), color=colour, alpha=0.2, linewidth=0.9)
        shared = [u for u in updates if all(u in table for table in tables)] if tables else []
        means = [np.mean([table[u] for table in tables]) for u in shared]
        label = f"mean of {len(tables)} tasks and levels"
        panel.plot(shared, means, "o-", color=colour, label=label, markersize=4)


def _success(row: Mapping[str, Any]) -> float:
    return row["success"]["value"]


def _normalised(row: Mapping[str, Any]) -> float | None:
    return row["normalised"]


def _finished(name: str, figures: Sequence[Any], titles: Sequence[str]) -> str:
    """The panels with titles, legends where lines have names, and the axis of updates."""
    parts = []
    for (figure, panel), title in zip(figures, titles, strict=True):
        panel.set(title=title, xlabel="update")
        if panel.get_legend_handles_labels()[1]:
            panel.legend(fontsize=8.5, labelcolor=MUTED, handlelength=1.3)
        parts.append(svg(figure, f"{name} {title}", f"{name}: {title} by update"))
    return grid(parts)


def _curve(
    panel: Axes, metrics: Lines, key: str, colour: str, label: str,
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
