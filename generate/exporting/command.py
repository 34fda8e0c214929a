"""`generate export CORPUS DEST --format F`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from ...shards.console import console, data_size
from .export import export


@dataclass(frozen=True)
class ExportArguments:
    """Write a corpus's episodes, or some of them, in a format that other libraries read.

    `minari` is a Minari dataset (HDF5), `lerobot` Parquet with video in LeRobot's layout v2.1,
    `npz` plain WebDataset tars. The destination appears as a whole or not at all.
    """

    corpus: Annotated[str, tyro.conf.Positional]
    """The corpus: a folder, s3://, gs://, …"""
    dest: Annotated[str, tyro.conf.Positional]
    """Where the dataset goes: a new folder or URL."""
    format: str
    """minari, lerobot or npz."""
    where: str | None = None
    """Only episodes that meet this condition on the index's columns, in SQL's words: `success and
    task in ('reach')`. It sees one row per episode: of its last segment, steps and return whole."""
    pixels: bool = True
    """Frames too."""
    fps: int | None = None
    """Frames a second of a LeRobot dataset; by default the tasks' control steps, or as imported."""
    debug: bool = False
    """Show tracebacks."""


def export_command(arguments: ExportArguments) -> None:
    """Write the dataset and say what is in it."""
    done = export(
        arguments.corpus, arguments.dest, arguments.format, arguments.where,
        pixels=arguments.pixels, fps=arguments.fps,
    )  # fmt: skip
    console.print(
        f"{arguments.dest}: {done.episodes:,} episodes, {done.steps:,} steps, "
        f"{data_size(done.bytes)}",
        markup=False,
    )
