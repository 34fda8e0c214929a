"""What the reports' plots share: matplotlib figures as SVG text that takes the page's font."""

from __future__ import annotations

import io
import math
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RANDOM, EXPERT, DATA_COLOUR = "#8d97a5", "#202a37", "#c98411"
LEARNED = ("#2f5bd7", "#b4378f", "#d2502a", "#0f8f9c", "#7048c6", "#5b8c1a")
BEHAVIOURS = (DATA_COLOUR, "#8f5b1d", "#e0b45c", "#a8483b", "#6d7d2e")  # kin of the data's colour
MUTED, GRID = "#5d6876", "#e6e9ed"
ACROSS, WIDTH = 3, 10.8  # panels in a row; inches, at 96 to the page's 1 040 pixels
STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "font.size": 9.5, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.titlepad": 9, "axes.edgecolor": "#b9c1cb",
    "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "text.color": EXPERT,
    "axes.titlecolor": EXPERT, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GRID, "axes.axisbelow": True, "xtick.major.size": 0,
    "ytick.major.size": 0, "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.1, "legend.frameon": False, "lines.linewidth": 1.8,
}  # fmt: skip


def panels(count: int, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, ACROSS in a row, each `height` inches high."""
    across = min(count, ACROSS)
    down = math.ceil(count / across)
    figure = Figure(figsize=(WIDTH, height * down + 0.25))
    grid = figure.subplots(down, across, sharey=share_y, squeeze=False)
    axes = list(grid.ravel())
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def legend(figure: Figure, panel: Axes) -> None:
    """The panel's legend above all of the figure."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=6, labelcolor=MUTED, handlelength=1.3
    )


def svg(figure: Figure, salt: str, told: str = "") -> str:
    """The figure as an <svg> element; `salt` keeps its ids apart from other figures'.

    `told` is what it shows, for those who do not see it; by default the salt.
    """
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    label = escape(told or salt)
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
