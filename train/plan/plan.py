"""What training a network takes on given machines, as a pure function: `train plan` prints it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...shards.schema import INSTRUCTION_BYTES, SEGMENT_STEPS
from ..execution import Execution
from ..model import ModelConfig, Shapes
from .communication import Communication, communication
from .fit import least_recompute, least_stage, nearest, shortfall, usable
from .flops import parameters_by_component, recomputed_flops, step_tokens, train_flops
from .hardware import Device
from .memory import Memory, memory

SUITE = Shapes(166, 8, 64, INSTRUCTION_BYTES)
"""Of the corpora that `generate` writes."""
WEEK_S = 7 * 86_400


@dataclass(frozen=True)
class Workload:
    """What is trained, and on how much."""

    model: ModelConfig
    inputs: tuple[str, ...] = ("pixels", "state")
    shapes: Shapes = SUITE
    batch: int = 2048
    """Segments of a global batch."""
    corpus_steps: float = 500e6
    segment_steps: float = float(SEGMENT_STEPS)
    """Mean steps of the corpus's segments: the rest of their 256 is padding."""
    weeks: float = 7.0
    mfu: float = 0.4
    """Share of the devices' peak that the model's own FLOPs come to: a wish, to be measured."""


@dataclass(frozen=True)
class Inference:
    """Bytes to play with the network, in bf16: weights once, keys and values for every lane."""

    weights: int
    lane: int
    lanes: int
    """That fit on one device beside the weights."""
    step_s: float
    """Of all lanes together, at least: every weight is read once."""


@dataclass(frozen=True)
class Plan:
    """All that `train plan` prints; bytes and seconds of one rank."""

    device: Device
    execution: Execution
    workload: Workload
    parameters: dict[str, int]
    memory: Memory
    usable: float
    """Bytes of a device that tensors may take."""
    steps: float
    """Of an update, without padding."""
    tokens: float
    """Of the encoder, in an update."""
    model_flops: float
    """Of an update, all ranks together."""
    hardware_flops: float
    """With recomputation and padding."""
    communication: Communication
    compute_s: float
    """A micro-batch's, at the wished MFU."""
    update_s: float
    empty_slots: float
    """Share of a batch's places that hold no segment, as ranks do not divide it."""
    padded_steps: float
    """Share of the steps that short segments leave empty."""
    inference: Inference
    verdict: str
    alternatives: tuple[str, ...]
    """What would fit, where this does not."""

    @property
    def fits(self) -> bool:
        """Whether a device's memory suffices."""
        return self.memory.total <= self.usable

    @property
    def hidden(self) -> bool:
        """Whether communication is done while a micro-batch is computed."""
        return self.communication.micro_batch_s <= self.compute_s

    @property
    def epoch_updates(self) -> float:
        """Updates in which the corpus is seen once."""
        return self.workload.corpus_steps / self.steps

    @property
    def updates(self) -> float:
        """In the time there is."""
        return self.workload.weeks * WEEK_S / self.update_s

    @property
    def hfu(self) -> float:
        """Share of the peak that recomputation and padding count in."""
        peak = self.device.bf16_flops * self.execution.ranks
        return self.hardware_flops / self.update_s / peak

    @property
    def mfu(self) -> float:
        """As wished, less what communication and empty places take."""
        return self.model_flops / self.update_s / (self.device.bf16_flops * self.execution.ranks)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        derived = {
            name: getattr(self, name)
            for name in ("fits", "hidden", "epoch_updates", "updates", "mfu", "hfu")
        }
        memory_total = {"total": self.memory.total}
        values = dataclasses.asdict(self) | derived
        return values | {"memory": values["memory"] | memory_total}


def plan(
    workload: Workload, execution: Execution, device: Device, *, stage: bool = False,
    recompute: bool = True,
) -> Plan:  # fmt: skip
    """What this takes, with ZeRO stage and recomputation chosen, as `train` does, or as given."""
    w, what = workload, (workload.model, workload.shapes, workload.inputs)
    capacity = device.memory_gb * 1e9
    if stage:
        execution = least_stage(*what, execution, capacity)
    if recompute:
        execution = least_recompute(*what, execution, capacity)
    parameters = parameters_by_component(*what)
    needed = memory(*what, execution)
    sent = communication(sum(parameters.values()), execution, device)
    segment_flops = train_flops(*what)
    peak = device.bf16_flops
    compute_s = execution.micro_batch * segment_flops / (w.mfu * peak)
    slots = execution.ranks * execution.accumulation * execution.micro_batch
    update_s = execution.accumulation * max(compute_s, sent.micro_batch_s) + sent.update_s
    again = recomputed_flops(*what, execution.recompute)
    steps = w.batch * w.segment_steps
    instead = [] if needed.total <= usable(capacity) else nearest(*what, execution, capacity)
    return Plan(
        device=device, execution=execution, workload=w, parameters=parameters, memory=needed,
        usable=usable(capacity), steps=steps, tokens=steps * step_tokens(w.model, w.inputs),
        model_flops=w.batch * segment_flops, hardware_flops=slots * (segment_flops + again),
        communication=sent, compute_s=compute_s, update_s=update_s,
        empty_slots=1 - w.batch / slots, padded_steps=1 - w.segment_steps / SEGMENT_STEPS,
        inference=inference(w.model, w.inputs, sum(parameters.values()), device),
        verdict=_verdict(needed, capacity), alternatives=tuple(instead),
    )  # fmt: skip


def inference(
    config: ModelConfig, inputs: Sequence[str], parameters: int, device: Device, item: int = 2
) -> Inference:
    """Of weights and caches of `item` bytes an element."""
    key_width = config.width // config.heads * config.kv_heads
    rows = config.encoder_blocks * step_tokens(config, inputs) + config.decoder_blocks
    weights, lane = item * parameters, item * SEGMENT_STEPS * rows * 2 * key_width
    left = usable(device.memory_gb * 1e9) - weights
    step_s = weights / (device.bandwidth_gb_s * 1e9)
    return Inference(weights, lane, max(0, int(left / lane)), step_s)


def _verdict(needed: Memory, capacity: float) -> str:
    if needed.total <= usable(capacity):
        left = usable(capacity) - needed.total
        return f"fits: a GPU needs {needed.total / 1e9:.3g} GB, {left / 1e9:.3g} are to spare"
    return f"does not fit: {shortfall(needed, capacity)}"
