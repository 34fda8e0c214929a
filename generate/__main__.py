"""`generate RECIPE DEST`, and six commands besides."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..shards.console import console, fail, no_progress, progress, run_command
from ..shards.errors import ConfigError

Values = Annotated[
    tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE"), tyro.conf.UseAppendAction
]


@dataclass(frozen=True)
class Arguments:
    """Simulate a recipe into a corpus of compressed shards. Running it again goes on.

    Six commands besides: `generate plan RECIPE` says what it will take, `generate tasks` lists the
    tasks, `generate preview TASK` films one, `generate replay URL` simulates a corpus again and
    compares, or repairs it, `generate import MAPPING DEST` brings demonstrations in from elsewhere,
    `generate export CORPUS DEST` takes episodes out in the formats of other libraries.

    Exits with 1 on an error, also if a shard failed; the others are there then.
    """

    recipe: Annotated[str, tyro.conf.Positional]
    """Recipe file (TOML), at any URL."""
    dest: Annotated[str, tyro.conf.Positional]
    """Where the corpus goes: a folder, s3://, gs://, …"""
    steps: int | None = None
    """Interaction steps, instead of the recipe's."""
    part: str | None = None
    """Which of a recipe's parts; a corpus holds one."""
    values: Values = ()
    """A value for `{NAME}` in the recipe, such as a checkpoint's URL; may be repeated."""
    workers: int | None = None
    """Processes; by default one per core."""
    engine: str = "processes"
    """What runs them: `processes` on this machine, or `ray`."""
    ray_address: str | None = None
    """A running Ray cluster; by default Ray starts on this machine."""
    array: bool = False
    """Do this array job's share: SLURM_ARRAY_TASK_ID or PBS_ARRAY_INDEX says which."""
    array_count: int | None = None
    """Tasks of the whole array, numbered from 0: for PBS, and to run only some of them again."""
    shards: str | None = None
    """Only these, as 3,7-9."""
    allow_code: bool = False
    """Let the recipe name policies outside palaestra."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class PlanArguments:
    """Say what a recipe will take: shards, steps, bytes, and hours by a short measurement here."""

    recipe: Annotated[str, tyro.conf.Positional]
    """Recipe file (TOML), at any URL."""
    steps: int | None = None
    """Interaction steps, instead of the recipe's."""
    part: str | None = None
    """Which of a recipe's parts; by default all."""
    values: Values = ()
    """A value for `{NAME}` in the recipe, such as a checkpoint's URL; may be repeated."""
    cores: tuple[int, ...] = (1, 16, 128, 1024)
    """How many cores to tell the hours for."""
    allow_code: bool = False
    """Let the recipe name policies outside palaestra."""
    json: bool = False
    """Print one JSON object and nothing else."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class TasksArguments:
    """List the tasks: levels († held out), players, sizes, instructions."""

    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class PreviewArguments:
    """Play a task and write what it looks like: TASK-LEVEL-POLICY.gif and a contact sheet, .png."""

    task: Annotated[str, tyro.conf.Positional]
    """One that `generate tasks` lists."""
    level: int = 1
    """Which of its levels."""
    policy: str = "expert"
    """expert, random, or module:function."""
    noise: float = 0.0
    """Standard deviation of white noise on the expert's actions."""
    seeds: int = 6
    """Episodes to play."""
    first_seed: int = 0
    """Seed of the first; the others follow."""
    size: int = 160
    """Pixels along each side of a view in the GIF."""
    output: str = "."
    """Where the files go: a folder or any URL."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class ReplayArguments:
    """Simulate episodes of a corpus again, from seeds and stored actions, and compare every bit.

    With --repair, instead: make shards again that are missing or damaged, byte for byte.

    Exits with 0 if all is as it should be, 1 if an episode differs or a shard cannot be repaired,
    2 if the corpus cannot be read.
    """

    url: Annotated[str, tyro.conf.Positional]
    """The corpus: a folder, s3://, gs://, …"""
    sample: int | None = None
    """Matches to draw at random, of one player or two; 32 by default."""
    all: bool = False
    """Replay all of them."""
    seed: int = 0
    """Of the draw: another seed draws other matches."""
    repair: bool = False
    """Find damaged and missing shards and make them again from the recipe."""
    allow_code: bool = False
    """Let --repair run policies outside palaestra that the recipe names."""
    workers: int | None = None
    """Processes; by default one per core, or fewer where that is faster."""
    json: bool = False
    """Print one JSON object and nothing else."""
    debug: bool = False
    """Show tracebacks."""


