"""`generate import MAPPING DEST`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from ...shards.console import console
from .importer import import_corpus
from .mapping import load_mapping


@dataclass(frozen=True)
class ImportArguments:
    """Import demonstrations as a corpus: of Minari, LeRobot, or whatever `datasets` reads.

    Running it again goes on. All but the images is checked before anything is written.
    """

    mapping: Annotated[str, tyro.conf.Positional]
    """Mapping file (TOML), at any URL: which column becomes what."""
    dest: Annotated[str, tyro.conf.Positional]
    """Where the corpus goes: a folder, s3://, gs://, …"""
    debug: bool = False
    """Show tracebacks."""


def import_command(arguments: ImportArguments) -> None:
    """Check everything, import, and say what there is."""
    mapping = load_mapping(arguments.mapping)
    corpus = import_corpus(mapping, arguments.mapping, arguments.dest)
    index = corpus.select("steps", "bytes", "match")
    steps, size = int(index["steps"].sum()), int(index["bytes"].sum())
    console.print(
        f"{arguments.dest}: {steps:,} steps of {index['match'].n_unique():,} episodes in "
        f"{corpus.manifest.shards} shards, {size / steps:.0f} bytes a step",
        markup=False,
    )
