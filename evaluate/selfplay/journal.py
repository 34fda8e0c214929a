"""selfplay.json: the stages that are finished, in order; what is there is not done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest

from ...shards import storage
from ...shards.config import parse
from ...shards.errors import ConfigError
from .stages import Stage

FORMAT = "palaestra-selfplay"
JOURNAL = "selfplay.json"


@dataclass(frozen=True)
class Finished:
    """A stage whose command ended with 0."""

    name: str
    command: tuple[str, ...]
    """Its words."""
    seconds: float
    """That the command took; where it was ended early, the last time."""
    finished: str
    """UTC."""


@dataclass(frozen=True)
class Journal:
    """The file's content."""

    format: str
    stages: tuple[Finished, ...] = ()
    """In the order in which they ended."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the stages."""
        return tuple(stage.name for stage in self.stages)


def read_journal(dest: str) -> Journal:
    """What is finished at `dest`, at first nothing; ConfigError for a file of another format."""
    url = storage.join(dest, JOURNAL)
    if not storage.exists(url):
        return Journal(FORMAT)
    data = storage.read_json(url)
    found = data.get("format") if isinstance(data, dict) else data
    if found != FORMAT:
        raise ConfigError(f"{url}: expected format {FORMAT!r}, found {found!r:.40}")
    journal: Journal = parse(Journal, data, url)
    return journal


def append(dest: str, stage: Finished) -> Journal:
    """Add a finished stage to the file, and return what it holds now."""
    found = read_journal(dest)
    journal = Journal(FORMAT, (*found.stages, stage))
    storage.write_json(storage.join(dest, JOURNAL), asdict(journal))
    return journal


def check_history(dest: str, journal: Journal, planned: Sequence[Stage]) -> None:
    """Raise ConfigError if what is finished belongs to other rounds than today's.

    That is told by the corpora: their recipe, part, place and steps. Other flags may change for
    what is still to come.
    """
    url = storage.join(dest, JOURNAL)
    known = {stage.name: stage.words for stage in planned}
    for done in journal.stages:
        if done.name not in known:
            raise ConfigError(f"{url}: {done.name} is finished, but the recipe has no such stage")
        if done.command[0] != "generate":
            continue
        for then, now in zip_longest(done.command, known[done.name], fillvalue=""):
            if then != now:
                raise ConfigError(
                    f"{url}: {done.name} is finished and had {then!r}, today's has {now!r}: "
                    "choose another DEST, or put the recipe back"
                )
