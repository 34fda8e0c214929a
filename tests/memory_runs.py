"""Bytes of real runs, for tests and benchmarks: what autograd saves, what a ZeRO-3 engine holds.

As a program it is one rank, and the first prints what `report` finds as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from unittest import mock

import torch
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.engine import Engine, start_ranks, stop_ranks
from palaestra.train.execution import Execution
from palaestra.train.loss import LossConfig, losses
from palaestra.train.model import PolicyValueNetwork
from palaestra.train.plan.activations import Kernels, activations
from palaestra.train.plan.memory import memory, passes
from palaestra.train.plan.plan import SUITE
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed import TCPStore
from torch.profiler import ProfilerActivity, profile

SEGMENTS, STEPS = 2, 256
Result = TypeVar("Result")
Pair = tuple[int, int]
"""Predicted and measured bytes."""


class FusedNorm(torch.autograd.Function):
    """RMSNorm that saves its input and the reciprocal root, as CUDA's does."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        """The normalised x."""
        root = x.float().square().mean(dim=-1, keepdim=True).add(1e-6).rsqrt()
        context.save_for_backward(x, weight, root)
        return (x * root).to(x.dtype) * weight

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """None is taken: only what is saved counts."""
        raise NotImplementedError


def make_inputs(pixels: bool, steps: int = STEPS) -> tuple[Tensor | None, ...]:
    """What the network sees of two segments."""
    shape, size = (SEGMENTS, steps), SUITE.image_size
    frames = torch.zeros(*shape, size, size, 3, dtype=torch.uint8) if pixels else None
    words = torch.full((SEGMENTS, SUITE.instruction_bytes), 97, dtype=torch.uint8)
    history = torch.ones(SEGMENTS, dtype=torch.bool)
    return (
        torch.randn(*shape, SUITE.state_size), frames, words,
        torch.zeros(*shape, SUITE.action_size), history,
    )  # fmt: skip


def storage_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Of distinct storages."""
    storages = {
        t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors if t is not None
    }
    return sum(storages.values())


def saved_bytes(network: PolicyValueNetwork, inputs: Sequence[Tensor | None], fused: bool) -> int:
    """Bytes that autograd keeps of a forward pass, weights left out."""
    own = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            found.append(tensor)
        return tensor

    def norm(module: nn.RMSNorm, x: Tensor) -> Tensor:
        return FusedNorm.apply(x, module.weight)

    plain = nn.RMSNorm.forward
    with (
        saved_tensors_hooks(keep, lambda tensor: tensor),
        mock.patch.object(nn.RMSNorm, "forward", norm if fused else plain),
    ):
        network(*inputs)
    return storage_bytes(found)


def activation_bytes(
    preset: str, inputs: tuple[str, ...], dtype: torch.dtype, fused: bool, recompute: int
) -> Pair:
    """Of a forward pass, the loss left out."""
    model = load_preset(preset).model
    network = PolicyValueNetwork(model, SUITE, inputs, recompute).to(dtype)
    kept = activations(model, SUITE, inputs, SEGMENTS, Kernels(dtype.itemsize, fused))
    loss = 8 * SEGMENTS * STEPS * (SUITE.action_size * model.policy_bins + model.value_bins)
    predicted, _ = passes(model, kept, recompute)
    return predicted - loss, saved_bytes(network, make_inputs("pixels" in inputs), fused)


def report(preset: str, inputs: str, precision: str) -> dict[str, Pair]:
    """This rank's bytes by kind, in a process group that is there."""
    model, ranks = load_preset(preset).model, torch.distributed.get_world_size()
    execution = Execution(ranks=ranks, micro_batch=SEGMENTS)
    config = TrainConfig(
        corpora=(), weights=(), preset=preset, model=model, inputs=inputs, updates=4,
        batch=SEGMENTS * ranks, peak_rate=1e-4, end_rate=0.0, warm_up=1, precision=precision,
    )  # fmt: skip
    kernels = Kernels(2 if precision == "bf16" else 4, fused_norm=False)
    predicted = memory(model, SUITE, inputs.split("+"), execution, kernels)
    held: list[int] = []

    def build() -> PolicyValueNetwork:
        return PolicyValueNetwork(model, SUITE, inputs.split("+"))

    engine = allocations(lambda: Engine(build, config, execution), held)
    engine.engine.train()
    batch = make_inputs("pixels" in inputs)
    for _ in range(3):  # blocks are fetched ahead from the second on
        allocations(lambda: update(engine, batch), held)
    found = states(engine) | {"peak": max(held)}
    expected = dataclasses.asdict(predicted) | {"peak": predicted.total}
    return {kind: (expected[kind], size) for kind, size in found.items()}


def update(engine: Engine, inputs: tuple[Tensor | None, ...]) -> None:
    """One update on one micro-batch."""
    policy, value = engine.forward(*inputs)
    none = torch.zeros(SEGMENTS, dtype=torch.bool)
    terms = losses(
        policy, value, torch.zeros(SEGMENTS, STEPS, SUITE.action_size),
        torch.zeros(SEGMENTS, STEPS), torch.full((SEGMENTS,), STEPS), none, none, (0.0, 1.0),
        LossConfig(),
    )  # fmt: skip
    engine.backward(terms.total, SEGMENTS * STEPS)
    engine.step(1e-4)


def allocations(work: Callable[[], Result], held: list[int]) -> Result:
    """Do it, and append the most bytes held at once and, last, those held afterwards."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = work()
    start = held[-1] if held else 0
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in recorded.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    most = now = start
    for _, change in changes:
        now += change
        most = max(most, now)
    held += [most, now]
    return result


def states(engine: Engine) -> dict[str, int]:
    """Bytes of what a ZeRO-3 engine keeps from update to update."""
    optimizer = engine.engine.optimizer
    parameters = list(engine.model.parameters())
    whole = [p.data for p in parameters if p.ds_persist]
    masters = optimizer.fp32_partitioned_groups_flat
    moments = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
    return {
        "parameters": storage_bytes([*(p.ds_tensor for p in parameters), *whole]),
        "gradients": storage_bytes([optimizer.grad_partitions_flat_buffer]),
        "optimizer": storage_bytes([*masters, *moments]),
    }


def measure(ranks: int, preset: str, inputs: str, precision: str) -> dict[str, Pair]:
    """The first rank's report, from as many processes as there are ranks."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = os.environ | {
        "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    words = [sys.executable, __file__, preset, inputs, precision]
    processes = [
        subprocess.Popen(
            words, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    (output, errors), *_ = [process.communicate() for process in processes]
    assert not any(process.returncode for process in processes), errors
    found: dict[str, Pair] = json.loads(output.splitlines()[-1])
    return found


if __name__ == "__main__":
    rank, _ = start_ranks()
    found = report(*sys.argv[1:])
    if rank == 0:
        print(json.dumps(found))
    stop_ranks()
