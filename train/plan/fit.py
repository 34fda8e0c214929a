"""Does a preset fit, at which ZeRO stage, with how many recomputed blocks, or what would?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ...shards.errors import ConfigError
from ..config import load_preset, preset_names
from ..execution import Execution
from ..model import ModelConfig, Shapes
from .activations import GPU, Kernels
from .flops import parameter_counts
from .memory import Memory, memory

FREE_SHARE = 0.08  # of a GPU, for CUDA, NCCL and fragmentation: assumed
MOST_RANKS = 1 << 14


def usable(memory_bytes: float) -> float:
    """What of a GPU's memory tensors may take."""
    return memory_bytes * (1 - FREE_SHARE)


def least_stage(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], execution: Execution,
    memory_bytes: float, kernels: Kernels = GPU,
) -> Execution:  # fmt: skip
    """The execution with the least ZeRO stage from 1 on that fits as it is; with 3 if none does.

    A stage saves memory by communication and bookkeeping: on one CPU rank an update of `tiny` takes
    1.17 times that of plain torch at stage 3, 1.04 times at stage 1.
    """
    least = 3 if execution.offload == "all" or execution.hpz > 1 else 1
    choices = [dataclasses.replace(execution, zero_stage=stage) for stage in range(least, 4)]
    for choice in choices:
        if memory(config, shapes, inputs, choice, kernels).total <= usable(memory_bytes):
            return choice
    return choices[-1]


def least_recompute(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], execution: Execution,
    memory_bytes: float, kernels: Kernels = GPU,
) -> Execution:  # fmt: skip
    """The execution with as few recomputed blocks as fit; with all of them if nothing does."""
    fewest = _fewest_blocks(config, shapes, inputs, execution, memory_bytes, kernels)
    blocks = config.encoder_blocks + config.decoder_blocks
    return dataclasses.replace(execution, recompute=blocks if fewest is None else fewest)


def _fewest_blocks(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], execution: Execution,
    memory_bytes: float, kernels: Kernels,
) -> int | None:  # fmt: skip
    """To recompute; None if not even with all of them it fits."""
    for recompute in range(config.encoder_blocks + config.decoder_blocks + 1):
        chosen = dataclasses.replace(execution, recompute=recompute)
        if memory(config, shapes, inputs, chosen, kernels).total <= usable(memory_bytes):
            return recompute
    return None


def nearest(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], execution: Execution,
    memory_bytes: float, kernels: Kernels = GPU,
) -> list[str]:  # fmt: skip
    """What fits instead: more recomputation; or else more ranks, or the next smaller preset."""
    room = (memory_bytes, kernels)
    again = _fewest_blocks(config, shapes, inputs, execution, *room)
    if again is not None:
        return [f"--recompute {again}"]
    found = []
    ranks = execution.ranks
    while (ranks := 2 * ranks) <= MOST_RANKS:
        more = dataclasses.replace(execution, ranks=ranks)
        again = _fewest_blocks(config, shapes, inputs, more, *room)
        if again is not None:
            found.append(f"{ranks} GPUs with --recompute {again}")
            break
    for name, model in _smaller_presets(config, shapes, inputs):
        again = _fewest_blocks(model, shapes, inputs, execution, *room)
        if again is not None:
            found.append(f"--preset {name} --recompute {again}")
            break
    return found


def _smaller_presets(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str]
) -> list[tuple[str, ModelConfig]]:
    """The package's own that can see such frames, the largest first."""

    def size(model: ModelConfig) -> int:
        return sum(parameter_counts(model, shapes, tuple(inputs)).values())

    models = {name: load_preset(name).model for name in preset_names()}
    known = [pair for pair in models.items() if shapes.image_size % pair[1].patch == 0]
    smaller = [pair for pair in known if size(pair[1]) < size(config)]
    return sorted(smaller, key=lambda pair: size(pair[1]), reverse=True)


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
