"""Bytes that training takes on one GPU, by kind, before any is allocated.

Parameters, gradients and optimizer states follow DeepSpeed's ZeRO stages (Rajbhandari et al. 2020);
`activations` says what autograd keeps; what is in flight follows the sizes that `engine` sets.
`benchmarks/memory.py` puts every kind beside the bytes of real runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..execution import Execution
from ..model import ModelConfig, Shapes
from .activations import GPU, Activations, Kernels, activations
from .flops import parameter_counts

# elements; engine.py gives them to DeepSpeed
SMALLEST_BUCKET = 50_000_000  # of a gather ahead and of a reduction; or a block, if that is more
MAX_LIVE = 2_000_000_000  # gathered at once
SUB_GROUP = 1_000_000_000  # that the optimizer updates at once
PERSISTENT = 100_000  # the largest parameter that stays whole on every rank
ALL_PERSISTENT = 100_000_000  # of all of them together


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at the worst moment of an update."""

    parameters: int
    """Its share of them, those that stay whole, and the second copy that hpZ keeps."""
    gradients: int
    """Its share of the sums over micro-batches, in fp32."""
    optimizer: int
    """Its share of fp32 weights and of both moments of AdamW."""
    buffers: int
    """In which gradients are gathered for reduction."""
    gathered: int
    """Whole parameters of the blocks at work and of those fetched ahead."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    working: int
    """The block that is recomputed, gradients on their way; or the optimizer's copies."""
    host: int = 0
    """In the host's memory instead."""

    @property
    def total(self) -> int:
        """On the GPU."""
        return sum(getattr(self, f.name) for f in fields(self) if f.name != "host")


def memory(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], execution: Execution,
    kernels: Kernels = GPU,
) -> Memory:  # fmt: skip
    """Of a rank of this execution, at the worst of three moments.

    While the backward pass reduces gradients, when it is over, or while the optimizer works.
    """
    counts = list(parameter_counts(config, shapes, tuple(inputs)).values())
    states = _states(counts, execution, kernels.item)
    flight = _flight(counts, config.block_parameters, execution, kernels.item)
    kept = activations(config, shapes, inputs, execution.micro_batch, kernels)
    saved, backward = passes(config, kept, execution.recompute)
    if sum(counts) > flight.elements:  # else all is reduced at once, at the end
        backward += flight.gradients
    # a copy of the gradients, and AdamW's two temporaries of that size
    share = sum(counts) // (execution.ranks if execution.zero_stage else 1)
    update = 0 if execution.offload != "none" else 12 * min(share, SUB_GROUP)
    moments = (
        (flight.gathered, saved, backward),
        (flight.gathered, 0, flight.gradients),
        (0, 0, update),
    )
    gathered, left, working = max(moments, key=sum)
    return Memory(
        states.parameters, states.gradients, states.optimizer, flight.bucket, gathered, left,
        working, states.host,
    )  # fmt: skip


@dataclass(frozen=True)
class _States:
    parameters: int
    gradients: int
    optimizer: int
    host: int


def _states(counts: Sequence[int], execution: Execution, item: int) -> _States:
    """What stays from update to update; DeepSpeed keeps an fp32 copy of fp32 weights too."""
    ranks, stage = execution.ranks, execution.zero_stage
    whole, share = sum(counts), sum(-(-n // ranks) for n in counts)
    parameters = item * whole
    if stage == 3:
        # of a parameter that stays whole, a rank keeps its share besides
        persistent = _persistent(counts) if ranks > 1 else 0
        parameters = item * (share + persistent)
        if execution.hpz > 1:
            parameters += item * sum(-(-n // execution.hpz) for n in counts)
    gradients = 4 * (share if stage >= 2 else whole)
    optimizer = 12 * share if stage else 8 * whole
    host = 0
    if execution.offload != "none":
        host, gradients, optimizer = gradients + optimizer, 0, 0
    if execution.offload == "all":
        host, parameters = host + parameters, 0
    return _States(parameters, gradients, optimizer, host)


def _persistent(counts: Sequence[int]) -> int:
    """Elements of the parameters that are too small to be worth a gather."""
    total = 0
    for count in counts:
        if count <= PERSISTENT and count + total <= ALL_PERSISTENT:
            total += count
    return total


@dataclass(frozen=True)
class _Flight:
    elements: int
    """Of the bucket that gradients are reduced in."""
    bucket: int
    gathered: int
    gradients: int


def _flight(counts: Sequence[int], block: int, execution: Execution, item: int) -> _Flight:
    """What comes and goes: parameters of blocks, gradients before they are reduced."""
    whole, stage = sum(counts), execution.zero_stage
    elements = max(SMALLEST_BUCKET, block)
    if stage < 2:  # reduced where they are, after the last micro-batch
        return _Flight(whole, 0, 0, item * whole)
    gathered = 0
    if stage == 3 and execution.ranks > 1:
        # fetched ahead up to MAX_LIVE, the last block beyond it; one more while it is put together
        loose = whole - _persistent(counts)
        gathered = item * (min(loose, MAX_LIVE + block) + min(loose, block))
    # a block's gradients, the bucket in the order of ranks, this rank's part of it in fp32
    reduced = min(elements, whole)
    gradients = item * (min(block, whole) + reduced) + 4 * reduced // execution.ranks
    return _Flight(elements, item * elements, gathered, gradients)


def passes(config: ModelConfig, kept: Activations, recompute: int) -> tuple[int, int]:
    """(bytes kept by the forward pass, bytes that the backward pass adds at its worst).

    Going backwards every part frees what it kept, so the worst moment is not always the first.
    """
    encoder = min(recompute, config.encoder_blocks)
    decoder = recompute - encoder
    blocks = [  # (kept, while it is differentiated)
        *[(kept.encoder_input, kept.encoder_input + kept.encoder_block)] * encoder,
        *[(kept.encoder_block, kept.encoder_block)] * (config.encoder_blocks - encoder),
    ]
    blocks = [(k, b + kept.gradients) for k, b in blocks]
    blocks += [(kept.decoder_input, kept.decoder_input + kept.decoder_block)] * decoder
    blocks += [(kept.decoder_block, kept.decoder_block)] * (config.decoder_blocks - decoder)
    rest = kept.perception + kept.embeddings
    saved = rest + sum(k for k, _ in blocks) + kept.heads
    worst, before = saved, rest
    for own, during in blocks:
        worst = max(worst, before + during)
        before += own
    return saved, worst - saved


