"""`evaluate POLICY… --output DIR`, `evaluate RUN --watch`, and four commands besides."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..shards.console import console, run_command
from ..shards.errors import ConfigError

if TYPE_CHECKING:
    from .settings import Settings

History = Literal["both", "on", "off"]


@dataclass(frozen=True)
class Arguments:
    """Play policies on seeds no corpus uses, and report how they did.

    The same command prints the same table; ended early, it goes on where it was.

    With --watch, instead: follow one run that trains, and play each new checkpoint on the held-out
    tasks and those that --tasks and --levels name. Scores go to evaluations.jsonl and TensorBoard
    in the run. It ends with the checkpoint of the last update; started again, it goes on.

    Four commands besides: `evaluate compare A B` tells two policies apart on the same seeds,
    `evaluate merge A B … --output DIR` joins evaluations that were played apart, `evaluate show DIR
    --task T --seed N` films a run again, `evaluate selfplay RECIPE DEST` makes rounds of self-play.
    """

    policies: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="POLICY …")]
    """random, expert, or URLs of runs, checkpoints or .safetensors files; NAME=URL,URL,… for one
    method trained with several seeds."""
    output: str | None = None
    """Where results.json, episodes.parquet and report.html go: a folder or any URL."""
    watch: bool = False
    """Follow a run."""
    runs: int = 100
    """Runs of each policy on each task and level; matches against each opponent."""
    tasks: tuple[str, ...] = ()
    """Tasks, families (arm, locomotion, match), train, heldout or all; by default those that the
    first checkpoint was trained on, else all."""
    levels: tuple[int, ...] = ()
    """Levels of each task; by default every one, or those that the checkpoint was trained on."""
    corpus: str | None = None
    """Also score this corpus's own episodes, as `behaviour data`."""
    league: str | None = None
    """League file (JSON) whose members are opponents in matches, besides the scripted anchors."""
    update_league: bool = False
    """Add learned policies and matches to the league file, and rate it anew; make it if need be."""
    history: History = "both"
    """Whether learned policies see their past actions; `both` plays them each way."""
    seed: int = 0
    """Of the runs and of the bootstrap."""
    width: int = 100
    """Simulations in lockstep; a learned policy's last bits depend on it."""
    workers: int | None = None
    """Processes; by default one per core, or per GPU for networks."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class CompareArguments:
    """Tell two policies apart, run by run on the same seeds: B − A with intervals.

    A and B are policies, or evaluations that hold them (`DIR`, or `DIR#NAME` of several). What has
    not been played is played now: as the other one's evaluation was, else as the flags say.
    """

    a: Annotated[str, tyro.conf.Positional]
    """The one to begin with."""
    b: Annotated[str, tyro.conf.Positional]
    """The one that may be better."""
    runs: int = 100
    """Runs of each policy on each task and level, unless an evaluation says it."""
    tasks: tuple[str, ...] = ()
    """As `evaluate`'s; by default an evaluation's, else those that A was trained on."""
    levels: tuple[int, ...] = ()
    """Levels of each task."""
    seed: int = 0
    """Of the runs and of the bootstrap, unless an evaluation says it."""
    width: int = 100
    """Simulations in lockstep, unless an evaluation says it."""
    workers: int | None = None
    """Processes; by default one per core, or per GPU for networks."""
    json: bool = False
    """Print one JSON object and nothing else."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class MergeArguments:
    """Join evaluations of different tasks or policies that were played in the same way."""

    urls: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR DIR …")]
    """Complete evaluations: folders or any URLs."""
    output: str
    """Where the whole goes."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class ShowArguments:
    """Replay a run from its recorded actions and write it as an animated GIF."""

    url: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A complete evaluation: a folder or any URL."""
    task: str
    """Which task."""
    level: int | None = None
    """Which level; by default the only one played."""
    seed: str = "0"
    """The run's number, or its whole 64-bit seed."""
    policy: str | None = None
    """Whose run; by default the first learned policy's, else the first's."""
    opponent: str | None = None
    """Of a match; by default the first."""
    output: str = "."
    """Where the file goes: a folder or any URL."""
    size: int = 320
    """Pixels along each side of a view."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class SelfPlayArguments:
    """Make rounds of self-play: generate, audit, train and evaluate in turn, with one league.

    RECIPE is one of `generate` with the parts round-0, round-1, … and a table `selfplay`; every
    stage is a command that is printed. Killed anywhere, the same command goes on from there. Exits
    with the code of the stage that failed or was stopped: 75 after `train` saved.
    """

    recipe: Annotated[str, tyro.conf.Positional]
    """Recipe file (TOML), at any URL."""
    dest: Annotated[str, tyro.conf.Positional]
    """Where everything goes, the league and its report too: a folder, s3://, gs://, …"""
    steps: int | None = None
    """Interaction steps, instead of the recipe's."""
    rounds: int | None = None
    """Stop after so many, instead of all."""
    workers: int | None = None
    """Processes of generate and evaluate; by default one per core, or per GPU for networks."""
    dry_run: bool = False
    """Print the commands that are left, and stop."""
    allow_code: bool = False
    """Let the recipe name policies outside palaestra."""
    debug: bool = False
    """Show tracebacks."""


