"""`evaluate merge A B … --output DIR`: evaluations that were played apart, as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import polars as pl

from ..shards.errors import ConfigError
from .entrants import Entrant
from .episodes import both_sides, joined
from .output import read
from .pairs import matches
from .play import Cell, Recorded, together
from .settings import Settings

SHARED = ("opponents", "runs", "seed", "width", "corpus", "corpus_fingerprint", "league")
Whole = tuple[Settings, Recorded]


def merge(urls: Sequence[str]) -> Whole:
    """The union of several complete evaluations' policies and tasks.

    Raises ConfigError if they were played in different ways, if one that two of them played came
    out differently, or if a policy lacks a task.
    """
    if len(urls) < 2:
        raise ConfigError("expected two evaluations or more")
    wholes = [read(url) for url in urls]
    settings = _united(urls, wholes)
    frame = joined(_part(cell, urls, wholes) for cell in settings.cells())
    recorded = together([whole for _, whole in wholes])
    return settings, dataclasses.replace(recorded, frame=frame)


def _united(urls: Sequence[str], wholes: Sequence[Whole]) -> Settings:
    first = wholes[0][0]
    policies: dict[str, Entrant] = {}
    for url, (settings, _) in zip(urls, wholes, strict=True):
        both = matches(settings.tasks) and matches(first.tasks)
        for name in SHARED if both else SHARED[1:]:
            mine, theirs = getattr(first, name), getattr(settings, name)
            if mine != theirs:
                raise ConfigError(f"{url}: {name} is {theirs!r:.80}, in {urls[0]} {mine!r:.80}")
        for policy in settings.policies:
            if policies.setdefault(policy.name, policy) != policy:
                raise ConfigError(f"{url}: {policy.name!r} is another policy than in {urls[0]}")
    tasks = dict.fromkeys(pair for settings, _ in wholes for pair in settings.tasks)
    opponents = next((s.opponents for s, _ in wholes if s.opponents), ())
    return dataclasses.replace(
        first, policies=tuple(policies.values()), tasks=tuple(tasks), opponents=opponents
    )


def _part(cell: Cell, urls: Sequence[str], wholes: Sequence[Whole]) -> pl.DataFrame:
    """One cell's runs; of a match both sides."""
    found: dict[str, pl.DataFrame] = {}
    for url, (_, whole) in zip(urls, wholes, strict=True):
        frame = both_sides(whole.frame, cell.entrant.name, cell.pair, cell.rival)
        if len(frame):
            found[url] = frame
    task, level = cell.pair
    if not found:
        raise ConfigError(f"{cell.entrant.name} on {task} {level} is in none of the evaluations")
    first, *others = found
    for url in others:
        if not found[url].equals(found[first]):
            raise ConfigError(
                f"{cell.entrant.name} on {task} {level} came out differently in {first} and {url}"
            )
    return found[first]
