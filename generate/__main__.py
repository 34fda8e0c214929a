"""`generate RECIPE DEST`, `generate tasks` and `generate preview TASK`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..shards.console import console, run_command


@dataclass(frozen=True)
class Arguments:
    """Simulate a recipe into a corpus of compressed shards. Running it again goes on.

    Two commands besides: `generate tasks` lists the tasks, `generate preview TASK` films one.
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


def main() -> None:
    """Entry point: the first word chooses the command."""
    words = sys.argv[1:]
    first = next((word for word in words if not word.startswith("-")), "")
    rest = [word for i, word in enumerate(words) if i != words.index(first)] if first else words
    if first == "tasks":
        run_command(TasksArguments, tasks_command, "generate tasks", rest)
    elif first == "preview":
        run_command(PreviewArguments, preview_command, "generate preview", rest)
    else:
        run_command(Arguments, command, "generate", words)


if __name__ == "__main__":
    main()
