"""What a frame of a LeRobot dataset holds, and an episode's statistics of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...shards.episode import Episode
from ...shards.schema import Schema
from .video import CODEC, PIXEL_FORMAT

VIDEO = "observation.images.front"
COUNTERS = {
    "timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
    "task_index": "int64",
}  # fmt: skip
SIGNALS = {
    "next.reward": "float32", "next.success": "bool", "next.done": "bool",
    "next.terminated": "bool", "next.truncated": "bool",
}  # fmt: skip

Columns = dict[str, NDArray[Any]]


def features(schema: Schema, fps: int, pixels: bool) -> dict[str, Any]:
    """The `features` of meta/info.json."""
    actions = [f"action.{k}" for k in range(schema.action_size)]
    found: dict[str, Any] = {
        "observation.state": _feature("float32", schema.state_size, state_names(schema)),
        "action": _feature("float32", schema.action_size, actions),
    }
    if pixels:
        found[VIDEO] = _video(schema.image_size, fps)
    return found | {name: _feature(dtype, 1) for name, dtype in (SIGNALS | COUNTERS).items()}


def state_names(schema: Schema) -> list[str]:
    """A name for each entry of the state: its slot's, and which of the slot's it is."""
    return [f"{slot.name}.{k}" for slot in schema.slots for k in range(slot.size)]


def _feature(dtype: str, size: int, names: list[str] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [size], "names": names}


def _video(size: int, fps: int) -> dict[str, Any]:
    about = {
        "video.height": size, "video.width": size, "video.channels": 3, "video.fps": fps,
        "video.codec": CODEC, "video.pix_fmt": PIXEL_FORMAT, "video.is_depth_map": False,
        "has_audio": False,
    }  # fmt: skip
    shape, names = [size, size, 3], ["height", "width", "channels"]
    return {"dtype": "video", "shape": shape, "names": names, "info": about}


def columns(episode: Episode, number: int, start: int, task: int, fps: int) -> Columns:
    """An episode's rows by column, each (T,) or (T, size); `start` frames come before it."""
    steps = np.arange(episode.steps)
    last = steps == episode.steps - 1
    return {
        "observation.state": episode.state,
        "action": episode.action,
        "next.reward": episode.reward,
        "next.success": episode.success > 0,
        "next.done": last,
        "next.terminated": last & episode.terminated,
        "next.truncated": last & episode.truncated,
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full_like(steps, number),
        "index": start + steps,
        "task_index": np.full_like(steps, task),
    }


def statistics(values: Columns, frames: NDArray[np.uint8] | None) -> dict[str, Any]:
    """Minimum, maximum, mean, deviation and count of each column, and of frames by channel."""
    found = {name: _moments(column) for name, column in values.items()}
    return found if frames is None else found | {VIDEO: _frame_moments(frames)}


def _moments(column: NDArray[Any]) -> dict[str, list[Any]]:
    wide = column.reshape(len(column), -1).astype(np.float64)
    return {
        "min": wide.min(axis=0).tolist(), "max": wide.max(axis=0).tolist(),
        "mean": wide.mean(axis=0).tolist(), "std": wide.std(axis=0).tolist(),
        "count": [len(wide)],
    }  # fmt: skip


def _frame_moments(frames: NDArray[np.uint8]) -> dict[str, Any]:
    """The same of each channel, in [0, 1] and shaped (3, 1, 1), from its 256 possible values."""
    counts = np.stack([np.bincount(frames[..., c].ravel(), minlength=256) for c in range(3)])
    level, share = np.arange(256) / 255, counts / counts.sum(axis=1, keepdims=True)
    mean = share @ level
    deviation = np.sqrt((share * np.square(level - mean[:, None])).sum(axis=1))
    low = (counts > 0).argmax(axis=1) / 255
    high = 1 - (counts[:, ::-1] > 0).argmax(axis=1) / 255
    named = {"min": low, "max": high, "mean": mean, "std": deviation}
    shaped = {name: values.reshape(3, 1, 1).tolist() for name, values in named.items()}
    return shaped | {"count": [len(frames)]}
