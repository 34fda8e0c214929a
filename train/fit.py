"""Does a preset fit, how many blocks have to be recomputed, and what would fit instead?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..shards.errors import ConfigError
from .activations import GPU, Kernels
from .config import Execution, load_preset, preset_names
from .flops import parameter_counts
from .memory import Memory, memory
from .model import ModelConfig, Shapes

FREE_SHARE = 0.08  # of a GPU, for CUDA, NCCL and fragmentation: assumed
MOST_RANKS = 1 << 14


def usable(memory_bytes: float) -> float:
    """What of a GPU's memory tensors may take."""
    return memory_bytes * (1 - FREE_SHARE)


def least_recompute(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], execution: Execution,
    memory_bytes: float, kernels: Kernels = GPU,
) -> Execution:  # fmt: skip
    """The execution with as few recomputed blocks as fit; with all of them if nothing does."""
    limit = usable(memory_bytes)
    blocks = config.encoder_blocks + config.decoder_blocks
    for recompute in range(blocks):
        chosen = dataclasses.replace(execution, recompute=recompute)
        if memory(config, shapes, inputs, chosen, kernels).total <= limit:
            return chosen
    return dataclasses.replace(execution, recompute=blocks)


def fits(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], execution: Execution,
    memory_bytes: float, kernels: Kernels = GPU,
) -> bool:  # fmt: skip
    """Whether it does with the best choice of recomputed blocks."""
    best = least_recompute(config, shapes, inputs, execution, memory_bytes, kernels)
    return memory(config, shapes, inputs, best, kernels).total <= usable(memory_bytes)


def nearest(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], execution: Execution,
    memory_bytes: float, kernels: Kernels = GPU,
) -> list[str]:  # fmt: skip
    """What fits instead, nearest first: more recomputation, more ranks, a smaller preset."""
    found = []
    room = (shapes, inputs, execution, memory_bytes, kernels)
    if fits(config, *room):
        best = least_recompute(config, *room)
        return [f"--recompute {best.recompute}"]
    ranks = execution.ranks
    while ranks <= MOST_RANKS:
        ranks *= 2
        more = dataclasses.replace(execution, ranks=ranks)
        if fits(config, shapes, inputs, more, memory_bytes, kernels):
            found.append(f"{ranks} GPUs")
            break
    size = _size(config, shapes, inputs)
    presets = {name: load_preset(name).model for name in preset_names()}
    smaller = [
        (_size(model, shapes, inputs), name) for name, model in presets.items()
        if shapes.image_size % model.patch == 0
    ]  # fmt: skip
    for count, name in sorted(smaller, reverse=True):
        if count < size and fits(presets[name], *room):
            return [*found, f"--preset {name}"]
    return found


def shortfall(needed: Memory, memory_bytes: float) -> str:
    """Why it does not fit: what is needed, what is there, and what takes the most."""
    kinds = {n: b for n, b in dataclasses.asdict(needed).items() if n != "host"}
    largest = sorted(kinds, key=lambda name: -kinds[name])[:2]
    most = " and ".join(f"{kinds[name] / 1e9:.3g} GB of {name}" for name in largest)
    return (
        f"a GPU needs {needed.total / 1e9:.3g} GB, {most}; of its {memory_bytes / 1e9:.3g} GB "
        f"{usable(memory_bytes) / 1e9:.3g} are usable"
    )


def fit_or_raise(
    preset: str, config: ModelConfig, shapes: Shapes, inputs: Sequence[str],
    execution: Execution, memory_bytes: float, kernels: Kernels = GPU,
) -> None:  # fmt: skip
    """Raise a ConfigError before anything is allocated that would not fit.

    It names what is missing and the nearest that fits.
    """
    needed = memory(config, shapes, inputs, execution, kernels)
    if needed.total <= usable(memory_bytes):
        return
    instead = nearest(config, shapes, inputs, execution, memory_bytes, kernels)
    advice = f"; would fit: {' or '.join(instead)}" if instead else ""
    raise ConfigError(f"preset {preset} does not fit: {shortfall(needed, memory_bytes)}{advice}")


def _size(config: ModelConfig, shapes: Shapes, inputs: Sequence[str]) -> int:
    return sum(parameter_counts(config, shapes, tuple(inputs)).values())
