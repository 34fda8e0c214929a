"""What an evaluation was asked for: everything that decides its numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..shards.config import parse
from ..shards.errors import ConfigError
from .entrants import Entrant, Pair
from .opponents import Opponent
from .pairs import alone, matches
from .play import Cell
from .runs import MAXIMUM_RUNS


@dataclass(frozen=True)
class Settings:
    """Stored in results.json; the same settings give the same numbers."""

    policies: tuple[Entrant, ...]
    tasks: tuple[Pair, ...]
    """(task, level) pairs."""
    opponents: tuple[Opponent, ...] = ()
    """Of matches, besides the policies themselves: scripted anchors and a league's members."""
    runs: int = 100
    """Of each policy on each pair, of a match against each opponent."""
    seed: int = 0
    width: int = 100
    """Simulations in lockstep; a learned policy's bits depend on it."""
    corpus: str | None = None
    corpus_fingerprint: str | None = None
    league: str | None = None
    """URL of the league whose members are among the opponents."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any], where: str) -> Settings:
        """Raises ConfigError naming the key that is not what it should be."""
        settings: Settings = parse(Settings, data, where)
        return settings

    def cells(self) -> list[Cell]:
        """All that is played: every policy on every task, in matches against each opponent.

        Policies of the same match meet once; anchors and league members do not meet here.
        """
        found = [Cell(pair, mine) for mine in self.policies for pair in alone(self.tasks)]
        for i, mine in enumerate(self.policies):
            rivals: list[Entrant | Opponent] = [*self.policies[i + 1 :], *self.opponents]
            found += [
                Cell(pair, mine, rival) for rival in rivals for pair in matches(self.tasks)
            ]
        return found


def require_counts(runs: int, width: int, seed: int) -> None:
    """Raise ConfigError naming the flag that is out of range."""
    for flag, value, most in (("runs", runs, MAXIMUM_RUNS), ("width", width, 100_000)):
        if not 1 <= value <= most:
            raise ConfigError(f"--{flag} should be in [1, {most:,}], is {value}")
    if not 0 <= seed < 1 << 40:
        raise ConfigError(f"--seed should be in [0, 2^40), is {seed}")
