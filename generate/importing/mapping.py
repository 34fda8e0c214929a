"""What of a source becomes what of our samples, as values."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ...shards import storage
from ...shards.config import parse
from ...shards.errors import ConfigError

FORMATS = ("datasets", "lerobot", "minari")
FITS = ("crop", "refuse")
ASSUMED = ("end", "never")
TABLES = (  # keys of the mapping that may name a column
    "action", "pixels", "reward", "success", "terminated", "truncated", "task", "level",
    "instruction",
)  # fmt: skip


@dataclass(frozen=True)
class SourceTable:
    """Where the demonstrations are, and how their episodes are told apart."""

    url: str
    """A folder, or for `datasets` a file or a pattern such as `demos/*.parquet`; of the Hub
    `hf://datasets/OWNER/NAME`."""
    format: str
    """`minari`, `lerobot` (2.x or 3.x), or `datasets`: whatever its `load_dataset` reads."""
    split: str = "train"
    """Of `datasets`."""
    episode: str = "episode_index"
    """Column with an episode's number, which grows by one; not for `minari`."""
    frame: str = "frame_index"
    """Column with the step within the episode, from 0; empty where there is none, and the rows
    are in order. Not for `minari`."""


@dataclass(frozen=True)
class Entries:
    """What fills a slot of the state, from its first entry on; the rest of it is zero."""

    column: str
    entries: tuple[int, ...] = ()
    """Of the column, in this order; by default all."""
    scale: float = 1.0
    """Multiplies them: 0.0174533 for degrees."""


@dataclass(frozen=True)
class Action:
    """What the first actions are: 2 (value - low) / (high - low) - 1; the rest are zero."""

    column: str
    low: tuple[float, ...]
    """What becomes -1, of each entry."""
    high: tuple[float, ...]
    """What becomes 1, of each entry."""
    entries: tuple[int, ...] = ()
    """As above."""
    clip: bool = False
    """Clip values beyond low and high, instead of refusing them."""


@dataclass(frozen=True)
class Pixels:
    """What the player sees."""

    column: str
    """Of images or of a video."""
    fit: str = "crop"
    """Of images that are not square: `crop` to the middle, or `refuse`."""
    varying: bool = False
    """Whether images may differ in size."""


@dataclass(frozen=True)
class Text:
    """A constant, or the column that tells."""

    value: str | None = None
    column: str | None = None
    cut: bool = False
    """Cut a longer instruction after 64 bytes, instead of refusing it."""


@dataclass(frozen=True)
class Number:
    """A constant, or the column that tells."""

    value: int | None = None
    column: str | None = None


@dataclass(frozen=True)
class Reward:
    """Rewards; with low and high these become the ends of `reward_range`."""

    column: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Success:
    """Whether the task's condition holds after an action."""

    column: str | None = None
    assume: str = "end"
    """Without a column: `end` for the last ten steps of every episode, or `never`."""


@dataclass(frozen=True)
class Flag:
    """A column of true and false."""

    column: str


@dataclass(frozen=True)
class ColumnMapping:
    """Everything that an import needs to know beside its destination."""

    name: str
    source: SourceTable
    task: Text
    """A level of a task of ours that is not held out, or a name of your own with a slash."""
    instruction: Text
    action: Action
    level: Number = Number(value=1)
    state: dict[str, Entries] = field(default_factory=dict)
    """By slot; slots that are not named are zero."""
    pixels: Pixels | None = None
    """Without, frames are black, and training needs `--inputs state`."""
    reward: Reward | None = None
    """Without, 1 where success holds, else 0."""
    success: Success = Success()
    terminated: Flag | None = None
    """True at the last step of an episode that really ended; without, none did."""
    truncated: Flag | None = None
    """True at the last step of one that was cut off, as all are that did not end; only checked."""
    policy: str = "expert"
    """Whose demonstrations they are; `train` counts the steps of `expert` in full."""
    image_size: int = 64
    """Pixels along each side of a frame."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """As of the corpora that it is trained with."""
    shard_steps: int = 262_144
    """Steps per shard; episodes stay whole."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored in corpus.json."""
        return dataclasses.asdict(self)

    def columns(self) -> Iterator[tuple[str, str]]:
        """Every key that names a column, and the column."""
        for slot, entries in self.state.items():
            yield f"state.{slot}", entries.column
        for key in TABLES:
            table = getattr(self, key)
            if table is not None and table.column is not None:
                yield key, table.column
        if self.source.format != "minari":
            yield "source.episode", self.source.episode
            if self.source.frame:
                yield "source.frame", self.source.frame


def load_mapping(url: str) -> ColumnMapping:
    """Read and check a mapping; ConfigError or UnknownNameError names the file and key."""
    from .mapping_check import check

    try:
        data = tomllib.loads(storage.read_bytes(url).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{url}: malformed TOML: {error}") from error
    mapping: ColumnMapping = parse(ColumnMapping, data, url)
    check(mapping, url)
    return mapping
