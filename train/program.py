"""A trained network as one program of `torch.export`: torch alone runs it, without our code.

A program takes a whole segment: what was seen so far, and anything behind it. Attention over time
is causal, so row t of what it returns knows of rows up to t only.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn

from ..shards import storage
from ..shards.console import console
from ..shards.errors import ConfigError
from ..shards.schema import INSTRUCTION_BYTES, SEGMENT_STEPS
from .export import Exported, build_network, read_weights
from .loss import expected_value, mean_action
from .model import PolicyValueNetwork, Shapes

SUFFIX = ".pt2"
ABOUT = "palaestra.json"
"""The extra file of a program that says what goes in and what comes out."""


@dataclass(frozen=True)
class ExportArguments:
    """Write a trained policy as a program that plain PyTorch loads and runs, on a CPU in fp32.

    torch.export.load(OUT.pt2).module() takes state (lanes, 256, state_size), pixels (lanes, 256,
    H, H, 3) where the network sees them, instruction (lanes, 64) UTF-8 bytes, action (lanes, 256,
    action_size), the one before each step, and history (lanes,) bool; it returns mean actions
    (lanes, 256, action_size) in [-1, 1] and values (lanes, 256). Of an action, what a task does
    not use is not learned: play and give back zeros there.
    """

    policy: Annotated[str, tyro.conf.Positional]
    """URL of a run (its newest checkpoint), a checkpoint or a .safetensors file."""
    output: Annotated[str, tyro.conf.Positional]
    """Where to write it: any URL that ends in .pt2."""
    lanes: int = 1
    """Episodes that it plays at once."""
    debug: bool = False
    """Show tracebacks."""


def export_command(arguments: ExportArguments) -> int:
    """Export, and say what it is."""
    if not arguments.output.endswith(SUFFIX):
        raise ConfigError(f"{arguments.output}: expected a name that ends in {SUFFIX}")
    if arguments.lanes < 1:
        raise ConfigError(f"--lanes should be positive, is {arguments.lanes}")
    storage.filesystem(arguments.output)  # a URL that nothing here can open is known before work
    exported = read_weights(arguments.policy)
    data = export_program(exported, arguments.policy, arguments.lanes)
    storage.write_bytes(arguments.output, data)
    inputs = exported.config.inputs
    console.print(
        f"{arguments.output}: {inputs}, update {exported.update:,}, {len(data) / 1e6:.1f} MB",
        markup=False,
    )
    return 0


class Window(nn.Module):
    """What is exported: a network's actions and values over the steps of a segment."""

    def __init__(self, network: PolicyValueNetwork, reward_range: tuple[float, float]) -> None:
        super().__init__()
        self.network, self.reward_range = network, reward_range

    def forward(
        self, state: Tensor, instruction: Tensor, action: Tensor, history: Tensor,
        pixels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Mean actions (b, t, action_size) and values (b, t) in units of (1 − γ) · return.

        Shapes of what goes in are those of the network.
        """
        policy, value = self.network(state, pixels, instruction, action, history)
        return mean_action(policy).clamp(-1.0, 1.0), expected_value(value, *self.reward_range)


def export_program(exported: Exported, where: str, lanes: int = 1) -> bytes:
    """The program's file, with `about` as an extra; CheckpointError names `where`."""
    window = Window(build_network(exported, where), exported.schema.reward_range)
    program = torch.export.export(window.eval(), (), example_inputs(window.network, lanes))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(about(exported, lanes))})
    return buffer.getvalue()


def example_inputs(network: PolicyValueNetwork, lanes: int) -> dict[str, Tensor]:
    """Zeros in the shapes of everything that the network needs."""
    shapes: Shapes = network.shapes
    size = shapes.image_size
    inputs = {
        "state": torch.zeros(lanes, SEGMENT_STEPS, shapes.state_size),
        "instruction": torch.zeros(lanes, shapes.instruction_bytes, dtype=torch.uint8),
        "action": torch.zeros(lanes, SEGMENT_STEPS, shapes.action_size),
        "history": torch.ones(lanes, dtype=torch.bool),
    }
    if "pixels" in network.inputs:
        inputs["pixels"] = torch.zeros(lanes, SEGMENT_STEPS, size, size, 3, dtype=torch.uint8)
    return inputs


def about(exported: Exported, lanes: int) -> dict[str, Any]:
    """Plain values that tell a reader without our code how to use a program."""
    return {
        "lanes": lanes, "steps": SEGMENT_STEPS, "instruction_bytes": INSTRUCTION_BYTES,
        "inputs": exported.config.inputs.split("+"), "schema": exported.schema.to_json(),
        "tasks": exported.tasks, "update": exported.update, "sha256": exported.sha256,
    }  # fmt: skip
