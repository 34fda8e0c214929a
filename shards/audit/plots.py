"""The plots of an audit's report, as SVG text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from ..plots import BEHAVIOURS, EXPERT, LEARNED, MUTED, RANDOM, STYLE, panels, svg
from .report import Verified

BINS = 32  # of a histogram
PAIR = ["task", "level"]
PERCENT = PercentFormatter(1.0, decimals=0)
Colours = Mapping[str, str]


def colours_of(episodes: pl.DataFrame) -> dict[str, str]:
    """Each policy's colour, the same throughout the report."""
    fixed = {"expert": EXPERT, "random": RANDOM}
    others = [name for name in episodes["policy"].unique().sort() if name not in fixed]
    palette = (*BEHAVIOURS, *LEARNED)
    return fixed | {name: palette[i % len(palette)] for i, name in enumerate(others)}


def success_plot(table: pl.DataFrame, colours: Colours) -> str:
    """Completed episodes: a line per task and level, a dot per policy."""
    pairs = table.select(PAIR).unique(maintain_order=True).rows()
    policies = sorted(set(table["policy"]))
    with rc_context(STYLE):
        figure, (panel,) = panels(1, 0.45 + 0.25 * len(pairs))
        for row in table.iter_rows(named=True):
            # apart, where several lie at 0 or 100 %
            apart = 0.5 * ((policies.index(row["policy"]) + 0.5) / len(policies) - 0.5)
            place = pairs.index((row["task"], row["level"])) + apart
            panel.plot(row["success_rate"], place, "o", color=colours[row["policy"]])
        panel.set_yticks(range(len(pairs)), [f"{task} {level}" for task, level in pairs])
        panel.set(xlim=(-0.02, 1.02), ylim=(len(pairs) - 0.4, -0.6))
        panel.xaxis.set_major_formatter(PERCENT)
        panel.spines["left"].set_visible(False)
        return svg(figure, "success")


def histogram_plot(episodes: pl.DataFrame, column: str, colours: Colours) -> str:
    """How a column spreads over the episodes of each task and level, a line per policy.

    Empty if it is nowhere finite.
    """
    finite = pl.col(column).cast(pl.Float64).is_finite()
    rows = episodes.lazy().filter(finite).select(*PAIR, "policy", column).collect()
    groups = rows.sort(PAIR).partition_by(PAIR, as_dict=True)
    if not groups:
        return ""
    with rc_context(STYLE):
        figure, axes = panels(len(groups), 1.9)
        for panel, ((task, level), part) in zip(axes, groups.items(), strict=True):
            panel.set_title(f"{task} {level}")
            _histogram(panel, part, column, colours)
        return svg(figure, column)


def _histogram(panel: Axes, rows: pl.DataFrame, column: str, colours: Colours) -> None:
    values = rows[column].to_numpy()
    low, high = values.min(), values.max()
    edges = np.linspace(low, max(high, low + 1), BINS + 1)
    for policy in sorted(set(rows["policy"])):
        chosen = values[(rows["policy"] == policy).to_numpy()]
        share = np.histogram(chosen, edges)[0] / len(chosen)
        panel.stairs(share, edges, color=colours[policy], linewidth=1.4)
        panel.stairs(share, edges, color=colours[policy], alpha=0.14, fill=True)
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(PERCENT)
    panel.margins(x=0.01)


def size_plot(verified: Verified) -> str:
    """Bytes per step of each array and of what surrounds them."""
    sizes = verified.bytes_per_step()
    total = sum(sizes.values())
    with rc_context(STYLE):
        figure, (panel,) = panels(1, 0.5 + 0.27 * len(sizes))
        panel.barh(range(len(sizes)), list(sizes.values()), height=0.6, color=LEARNED[0])
        for place, size in enumerate(sizes.values()):
            told = f"{size:,.1f} ({size / total:.1%})"
            panel.annotate(told, (size, place), (6, 0), textcoords="offset points", va="center",
                           color=MUTED)  # fmt: skip
        panel.set_yticks(range(len(sizes)), list(sizes))
        panel.set(xlabel="bytes per step", xlim=(0, 1.15 * max(sizes.values())))
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
        return svg(figure, "bytes per step")
