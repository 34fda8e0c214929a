"""What an export is asked for beside the episodes, and what each format's writer is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...shards.console import Advance
from ...shards.errors import ConfigError
from .selection import Selection


@dataclass(frozen=True)
class Options:
    """How to write what was chosen."""

    name: str
    """What the dataset is called: the destination's last part."""
    pixels: bool = True
    """Frames too."""
    fps: int | None = None
    """Frames a second of a LeRobot dataset; by default the tasks' control steps, or as imported."""

    def check(self, format_: str) -> None:
        """Raise ConfigError for an --fps that is none, or is not for this format."""
        if self.fps is None:
            return
        if format_ != "lerobot":
            raise ConfigError(f"--fps is for --format lerobot, not {format_}")
        if self.fps < 1:
            raise ConfigError(f"--fps should be positive, is {self.fps}")


class Writer(Protocol):
    """A module that writes one format."""

    MARKER: str
    """The file without which nobody takes the folder for a dataset; uploaded last."""

    def write(
        self, selection: Selection, folder: Path, options: Options, advance: Advance
    ) -> None: ...


def provenance(selection: Selection) -> dict[str, Any]:
    """Where the episodes are from, for the format's own metadata."""
    manifest = selection.corpus.manifest
    return {
        "corpus": selection.corpus.url, "fingerprint": manifest.fingerprint,
        "recipe": manifest.recipe.get("name", ""), "where": selection.where,
        "episodes": selection.episodes, "steps": selection.steps, "versions": manifest.versions,
    }  # fmt: skip
