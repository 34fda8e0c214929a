"""The five policy losses on mixed data: same corpus, network and updates, played on fresh seeds.

Six tasks at two levels, states only, in two mixtures: 10 % expert, 40 % noisy expert and 50 %
random play, and the same corpus without its expert. Generates the corpus, trains and evaluates
every (mixture, loss, seed) in processes of one thread, and prints for each the normalised return
(random 0, expert 1) and success, means over the twelve pairs of task and level; their paired
difference to `bc`; the share of steps that the filter keeps by behaviour; and how the critic is
calibrated on matches kept out of training. Intervals are 95 % bootstrap ones over evaluation runs
within each pair, training seeds averaged: they leave out how much training varies from seed to
seed. What is there already is not made again, so a command that was stopped goes on.

Run: python benchmarks/losses.py [--quick] [--folder FOLDER]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import tyro
from numpy.typing import NDArray
from palaestra.evaluate.baselines import load_baselines
from palaestra.evaluate.behaviour import episodes
from palaestra.shards.corpus import Corpus
from palaestra.shards.segments import parse_where
from palaestra.train.loss import POLICY_LOSSES
from timing import print_table

MIXTURES = {"expert": "", "no expert": "policy <> 'expert'"}  # the condition of --where
RECIPE = """\
name = "losses"
steps = {steps}
seed = 7
shard_steps = 32_768
wave = 16
image_size = 8 # nobody looks

"""
BEHAVIOUR = """\
[[behaviours]]
tasks = ["reach", "push", "drawer", "insert", "runner", "swingup"]
levels = [1, 2]
policy = "{policy}"
noise = {noise}
weight = {weight}

"""
BEHAVIOURS = (("expert", 0.0, 0.1), ("expert", 0.8, 0.4), ("random", 0.0, 0.5))
SHOWN = "^(kept/.*|entropy|validation/value_(bias|slope|explained))$"
RESAMPLES = 10_000
BASE = "bc"


@dataclass(frozen=True)
class Trial:
    """A training run and its evaluation."""

    mixture: str
    loss: str
    """A policy loss, and settings of it that differ: `exp,temperature=0.02`."""
    seed: int

    @property
    def name(self) -> str:
        """Of its folders, and of the policy in results."""
        return f"{self.mixture.replace(' ', '-')}-{self.loss}-{self.seed}"

    @property
    def flags(self) -> list[str]:
        """What `train` is told besides."""
        policy, *settings = self.loss.split(",")
        pairs = [("policy", policy), *(setting.split("=") for setting in settings)]
        words = [word for name, value in pairs for word in (f"--loss.{name}", value)]
        where = MIXTURES[self.mixture]
        return [*words, "--seed", str(self.seed), *(["--where", where] if where else [])]


@dataclass(frozen=True)
class Settings:
    """What is run."""

    folder: Path
    steps: int
    """Of the corpus."""
    updates: int
    batch: int
    """Segments."""
    seeds: int
    """Training runs of each mixture and loss."""
    runs: int
    """Evaluation runs of each on each task and level."""
    jobs: int
    """Processes at once, a thread each."""

    def trials(self, mixture: str, loss: str) -> list[Trial]:
        """One for each seed."""
        return [Trial(mixture, loss, seed) for seed in range(self.seeds)]


def call(module: str, *words: object) -> None:
    """Run one of the four commands in a process of one thread; its output is shown if it fails."""
    command = [sys.executable, "-m", f"palaestra.{module}", *map(str, words)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}")


def make_corpus(settings: Settings) -> str:
    """Generate it, or the rest of it."""
    recipe, corpus = settings.folder / "losses.toml", settings.folder / "corpus"
    text = RECIPE.format(steps=settings.steps) + "".join(
        BEHAVIOUR.format(policy=policy, noise=noise, weight=weight)
        for policy, noise, weight in BEHAVIOURS
    )
    recipe.write_text(text)
    call("generate", recipe, corpus, "--workers", settings.jobs)
    return str(corpus)


def run_trial(settings: Settings, corpus: str, trial: Trial) -> None:
    """Train and evaluate; both leave alone what is finished."""
    run, played = settings.folder / trial.name, settings.folder / "played" / trial.name
    call(
        "train", corpus, "--run", run, "--preset", "tiny", "--inputs", "state", *trial.flags,
        "--updates", settings.updates, "--batch", settings.batch, "--micro-batch", settings.batch,
        "--precision", "fp32", "--checkpoint-every", "5m",
    )  # fmt: skip
    if not (played / "episodes.parquet").exists():
        call(
            "evaluate", run, "--output", played, "--runs", settings.runs,
            "--width", settings.runs, "--workers", 1, "--history", "on",
        )  # fmt: skip


def normalised(frame: pl.DataFrame) -> pl.DataFrame:
    """With `score`: the return where random is 0 and the expert 1, by the suite's baselines."""
    rows = load_baselines().rows
    means = {(r.task, r.level, r.policy): r.mean_return for r in rows if not r.opponent}
    pairs = frame.select("task", "level").unique().rows()
    table = pl.DataFrame(
        [(t, n, means[t, n, "random"], means[t, n, "expert"]) for t, n in pairs],
        {"task": pl.String, "level": pl.Int32, "low": pl.Float64, "high": pl.Float64},
        orient="row",
    )
    score = (pl.col("return") - pl.col("low")) / (pl.col("high") - pl.col("low"))
    return frame.join(table, on=["task", "level"]).with_columns(score.alias("score"))


