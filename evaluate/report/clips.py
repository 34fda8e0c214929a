"""The report's videos, as HTML: replayed runs within what a page may weigh."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from ...shards.page import dot
from .. import video
from ..entrants import Pair
from ..episodes import runs_of
from ..evaluation import DATA, Evaluation
from ..pairs import alone, matches
from ..table import pair_name
from .headline import main_policy, outcomes, scripts
from .tables import by_task

FEW_PAIRS = 4  # tasks and levels up to which every policy is shown
PAGE_BYTES = 15_000_000  # of all videos; base64 takes a third more
LEAST_BYTES = 60_000  # of a video, below which nothing is seen
Shown = tuple[str, Pair, str]
"""Policy, task and level, opponent."""


def videos(evaluation: Evaluation, colours: Mapping[str, str]) -> str:
    """Runs of the main policy on each task of one player, and of others where these are few."""
    pairs, main = by_task(alone(evaluation.settings.tasks)), main_policy(evaluation)
    others = [row for row in reversed(evaluation.rows) if row not in (main, DATA)]
    names = [main, *others] if len(pairs) <= FEW_PAIRS else [main]
    return _figures(evaluation, [(name, pair, "") for pair in pairs for name in names], colours)


def match_videos(evaluation: Evaluation, colours: Mapping[str, str]) -> str:
    """Matches of the main policy against the strongest anchor that it met, on each such task."""
    main, met = main_policy(evaluation), outcomes(evaluation, main_policy(evaluation))
    rivals = [name for name in scripts(evaluation) if name in met] or list(met)
    pairs = matches(evaluation.settings.tasks)
    chosen = [(main, pair, rivals[-1]) for pair in pairs] if rivals else []
    return _figures(evaluation, chosen, colours)


def _figures(evaluation: Evaluation, chosen: Sequence[Shown], colours: Mapping[str, str]) -> str:
    """Side by side; of several policies, each task's apart."""
    several = len({policy for policy, _, _ in chosen}) > 1
    parts = []
    for _, group in groupby(chosen, lambda shown: shown[1] if several else None):
        figures = [_figure(evaluation, shown, colours[shown[0]]) for shown in group]
        parts.append(f'<div class="videos">{"".join(figures)}</div>')
    return "\n".join(parts)


def _figure(evaluation: Evaluation, shown: Shown, colour: str) -> str:
    policy, pair, opponent = shown
    frame, versions = evaluation.recorded.frame, evaluation.recorded.versions
    data = video.record(frame, policy, pair, opponent, _budget(evaluation), versions)
    rows = runs_of(frame, policy, pair, opponent)
    done = "won" if opponent else "completed"
    rate = f"{rows['success'].sum():,} of {len(rows):,} {done}"
    who = f"{policy} against {opponent}" if opponent else policy
    told = f"{who} on {pair_name(pair)}: {rate}"
    return (
        f"<figure><figcaption>{dot(colour)}{escape(who)} <span>on {escape(pair_name(pair))} · "
        f'{rate}</span></figcaption><img alt="{escape(told)}" loading="lazy" '
        f'src="data:image/gif;base64,{base64.b64encode(data).decode()}"></figure>\n'
    )


def _budget(evaluation: Evaluation) -> int:
    """Bytes for each video of the page."""
    pairs = alone(evaluation.settings.tasks)
    rows = len(evaluation.rows) if len(pairs) <= FEW_PAIRS else 1
    count = len(pairs) * rows + len(matches(evaluation.settings.tasks))
    return max(LEAST_BYTES, min(video.MAXIMUM_BYTES, PAGE_BYTES // count))
