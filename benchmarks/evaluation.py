"""How long the whole suite takes: 16 tasks at 3 levels, 100 runs each, with an untrained `tiny`.

Nine of the task levels are matches, 100 against each of the four scripted anchors. Plays them
through `evaluate` itself, in as many processes as there are cores, then scores them and builds the
report, and prints seconds and steps per second of each family; an untrained network's episodes are
mostly of full length.

Run: python benchmarks/evaluation.py [--quick] [--preset tiny] [--inputs state] [--workers N]
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import torch
import tyro
from palaestra.evaluate import output
from palaestra.evaluate.entrants import find_entrants
from palaestra.evaluate.evaluation import assemble, record
from palaestra.evaluate.opponents import find_opponents
from palaestra.evaluate.pairs import choose_pairs, matches
from palaestra.evaluate.report.build import build_report
from palaestra.evaluate.settings import Settings
from palaestra.generate.registry import task_class
from palaestra.generate.slots import make_schema
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.export import export_metadata, shapes_of, write_weights
from palaestra.train.model import PolicyValueNetwork
from timing import print_table

FAMILIES = ("arm", "locomotion", "match")


def write_network(path: Path, preset: str, inputs: str) -> None:
    """An untrained network as a weights file."""
    model, schema = load_preset(preset).model, make_schema(64, (0.0, 1.0))
    config = TrainConfig(
        corpora=("none",), weights=(1,), preset=preset, model=model, inputs=inputs, updates=1,
        batch=1, peak_rate=1e-3, end_rate=1e-5, warm_up=1, precision="fp32",
    )  # fmt: skip
    network = PolicyValueNetwork(model, shapes_of(schema), inputs.split("+"))
    network.initialise(torch.Generator().manual_seed(0))
    write_weights(path, network.state_dict(), export_metadata(config, schema, ()) | {"update": 0})


def measure(
    settings: Settings, family: str, workers: int | None, folder: Path
) -> tuple[list[str], float]:
    """A row of the table, and its seconds."""
    began = time.perf_counter()
    recorded = record(settings, workers)
    played = time.perf_counter() - began
    evaluation = assemble(settings, recorded)
    output.write(str(folder / family), evaluation, build_report(evaluation))
    whole = time.perf_counter() - began
    frame, levels = recorded.frame, len(settings.tasks)
    # of a match each side is a row
    runs = len(frame) // (2 if matches(settings.tasks) else 1)
    steps = float(frame["steps"].sum()) * runs / len(frame)
    row = [
        family, f"{levels}", f"{runs:,}", f"{steps:,.0f}", f"{played:.1f}",
        f"{steps / played:,.0f}", f"{whole - played:.1f}",
    ]  # fmt: skip
    return row, whole


def main(
    quick: bool = False, preset: str = "tiny", inputs: str = "state", runs: int = 100,
    workers: int | None = None,
) -> None:  # fmt: skip
    """Print the table; --quick is a smoke run whose figures mean nothing."""
    rows, seconds = [], 0.0
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as temporary:
        folder = Path(temporary)
        write_network(folder / "net.safetensors", preset, inputs)
        entrants = find_entrants([str(folder / "net.safetensors")]).entrants
        for family in FAMILIES:
            pairs = [p for p in choose_pairs(("all",), ()) if task_class(p[0]).family == family]
            chosen = tuple(pairs[:: 4 if quick else 1])
            opponents = find_opponents(None, entrants) if matches(chosen) else ()
            settings = Settings(entrants, chosen, opponents, 4 if quick else runs)
            row, whole = measure(settings, family, workers, folder)
            rows.append(row)
            seconds += whole
    cores = workers or len(os.sched_getaffinity(0))
    title = f"{preset} on {inputs}, {cores} processes: {seconds / 60:.1f} minutes in all"
    columns = ("family", "task levels", "runs", "steps", "playing, s", "steps/s", "report, s")
    print_table(title, columns, rows)


if __name__ == "__main__":
    tyro.cli(main)
