"""Learning on mixed data: our losses and d3rlpy's learners, one corpus, equal time, fresh seeds.

Six tasks at two levels, states only, by steps 10 % expert, 40 % expert with white noise of 0.8 on
its actions, 50 % random play; the same corpus without its expert, and with half of it. Every
(mixture, learner, seed) is trained in a process of one thread, by us for a number of updates, by
d3rlpy on the corpus exported to Minari for a number of minutes of CPU time, and plays 100 runs on
each of the twelve pairs of task and level, the same seeds for all.

A return counts in percent of the way from random play to the expert. Intervals are 95 % bootstrap
ones over training seeds where there are several (of three they are √(2/3) of their due width), and
else over runs within pairs. What --results has already is not made again: the file is kept with
the code, and `--show` prints its tables alone.

Run: python benchmarks/learning.py [--show] [--folder FOLDER] [--learners bc top10 d3rlpy-iql]
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import polars as pl
import tyro
from learning_tables import DATA, print_tables
from palaestra.evaluate.behaviour import episodes
from palaestra.shards.corpus import Corpus
from palaestra.shards.segments import parse_where
from provenance import commit, hardware

HERE = Path(__file__).parent
RECIPE = HERE / "learning.toml"
RESULTS = HERE / "results" / "learning.parquet"
MIXTURES = {  # conditions on segments; a wave of a behaviour has even and odd matches
    "expert": "",
    "half": "policy <> 'expert' or match % 2 = 0",
    "no expert": "policy <> 'expert'",
}
PEER = "d3rlpy-"
BATCH = 4  # segments of 256 steps
LEARNERS = ("bc", "binary", "exp", "top10", "d3rlpy-bc", "d3rlpy-iql", "d3rlpy-td3+bc")


@dataclass(frozen=True)
class Trial:
    """A training run and its evaluation."""

    mixture: str
    learner: str
    """One of d3rlpy's, or a policy loss with settings that differ: `exp,temperature=0.02`; with
    `,pixels` it sees frames, and of the state only what a player feels of its own body."""
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return re.sub("[ ,=]", "-", f"{self.mixture}-{self.learner}-{self.seed}")

    @property
    def inputs(self) -> str:
        """As `train` calls them."""
        return "pixels" if "pixels" in self.learner.split(",") else "state"

    @property
    def flags(self) -> list[str]:
        """What our `train` is told besides."""
        policy, *settings = self.learner.split(",")
        pairs = [("policy", policy), *(x.split("=") for x in settings if x != "pixels")]
        words = [word for name, value in pairs for word in (f"--loss.{name}", value)]
        where = MIXTURES[self.mixture]
        return [*words, "--seed", str(self.seed), *(["--where", where] if where else [])]


@dataclass(frozen=True)
class Settings:
    """What is run, and where."""

    folder: Path
    results: Path
    steps: int
    """Of the corpus."""
    updates: int
    """Of ours, BATCH segments each."""
    minutes: float
    """Of a peer's training, CPU time."""
    runs: int
    jobs: int
    """Processes at once, a thread each."""

    @property
    def corpus(self) -> str:
        """Where the corpus is."""
        return str(self.folder / "corpus")

    def corpus_of(self, inputs: str) -> str:
        """The same episodes, with frames where they are looked at."""
        return str(self.folder / "pixels") if inputs == "pixels" else self.corpus


