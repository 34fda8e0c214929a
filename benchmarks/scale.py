"""Loss against parameters and data: three sizes of network, three amounts of data, one fit.

All clone (`--loss.policy bc`) the scripted experts of one player's tasks, states only: `tiny` and
two narrower networks, on 1/16, 1/4 and all of a corpus's matches, for the same number of updates:
enough that not their number decides. The loss is the policy's cross-entropy on another corpus of
the same recipe with another seed, the same for all, at its lowest of a run's validations, as if
the run had been stopped there; less the entropy of the targets: smoothed as they are, they cost
even one who knows them 2.03 nats. L(N, D) = E + A / N^α + B / D^β (Hoffmann et al. 2022) is
fitted to the nine by least squares of logarithms, N counting the parameters of encoder and
decoder, D the steps of data. Nine points and five unknowns: the exponents are this setting's and
no law.

Run: python benchmarks/scale.py [--quick] [--folder FOLDER] [--picture FILE.png]
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
import torch
import tyro
from learning import call
from numpy.typing import NDArray
from palaestra.shards.corpus import Corpus
from palaestra.shards.reader import Reader
from palaestra.shards.segments import Source
from palaestra.train.config import load_preset
from palaestra.train.export import find_weights, read_metadata
from palaestra.train.loss import LossConfig, action_target, mean_where, used_entries
from provenance import commit, hardware
from scipy.optimize import least_squares
from timing import print_table

RECIPE = Path(__file__).with_suffix(".toml")
SIZES = ("narrowest", "narrow", "tiny")
PARTS = {16: "match % 16 = 0", 4: "match % 4 = 0", 1: ""}
BATCH = 8  # segments
VALIDATIONS = 16  # of a run
OTHER_SEED, OTHER_STEPS = 8, 200_000  # fewer steps do not hold the mixture
PRESET = """\
peak_rate = {rate}
warm_up = 30

[model]
width = {width}
heads = 2
kv_heads = 2
encoder_blocks = 1
decoder_blocks = 1
hidden = {hidden}
state_hidden = {state_hidden}
perception_width = 48
perception_blocks = 1
perception_heads = 3
patch = 16
pixel_tokens = 2
"""
MADE = {  # beside `tiny`: width 64, hidden 160, state_hidden 192, rate 2e-3
    "narrowest": {"rate": 4e-3, "width": 16, "hidden": 40, "state_hidden": 48},
    "narrow": {"rate": 3e-3, "width": 32, "hidden": 80, "state_hidden": 96},
}


@dataclass(frozen=True)
class Point:
    """One network on one amount of data."""

    size: str
    part: int
    """One match in so many."""

    @property
    def name(self) -> str:
        """Of its run."""
        return f"{self.size}-{self.part}"


@dataclass(frozen=True)
class Measured:
    """What came of it."""

    parameters: int
    steps: int
    loss: float
    """Nats a step and action entry above the entropy of the targets."""


@dataclass(frozen=True)
class Law:
    """E + A / N^α + B / D^β."""

    floor: float
    a: float
    alpha: float
    b: float
    beta: float

    def loss(self, parameters: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray:
        """Predicted."""
        return self.floor + self.a / parameters**self.alpha + self.b / steps**self.beta


def fit(points: Sequence[Measured]) -> Law:
    """Least squares of log L, all five unknowns positive, the exponents in [0.01, 3]."""
    n, d, loss = (np.array(x, float) for x in zip(*map(_values, points), strict=True))

    def residual(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(Law(*np.exp(x)).loss(n, d)) - np.log(loss)

    starts = [(np.log(0.9 * loss.min()), np.log(a), np.log(0.3), np.log(b), np.log(0.3))
              for a in (0.1, 1, 10) for b in (0.1, 1, 10)]  # fmt: skip
    bounds = np.log([(1e-3, 1e-3, 0.01, 1e-3, 0.01), (1e3, 1e9, 3, 1e9, 3)])
    fits = [least_squares(residual, start, bounds=tuple(bounds)) for start in starts]
    found = min(fits, key=lambda f: f.cost)
    return Law(*(float(x) for x in np.exp(found.x)))


def _values(point: Measured) -> tuple[float, float, float]:
    return point.parameters, point.steps, point.loss


def make_corpora(folder: Path, steps: int, jobs: int) -> tuple[str, str]:
    """The corpus to learn from, and another to judge on."""
    other = folder / "other.toml"
    other.write_text(RECIPE.read_text().replace("seed = 7", f"seed = {OTHER_SEED}"))
    for recipe, name, count in ((RECIPE, "corpus", steps), (other, "other", OTHER_STEPS)):
        call(
            "-m", "palaestra.generate", recipe, folder / name, "--steps", count,
            "--workers", jobs,
        )  # fmt: skip
    return str(folder / "corpus"), str(folder / "other")


def preset(folder: Path, size: str) -> str:
    """A preset's name, or its file, written."""
    if size not in MADE:
        return size
    file = folder / f"{size}.toml"
    file.write_text(PRESET.format(**MADE[size]))
    return str(file)


