"""`evaluate POLICY… --output DIR`: success rates with intervals, and a report with videos.

`evaluate RUN --watch` scores a run's checkpoints while it trains.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from ..shards.console import console, run_command
from ..shards.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """Play policies on seeds no corpus uses, and report how they did.

    The same command prints the same table.

    With --watch, instead: follow one run that trains, and play each new checkpoint on the held-out
    tasks and those that --tasks and --levels name. Scores go to evaluations.jsonl and TensorBoard
    in the run. It ends with the checkpoint of the last update; started again, it goes on.
    """

    policies: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="POLICY …")]
    """random, expert, or URLs of runs, checkpoints or .safetensors files."""
    output: str | None = None
    """Where results.json, episodes.parquet and report.html go: a folder or any URL."""
    watch: bool = False
    """Follow a run."""
    runs: int = 100
    """Runs of each policy on each task and level."""
    tasks: tuple[str, ...] = ()
    """Tasks; by default those of the first checkpoint, else all that are not held out."""
    levels: tuple[int, ...] = ()
    """Levels of each task; by default those of the first checkpoint, else 1."""
    corpus: str | None = None
    """Also score this corpus's own episodes, as `behaviour data`."""
    history: Literal["on", "off"] = "on"
    """Whether learned policies see their past actions."""
    seed: int = 0
    """Of the runs and of the bootstrap."""
    width: int = 100
    """Simulations in lockstep."""
    threads: int | None = None
    """CPU threads of simulator and network; by default one per core."""
    debug: bool = False
    """Show tracebacks."""


def command(arguments: Arguments) -> None:
    """Check everything, then play, report and print; or follow a run."""
    from .evaluation import require_counts

    if not arguments.policies:
        raise ConfigError("expected at least one POLICY: random, expert or the URL of a run")
    threads = len(os.sched_getaffinity(0)) if arguments.threads is None else arguments.threads
    require_counts(arguments.runs, arguments.width, threads, arguments.seed)
    if arguments.watch:
        watch(arguments, threads)
    elif arguments.output is None:
        raise ConfigError("--output is missing: the folder or URL of the report")
    else:
        report(arguments, arguments.output, threads)


def report(arguments: Arguments, output: str, threads: int) -> None:
    """Play the policies, write the report and print the table."""
    from ..shards.corpus import Corpus
    from .evaluation import Settings, choose_pairs, evaluate, require_fitting
    from .output import require_same_or_new, write
    from .players import load_players
    from .report import build_report
    from .table import print_table

    players = load_players(arguments.policies, arguments.history == "on")
    pairs = choose_pairs(arguments.tasks, arguments.levels, players)
    corpus = Corpus.open(arguments.corpus) if arguments.corpus else None
    settings = Settings(
        tuple({"name": p.name, "source": p.source, "update": p.update} for p in players), pairs,
        arguments.runs, arguments.history == "on", arguments.seed, arguments.width, threads,
        arguments.corpus, corpus.manifest.fingerprint if corpus else None,
    )  # fmt: skip
    require_same_or_new(output, settings)
    require_fitting(players, pairs)
    if any(player.learned for player in players):
        import torch

        torch.set_num_threads(threads)
    evaluation = evaluate(settings, players, corpus)
    where = write(output, evaluation, build_report(evaluation))
    print_table(evaluation)
    console.print(f"report: {where}")


def watch(arguments: Arguments, threads: int) -> None:
    """Score a run's checkpoints as they come."""
    from .evaluation import Settings, choose_pairs
    from .watch import follow, watched_pairs

    if len(arguments.policies) > 1 or arguments.output or arguments.corpus:
        raise ConfigError("--watch takes one run, and neither --output nor --corpus")
    named = arguments.tasks or arguments.levels
    chosen = choose_pairs(arguments.tasks, arguments.levels, ()) if named else ()
    follow(arguments.policies[0], Settings(
        (), watched_pairs(chosen), arguments.runs, arguments.history == "on", arguments.seed,
        arguments.width, threads,
    ))  # fmt: skip


def main() -> None:
    """Entry point."""
    run_command(Arguments, command, "evaluate")


if __name__ == "__main__":
    main()
