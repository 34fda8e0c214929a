"""Demonstrations in a Minari dataset, read by Minari itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import minari
import numpy as np
from numpy.typing import NDArray

from ...shards.errors import CorpusError
from .source import refuse

SIGNALS = ("actions", "rewards", "terminations", "truncations")


@dataclass(frozen=True)
class MinariEpisode:
    """One episode; columns of nested spaces have a path, as `observations/state`."""

    where: str
    steps: int
    leaves: Mapping[str, Any] = field(repr=False)

    def place(self, step: int) -> str:
        """`where`, and the step."""
        return f"{self.where}: step {step}"

    def values(self, column: str) -> NDArray[Any]:
        """Its values; of observations and infos, which have one more, those of the steps.

        An action is chosen by the observation before it, and the info after it tells of it.
        """
        if column not in self.leaves:
            raise CorpusError(f"{self.where}: column {column!r} is missing")
        array, first = np.asarray(self.leaves[column]), 0
        expected = self.steps
        if not column.startswith(SIGNALS):
            expected, first = self.steps + 1, int(column.startswith("infos"))
        if array.ndim == 0 or len(array) != expected:
            found = "one" if array.ndim == 0 else len(array)
            refuse(self, 0, column, f"{expected} values for {self.steps} actions", found)
        return array[first : first + self.steps]

    def frames(self, column: str) -> Iterator[NDArray[np.uint8]]:
        """Its images, which Minari has decoded."""
        values = self.values(column)
        if values.ndim != 4 or values.shape[3] != 3 or values.dtype != np.uint8:
            found = f"{values.dtype}{list(values.shape[1:])}"
            refuse(self, 0, column, "images, uint8 [height, width, 3]", found)
        yield from values


class MinariSource:
    """A dataset's folder, or the folder `data` in it."""

    packages = ("minari", "h5py")
    fps: float | None = None  # it has no place for it

    def __init__(self, url: str, path: Path) -> None:
        """CorpusError for what Minari cannot read."""
        self.url = url
        folder = path / "data" if (path / "data").is_dir() else path
        try:
            self.data = minari.MinariDataset(folder)
        except (AssertionError, ImportError, KeyError, OSError, ValueError) as error:
            line = " ".join(str(error).split())
            raise CorpusError(f"{url}: not a Minari dataset ({line})") from error
        first = next(self.episodes(), None)
        self.columns = frozenset(first.leaves if first else ())

    def episodes(self) -> Iterator[MinariEpisode]:
        """All of them, in order."""
        for number in range(self.data.total_episodes):
            where = f"{self.url}: episode {number}"
            try:
                (episode,) = self.data.iterate_episodes([number])
            except (KeyError, OSError, ValueError) as error:
                raise CorpusError(f"{where}: cannot be read ({error})") from error
            leaves = dict(_leaves("observations", episode.observations))
            leaves |= _leaves("infos", episode.infos or {})
            actions = dict(_leaves("actions", episode.actions))
            leaves |= actions | {name: getattr(episode, name) for name in SIGNALS[1:]}
            yield MinariEpisode(where, len(next(iter(actions.values()))), leaves)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Arrays by path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}/{key}", inner)
    elif isinstance(value, tuple):
        for i, inner in enumerate(value):
            yield from _leaves(f"{name}/{i}", inner)
    else:
        yield name, value