def entropy(corpus: Corpus, bins: int) -> float:
    """Mean entropy of the targets that a corpus's actions are as, nats a step and action entry."""
    reader = Reader(
        [Source(corpus)], batch_size=BATCH, micro_batch=BATCH, seed=0, pixels=False, threads=1
    )
    total, steps = 0.0, 0
    for (batch,) in reader.batches(0, len(corpus.index) // BATCH):
        action = torch.from_numpy(batch.action)
        target = action_target(action, bins, LossConfig().smoothing)
        cost = mean_where(used_entries(action), -torch.xlogy(target, target).sum(dim=-1))
        total += float(cost[torch.from_numpy(batch.valid)].sum())
        steps += int(batch.steps.sum())
    reader.close()
    return total / steps


def measure(
    folder: Path, corpora: tuple[str, str], floor: float, point: Point, updates: int
) -> Measured:
    """Train, and read how far the lowest validation is above the floor."""
    run, (corpus, other) = folder / "scale" / point.name, corpora
    where = ["--where", PARTS[point.part]] if PARTS[point.part] else []
    call(
        "-m", "palaestra.train", corpus, "--run", run, "--preset", preset(folder, point.size),
        "--inputs", "state", "--loss.policy", "bc", "--updates", updates, "--batch", BATCH,
        "--micro-batch", BATCH, "--precision", "fp32", "--checkpoint-every", "1h",
        "--heldout", other, "--validate-every", max(1, updates // VALIDATIONS),
        "--validation-batches", 64, "--validation-share", 0, *where,
    )  # fmt: skip
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["heldout/policy_loss"] for line in lines if "heldout/policy_loss" in line]
    index = Corpus.open(corpus).index.filter(pl.col("match") % point.part == 0)
    model = read_metadata(find_weights(str(run))).config.model
    parameters = (model.encoder_blocks + model.decoder_blocks) * model.block_parameters
    return Measured(parameters, int(index["steps"].sum()), min(losses) - floor)


def draw(points: dict[Point, Measured], law: Law, picture: Path) -> None:
    """Loss over data, a line for each size: measured as dots, fitted as lines."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for number, size in enumerate(SIZES):
        mine = [m for point, m in points.items() if point.size == size]
        steps = np.geomspace(min(m.steps for m in mine), max(m.steps for m in mine), 50)
        parameters = np.full_like(steps, mine[0].parameters)
        axes.plot(steps, law.loss(parameters, steps), color=f"C{number}")
        axes.plot(
            [m.steps for m in mine], [m.loss for m in mine], "o", color=f"C{number}",
            label=f"{size}: {mine[0].parameters / 1e3:,.0f} k in its blocks",
        )  # fmt: skip
    ticks = sorted({m.steps for m in points.values()})
    axes.set(
        xscale="log", yscale="log", xlabel="steps of data",
        ylabel="loss on other matches, nats above its floor",
    )  # fmt: skip
    axes.set_xticks(ticks, [f"{steps:,}" for steps in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:.2f}")
    axes.yaxis.set_minor_formatter("{x:.2f}")
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def main(
    quick: bool = False, folder: Path | None = None, picture: Path | None = None,
    steps: int = 800_000, updates: int = 4000, jobs: int = 2,
) -> None:  # fmt: skip
    """Print the nine losses and the fit; --quick is a smoke run."""
    if quick:
        steps, updates = 200_000, 3
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as temporary:
        place = (folder or Path(temporary)).absolute()
        place.mkdir(parents=True, exist_ok=True)
        corpora = make_corpora(place, steps, jobs)
        floor = entropy(Corpus.open(corpora[1]), load_preset("tiny").model.policy_bins)
        wanted = [Point(size, part) for size in SIZES for part in PARTS]
        with ThreadPoolExecutor(jobs) as pool:
            done = list(pool.map(lambda p: measure(place, corpora, floor, p, updates), wanted))
    points = dict(zip(wanted, done, strict=True))
    law = fit(done)
    rows = [
        [size, f"{points[Point(size, 1)].parameters:,}",
         *(f"{points[Point(size, part)].loss:.4f}" for part in PARTS)]
        for size in SIZES
    ]  # fmt: skip
    header = ("size", "parameters", *(f"{points[Point('tiny', p)].steps:,} steps" for p in PARTS))
    print_table(
        f"loss above its floor after {updates:,} updates ({commit()}, {hardware()})", header, rows
    )
    print(f"L = {law.floor:.3f} + {law.a:.3g} / N^{law.alpha:.2f} + {law.b:.3g} / D^{law.beta:.2f}")
    if picture:
        draw(points, law, picture)


if __name__ == "__main__":
    tyro.cli(main)
