"""`generate RECIPE DEST`: simulate a recipe into a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from ..shards.console import console, run_command


@dataclass(frozen=True)
class Arguments:
    """Simulate a recipe into a corpus of compressed shards. Running it again goes on."""

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


def main() -> None:
    """Entry point."""
    run_command(Arguments, command, "generate")


if __name__ == "__main__":
    main()
