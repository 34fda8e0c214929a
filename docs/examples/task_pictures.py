"""The pictures of docs/tasks.md: a sheet for each task, with an expert's episode at every level.

Run: python docs/examples/task_pictures.py FOLDER [TASK...]
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import replace

from palaestra.generate.policies import make_policy
from palaestra.generate.preview import IMAGE_SIZE, Take, contact_sheet, record
from palaestra.generate.registry import task_class, task_classes
from palaestra.generate.world import World
from palaestra.shards import storage
from PIL import Image

SEEDS = range(4)  # the first that is completed is shown
FILM = 2  # pixels; the sheets show what the learner sees
COLOURS = 64  # of a picture: a quarter of the bytes


def picture(task: str) -> Image.Image:
    """Moments of one episode a level, and of a match in both players' eyes."""
    takes = [_take(task, level) for level in range(1, task_class(task).levels + 1)]
    return contact_sheet(takes, f"{task}, played by its expert: step by step, level by level")


def _take(task: str, level: int) -> Take:
    world = World(task, level, len(SEEDS), image_size=IMAGE_SIZE)
    takes = record(world, make_policy("expert"), SEEDS, FILM)
    shown = next((take for take in takes if take.clip.completed), takes[0])
    apart = ", held out" if level in task_class(task).held_out else ""
    caption = f"level {level}{apart}, {shown.clip.caption}"
    return replace(shown, clip=replace(shown.clip, caption=caption))


def main(folder: str, tasks: Sequence[str]) -> None:
    """Write FOLDER/TASK.png, by default of all tasks."""
    for task in tasks or task_classes():
        buffer = io.BytesIO()
        picture(task).quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        storage.write_bytes(storage.join(folder, f"{task}.png"), buffer.getvalue())
        print(f"{task}.png: {len(buffer.getvalue()):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
