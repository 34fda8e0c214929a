"""Export a corpus, or a part of it, in a format that another library reads."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ...shards.console import progress
from ...shards.errors import ConfigError, UnknownNameError
from .destination import require_free, whole_folder
from .options import Options, Writer
from .selection import select

FORMATS = ("lerobot", "minari", "npz")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    episodes: int
    steps: int
    bytes: int


def export(
    url: str, dest: str, format_: str, where: str | None = None, *, pixels: bool = True,
    fps: int | None = None,
) -> Exported:  # fmt: skip
    """Write the episodes that meet `where`, by default all, to a new folder or URL.

    Everything is checked before an episode is written. Raises UnknownNameError for a format that
    there is not, ConfigError for wrong flags, a destination that is not empty and a library that is
    not installed, and what `select` raises.
    """
    writer = _writer(format_)
    options = Options(dest.rstrip("/").rpartition("/")[2], pixels, fps)
    options.check(format_)
    require_free(dest)
    selection = select(url, where)
    with (
        whole_folder(dest, writer.MARKER) as folder,
        progress("export", selection.steps) as advance,
    ):
        writer.write(selection, folder, options, advance)
        size = folder_size(folder)
    return Exported(selection.episodes, selection.steps, size)


def _writer(format_: str) -> Writer:
    """The format's module; ConfigError names the extra that brings what it needs."""
    if format_ not in FORMATS:
        raise UnknownNameError("format", format_, FORMATS, "--format")
    try:
        module = importlib.import_module(f".{format_}_writer", __package__)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--format {format_} needs {error.name}: pip install 'palaestra[{format_}]'"
        ) from error
    return cast(Writer, module)


def folder_size(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
