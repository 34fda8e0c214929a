"""A network's weights as one safetensors file, with all that is needed to use them.

No DeepSpeed, no pickle: a header of JSON, then plain arrays.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..shards import storage
from ..shards.errors import CheckpointError
from ..shards.schema import INSTRUCTION_BYTES, Schema
from .config import TrainConfig
from .model import PolicyValueNetwork, Shapes
from .places import MARKER, WEIGHTS, checkpoint_url, complete_checkpoints


@dataclass(frozen=True)
class Metadata:
    """What is needed to use weights."""

    config: TrainConfig
    schema: Schema
    tasks: tuple[tuple[str, int], ...]
    """(task, level) pairs they were trained on."""
    update: int


@dataclass(frozen=True)
class Exported(Metadata):
    """The weights with it."""

    weights: dict[str, Tensor]
    url: str
    """Of the file itself, whatever led to it."""
    sha256: str
    """Of the file's bytes, in hexadecimal."""


def write_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """A safetensors file, whole or not at all."""
    partial = path.with_suffix(".partial")
    safetensors.torch.save_file(weights, partial, {"palaestra": json.dumps(metadata)})
    partial.replace(path)


def export_metadata(
    config: TrainConfig, schema: Schema, tasks: tuple[tuple[str, int], ...]
) -> dict[str, Any]:
    """What travels inside the weights file."""
    return {"config": config.to_json(), "schema": schema.to_json(), "tasks": tasks}


def find_weights(url: str) -> str:
    """URL of the weights file of a run (newest checkpoint), a checkpoint, or the file itself.

    Raises CheckpointError saying what was found instead.
    """
    if url.endswith(".safetensors"):
        return url
    if storage.exists(storage.join(url, WEIGHTS)):
        if not storage.exists(storage.join(url, MARKER)):
            raise CheckpointError(f"{url}: incomplete checkpoint: {MARKER} is missing")
        return storage.join(url, WEIGHTS)
    updates = complete_checkpoints(url)
    if not updates:
        found = storage.names(url) if storage.exists(url) else None
        state = "nothing there" if found is None else f"found {', '.join(found[:3]) or 'nothing'}"
        raise CheckpointError(f"{url}: expected a run with a complete checkpoint, {state}")
    return storage.join(checkpoint_url(url, updates[-1]), WEIGHTS)


def read_metadata(url: str) -> Metadata:
    """What a weights file tells of itself, by its header alone; CheckpointError if not ours."""
    try:
        length = int.from_bytes(storage.read_range(url, 0, 8), "little")
        return _metadata(storage.read_range(url, 8, 8 + length), url)
    except (ValueError, KeyError, OverflowError) as error:
        raise CheckpointError(f"{url}: not weights of ours ({error!r})") from error


def read_weights(url: str) -> Exported:
    """Read exported weights; CheckpointError names the file if they are not ours."""
    where = find_weights(url)
    data = storage.read_bytes(where)
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = _metadata(data[8 : 8 + length], where)
        weights = safetensors.torch.load(data)
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{where}: not weights of ours ({error!r})") from error
    digest = hashlib.sha256(data).hexdigest()
    return Exported(**vars(metadata), weights=weights, url=where, sha256=digest)


def _metadata(header: bytes, where: str) -> Metadata:
    metadata = json.loads(json.loads(header)["__metadata__"]["palaestra"])
    return Metadata(
        TrainConfig.from_json(metadata["config"], where),
        Schema.from_json(metadata["schema"], where),
        tuple((str(task), int(level)) for task, level in metadata["tasks"]),
        int(metadata["update"]),
    )


def build_network(exported: Exported, where: str) -> PolicyValueNetwork:
    """The network in fp32 with the exported weights, ready for inference."""
    network = PolicyValueNetwork(
        exported.config.model, shapes_of(exported.schema), exported.config.inputs.split("+")
    )
    weights = {name: w.float() for name, w in exported.weights.items()}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()  # the others only announce it
        raise CheckpointError(f"{where}: weights do not fit their own config: {reason}") from error
    return network.eval().requires_grad_(False).to(torch.float32)


def shapes_of(schema: Schema) -> Shapes:
    """What the network needs of a schema."""
    return Shapes(schema.state_size, schema.action_size, schema.image_size, INSTRUCTION_BYTES)
