"""The policies named on the command line: found, loaded and named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..generate.policies import make_policy
from ..generate.recipe import SCRIPTED
from ..generate.rollout import Policy
from ..shards import storage
from ..shards.errors import ConfigError, UnknownNameError

IMAGE_SIZE = 64  # of worlds that nobody looks at


@dataclass(frozen=True)
class Player:
    """A policy that is evaluated."""

    name: str
    """As shown: short, and unlike any other's."""
    source: str
    """`random`, `expert`, or the URL of a run, checkpoint or weights file."""
    policy: Policy
    update: int | None = None
    """Of the checkpoint; None for a script."""
    tasks: tuple[tuple[str, int], ...] = ()
    """(task, level) pairs it was trained on."""
    pixels: bool = False
    """Whether it needs frames."""
    image_size: int = IMAGE_SIZE

    @property
    def learned(self) -> bool:
        """Whether it comes from a checkpoint."""
        return self.update is not None


def load_players(sources: Sequence[str], history: bool = True) -> list[Player]:
    """The players of the given words and URLs, in order.

    Raises UnknownNameError for a word that is neither a script nor an existing URL, ConfigError
    for one that is given twice, CheckpointError for a checkpoint that cannot be used.
    """
    for source in sources:
        if sources.count(source) > 1:
            raise ConfigError(f"policy {source!r} is given twice")
        if source not in SCRIPTED and not storage.exists(source):
            known = (*SCRIPTED, "the URL of a run or checkpoint")
            raise UnknownNameError("policy", source, known)
    names = display_names(sources)
    return [_load(source, name, history) for source, name in zip(sources, names, strict=True)]


def _load(source: str, name: str, history: bool) -> Player:
    if source in SCRIPTED:
        return Player(name, source, make_policy(source))
    # read when torch loads: threads that spin on a busy machine made it 12 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ..train.agent import Agent

    agent = Agent.load(source, history)
    return Player(
        name, source, agent, agent.exported.update, agent.exported.tasks, agent.needs_pixels,
        agent.schema.image_size,
    )  # fmt: skip


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