def played_runs(settings: Settings, trials: Sequence[Trial], column: str) -> NDArray[np.float64]:
    """(pair, run) values of a column of the evaluations, training seeds averaged."""
    found = []
    for trial in trials:
        file = settings.folder / "played" / trial.name / "episodes.parquet"
        rows = normalised(pl.read_parquet(file)).sort("task", "level", "seed")
        found.append(rows[column].to_numpy().astype(np.float64).reshape(-1, settings.runs))
    return np.mean(found, axis=0)


def interval(values: NDArray[np.float64]) -> str:
    """Mean over (pair, run) in percent, and its bootstrap interval, runs drawn within pairs."""
    draws = np.random.default_rng(0).integers(0, values.shape[1], (RESAMPLES, *values.shape))
    means = np.take_along_axis(values[None], draws, axis=2).mean(axis=(1, 2))
    low, high = np.quantile(means, (0.025, 0.975)) * 100
    return f"{values.mean() * 100:.1f} [{low:.1f}, {high:.1f}]"


def score_rows(settings: Settings, mixture: str, losses: Sequence[str]) -> list[list[str]]:
    """A line for each loss."""
    scores, success = (
        {loss: played_runs(settings, settings.trials(mixture, loss), column) for loss in losses}
        for column in ("score", "success")
    )
    return [
        [
            loss, interval(scores[loss]), interval(success[loss]),
            interval(scores[loss] - scores[BASE]) if BASE in losses else "",
        ]
        for loss in losses
    ]  # fmt: skip


def data_row(corpus: str, mixture: str) -> list[str]:
    """The data's own episodes, each pair of task and level counted alike."""
    played, where = episodes(Corpus.open(corpus)), MIXTURES[mixture]
    chosen = played.filter(parse_where(where)) if where else played
    means = normalised(chosen).group_by("task", "level").agg(
        pl.col("score").mean(), (pl.col("completion_step") >= 0).mean().alias("success")
    )
    return ["data", *(f"{means[c].mean() * 100:.1f}" for c in ("score", "success")), ""]


def metric_rows(
    settings: Settings, mixture: str, losses: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Names, and for each loss the means over the last fifth of its runs."""
    found = {}
    for loss in losses:
        late: list[dict[str, float]] = []
        for trial in settings.trials(mixture, loss):
            lines = (settings.folder / trial.name / "metrics.jsonl").read_text().splitlines()
            late += [json.loads(line) for line in lines[-max(1, len(lines) // 5) :]]
        frame = pl.DataFrame(late, infer_schema_length=None)
        found[loss] = frame.select(pl.col(SHOWN).mean()).row(0, named=True)
    names = sorted({name for means in found.values() for name in means})
    rows = [
        [loss, *(f"{means[name]:.2f}" if name in means else "" for name in names)]
        for loss, means in found.items()
    ]
    return [name.removeprefix("kept/").removeprefix("validation/value_") for name in names], rows


def experiment(settings: Settings, losses: Sequence[str]) -> None:
    """Everything, then the tables."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    corpus = make_corpus(settings)
    trials = [t for mixture in MIXTURES for loss in losses for t in settings.trials(mixture, loss)]
    with ThreadPoolExecutor(settings.jobs) as pool:
        list(pool.map(lambda trial: run_trial(settings, corpus, trial), trials))
    for mixture in MIXTURES:
        rows = [data_row(corpus, mixture), *score_rows(settings, mixture, losses)]
        header = ("loss", "return", "success", f"return - {BASE}")
        print_table(f"{mixture}: percent [95 % interval]", header, rows)
        names, rows = metric_rows(settings, mixture, losses)
        title = "entropy; share of steps kept, by behaviour; the critic's value"
        print_table(title, ("loss", *names), rows)


def main(
    quick: bool = False, folder: Path | None = None, steps: int = 1_600_000, updates: int = 1000,
    batch: int = 8, seeds: int = 1, runs: int = 50, jobs: int = 2,
    losses: tuple[str, ...] = POLICY_LOSSES,
) -> None:  # fmt: skip
    """Print the tables; --folder keeps corpus and runs, --quick is a smoke run.

    --losses takes settings too: `--losses bc exp,temperature=0.02 binary,floor=0`.
    """
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as temporary:
        place = (folder or Path(temporary)).absolute()
        sizes = (100_000, 3, 4, 1, 2) if quick else (steps, updates, batch, seeds, runs)
        experiment(Settings(place, *sizes, jobs), losses)


if __name__ == "__main__":
    tyro.cli(main)
