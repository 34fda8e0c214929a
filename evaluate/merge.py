"""`evaluate merge A B … --output DIR`: evaluations that were played apart, as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..shards.errors import ConfigError
from .entrants import Entrant
from .episodes import runs_of
from .output import read
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
    parts = [_part(cell, urls, wholes) for cell in settings.cells()]
    recorded = together([whole for _, whole in wholes])
    frames = together(parts).frame
    return settings, dataclasses.replace(recorded, frame=frames)


def _united(urls: Sequence[str], wholes: Sequence[Whole]) -> Settings:
    first = wholes[0][0]
    policies: dict[str, Entrant] = {}
    for url, (settings, _) in zip(urls, wholes, strict=True):
        for name in SHARED if _has_matches(settings) and _has_matches(first) else SHARED[1:]:
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


def _has_matches(settings: Settings) -> bool:
    return any(cell.opponent is not None for cell in settings.cells())


def _part(cell: Cell, urls: Sequence[str], wholes: Sequence[Whole]) -> Recorded:
    """One cell's runs; of a match both sides."""
    found: list[tuple[str, Recorded]] = []
    for url, (_, whole) in zip(urls, wholes, strict=True):
        frames = [runs_of(whole.frame, cell.entrant.name, cell.pair, cell.rival)]
        if cell.rival:
            frames.append(runs_of(whole.frame, cell.rival, cell.pair, cell.entrant.name))
        part = together([Recorded(frame) for frame in frames])
        if len(part.frame):
            found.append((url, part))
    task, level = cell.pair
    if not found:
        raise ConfigError(f"{cell.entrant.name} on {task} {level} is in none of the evaluations")
    for url, part in found[1:]:
        if not part.frame.equals(found[0][1].frame):
            raise ConfigError(
                f"{cell.entrant.name} on {task} {level} came out differently in {found[0][0]} and "
                f"{url}"
            )
    return found[0][1]
