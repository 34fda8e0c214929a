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
from ..shards.faults import naming
from ..shards.retry import retried
from ..shards.schema import INSTRUCTION_BYTES, Schema
from .config import TrainConfig
from .model import PolicyValueNetwork, Shapes
from .places import MARKER, WEIGHTS, checkpoint_url, complete_checkpoints

LONGEST_HEADER = 100_000_000  # bytes, that safetensors reads
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
    """What a weights file tells of itself, by its header alone.

    CheckpointError if it is not ours or not as long as it says.
    """
    try:
        length = int.from_bytes(storage.read_range(url, 0, 8), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"a header of {length:,} bytes")
        header = storage.read_range(url, 8, 8 + length)
        _check_size(url, header)
        return _metadata(_told(header), url)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{url}: not weights of ours ({error!r})") from error


def read_weights(url: str) -> Exported:
    """Read exported weights; CheckpointError names the file if they are not ours.

    A local file's weights are views of the file, and take no memory until they are used.
    """
    where = find_weights(url)
    path = storage.local_path(where)
    try:
        if path is not None:
            told, weights, digest = _map_local(path, where)
        else:
            data = storage.read_bytes(where)
            told = _told(data[8 : 8 + int.from_bytes(data[:8], "little")])
            weights, digest = safetensors.torch.load(data), hashlib.sha256(data).hexdigest()
        metadata = _metadata(told, where)
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{where}: not weights of ours ({error!r})") from error
    return Exported(**vars(metadata), weights=weights, url=where, sha256=digest)


@retried
def _map_local(path: Path, where: str) -> tuple[str, dict[str, Tensor], str]:
    """What the header tells, the mapped weights, and the sha256 of the file's bytes."""
    with naming(where), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with safetensors.safe_open(path, framework="pt") as mapped:
        told = (mapped.metadata() or {})["palaestra"]
        return told, {name: mapped.get_tensor(name) for name in mapped.keys()}, digest  # noqa: SIM118


def _check_size(url: str, header: bytes) -> None:
    """ValueError unless the file ends where its last tensor does."""
    entries = json.loads(header).items()
    end = max(entry["data_offsets"][1] for name, entry in entries if name != "__metadata__")
    expected, found = 8 + len(header) + end, storage.size(url)
    if found != expected:
        raise ValueError(f"{found:,} bytes of {expected:,}")


def _told(header: bytes) -> str:
    return str(json.loads(header)["__metadata__"]["palaestra"])


def _metadata(told: str, where: str) -> Metadata:
    metadata = json.loads(told)
    return Metadata(
        TrainConfig.from_json(metadata["config"], where),
        Schema.from_json(metadata["schema"], where),
        tuple((str(task), int(level)) for task, level in metadata["tasks"]),
        int(metadata["update"]),
    )


def build_network(
    exported: Exported, where: str, precision: str = "fp32", device: torch.device | str = "cpu"
) -> PolicyValueNetwork:
    """The network with the exported weights, ready for inference.

    In bf16 its parameters are, and the state's statistics stay in fp32, as in training. No weight
    is there twice: each goes from the file to the device as it will be used.
    """
    network = empty_network(exported)
    dtypes = dict.fromkeys(exported.weights, PRECISIONS[precision])
    dtypes |= {name: torch.float32 for name, _ in network.named_buffers()}
    # copied in any case: a file's bytes lie askew in memory, which may cost time and move last bits
    weights = {n: w.to(device, dtypes[n], copy=True) for n, w in exported.weights.items()}
    assign_weights(network, weights, where)
    return network.eval().requires_grad_(False)


def empty_network(metadata: Metadata) -> PolicyValueNetwork:
    """The network that the weights are of: sizes without memory."""
    with torch.device("meta"):
        return PolicyValueNetwork(
            metadata.config.model, shapes_of(metadata.schema), metadata.config.inputs.split("+")
        )


def assign_weights(network: PolicyValueNetwork, weights: dict[str, Tensor], where: str) -> None:
    """Have these very tensors be the network's; CheckpointError if they are not its own."""
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()  # the others only announce it
        raise CheckpointError(f"{where}: weights do not fit their own config: {reason}") from error


def shapes_of(schema: Schema) -> Shapes:
    """What the network needs of a schema."""
    return Shapes(schema.state_size, schema.action_size, schema.image_size, INSTRUCTION_BYTES)
