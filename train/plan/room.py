"""Whether a run fits this machine, asked before it allocates anything."""

from __future__ import annotations

import os
from pathlib import Path

from ...shards.schema import Schema
from ..config import TrainConfig
from ..execution import Execution
from ..export import shapes_of
from .activations import Kernels
from .fit import fit_or_raise, least_recompute, least_stage


def settle(
    config: TrainConfig, execution: Execution, schema: Schema, *, stage: bool, recompute: bool
) -> Execution:
    """The execution, if it fits, with what is left to choose chosen: ZeRO stage, recomputation.

    Raises ConfigError naming what is missing and the nearest that fits.
    """
    room, on_gpu = rank_memory(execution.ranks)
    kernels = Kernels(item=2 if config.precision == "bf16" else 4, fused_norm=on_gpu)
    network = config.model, shapes_of(schema), config.inputs.split("+")
    if stage:
        execution = least_stage(*network, execution, room, kernels)
    if recompute:
        execution = least_recompute(*network, execution, room, kernels)
    fit_or_raise(config.preset, *network, execution, room, kernels)
    return execution


def rank_memory(ranks: int) -> tuple[float, bool]:
    """Bytes that a rank on this machine may take, and whether they are a GPU's."""
    import torch  # a second, which --help does without

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory), True
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    return available_memory() / local, False


def available_memory() -> float:
    """Bytes of memory that may still be taken here: the machine's, or less in a container."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = float(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, float(limit.read_text()) - float(used.read_text()))
    return free
