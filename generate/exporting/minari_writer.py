"""A Minari dataset (HDF5): what `minari.load_dataset` and `minari.MinariDataset` read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from gymnasium import spaces
from minari.dataset.minari_storage import MinariStorage
from numpy.typing import NDArray

from ...shards.codec import fields_of
from ...shards.console import Advance
from ...shards.episode import Episode
from ...shards.schema import Schema
from .options import Options, provenance
from .selection import Selection

MARKER = "data/metadata.json"
CHUNK_STEPS = 32  # compressed together, and read together: 400 kB of 64×64 frames
LAST_OBSERVATION = "repeats the one before: what followed the last action is not in the corpus"


def write(selection: Selection, folder: Path, options: Options, advance: Advance) -> None:
    """Write data/main_data.hdf5 and data/metadata.json.

    The episodes go past Minari's own writer, which does not compress: frames take a tenth of the
    room so. They are stored as they are, not as JPEG.
    """
    data = folder / "data"
    data.mkdir()
    storage = MinariStorage.new(
        data, _observation_space(selection.corpus.schema, options.pixels),
        _box(-1.0, 1.0, selection.corpus.schema.action_size), jpeg_encoding=False,
    )  # fmt: skip
    number, simulated = 0, selection.imported is None
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for episodes in selection.episode_groups():
            for episode in episodes:
                group = file.create_group(f"episode_{number}")
                group.attrs.update(_attributes(episode, simulated) | {"id": number})
                _write_arrays(group, _arrays(episode, options.pixels))
                advance(episode.steps)
                number += 1
    storage.update_metadata(_metadata(selection, options.name))
    storage.update_metadata({"dataset_size": float(storage.get_size())})


def _box(low: float, high: float, size: int) -> spaces.Box:
    return spaces.Box(low, high, (size,), np.float32)


def _observation_space(schema: Schema, pixels: bool) -> spaces.Dict:
    parts: dict[str, spaces.Space[Any]] = {"state": _box(-np.inf, np.inf, schema.state_size)}
    if pixels:
        shape = (schema.image_size, schema.image_size, 3)
        parts["pixels"] = spaces.Box(0, 255, shape, np.uint8)
    return spaces.Dict(parts)


def _arrays(episode: Episode, pixels: bool) -> dict[str, NDArray[Any]]:
    """Path in the episode's group → array; observations and infos have T + 1 entries."""
    names = ("state", "pixels") if pixels else ("state",)
    last = np.arange(episode.steps) == episode.steps - 1
    observed = {f"observations/{name}": getattr(episode, name) for name in names}
    return {name: np.concatenate([array, array[-1:]]) for name, array in observed.items()} | {
        "actions": episode.action,
        "rewards": episode.reward,
        "terminations": last & episode.terminated,
        "truncations": last & episode.truncated,
        "infos/success": np.concatenate([[False], episode.success > 0]),  # the first: at the reset
    }


def _write_arrays(group: h5py.Group, arrays: dict[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        chunks = (min(CHUNK_STEPS, len(array)), *array.shape[1:])
        # an array of a few kilobytes gains nothing by being cut into pieces
        chunks = chunks if array.ndim > 2 else array.shape
        group.create_dataset(
            name, data=array, chunks=chunks, compression="gzip", compression_opts=1,
            shuffle=array.dtype.itemsize > 1,
        )  # fmt: skip


def _attributes(episode: Episode, simulated: bool) -> dict[str, Any]:
    """The episode's metadata: its fields, but for those that are not known of it.

    The seed is an option of the environment's reset, `reset(options={"seed": …})`, and is called
    so: Minari's own `seed` is of a generator that would draw another episode. An imported episode
    has none that an environment would know.
    """
    fields = {name: value for name, value in fields_of(episode).items() if value is not None}
    own = ("seed", "segment", "terminated", "truncated")
    found = {name: value for name, value in fields.items() if name not in own}
    found |= {"success": episode.completion_step is not None, "total_steps": episode.steps}
    return found | ({"options/seed": np.uint64(episode.seed)} if simulated else {})


def _metadata(selection: Selection, name: str) -> dict[str, Any]:
    slots = {slot.name: slot.size for slot in selection.corpus.schema.slots}
    policies = selection.segments["policy"].unique().sort().to_list()
    return {
        "dataset_id": dataset_id(name), "minari_version": minari.__version__,
        "total_episodes": selection.episodes, "total_steps": selection.steps,
        "algorithm_name": ", ".join(policies),
        "description": f"Exported from a corpus of palaestra. The last observation of each episode "
        f"{LAST_OBSERVATION}.",
        "last_observation": LAST_OBSERVATION, "state_slots": slots,
        "palaestra": provenance(selection),
    }  # fmt: skip


def dataset_id(name: str) -> str:
    """A Minari dataset's id: the folder's name, with the version that Minari asks for."""
    plain = re.sub(r"[^-\w]", "-", name)
    return plain if re.search(r"\w-v\d+$", plain) else f"{plain}-v0"
