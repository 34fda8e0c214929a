"""The policies named on the command line: found, described and named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..generate.league import AGENT
from ..generate.recipe import SCRIPTED, Player
from ..shards import storage
from ..shards.errors import ConfigError, UnknownNameError
from ..shards.schema import Schema

IMAGE_SIZE = 64  # of worlds that nobody looks at
NAMED = re.compile(r"([\w.+@-]+)=(.+)", re.DOTALL)
BLIND = ", no history"  # ends the name of a policy that does not see its past actions
WAYS = {"both": (True, False), "on": (True,), "off": (False,)}  # to play with action history
Pair = tuple[str, int]


@dataclass(frozen=True)
class Entrant:
    """A policy that is evaluated, as results.json has it."""

    name: str
    """As shown: short, and unlike any other's."""
    source: str
    """`random`, `expert`, or the URL of a run, checkpoint or weights file."""
    method: str
    """What its scores count for: runs that differ by their training seed alone share it."""
    weights: str | None = None
    """URL of the weights file; None for a script."""
    update: int | None = None
    """Of the checkpoint."""
    history: bool | None = None
    """Whether it sees its past actions."""
    tasks: tuple[Pair, ...] = ()
    """(task, level) pairs it was trained on."""
    pixels: bool = False
    """Whether it needs frames."""
    image_size: int = IMAGE_SIZE
    discount: float | None = None
    """γ of its critic."""

    @property
    def learned(self) -> bool:
        """Whether it comes from a checkpoint."""
        return self.weights is not None

    @property
    def player(self) -> Player:
        """What a recipe would name to play it."""
        if not self.learned:
            return Player(self.source)
        return Player(AGENT, arguments={"url": self.weights, "history": self.history})


@dataclass(frozen=True)
class Found:
    """Entrants, and what the learned ones were trained to see."""

    entrants: tuple[Entrant, ...]
    schemas: dict[str, Schema]
    """By the URL of the weights."""


def find_entrants(words: Sequence[str], history: str = "on") -> Found:
    """The entrants of POLICY words, in order; nothing is loaded but the headers of weights files.

    A word is a script's name, a URL, or `NAME=URL,URL,…`: one method, trained with several seeds.
    A learned policy enters with its action `history` "on", "off" or "both", as two entrants.

    Raises UnknownNameError for a word that is neither a script nor an existing URL, ConfigError
    for one that is given twice, CheckpointError for a checkpoint that cannot be used.
    """
    splits = [_split(word) for word in words]
    given = [source for _, sources in splits for source in sources]
    for source in given:
        if given.count(source) > 1:
            raise ConfigError(f"policy {source!r} is given twice")
        if source not in SCRIPTED and not storage.exists(source):
            known = (*SCRIPTED, "the URL of a run or checkpoint")
            raise UnknownNameError("policy", source, known)
    entrants: list[Entrant] = []
    schemas: dict[str, Schema] = {}
    for source, name, method in _named(splits):
        if source in SCRIPTED:
            entrants.append(Entrant(name, source, method))
        else:
            entrant, schema = _describe(source, name, method)
            schemas[str(entrant.weights)] = schema
            entrants += _by_history(entrant, history)
    return Found(tuple(entrants), schemas)


def _split(word: str) -> tuple[str, list[str]]:
    """(method or "", sources) of a word."""
    named = NAMED.fullmatch(word)
    if named is None or storage.exists(word):
        return "", [word]
    method, urls = named.groups()
    if not all(urls.split(",")):
        raise ConfigError(f"policy {word!r}: expected NAME=URL,URL,…")
    return method, urls.split(",")


def _named(splits: Sequence[tuple[str, list[str]]]) -> Iterator[tuple[str, str, str]]:
    """(source, name, method) of each policy; ConfigError for a name that is given twice."""
    names = iter(display_names([sources[0] for method, sources in splits if not method]))
    seen: set[str] = set()
    for method, sources in splits:
        method = method or next(names)
        if method in seen:
            raise ConfigError(f"policy name {method!r} is given twice")
        seen.add(method)
        for number, source in enumerate(sources, start=1):
            yield source, f"{method} {number}" if len(sources) > 1 else method, method


def _describe(source: str, name: str, method: str) -> tuple[Entrant, Schema]:
    from ..train.export import find_weights, read_metadata  # torch, which scripts do without

    weights = find_weights(source)
    found = read_metadata(weights)
    return Entrant(
        name, source, method, weights, found.update, tasks=found.tasks,
        pixels="pixels" in found.config.inputs.split("+"), image_size=found.schema.image_size,
        discount=found.config.loss.discount,
    ), found.schema  # fmt: skip


def _by_history(entrant: Entrant, history: str) -> Iterator[Entrant]:
    for seeing in WAYS[history]:
        end = "" if seeing else BLIND
        name, method = entrant.name + end, entrant.method + end
        yield replace(entrant, name=name, method=method, history=seeing)


def display_names(sources: Sequence[str]) -> list[str]:
    """Each source's last path component, with as many parents as it takes to tell them apart."""
    parts = [source.rstrip("/").split("/") for source in sources]
    depth = [1] * len(sources)
    while True:
        names = ["/".join(p[-d:]) for p, d in zip(parts, depth, strict=True)]
        clashing = [
            names.count(name) > 1 and d < len(p)
            for name, d, p in zip(names, depth, parts, strict=True)
        ]
        if not any(clashing):
            return names
        depth = [d + clash for d, clash in zip(depth, clashing, strict=True)]
