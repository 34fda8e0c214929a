"""The report's videos, as HTML: replayed runs within what a page may weigh."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

import polars as pl

from ...generate.pool import in_processes
from ...shards.console import progress
from ...shards.page import dot
from .. import video
from ..entrants import Pair
from ..episodes import both_sides, runs_of
from ..evaluation import DATA, Evaluation
from ..pairs import alone, matches
from ..play import Recorded
from ..table import pair_name
from .headline import main_policy, outcomes, scripts
from .tables import by_task

FEW_PAIRS = 4  # tasks and levels up to which every policy is shown
PAGE_BYTES = 15_000_000  # of all videos; base64 takes a third more
SCENES_PER_WORKER = 6  # a second each; a process takes two to start
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
    return figures(evaluation.recorded, chosen, colours, _budget(evaluation))


def figures(
    recorded: Recorded, chosen: Sequence[Shown], colours: Mapping[str, str], maximum_bytes: int
) -> str:
    """Videos of at most so many bytes each, side by side; of several policies, each task's apart.

    Errors as `video.record`'s.
    """
    several = len({policy for policy, _, _ in chosen}) > 1
    parts, films = [], iter(_films(recorded, chosen, maximum_bytes))
    for _, group in groupby(chosen, lambda shown: shown[1] if several else None):
        drawn = [_figure(recorded.frame, shown, colours[shown[0]], next(films)) for shown in group]
        parts.append(f'<div class="videos">{"".join(drawn)}</div>')
    return "\n".join(parts)


@dataclass(frozen=True)
class Scene:
    """A video to be made."""

    number: int
    shown: Shown
    frame: pl.DataFrame
    """The cell's runs; of a match from both sides."""
    maximum_bytes: int
    versions: dict[str, str]


def _films(recorded: Recorded, chosen: Sequence[Shown], budget: int) -> list[bytes]:
    """The videos in order, made by as many processes as pay."""
    scenes = [
        Scene(number, shown, both_sides(recorded.frame, *shown), budget, recorded.versions)
        for number, shown in enumerate(chosen)
    ]
    if len(scenes) < SCENES_PER_WORKER:
        return [film(scene)[1] for scene in scenes]
    found: dict[int, bytes] = {}
    workers = min(len(os.sched_getaffinity(0)), 1 + len(scenes) // SCENES_PER_WORKER)
    with progress("report", len(scenes), "videos") as advance:
        for number, data in in_processes(film, scenes, workers):
            found[number] = data
            advance(1)
    return [found[scene.number] for scene in scenes]


def film(scene: Scene) -> tuple[int, bytes]:
    """(its number, the GIF), in a worker or here."""
    return scene.number, video.record(
        scene.frame, *scene.shown, scene.maximum_bytes, scene.versions
    )


def _figure(frame: pl.DataFrame, shown: Shown, colour: str, data: bytes) -> str:
    policy, pair, opponent = shown
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
