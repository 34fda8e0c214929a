"""`generate RECIPE DEST`, and `generate tasks`, `generate preview TASK`, `generate replay URL`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..shards.console import console, no_progress, progress, run_command


@dataclass(frozen=True)
class Arguments:
    """Simulate a recipe into a corpus of compressed shards. Running it again goes on.

    Three commands besides: `generate tasks` lists the tasks, `generate preview TASK` films one,
    `generate replay URL` simulates a corpus again and compares, or repairs it.
    """

    recipe: Annotated[str, tyro.conf.Positional]
    """Recipe file (TOML), at any URL."""
    dest: Annotated[str, tyro.conf.Positional]
    """Where the corpus goes: a folder, s3://, gs://, …"""
    steps: int | None = None
    """Interaction steps, instead of the recipe's."""
    workers: int | None = None
    """Processes; by default one per core."""
    allow_code: bool = False
    """Let the recipe name policies outside palaestra."""
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


def command(arguments: Arguments) -> None:
    """Validate everything, then generate."""
    from .recipe import load_recipe
    from .work import generate

    recipe = load_recipe(arguments.recipe, arguments.steps, arguments.allow_code)
    corpus = generate(recipe, arguments.dest, arguments.workers)
    index = corpus.index
    steps, size = int(index["steps"].sum()), int(index["bytes"].sum())
    console.print(
        f"{corpus.url}: {steps:,} steps in {corpus.manifest.shards} shards, "
        f"{size / steps:.0f} bytes a step"
    )


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
    from .pool import check_workers
    from .replay import check_flags, draw, replay
    from .replay_report import print_replay

    sample = check_flags(arguments.sample, arguments.all, arguments.seed, arguments.repair)
    check_workers(arguments.workers)
    if arguments.repair:
        return repair_command(arguments)
    corpus = Corpus.open(arguments.url)
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
    if first == "tasks":
        run_command(TasksArguments, tasks_command, "generate tasks", rest)
    elif first == "preview":
        run_command(PreviewArguments, preview_command, "generate preview", rest)
    elif first == "replay":
        run_command(ReplayArguments, replay_command, "generate replay", rest, error_code=2)
    else:
        run_command(Arguments, command, "generate", words)


if __name__ == "__main__":
    main()