def command(arguments: Arguments) -> None:
    """Check everything, then play, report and print; or follow a run."""
    from ..generate.pool import check_workers
    from .settings import require_counts

    if not arguments.policies:
        raise ConfigError("expected at least one POLICY: random, expert or the URL of a run")
    require_counts(arguments.runs, arguments.width, arguments.seed)
    check_workers(arguments.workers)
    if arguments.watch:
        watch(arguments)
    elif arguments.output is None:
        raise ConfigError("--output is missing: the folder or URL of the report")
    elif arguments.update_league and arguments.league is None:
        raise ConfigError("--update-league is for --league URL")
    else:
        report(arguments, arguments.output)


def report(arguments: Arguments, output: str) -> None:
    """Play the policies, write the report, print the table and bring the league up to date."""
    from ..shards import storage
    from ..shards.corpus import Corpus
    from .evaluation import assemble, record
    from .output import REPORT, Parts, read, require_same_or_new, write
    from .report.build import build_report
    from .standings import update_league
    from .table import print_table

    corpus = Corpus.open(arguments.corpus) if arguments.corpus else None
    settings = settings_of(arguments, corpus.manifest.fingerprint if corpus else None)
    if require_same_or_new(output, settings):
        console.print(f"{output}: this evaluation is complete; another --output plays it again")
        evaluation = assemble(settings, read(output)[1], corpus)
    else:
        parts = Parts(output, settings)
        known = parts.read()
        parts.begin()
        recorded = record(settings, arguments.workers, known, parts.keep)
        evaluation = assemble(settings, recorded, corpus)
        write(output, evaluation, build_report(evaluation))
    print_table(evaluation)
    if arguments.league and arguments.update_league:
        league, joined = update_league(arguments.league, settings, evaluation.matches)
        told = f"version {league.version}, {len(league.members)} members"
        console.print(f"{arguments.league}: {told}{', new: ' if joined else ''}{', '.join(joined)}")
    console.print(f"report: {storage.join(output, REPORT)}")


def settings_of(arguments: Arguments, fingerprint: str | None) -> Settings:
    """Everything that decides the numbers, checked."""
    from ..shards import storage
    from .entrants import find_entrants
    from .evaluation import require_fitting
    from .opponents import find_opponents
    from .pairs import choose_pairs, matches
    from .settings import Settings

    found = find_entrants(arguments.policies, arguments.history)
    pairs = choose_pairs(arguments.tasks, arguments.levels, found.entrants)
    require_fitting(found.entrants, found.schemas)
    there = arguments.league
    if there is not None and arguments.update_league and not storage.exists(there):
        there = None  # it will be made
    if arguments.league is not None and not matches(pairs):
        raise ConfigError("--league is for matches: add --tasks match, or one of them")
    opponents = find_opponents(there, found.entrants) if matches(pairs) else ()
    return Settings(
        found.entrants, pairs, opponents, arguments.runs, arguments.seed, arguments.width,
        arguments.corpus, fingerprint, arguments.league,
    )  # fmt: skip