def command(arguments: Arguments) -> int:
    """Validate everything, then generate; what failed decides the exit code."""
    from .array import share_from
    from .generation import Options, generate
    from .recipe_file import load_recipe, parse_shards, parse_values

    share = share_from(os.environ, arguments.array_count) if arguments.array else None
    if arguments.array_count is not None and not arguments.array:
        raise ConfigError("--array-count is for --array")
    options = Options(
        arguments.workers, arguments.engine, arguments.ray_address, share,
        parse_shards(arguments.shards), debug=arguments.debug,
    )  # fmt: skip
    recipe = load_recipe(
        arguments.recipe, arguments.steps, arguments.allow_code, arguments.part,
        parse_values(arguments.values),
    )  # fmt: skip
    outcome = generate(recipe, arguments.dest, options)
    shards = outcome.corpus.manifest.shards
    if outcome.failures:
        failed = ",".join(str(failure.item) for failure in outcome.failures)
        again = shlex.join([*recipe_words(arguments), "--shards", failed])
        fail("generate", f"{len(outcome.failures)} of {shards} shards failed; again: {again}")
        return 1
    if outcome.missing:
        line = f"{arguments.dest}: {outcome.missing} of {shards} shards are still missing"
        console.print(line, markup=False)
        return 0
    index = outcome.corpus.select("steps", "bytes")
    steps, size = int(index["steps"].sum()), int(index["bytes"].sum())
    console.print(
        f"{arguments.dest}: {steps:,} steps in {shards} shards, {size / steps:.0f} bytes a step",
        markup=False,
    )
    return 0


def recipe_words(arguments: Arguments) -> list[str]:
    """The command line for the same corpus."""
    words = ["generate", arguments.recipe, arguments.dest]
    words += [] if arguments.steps is None else ["--steps", str(arguments.steps)]
    words += [] if arguments.part is None else ["--part", arguments.part]
    words += [word for value in arguments.values for word in ("--set", value)]
    return [*words, "--allow-code"] if arguments.allow_code else words


def plan_command(arguments: PlanArguments) -> None:
    """Measure, and print the table."""
    from .estimate import check_cores, estimate, print_estimate
    from .recipe_file import parse_values

    check_cores(arguments.cores)
    found = estimate(
        arguments.recipe, arguments.steps, arguments.part, parse_values(arguments.values),
        arguments.allow_code,
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        print_estimate(found, arguments.cores)


def tasks_command(arguments: TasksArguments) -> None:
    """Print the table."""
    from .catalogue import print_tasks

    print_tasks()


def preview_command(arguments: PreviewArguments) -> None:
    """Check everything, play, write, and say how it went."""
    from .preview import preview

    done = preview(
        arguments.task, arguments.level, arguments.policy, arguments.output,
        noise=arguments.noise, seeds=arguments.seeds, first_seed=arguments.first_seed,
        size=arguments.size,
    )  # fmt: skip
    for line in (*done.outcomes, *done.urls):
        console.print(line, markup=False)


def replay_command(arguments: ReplayArguments) -> int:
    """Check the flags, then replay and compare, or repair."""
    from ..shards.corpus import Corpus
    from .importing.begun import require_simulated
    from .pool import check_workers
    from .replay import check_flags, draw, replay
    from .replay_report import print_replay

    sample = check_flags(arguments.sample, arguments.all, arguments.seed, arguments.repair)
    check_workers(arguments.workers)
    corpus = Corpus.open(arguments.url)
    require_simulated(corpus)
    if arguments.repair:
        return repair_command(arguments)
    rows, total = draw(corpus, sample, arguments.seed)
    shown = progress("replay", int(rows["steps"].sum()))
    with nullcontext(no_progress) if arguments.json else shown as advance:
        found = replay(corpus, rows, total, arguments.workers, advance)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        print_replay(found)
    return 1 if found.failed else 0


def repair_command(arguments: ReplayArguments) -> int:
    """Look for damage, make again what is damaged, and say what was done."""
    from ..shards.corpus import Corpus
    from .damage import find_damage
    from .repair import print_repairs, repair

    corpus = Corpus.open(arguments.url)
    shown = progress("look", corpus.manifest.shards, "shards")
    with nullcontext(no_progress) if arguments.json else shown as advance:
        damages = find_damage(corpus, advance)
    shown = progress("repair", len(damages), "shards")
    with nullcontext(no_progress) if arguments.json or not damages else shown as advance:
        found = repair(corpus, damages, arguments.allow_code, arguments.workers, advance)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        print_repairs(found)
    return 1 if found.refused else 0


def main() -> None:
    """Entry point: the first word chooses the command."""
    words = sys.argv[1:]
    first = next((word for word in words if not word.startswith("-")), "")
    rest = [word for i, word in enumerate(words) if i != words.index(first)] if first else words
    if first == "plan":
        run_command(PlanArguments, plan_command, "generate plan", rest)
    elif first == "tasks":
        run_command(TasksArguments, tasks_command, "generate tasks", rest)
    elif first == "preview":
        run_command(PreviewArguments, preview_command, "generate preview", rest)
    elif first == "replay":
        run_command(ReplayArguments, replay_command, "generate replay", rest, error_code=2)
    elif first == "export":
        from .exporting.command import ExportArguments, export_command

        run_command(
            ExportArguments, export_command, "generate export", rest, interrupted="starts over"
        )
    elif first == "import":
        from .importing.command import ImportArguments, import_command

        run_command(ImportArguments, import_command, "generate import", rest)
    else:
        run_command(Arguments, command, "generate", words)


if __name__ == "__main__":
    main()
