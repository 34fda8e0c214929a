"""A LeRobot dataset, v2.1: a Parquet file and a video per episode, and tables of them in JSON."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from ...shards import storage
from ...shards.codec import fields_of
from ...shards.console import Advance
from ...shards.episode import Episode
from ...shards.errors import ConfigError
from ..registry import make_task, task_classes
from .lerobot_features import VIDEO, Columns, columns, features, statistics
from .options import Options, provenance
from .selection import Selection
from .video import write_video

MARKER = "meta/info.json"
CHUNK_EPISODES = 1000  # of a folder
PARQUET = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
MP4 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
CARD = """---
task_categories:
- robotics
tags:
- LeRobot
configs:
- config_name: default
  data_files: data/*/*.parquet
---

LeRobot dataset, exported from a corpus of palaestra; `meta/info.json` says which.
"""


@dataclass(frozen=True)
class Place:
    """Where an episode comes in the dataset."""

    number: int
    start: int
    """Frames before it."""
    task: int
    """Number of its instruction."""


@dataclass
class Places:
    """Hands out places in order, and numbers the instructions it meets."""

    number: int = 0
    start: int = 0
    tasks: dict[str, int] = field(default_factory=dict)

    def take(self, episode: Episode) -> Place:
        """The next."""
        task = self.tasks.setdefault(episode.instruction, len(self.tasks))
        place = Place(self.number, self.start, task)
        self.number, self.start = self.number + 1, self.start + episode.steps
        return place


def write(selection: Selection, folder: Path, options: Options, advance: Advance) -> None:
    """Write data, videos and meta; ConfigError without a frame rate that fits all episodes."""
    fps = options.fps or frame_rate(selection)
    if options.pixels:
        _require_even(selection)
    meta, places = folder / "meta", Places()
    meta.mkdir()
    one = partial(_write_episode, folder, fps, options.pixels)
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        (meta / "episodes.jsonl").open("w", encoding="utf-8") as rows,
        (meta / "episodes_stats.jsonl").open("w", encoding="utf-8") as moments,
    ):
        for episodes in selection.episode_groups():
            taken = [places.take(episode) for episode in episodes]
            for row, found in pool.map(one, episodes, taken):
                _add_line(rows, row)
                _add_line(moments, found)
                advance(row["length"])
    with (meta / "tasks.jsonl").open("w", encoding="utf-8") as rows:
        for text, task in places.tasks.items():
            _add_line(rows, {"task_index": task, "task": text})
    (folder / "README.md").write_text(CARD)
    storage.write_json(str(folder / MARKER), _info(selection, options, fps, len(places.tasks)))


def _add_line(file: TextIO, value: dict[str, Any]) -> None:
    file.write(json.dumps(value, ensure_ascii=False) + "\n")


def frame_rate(selection: Selection) -> int:
    """The source's of an imported corpus, else control steps a second of the episodes' tasks.

    Rounded: LeRobot counts in whole frames. Raises ConfigError if the tasks' differ, if a task is
    not of this suite, or if an import knows of none: its tasks may be called as ours are, and yet
    have been recorded at any rate.
    """
    if (imported := selection.imported) is not None:
        if not imported.get("fps"):
            raise ConfigError("--fps is missing: this corpus was imported, at a rate not recorded")
        return max(1, round(imported["fps"]))
    rates: dict[int, str] = {}
    for name, level in selection.segments.select("task", "level").unique().sort("task").rows():
        if name not in task_classes():
            raise ConfigError(f"--fps is missing: {name} is no task of this suite")
        task = make_task(name, level)
        rates.setdefault(round(1 / (task.build().option.timestep * task.substeps)), name)
    if len(rates) > 1:
        found = ", ".join(f"{name} {rate}" for rate, name in sorted(rates.items()))
        raise ConfigError(
            f"expected tasks of one rate, found {found} frames a second: choose some with "
            "--where, or one rate for all with --fps"
        )
    return next(iter(rates))


def _require_even(selection: Selection) -> None:
    size = selection.corpus.schema.image_size
    if size % 2:
        raise ConfigError(f"video needs an even image size, this corpus has {size}: --no-pixels")


def _write_episode(
    folder: Path, fps: int, pixels: bool, episode: Episode, place: Place
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its lines of episodes.jsonl and episodes_stats.jsonl."""
    values = columns(episode, place.number, place.start, place.task, fps)
    names = {
        "episode_chunk": place.number // CHUNK_EPISODES, "episode_index": place.number,
        "video_key": VIDEO,
    }  # fmt: skip
    path = _parent_made(folder / PARQUET.format(**names))
    pq.write_table(_table(values), path, compression="zstd")
    if pixels:
        write_video(_parent_made(folder / MP4.format(**names)), episode.pixels, fps)
    row = {"episode_index": place.number, "tasks": [episode.instruction], "length": episode.steps}
    moments = statistics(values, episode.pixels if pixels else None)
    stats = {"episode_index": place.number, "stats": moments}
    return row | {"palaestra": fields_of(episode)}, stats


def _parent_made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _table(values: Columns) -> pa.Table:
    """Vectors as lists of a fixed size, as `datasets` stores them."""
    arrays = {
        name: pa.array(column) if column.ndim == 1
        else pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), column.shape[1])
        for name, column in values.items()
    }  # fmt: skip
    return pa.table(arrays)


def _info(selection: Selection, options: Options, fps: int, tasks: int) -> dict[str, Any]:
    """What meta/info.json holds."""
    episodes = selection.episodes
    return {
        "codebase_version": "v2.1", "robot_type": "palaestra", "total_episodes": episodes,
        "total_frames": selection.steps, "total_tasks": tasks,
        "total_videos": episodes if options.pixels else 0,
        "total_chunks": -(-episodes // CHUNK_EPISODES), "chunks_size": CHUNK_EPISODES, "fps": fps,
        "splits": {"train": f"0:{episodes}"}, "data_path": PARQUET,
        "video_path": MP4 if options.pixels else None,
        "features": features(selection.corpus.schema, fps, options.pixels),
        "palaestra": provenance(selection),
    }  # fmt: skip
