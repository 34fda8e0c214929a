"""What a task looks like when it is played: an animated GIF and a contact sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..shards import storage
from ..shards.errors import ConfigError
from .policies import make_policy
from .registry import check_level, task_class
from .rollout import Completion, Policy, act
from .slots import ACTION_SIZE
from .video import GAP, INK, LABEL, WHITE, Clip, draw_caption, film, font, pace, shown_steps
from .view import Views
from .world import World

IMAGE_SIZE = 64  # pixels, what the learner sees
ZOOM = 2  # of the learner's frames on the sheet
MOMENTS = 8  # columns of the sheet
RUNS_ACROSS = 3  # in the GIF
MAXIMUM_BYTES = 8_000_000  # of the GIF
MAXIMUM_SEEDS, MAXIMUM_SIZE = 24, 512  # more would not fit into memory


@dataclass(frozen=True)
class Take:
    """One seed's episode as it was recorded."""

    clip: Clip
    seen: NDArray[np.uint8]
    """(n, players, IMAGE_SIZE, IMAGE_SIZE, 3) the learner's frames, at the clip's pace"""
    shown: int
    """Steps worth showing."""


@dataclass(frozen=True)
class Preview:
    """What was written, and how the episodes ended."""

    urls: tuple[str, ...]
    outcomes: tuple[str, ...]


def preview(
    task: str, level: int, policy: str, output: str, *, noise: float = 0.0, seeds: int = 6,
    first_seed: int = 0, size: int = 160,
) -> Preview:  # fmt: skip
    """Play some seeds and write TASK-LEVEL-POLICY.gif and .png below the URL `output`.

    Raises ConfigError naming what cannot be met, and RolloutError for a policy that does not act
    for every player.
    """
    _check(task, level, policy, noise, seeds, first_seed, size)
    storage.filesystem(output)  # a URL that nothing here can open is known before any work
    name = f"{policy}+noise{noise:g}" if noise else policy
    player = make_policy(policy, noise)
    world = World(task, level, seeds, image_size=IMAGE_SIZE)
    takes = record(world, player, range(first_seed, first_seed + seeds), size)
    clips = [take.clip for take in takes]
    animation = film(clips, max(take.shown for take in takes), RUNS_ACROSS, MAXIMUM_BYTES)
    title = f"{task} {level}, {name}: {world.instruction[0]}"
    files = {"gif": animation, "png": _png(contact_sheet(takes, title))}
    stem = re.sub(r"[^\w.+-]", "-", f"{task}-{level}-{name}")
    urls = {storage.join(output, f"{stem}.{end}"): data for end, data in files.items()}
    for url, data in urls.items():
        storage.write_bytes(url, data)
    return Preview(tuple(urls), tuple(clip.caption for clip in clips))


def _check(
    task: str, level: int, policy: str, noise: float, seeds: int, first_seed: int, size: int
) -> None:
    check_level(task_class(task), level)
    if not 0 <= noise <= 2:
        raise ConfigError(f"--noise should be in [0, 2], is {noise:g}")
    if noise and policy != "expert":
        raise ConfigError(f"--noise is for the policy 'expert', not {policy!r}")
    if not 1 <= seeds <= MAXIMUM_SEEDS:
        raise ConfigError(f"--seeds should be in [1, {MAXIMUM_SEEDS}], is {seeds}")
    if not 0 <= first_seed < 1 << 63:
        raise ConfigError(f"--first-seed should be in [0, 2^63), is {first_seed}")
    if not 2 <= size <= MAXIMUM_SIZE:
        raise ConfigError(f"--size should be in [2, {MAXIMUM_SIZE}], is {size}")


def record(world: World, policy: Policy, seeds: Sequence[int], size: int) -> list[Take]:
    """Play an episode of each seed, filmed at `size` pixels and as the learner sees it."""
    views, rate, players = Views(world, size), pace(world), world.task.players
    world.reset(seeds)
    policy.reset(world, seeds)
    completion, steps = Completion(world.nlane), np.zeros(world.nsim, np.int64)
    action, used = np.zeros((world.nlane, ACTION_SIZE), np.float32), world.task.action_size
    filmed, seen, success = [], [], []
    while len(world.ids) and world.time < world.horizon:
        playing = np.isin(np.arange(world.nsim), world.ids)
        observation = world.observe()
        if world.time % rate.steps == 0:
            assert observation.pixels is not None, "a world without pixels"
            filmed.append(views.draw())
            seen.append(observation.pixels.reshape(-1, players, *observation.pixels.shape[1:]))
        action[:, :used] = act(policy, observation, world)[:, :used]
        step = world.step(action)
        succeeded = step.success * playing.repeat(players)
        completion.update(succeeded, step.terminated, world.time - 1)
        success.append(succeeded.reshape(-1, players).any(axis=1))
        steps += playing
    completed = completion.step.reshape(-1, players)
    frames, tiles, held = np.stack(filmed), np.stack(seen), np.stack(success)[:: rate.steps]
    takes = []
    for sim, seed in enumerate(seeds):
        count = -(-int(steps[sim]) // rate.steps)
        text, good = outcome(completed[sim], int(steps[sim]), world.horizon, world.causes[sim])
        clip = Clip(frames[:count, sim], held[:count, sim], f"seed {seed}: {text}", good, rate)
        shown = shown_steps(int(steps[sim]), int(completed[sim].max()))
        takes.append(Take(clip, tiles[:count, sim], shown))
    return takes


def outcome(completed: NDArray[np.int64], steps: int, horizon: int, cause: str) -> tuple[str, bool]:
    """How an episode went, and whether well, from each player's completion step (-1: never)."""
    if cause:
        return cause, False
    if completed.max() < 0:
        ended = f"ended at step {steps}" if steps < horizon else f"not done in {steps} steps"
        return ended, False
    what = "completed" if len(completed) == 1 else f"player {completed.argmax()} won"
    return f"{what} at step {completed.max()}", True


def contact_sheet(takes: Sequence[Take], title: str) -> Image.Image:
    """A row of moments for each take, every moment in all players' eyes, one above the other."""
    strips = [_strip(take) for take in takes]
    width, height = strips[0].size
    sheet = Image.new("RGB", (width + 2 * GAP, LABEL + len(takes) * height), WHITE)
    ImageDraw.Draw(sheet).text((GAP, 3), title, INK, font())
    for row, strip in enumerate(strips):
        sheet.paste(strip, (GAP, LABEL + row * height))
    return sheet


def _strip(take: Take) -> Image.Image:
    steps = take.clip.pace.steps
    moments = np.linspace(0, (take.shown - 1) // steps, MOMENTS).round().astype(int)
    tiles = take.seen.copy()
    tiles[:, :-1, -1:] = 255  # a line between the players' views
    tiles = tiles.reshape(len(tiles), -1, *tiles.shape[3:])
    height, width = ZOOM * tiles.shape[1], ZOOM * tiles.shape[2]
    strip = Image.new("RGB", (MOMENTS * (width + GAP) - GAP, height + 2 * LABEL), WHITE)
    draw = ImageDraw.Draw(strip)
    draw_caption(draw, 0, 0, take.clip.caption, take.clip.completed)
    for column, moment in enumerate(moments.tolist()):
        tile = Image.fromarray(tiles[moment]).resize((width, height), Image.Resampling.NEAREST)
        strip.paste(tile, (column * (width + GAP), LABEL))
        draw.text((column * (width + GAP), LABEL + height), f"{moment * steps}", INK, font())
    return strip


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
