"""Recorded runs, replayed and drawn as animated GIFs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..generate.video import Clip, film, pace, shown_steps
from ..generate.world import World
from .runs import Runs

SIZE = 160  # pixels, a run's square
RUNS_ACROSS = 3
MAXIMUM_BYTES = 1_500_000


def choose_runs(runs: Runs) -> list[int]:
    """Up to RUNS_ACROSS runs to show: median successes, and a median failure if there is one."""
    succeeded, failed = np.flatnonzero(runs.success), np.flatnonzero(~runs.success)
    succeeded = succeeded[np.argsort(runs.completion_step[succeeded], kind="stable")]
    failed = failed[np.argsort(runs.returns[failed], kind="stable")]
    total = min(RUNS_ACROSS, len(runs.seeds))
    failures = min(len(failed), max(total - len(succeeded), 1))
    return [*_around_median(succeeded, total - failures), *_around_median(failed, failures)]


def _around_median(ordered: NDArray[np.int64], count: int) -> list[int]:
    """`count` entries evenly spread: the median for one, tertiles for two, quartiles for three."""
    places = [len(ordered) * (i + 1) // (count + 1) for i in range(count)]
    return [int(ordered[place]) for place in places]


def replay(runs: Runs, number: int) -> Clip:
    """Play a recorded run again in a world of its own, with frames."""
    world = World(runs.task, runs.level, 1, image_size=SIZE)
    world.reset([runs.seeds[number]])
    steps, rate = int(runs.steps[number]), pace(world)
    actions = runs.actions[number]
    frames = np.zeros((-(-steps // rate.steps), 1, SIZE, SIZE, 3), np.uint8)
    success = np.zeros(steps, bool)
    total = 0.0
    for t in range(steps):
        if t % rate.steps == 0:
            world.observe(pixels=frames[t // rate.steps])
        step = world.step(actions[None, t])
        success[t] = step.success[0] > 0
        total += float(step.reward[0])
    assert total == runs.returns[number], f"seed {runs.seeds[number]} replays differently"
    completed = int(runs.completion_step[number])
    caption = f"completed at step {completed}" if completed >= 0 else "failed"
    if runs.causes[number]:
        caption = runs.causes[number].partition(":")[0]
    return Clip(
        frames[:, 0], success[:: rate.steps], f"run {number}: {caption}", completed >= 0, rate
    )


def record(runs: Runs) -> bytes:
    """An animated GIF of some runs side by side, of at most MAXIMUM_BYTES where that can be."""
    chosen = choose_runs(runs)
    clips = [replay(runs, number) for number in chosen]
    shown = [shown_steps(int(runs.steps[n]), int(runs.completion_step[n])) for n in chosen]
    return film(clips, max(shown), RUNS_ACROSS, MAXIMUM_BYTES)
