"""Bytes that `train plan` predicts beside those of real runs, by kind.

Activations: the storages that autograd saves in a forward pass on a micro-batch of 2, on a CPU as
it is (`cpu`), and with an RMSNorm that saves what CUDA's does (`gpu`). States: the partitions of a
real ZeRO-3 engine at 1, 2 and 4 processes; and the most that its allocator held at once while it
was built and made three updates, by torch's profiler. Parameters, gradients and optimizer states
fall as 1 / processes; what is in flight does not.

Run: python benchmarks/memory.py [--quick]
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch
import tyro
from palaestra.train.config import load_preset
from timing import print_table

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from memory_runs import Pair, activation_bytes, measure

HEADER = ("MB", "predicted", "measured", "ratio")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def row(name: str, pair: Pair) -> tuple[str, ...]:
    """Of a table."""
    predicted, measured = (size / 1e6 for size in pair)
    return name, f"{predicted:,.1f}", f"{measured:,.1f}", f"{predicted / measured:.3f}"


def activation_rows(preset: str) -> list[tuple[str, ...]]:
    """Of every input, precision and kind of norm, with no and with all blocks recomputed."""
    model = load_preset(preset).model
    rows = []
    for inputs, precision, fused, recompute in itertools.product(
        ("pixels+state", "state"), DTYPES, (False, True),
        (0, model.encoder_blocks + model.decoder_blocks),
    ):  # fmt: skip
        name = f"{preset}, {inputs}, {precision}, {'gpu' if fused else 'cpu'}, {recompute} again"
        pair = activation_bytes(
            preset, tuple(inputs.split("+")), DTYPES[precision], fused, recompute
        )
        rows.append(row(name, pair))
    return rows


def main(
    quick: bool = False, preset: str = "base", inputs: str = "state", precision: str = "bf16"
) -> None:
    """Print both tables; --quick: `tiny` and `small`, with 1 and 2 processes."""
    rows = activation_rows("tiny") + ([] if quick else activation_rows("small"))
    print_table("activations of a micro-batch of 2, by blocks that are recomputed", HEADER, rows)
    preset, rows = "small" if quick else preset, []
    for ranks in (1, 2) if quick else (1, 2, 4):
        found = measure(ranks, preset, inputs, precision)
        rows += [row(f"{ranks} × {kind}", pair) for kind, pair in found.items()]
    print_table(f"a rank of ZeRO-3: {preset}, {inputs}, {precision}", HEADER, rows)


if __name__ == "__main__":
    tyro.cli(main)
