"""Recorded runs, replayed and drawn as animated GIFs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..generate.rollout import COMPLETION_STEPS
from ..generate.world import World
from .runs import Runs

SIZE = 160  # pixels, a run's square
RUNS_ACROSS = 3
GAP, LABEL, BAR = 6, 20, 3  # pixels: between squares, text above, time bar below
FRAME_STEPS = 2  # control steps a frame
FRAME_MS = 50  # real time at 40 Hz control; GIF counts in 10 ms
HOLD_STEPS = 30  # shown after the last run has completed
MAXIMUM_BYTES = 1_500_000
ATTEMPTS = ((128, 1), (64, 1), (64, 2), (32, 2), (32, 4), (16, 8))  # colours, frames skipped
WHITE, INK, TRACK = (255, 255, 255), (34, 43, 54), (222, 226, 231)
GREEN, RED = (38, 150, 96), (212, 64, 60)


@dataclass(frozen=True)
class Replay:
    """What a run looked like, every FRAME_STEPS steps."""

    frames: NDArray[np.uint8]
    """(n, SIZE, SIZE, 3)"""
    success: NDArray[np.bool_]
    """(n,) whether success held there"""
    caption: str
    completed: bool


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


def replay(runs: Runs, number: int) -> Replay:
    """Play a recorded run again in a world of its own, with frames."""
    world = World(runs.task, runs.level, 1, image_size=SIZE)
    world.reset([runs.seeds[number]])
    steps = int(runs.steps[number])
    actions = runs.actions[number]
    frames = np.zeros((-(-steps // FRAME_STEPS), 1, SIZE, SIZE, 3), np.uint8)
    success = np.zeros(steps, bool)
    total = 0.0
    for t in range(steps):
        if t % FRAME_STEPS == 0:
            world.observe(pixels=frames[t // FRAME_STEPS])
        step = world.step(actions[None, t])
        success[t] = step.success[0] > 0
        total += float(step.reward[0])
    assert total == runs.returns[number], f"seed {runs.seeds[number]} replays differently"
    completed = int(runs.completion_step[number])
    caption = f"completed at step {completed}" if completed >= 0 else "failed"
    if runs.causes[number]:
        caption = runs.causes[number].partition(":")[0]
    return Replay(frames[:, 0], success[::FRAME_STEPS], f"run {number}: {caption}", completed >= 0)


def record(runs: Runs) -> bytes:
    """An animated GIF of some runs side by side, of at most MAXIMUM_BYTES where that can be."""
    chosen = choose_runs(runs)
    replays = [replay(runs, number) for number in chosen]
    shown = runs.completion_step + COMPLETION_STEPS + HOLD_STEPS
    ends = np.minimum(np.where(runs.success, shown, runs.steps), runs.steps)[chosen]
    last = -(-int(ends.max()) // FRAME_STEPS)
    pictures = [_picture(replays, at, last) for at in range(last)]
    for colours, stride in ATTEMPTS:
        data = _gif(pictures[::stride], colours, FRAME_MS * stride)
        if len(data) <= MAXIMUM_BYTES:
            break
    return data


def _picture(replays: Sequence[Replay], at: int, last: int) -> Image.Image:
    """One frame: each run under its caption, a bar of time below, green where success holds."""
    width = len(replays) * (SIZE + GAP) - GAP
    picture = Image.new("RGB", (width, LABEL + SIZE + 2 + BAR), WHITE)
    draw = ImageDraw.Draw(picture)
    for column, run in enumerate(replays):
        x, shown = column * (SIZE + GAP), min(at, len(run.frames) - 1)
        colour = GREEN if run.completed else RED
        draw.ellipse((x + 1, 6, x + 8, 13), fill=colour)
        draw.text((x + 13, 3), run.caption, INK, ImageFont.load_default(11))
        picture.paste(Image.fromarray(run.frames[shown]), (x, LABEL))
        _draw_bar(draw, x, run, shown, last)
    return picture


def _draw_bar(draw: ImageDraw.ImageDraw, x: int, run: Replay, shown: int, last: int) -> None:
    top = LABEL + SIZE + 2
    draw.rectangle((x, top, x + SIZE - 1, top + BAR - 1), fill=TRACK)
    for frame in range(shown + 1):
        left, right = x + frame * SIZE // last, x + (frame + 1) * SIZE // last
        colour = GREEN if run.success[frame] else INK
        draw.rectangle((left, top, max(left, right - 1), top + BAR - 1), fill=colour)


def _gif(pictures: Sequence[Image.Image], colours: int, frame_ms: int) -> bytes:
    """All frames in one palette, undithered, so that only what moves is stored anew."""
    sample = Image.new("RGB", (pictures[0].width, 3 * pictures[0].height))
    for place, index in enumerate((0, len(pictures) // 2, len(pictures) - 1)):
        sample.paste(pictures[index], (0, place * pictures[0].height))
    palette = sample.quantize(colours, Image.Quantize.MEDIANCUT)
    entries = np.array(palette.getpalette()).reshape(-1, 3)
    entries[entries.sum(axis=1).argmax()] = WHITE  # the page's own, else the strip's edge shows
    palette.putpalette(entries.ravel().tolist())
    frames = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0,
        disposal=1,
    )  # fmt: skip
    return buffer.getvalue()