def watch(arguments: Arguments) -> None:
    """Score a run's checkpoints as they come."""
    from .pairs import choose_pairs
    from .settings import Settings
    from .watch import follow, watched_pairs

    if len(arguments.policies) > 1 or arguments.output or arguments.corpus or arguments.league:
        raise ConfigError("--watch takes one run, and neither --output, --corpus nor --league")
    named = arguments.tasks or arguments.levels
    chosen = choose_pairs(arguments.tasks, arguments.levels) if named else ()
    settings = Settings(
        (), watched_pairs(chosen), (), arguments.runs, arguments.seed, arguments.width
    )
    follow(arguments.policies[0], settings, arguments.history, arguments.workers)


def compare_command(arguments: CompareArguments) -> None:
    """Check, play what is missing, print the differences."""
    from ..generate.pool import check_workers
    from .compare import compare, print_comparison
    from .settings import Settings, require_counts

    require_counts(arguments.runs, arguments.width, arguments.seed)
    check_workers(arguments.workers)
    defaults = Settings((), (), (), arguments.runs, arguments.seed, arguments.width)
    found = compare(
        arguments.a, arguments.b, arguments.tasks, arguments.levels, defaults, arguments.workers
    )
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        print_comparison(found)


def merge_command(arguments: MergeArguments) -> None:
    """Join, report and print."""
    from ..shards.corpus import Corpus
    from .evaluation import assemble
    from .merge import merge
    from .output import Parts, require_same_or_new, write
    from .report.build import build_report
    from .table import print_table

    settings, recorded = merge(arguments.urls)
    require_same_or_new(arguments.output, settings)
    corpus = Corpus.open(settings.corpus) if settings.corpus else None
    evaluation = assemble(settings, recorded, corpus)
    Parts(arguments.output, settings).begin()
    where = write(arguments.output, evaluation, build_report(evaluation))
    print_table(evaluation)
    console.print(f"report: {where}")


def show_command(arguments: ShowArguments) -> None:
    """Find the run, replay it, write the film and say how it went."""
    from .show import show

    show(
        arguments.url, arguments.task, arguments.level, arguments.seed, arguments.policy,
        arguments.opponent, arguments.output, arguments.size,
    )  # fmt: skip


def selfplay_command(arguments: SelfPlayArguments) -> int:
    """Check everything, then run what is left of the rounds, or say what that is."""
    from ..generate.pool import check_workers
    from .selfplay.drive import drive, left
    from .selfplay.prepare import prepare

    check_workers(arguments.workers)
    plan = prepare(arguments.recipe, arguments.dest, arguments.steps, arguments.allow_code)
    if not arguments.dry_run:
        return drive(plan, arguments.rounds, arguments.workers)
    for stage in left(plan, arguments.rounds):
        print(shlex.join(stage.words))
    return 0


def main() -> None:
    """Entry point: the first word chooses the command."""
    words = sys.argv[1:]
    first, rest = (words[0], words[1:]) if words else ("", [])
    if first == "compare":
        run_command(CompareArguments, compare_command, "evaluate compare", rest)
    elif first == "merge":
        run_command(MergeArguments, merge_command, "evaluate merge", rest)
    elif first == "show":
        run_command(ShowArguments, show_command, "evaluate show", rest)
    elif first == "selfplay":
        run_command(SelfPlayArguments, selfplay_command, "evaluate selfplay", rest)
    else:
        run_command(Arguments, command, "evaluate", words)


if __name__ == "__main__":
    main()
