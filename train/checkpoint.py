"""Checkpoints at a run's URL: written locally, uploaded, complete once their marker is there."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
from .engine_protocol import CheckpointEngine
from .model import PolicyValueNetwork, Shapes

MARKER = "checkpoint.json"
WEIGHTS = "weights.safetensors"
KEEP = 2  # newest checkpoints that stay
"""Older ones are deleted once a newer one is complete."""


@dataclass(frozen=True)
class Exported:
    """Weights with all that is needed to use them: no DeepSpeed, no pickle."""

    config: TrainConfig
    schema: Schema
    tasks: tuple[tuple[str, int], ...]
    """(task, level) pairs it was trained on."""
    update: int
    weights: dict[str, Tensor]
    url: str
    """Of the file itself, whatever led to it."""
    sha256: str
    """Of the file's bytes, in hexadecimal."""


def checkpoint_url(run: str, update: int) -> str:
    """Folder of the checkpoint after `update` updates."""
    return storage.join(run, "checkpoints", f"update-{update:08d}")


def complete_checkpoints(run: str) -> list[int]:
    """Updates of all complete checkpoints, in order."""
    folder = storage.join(run, "checkpoints")
    updates = [name.removeprefix("update-") for name in storage.names(folder)]
    found = [int(update) for update in updates if update.isdigit()]
    return [u for u in found if storage.exists(storage.join(checkpoint_url(run, u), MARKER))]


@contextmanager
def local_folder(url: str, rank: int) -> Iterator[Path]:
    """A local folder to write a checkpoint into: the URL itself, or a temporary one beside it."""
    local = storage.local_path(url)
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="palaestra-checkpoint-") as temporary:
        yield Path(temporary)
        storage.upload_folder(Path(temporary), url)


def save(
    run: str, update: int, engine: CheckpointEngine, state: dict[str, Any],
    metadata: dict[str, Any],
) -> None:  # fmt: skip
    """Write a complete checkpoint, on all ranks: engine state, exported weights, marker last."""
    url = checkpoint_url(run, update)
    marker = storage.join(url, MARKER)
    if storage.exists(marker):
        return
    with local_folder(url, engine.rank) as folder:
        engine.save(folder, state)
        weights = engine.weights()
        if engine.rank == 0:
            write_weights(folder / WEIGHTS, weights, metadata | {"update": update})
    engine.barrier()
    if engine.rank == 0:
        storage.write_json(marker, state)
        for old in complete_checkpoints(run)[:-KEEP]:
            # the marker goes first: half a checkpoint must not look whole
            storage.remove(storage.join(checkpoint_url(run, old), MARKER))
            storage.remove(checkpoint_url(run, old))
    engine.barrier()


def restore(run: str, update: int, engine: CheckpointEngine) -> dict[str, Any]:
    """Load the checkpoint into the engine, on all ranks; returns its state."""
    url = checkpoint_url(run, update)
    local = storage.local_path(url)
    if local is not None:
        return engine.load(local)
    folder = Path(tempfile.mkdtemp(prefix="palaestra-resume-"))
    try:
        storage.download_folder(url, folder)
        return engine.load(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def read_weights(url: str) -> Exported:
    """Read exported weights; CheckpointError names the file if they are not ours."""
    where = find_weights(url)
    data = storage.read_bytes(where)
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        metadata = json.loads(header["__metadata__"]["palaestra"])
        weights = safetensors.torch.load(data)
        tasks = tuple((str(task), int(level)) for task, level in metadata["tasks"])
        update = int(metadata["update"])
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{where}: not weights of ours ({error!r})") from error
    schema = Schema.from_json(metadata["schema"], where)
    config = TrainConfig.from_json(metadata["config"], where)
    digest = hashlib.sha256(data).hexdigest()
    return Exported(config, schema, tasks, update, weights, where, digest)


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
