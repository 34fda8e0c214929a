"""What a step of a corpus costs here: a few episodes, played and stored as generation does it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from ..shards.schema import SEGMENT_STEPS
from . import raster
from .plan import Wave, plan
from .players import provenance_of
from .pool import in_processes
from .recipe import Behaviour, Recipe
from .registry import task_class
from .trial import Trial

MEASURE_S = 9.0  # for all cells together, on every core
CELL_S = 4.0  # at most for one: enough for a wave of 64 lanes and 512 steps
FEW, SOME = 8, 32  # control steps: the fewest that give a rate; enough for one
CONTROL_STEP_S = 0.6e-3  # of a control step, whatever its lanes: 0.3 to 1.6 ms over the suite
PATIENCE_S = 6.0  # with a slow policy, after its first segment


@dataclass(frozen=True)
class Cost:
    """What a planned step of a cell comes to; planned are whole episodes."""

    written: float
    """Steps: 1 where no episode ends early."""
    segments: float
    bytes: float
    """Of the tar."""
    seconds: float
    """Of one core, all told: simulated, drawn, encoded, and what is played and not kept."""
    tries: float = 1.0
    """Matches played for one that is kept."""
    device: str = ""
    """What computes its learned policies, if there are any."""


def measure_all(cells: Sequence[Recipe]) -> list[Cost]:
    """The costs of resolved recipes of one wave: on all cores, of learned policies on one.

    Raises what playing them raises.
    """
    costs: dict[int, Cost] = {}
    if any(recipe.renderer == "raster" for recipe in cells):
        raster.compile()  # once, before the workers start
    cores = len(os.sched_getaffinity(0))
    for scripted in (True, False):
        chosen = [i for i, recipe in enumerate(cells) if recipe.scripted == scripted]
        chosen.sort(key=lambda i: task_class(_wave(cells[i]).task).horizon, reverse=True)
        workers = min(cores if scripted else 1, len(chosen))
        budget = min(CELL_S, MEASURE_S * workers / max(len(chosen), 1))
        # seeds of their own: with the same ones all cells would draw the same lucky episodes
        items = [(i, replace(cells[i], seed=i)) for i in chosen]
        costs |= dict(in_processes(partial(_measure_item, budget), items, workers))
    return [costs[i] for i in range(len(cells))]


def _measure_item(budget: float, item: tuple[int, Recipe]) -> tuple[int, Cost]:
    return item[0], measure(item[1], budget)


def _wave(recipe: Recipe) -> Wave:
    return plan(recipe)[0][0]


def measure(recipe: Recipe, budget: float) -> Cost:
    """The cost of a cell, in about `budget` seconds, or what a few episodes take.

    A whole wave, if there is time for it. If not, its first steps tell the rate, and a few whole
    episodes in a narrower wave all that changes in the course of an episode: bytes fall to a sixth
    of the first segment's where a task is done, two in three matches end early, and contacts cost.
    """
    wave = _wave(recipe)
    _warm_up(recipe.wave, recipe.image_size)
    if not recipe.scripted:  # networks and drivers load
        Trial(recipe, 1).play(lambda run: len(run.lanes) == 2)
    wide = Trial(recipe, wave.nsim).play(partial(_told, budget))
    again = Trial(recipe, wave.nsim).play(lambda run: True)
    setting_up = min(wide.times[0], again.times[0])
    device = provenance_of(recipe).versions.get("device", "")
    if wide.whole:
        playing = wide.per_step() * sum(wide.lanes) + wide.storing
        return cost_of(recipe, wide, playing + setting_up, device)
    each = (wide.per_step() * wide.lanes[0] - CONTROL_STEP_S) / wave.nsim
    room = 0.75 * budget / task_class(wave.task).horizon - CONTROL_STEP_S
    few = 2 if task_class(wave.task).players == 1 else 8  # the lengths of matches differ most
    narrow = Trial(recipe, min(wave.nsim, max(few, int(room / max(each, 1e-6)))))
    narrow.play(_tired)
    drift = narrow.per_step() / narrow.per_step(max(len(wide.lanes), SOME))
    playing = wide.per_step() * drift * sum(narrow.lanes) + narrow.storing
    return cost_of(recipe, narrow, playing + setting_up * narrow.planned / wave.steps, device)


@cache
def _warm_up(lanes: int, image_size: int) -> None:
    """Libraries load, and a process's first wave touches new memory: 0.4 s for 64 lanes."""
    recipe = Recipe("warm-up", 1, (Behaviour(("reach",), "expert"),), wave=lanes)
    recipe = replace(recipe, image_size=image_size)
    Trial(recipe, lanes).play(lambda run: len(run.lanes) == 2)


def _told(budget: float, run: Trial) -> bool:
    """Whether a wide wave has told its rate and there is no time for all of it."""
    steps = len(run.lanes)
    if not FEW < steps <= SOME or run.per_step() * run.wave.steps <= budget:
        return False
    return steps == SOME or run.times[-1] > budget / 4


def _tired(run: Trial) -> bool:
    """Whether whole episodes take too long, and there is one segment of each."""
    return len(run.lanes) > SEGMENT_STEPS and run.times[-1] > PATIENCE_S


def cost_of(recipe: Recipe, run: Trial, seconds: float, device: str = "") -> Cost:
    """What was played, `seconds` long, by planned step; of it all, or of what is kept."""
    matches, tries, again = {row["match"] for row in run.rows}, 1.0, 0.0
    if recipe.keep == "success" and run.whole:
        # (n + 1) / (k + 1) has the mean 1 / p, but for (1 - p)^(n + 1)
        tries = (len(matches) + 1) / (len(run.good) + 1)
        matches = run.good or matches
        # others play whole waves again
        if all(player.scripted for player in recipe.players().values()):
            again = (rounds(_wave(recipe).nsim, tries) - tries) * len(run.lanes) * CONTROL_STEP_S
    rows = [row for row in run.rows if row["match"] in matches]
    steps = sum(row["steps"] for row in rows)
    written = steps / (run.planned * len(matches) / run.wave.nsim) if run.whole else 1.0
    return Cost(
        written, len(rows) / steps * written, sum(row["bytes"] for row in rows) / steps * written,
        seconds / run.planned * tries + again / _wave(recipe).steps, tries, device,
    )  # fmt: skip


def rounds(nsim: int, tries: float) -> float:
    """Waves until each of `nsim` matches has succeeded once, of which each needs so many tries.

    Those that failed are played again, in ever narrower waves: the largest of `nsim` geometric
    numbers, which has a mean within 1/2 of this (Eisenberg 2008).
    """
    if tries <= 1:
        return 1.0
    harmonic = sum(1 / n for n in range(1, nsim + 1))
    return harmonic / -math.log(1 - 1 / tries) + 0.5


