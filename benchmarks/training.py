"""Updates per second through our engine, beside a bare loop in plain torch.

Both train a preset on the same batch of 8 segments from the same weights with the same
loss: `engine` is DeepSpeed on one rank, as `train` runs it; `torch` is forward, backward,
clipping and AdamW (in bf16 with fp32 master weights, which is what DeepSpeed keeps too). Data
loading, augmentation and logging are in neither. The losses of the last update stand beside the
rates, to show that both do the same work. Times are over `torch`.

Run: python benchmarks/training.py [--quick] [--threads 1] [--presets tiny small] [--zero-stage 1]
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import torch
import tyro
from palaestra.generate.slots import make_schema
from palaestra.shards.schema import INSTRUCTION_BYTES, SEGMENT_STEPS
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.engine import Engine, _parameter_groups, start_ranks, stop_ranks
from palaestra.train.execution import Execution
from palaestra.train.export import shapes_of
from palaestra.train.loss import losses
from palaestra.train.model import PolicyValueNetwork
from timing import interleave, print_table
from torch import Tensor
from torch.nn import functional

REPETITIONS = 15
MICRO_BATCH = 8
SCHEMA = make_schema(64, (0.0, 1.0))
PLAIN_LINEAR = functional.linear  # a ZeRO-3 engine puts its own in its place, for all networks


class Batch(NamedTuple):
    """What the network sees, and what the loss wants besides."""

    inputs: tuple[Tensor | None, ...]
    targets: tuple[Tensor, ...]


def make_batch(pixels: bool) -> Batch:
    """Random segments of full length."""
    g = torch.Generator().manual_seed(0)
    shape, size = (MICRO_BATCH, SEGMENT_STEPS), SCHEMA.image_size
    action = torch.rand((*shape, SCHEMA.action_size), generator=g) * 2 - 1
    frames = torch.randint(0, 256, (*shape, size, size, 3), generator=g, dtype=torch.uint8)
    words = torch.randint(97, 123, (MICRO_BATCH, INSTRUCTION_BYTES), generator=g).to(torch.uint8)
    state = torch.randn((*shape, SCHEMA.state_size), generator=g)
    history = torch.arange(MICRO_BATCH) % 2 == 0
    none = torch.zeros(MICRO_BATCH, dtype=torch.bool)
    steps = torch.full((MICRO_BATCH,), SEGMENT_STEPS)
    return Batch(
        (state, frames if pixels else None, words, action.roll(1, dims=1), history),
        (action, torch.rand(shape, generator=g), steps, none, none),
    )


def engine_update(config: TrainConfig, zero_stage: int, batch: Batch) -> Callable[[], float]:
    """One update through DeepSpeed; returns the loss."""
    execution = Execution(micro_batch=MICRO_BATCH, zero_stage=zero_stage)
    engine = Engine(lambda: build(config), config, execution)
    engine.engine.train()

    def update() -> float:
        policy, value = engine.forward(*batch.inputs)
        terms = losses(policy, value, *batch.targets, SCHEMA.reward_range, config.loss)
        engine.backward(terms.total, MICRO_BATCH * SEGMENT_STEPS)
        engine.step(config.peak_rate)
        return terms.total.item()

    return update


def torch_update(config: TrainConfig, batch: Batch) -> Callable[[], float]:
    """One update in plain torch; returns the loss."""
    half = config.precision == "bf16"
    network = build(config).to(torch.bfloat16 if half else torch.float32).train()
    network.initialise(torch.Generator().manual_seed(config.seed))
    master = copy.deepcopy(network).float() if half else network
    working, masters = list(network.parameters()), list(master.parameters())
    optimizer = torch.optim.AdamW(
        _parameter_groups(master, config.weight_decay), lr=config.peak_rate,
        betas=(0.9, config.beta2), eps=1e-8,
    )  # fmt: skip

    def update() -> float:
        policy, value = network(*batch.inputs)
        terms = losses(policy, value, *batch.targets, SCHEMA.reward_range, config.loss)
        (terms.total / (MICRO_BATCH * SEGMENT_STEPS)).backward()
        if half:
            for parameter, own in zip(masters, working, strict=True):
                parameter.grad, own.grad = own.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, config.clip)
        optimizer.step()
        optimizer.zero_grad()
        if half:
            with torch.no_grad():
                torch._foreach_copy_(working, masters)
        return terms.total.item()

    def update_with_plain_linear() -> float:
        with mock.patch.object(functional, "linear", PLAIN_LINEAR):
            return update()

    return update_with_plain_linear


def build(config: TrainConfig) -> PolicyValueNetwork:
    """The preset's network."""
    return PolicyValueNetwork(config.model, shapes_of(SCHEMA), config.inputs.split("+"))


def compare(
    name: str, inputs: str, precision: str, zero_stage: int, repetitions: int,
    clock: Callable[[], float],
) -> list[tuple[str, ...]]:  # fmt: skip
    """Table rows of both variants."""
    preset = load_preset(name)
    config = TrainConfig(
        corpora=(), weights=(), preset=name, model=preset.model, inputs=inputs, updates=1000,
        batch=MICRO_BATCH, peak_rate=preset.peak_rate, end_rate=1e-5,
        warm_up=preset.warm_up, precision=precision,
    )  # fmt: skip
    batch, last = make_batch("pixels" in inputs), {}
    updates = {
        "torch": torch_update(config, batch), "engine": engine_update(config, zero_stage, batch)
    }  # fmt: skip

    def rate(loop: str) -> float:
        start = clock()
        last[loop] = updates[loop]()
        return 1 / (clock() - start)

    timing = interleave({loop: lambda loop=loop: rate(loop) for loop in updates}, repetitions)
    return [
        (
            f"{name}, {inputs}, {precision}, {loop}", f"{timing.rate(loop):.2f}",
            f"{1 / timing.ratio(loop, 'torch'):.2f}",
            f"{last[loop] / (MICRO_BATCH * SEGMENT_STEPS):.5f}",
        )
        for loop in updates
    ]  # fmt: skip


def main(
    quick: bool = False, threads: int = 1, presets: tuple[str, ...] = ("tiny", "small"),
    zero_stage: int = 1, inputs: tuple[str, ...] = ("state", "pixels+state"),
    cpu_time: bool = False,
) -> None:  # fmt: skip
    """Print the table; --quick repeats twice. One thread is what a rank has on two cores.

    Stage 1 is what `train` takes where it fits. --cpu-time counts the process's own seconds, which
    hold on a busy machine too.
    """
    torch.set_num_threads(threads)
    start_ranks()
    repetitions = 2 if quick else REPETITIONS
    clock = time.process_time if cpu_time else time.perf_counter
    try:
        cells = itertools.product(presets, inputs, ("fp32", "bf16"))
        rows = [row for cell in cells for row in compare(*cell, zero_stage, repetitions, clock)]
    finally:
        stop_ranks()
    title = (
        f"updates/s of 8 segments, ZeRO-{zero_stage}, {threads} thread(s) "
        f"(median of {repetitions})"
    )
    columns = ("preset, inputs, precision, loop", "per second", "time", "loss")
    print_table(title, columns, rows)


if __name__ == "__main__":
    tyro.cli(main)
