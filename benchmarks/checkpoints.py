"""Bandwidth of saving and restoring, beside DeepSpeed's own checkpoint and a plain write.

One rank with the `base` preset (state inputs, 12 bytes a parameter) saves to a local folder and
restores from it: weights and moments of the fragment files, without the exported weights.
`deepspeed` is `save_checkpoint` and `load_checkpoint` of the same engine, `write` the same bytes
written and synchronised by one `write`: the disk's own limit.

Run: python benchmarks/checkpoints.py [--preset base] [--folder /tmp]
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from palaestra.generate.slots import make_schema
from palaestra.train import checkpoint
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.engine import Engine, start_ranks, stop_ranks
from palaestra.train.execution import Execution
from palaestra.train.export import shapes_of
from palaestra.train.model import PolicyValueNetwork
from palaestra.train.places import Keep, Marker
from timing import print_table

SCHEMA = make_schema(64, (0.0, 1.0))
REPETITIONS = 5


def main(preset: str = "base", folder: str | None = None, quick: bool = False) -> None:
    """Print the table; --quick takes `tiny`, once."""
    preset = "tiny" if quick else preset
    start_ranks()
    place = Path(tempfile.mkdtemp(prefix="palaestra-checkpoints-", dir=folder))
    try:
        measure(preset, place, 1 if quick else REPETITIONS)
    finally:
        shutil.rmtree(place)
        stop_ranks()


def measure(preset: str, place: Path, repetitions: int) -> None:
    """Save and restore in turn; the page cache is warm for reading."""
    engine = make_engine(preset)
    size = sum(x.nbytes for f in engine.fragments(updates=1) for x in f.values.values())
    ours = checkpoint.Place(str(place / "ours"), chief=True)
    marker = Marker(1, 0, 1, ())

    def save() -> None:
        shutil.rmtree(place / "ours", ignore_errors=True)
        checkpoint.save(ours, marker, engine, Keep())

    def save_theirs() -> None:
        shutil.rmtree(place / "theirs", ignore_errors=True)
        engine.engine.save_checkpoint(str(place / "theirs"), tag="x", save_latest=False)

    def write() -> None:
        data = bytes(size)
        with (place / "plain").open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())

    actions: dict[str, Callable[[], object]] = {
        "save": save, "restore": lambda: checkpoint.restore(ours, 1, engine),
        "deepspeed, save": save_theirs,
        "deepspeed, restore": lambda: engine.engine.load_checkpoint(str(place / "theirs"), "x"),
        "write": write,
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repetitions):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - began)
    rows = [
        (name, f"{statistics.median(s):.2f}", f"{size / statistics.median(s) / 1e6:,.0f}")
        for name, s in seconds.items()
    ]
    title = f"{preset}, {size / 1e9:.2f} GB of weights and moments (median of {repetitions})"
    print_table(title, ("", "s", "MB/s"), rows)


def make_engine(preset: str) -> Engine:
    """One rank of ZeRO-3 with the preset's network."""
    found = load_preset(preset)
    config = TrainConfig(
        corpora=(), weights=(), preset=preset, model=found.model, inputs="state", updates=1,
        batch=1, peak_rate=1e-4, end_rate=1e-5, warm_up=1, precision="fp32",
    )  # fmt: skip

    def build() -> PolicyValueNetwork:
        return PolicyValueNetwork(found.model, shapes_of(SCHEMA), ["state"])

    engine = Engine(build, config, Execution(micro_batch=1))
    assert engine.device == torch.device("cpu") or torch.cuda.is_available()
    return engine


if __name__ == "__main__":
    tyro.cli(main)
