"""Runs side by side as an animated GIF, in real time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .rollout import COMPLETION_STEPS
from .view import control_period
from .world import World

GAP, LABEL, BAR = 6, 20, 3  # pixels: between clips, text above, time bar below
FRAME_S = 0.05  # wanted between frames
MAXIMUM_FRAMES = 256  # of a whole episode; longer ones show fewer a second
HOLD_STEPS = 30  # shown after a run has been completed
ATTEMPTS = ((128, 1), (64, 1), (64, 2), (32, 2), (32, 4), (16, 8))  # colours, frames skipped
WHITE, INK, TRACK = (255, 255, 255), (34, 43, 54), (222, 226, 231)
GREEN, RED = (38, 150, 96), (212, 64, 60)


class Pace(NamedTuple):
    """From frame to frame, in real time."""

    steps: int
    milliseconds: int


@dataclass(frozen=True)
class Clip:
    """What a run looked like."""

    frames: NDArray[np.uint8]
    """(n, height, width, 3), one every `pace.steps` steps"""
    success: NDArray[np.bool_]
    """(n,) whether success held there"""
    caption: str
    completed: bool
    pace: Pace


def pace(world: World) -> Pace:
    """About 20 frames a second, fewer in long episodes; GIF counts in 10 ms."""
    period = control_period(world)
    steps = max(round(FRAME_S / period), -(-world.horizon // MAXIMUM_FRAMES), 1)
    return Pace(steps, 10 * max(2, round(100 * steps * period)))


def shown_steps(steps: int, completion_step: int) -> int:
    """Steps of a run worth showing: to its end, or to a while after its completion (-1: none)."""
    if completion_step < 0:
        return steps
    return min(steps, completion_step + COMPLETION_STEPS + HOLD_STEPS)


def film(clips: Sequence[Clip], steps: int, across: int, maximum_bytes: int) -> bytes:
    """A GIF of the first `steps` steps of some clips at one pace, `across` in a row.

    A clip that is shorter holds its last frame. Colours and frames are left out until it has
    `maximum_bytes`, where that can be.
    """
    length = -(-steps // clips[0].pace.steps)
    pictures = [_picture(clips, at, length, across) for at in range(length)]
    for colours, stride in ATTEMPTS:
        data = _gif(pictures[::stride], colours, clips[0].pace.milliseconds * stride)
        if len(data) <= maximum_bytes:
            break
    return data


def draw_caption(draw: ImageDraw.ImageDraw, x: int, y: int, text: str, completed: bool) -> None:
    """A line of text, LABEL pixels high, behind a green or a red dot."""
    draw.ellipse((x + 1, y + 6, x + 8, y + 13), fill=GREEN if completed else RED)
    draw.text((x + 13, y + 3), text, INK, font())


@cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """What captions are written in."""
    return ImageFont.load_default(11)


def _picture(clips: Sequence[Clip], at: int, length: int, across: int) -> Image.Image:
    """One frame: each clip under its caption, a bar of time below, green where success holds."""
    cells = [_cell(clip, min(at, len(clip.frames) - 1), length) for clip in clips]
    width, height = cells[0].width + GAP, cells[0].height + GAP
    columns, rows = min(across, len(cells)), -(-len(cells) // across)
    picture = Image.new("RGB", (columns * width - GAP, rows * height - GAP), WHITE)
    for place, cell in enumerate(cells):
        row, column = divmod(place, across)
        picture.paste(cell, (column * width, row * height))
    return picture


def _cell(clip: Clip, shown: int, length: int) -> Image.Image:
    height, width = clip.frames.shape[1:3]
    cell = Image.new("RGB", (width, LABEL + height + 2 + BAR), WHITE)
    draw = ImageDraw.Draw(cell)
    draw_caption(draw, 0, 0, clip.caption, clip.completed)
    cell.paste(Image.fromarray(clip.frames[shown]), (0, LABEL))
    top = LABEL + height + 2
    draw.rectangle((0, top, width - 1, top + BAR - 1), fill=TRACK)
    for frame in range(shown + 1):
        left, right = frame * width // length, (frame + 1) * width // length
        colour = GREEN if clip.success[frame] else INK
        draw.rectangle((left, top, max(left, right - 1), top + BAR - 1), fill=colour)
    return cell


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