def call(*words: object) -> tuple[float, str]:
    """Run a command of ours in a process of one thread: CPU seconds of all its processes, output.

    Ends this program with the output if the command fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], stdout=output, stderr=subprocess.STDOUT,
            env=environment,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{text}")
    return usage.ru_utime + usage.ru_stime, text


def make_corpus(settings: Settings, inputs: str) -> None:
    """Generate it, or the rest of it."""
    recipe = RECIPE
    if inputs == "pixels":
        recipe = settings.folder / "pixels.toml"
        recipe.write_text(RECIPE.read_text().replace("image_size = 8", "image_size = 64"))
    call(
        "-m", "palaestra.generate", recipe, settings.corpus_of(inputs), "--workers", settings.jobs,
        "--steps", settings.steps,
    )  # fmt: skip


def export(settings: Settings, mixture: str) -> Path:
    """The mixture as a Minari dataset, made once."""
    folder = settings.folder / f"minari-{mixture.replace(' ', '-')}-v0"
    where = ["--where", MIXTURES[mixture]] if MIXTURES[mixture] else []
    if not folder.exists():
        call(
            "-m", "palaestra.generate", "export", settings.corpus, folder, "--format", "minari",
            "--no-pixels", *where,
        )  # fmt: skip
    return folder


def train(corpus: str | Path, run: Path, updates: int, *flags: object) -> float:
    """A `tiny` network, as flags say besides; CPU seconds."""
    spent, _ = call(
        "-m", "palaestra.train", corpus, "--run", run, "--preset", "tiny",
        "--updates", updates, "--batch", BATCH, "--micro-batch", BATCH, "--precision", "fp32",
        "--checkpoint-every", "1h", *flags,
    )  # fmt: skip
    return spent


def play(
    policies: Sequence[Path], output: Path, runs: int, workers: int, *flags: object
) -> pl.DataFrame:
    """Their episodes, a row for each side of a match."""
    call(
        "-m", "palaestra.evaluate", *policies, "--output", output, "--runs", runs,
        "--width", runs, "--workers", workers, "--history", "on", *flags,
    )  # fmt: skip
    return pl.read_parquet(output / "episodes.parquet")


def run_ours(settings: Settings, trial: Trial) -> dict[str, float]:
    """Train and evaluate with our commands, which leave alone what is finished."""
    run, played = settings.folder / "runs" / trial.name, settings.folder / "played" / trial.name
    corpus = settings.corpus_of(trial.inputs)
    spent = train(corpus, run, settings.updates, "--inputs", trial.inputs, *trial.flags)
    play([run], played, settings.runs, 1)
    return {"cpu_s": round(spent, 1), "updates": settings.updates}


def run_peer(settings: Settings, trial: Trial) -> dict[str, float]:
    """Train and play a learner of d3rlpy."""
    played = settings.folder / "played" / trial.name
    played.mkdir(parents=True, exist_ok=True)
    _, text = call(
        HERE / "learners.py", export(settings, trial.mixture), played / "episodes.parquet",
        "--algorithm", trial.learner.removeprefix(PEER), "--minutes", settings.minutes,
        "--seed", trial.seed, "--runs", settings.runs,
    )  # fmt: skip
    found: dict[str, float] = json.loads(text.splitlines()[-1])
    return found


def run_trial(settings: Settings, trial: Trial) -> pl.DataFrame:
    """The trial's rows of the results."""
    run = run_peer if trial.learner.startswith(PEER) else run_ours
    took = run(settings, trial)
    played = pl.read_parquet(settings.folder / "played" / trial.name / "episodes.parquet")
    about = took | {
        "commit": commit(), "hardware": hardware(), "steps": settings.steps,
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    return rows_of(trial, played, json.dumps(about))


def rows_of(trial: Trial, played: pl.DataFrame, about: str = "{}") -> pl.DataFrame:
    """What results keep of episodes."""
    return played.select(
        pl.lit(trial.mixture).alias("mixture"), pl.lit(trial.learner).alias("learner"),
        pl.lit(trial.seed, pl.Int32).alias("seed"), "task", pl.col("level").cast(pl.Int32),
        pl.col("run").cast(pl.Int32), pl.col("return").cast(pl.Float32),
        pl.col("completion_step").fill_null(-1).cast(pl.Int32), pl.lit(about).alias("about"),
    )  # fmt: skip


def data_rows(settings: Settings, mixture: str) -> pl.DataFrame:
    """The data's own episodes."""
    where = MIXTURES[mixture]
    played = episodes(Corpus.open(settings.corpus))
    chosen = played.filter(parse_where(where)) if where else played
    numbered = chosen.with_columns(pl.int_range(pl.len()).over("task", "level").alias("run"))
    return rows_of(Trial(mixture, DATA, 0), numbered)


def add(results: Path, rows: pl.DataFrame) -> None:
    """Put rows among the results; the file appears whole or not at all."""
    before = [pl.read_parquet(results)] if results.exists() else []
    results.parent.mkdir(parents=True, exist_ok=True)
    beside = results.with_suffix(".writing")
    together = pl.concat([*before, rows]).sort("mixture", "learner", "seed", "task", "level", "run")
    together.write_parquet(beside, compression="zstd", compression_level=19)
    beside.replace(results)


def known(results: Path) -> set[Trial]:
    """The trials that results have."""
    if not results.exists():
        return set()
    rows = pl.read_parquet(results, columns=["mixture", "learner", "seed"]).unique().rows()
    return {Trial(*row) for row in rows}


def experiment(settings: Settings, trials: Sequence[Trial]) -> None:
    """Run the trials that are not known yet, `jobs` at a time."""
    left = [trial for trial in trials if trial not in known(settings.results)]
    if not left:
        return
    settings.folder.mkdir(parents=True, exist_ok=True)
    for inputs in sorted({"state", *(trial.inputs for trial in left)}):
        make_corpus(settings, inputs)
    mixtures = dict.fromkeys(trial.mixture for trial in left)
    for mixture in mixtures:
        if Trial(mixture, DATA, 0) not in known(settings.results):
            add(settings.results, data_rows(settings, mixture))
        if any(t.learner.startswith(PEER) for t in left if t.mixture == mixture):
            export(settings, mixture)  # before two processes would
    lock = Lock()

    def one(trial: Trial) -> None:
        rows = run_trial(settings, trial)
        with lock:
            add(settings.results, rows)
        print(f"{trial.name}: {rows['about'][0]}", flush=True)

    with ThreadPoolExecutor(settings.jobs) as pool:
        list(pool.map(one, left))


def main(
    show: bool = False, quick: bool = False, folder: Path | None = None, results: Path = RESULTS,
    mixtures: tuple[str, ...] = ("expert", "no expert"), learners: tuple[str, ...] = LEARNERS,
    seeds: int = 3, steps: int = 1_600_000, updates: int = 3400, minutes: float = 4.0,
    runs: int = 100, jobs: int = 2,
) -> None:  # fmt: skip
    """Run what is missing, then print the tables; --folder keeps corpus and runs.

    --quick is a smoke run, whose results are not kept. Learners of ours take settings of the loss:
    `--learners bc exp,temperature=0.02 binary,floor=0`.
    """
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as temporary:
        place = (folder or Path(temporary)).absolute()
        sizes = (steps, updates, minutes, runs)
        if quick:
            results, seeds, sizes = place / "results.parquet", 1, (100_000, 3, 0.05, 2)
        settings = Settings(place, results.absolute(), *sizes, jobs)
        trials = [Trial(m, a, s) for s in range(seeds) for m in mixtures for a in learners]
        if not show:
            experiment(settings, trials)
        print_tables(pl.read_parquet(settings.results))


if __name__ == "__main__":
    tyro.cli(main)
