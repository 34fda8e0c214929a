"""The table `selfplay` of a recipe: which of its parts are rounds, and how each is trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ...generate.recipe import Part, Recipe
from ...shards.config import parse
from ...shards.errors import ConfigError, UnknownNameError

SMALLEST_SHARE = 0.001  # of a corpus among those that `train` draws from
TRAIN_OWN = ("corpora", "run", "warm_start", "resume")
TRAIN_CHECKPOINTS = ("checkpoint_every", "keep", "keep_every")
EVALUATE_OWN = (
    "policies", "output", "league", "update_league", "watch", "history", "workers",
)  # fmt: skip


@dataclass(frozen=True)
class Mix:
    """Shares of a round's training data, relative to those of the three that exist."""

    current: float = 0.5
    """Of the round's own corpus."""
    earlier: float = 0.35
    """Of the earlier rounds', in equal parts."""
    seed: float = 0.15
    """Of the seed parts', in equal parts."""


@dataclass(frozen=True)
class SelfPlay:
    """How rounds are made of a recipe's parts `round-0`, `round-1`, …"""

    seed: tuple[str, ...] = ()
    """Parts that are generated once, before round 0, and belong to every round's training data."""
    checkpoints: int = 1
    """Of each round that join the league, evenly spaced; the last is the round's result."""
    restart: float = 0.5
    """Peak learning rate of the rounds after the first, relative to the first's."""
    mix: Mix = field(default_factory=Mix)
    """Shares of each round's training data."""
    train: dict[str, Any] = field(default_factory=dict)
    """Flags of `train`, by the names of its settings."""
    launch: tuple[str, ...] = ("train",)
    """Words before the arguments of `train`: on a cluster `sbatch --wait …/slurm.sh`, `srun` or
    `torchrun` and their own arguments. They have to end when the training does."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Flags of `evaluate`, by the names of its settings."""


def round_name(number: int) -> str:
    """What a round's part is called, and who joins the league from it."""
    return f"round-{number}"


def read_settings(recipe: Recipe, where: str) -> tuple[SelfPlay, int]:
    """The recipe's settings of self-play and its number of rounds.

    Raises ConfigError or UnknownNameError naming the recipe and the key.
    """
    if not recipe.selfplay:
        raise ConfigError(f"{where}: selfplay: expected a table, found none")
    found: SelfPlay = parse(SelfPlay, recipe.selfplay, f"{where}: selfplay")
    for i, name in enumerate(found.seed):
        place = f"{where}: selfplay.seed[{i}]"
        if name not in recipe.parts:
            raise UnknownNameError("part", name, recipe.parts, place)
        if name in found.seed[:i]:
            raise ConfigError(f"{place}: {name!r} is there twice")
    rounds = {name: part for name, part in recipe.parts.items() if name not in found.seed}
    _check_rounds(rounds, where)
    _check_numbers(found, where)
    for number in range(len(rounds)):
        shares(found, number, where)
    for table, own in (("train", TRAIN_OWN), ("evaluate", EVALUATE_OWN)):
        _check_flags(getattr(found, table), own, f"{where}: selfplay.{table}")
    if found.checkpoints > 1:
        _check_flags(found.train, TRAIN_CHECKPOINTS, f"{where}: selfplay.train")
    return found, len(rounds)


def shares(settings: SelfPlay, number: int, where: str) -> dict[str, float]:
    """Part → its share of a round's training data, to three decimals; the round's own first.

    Raises ConfigError if nothing remains, or too little of a part to be drawn from.
    """
    groups = (
        (settings.mix.current, [round_name(number)]),
        (settings.mix.earlier, [round_name(earlier) for earlier in reversed(range(number))]),
        (settings.mix.seed, list(settings.seed)),
    )
    present = [(weight, parts) for weight, parts in groups if weight and parts]
    total = sum(weight for weight, _ in present)
    place = f"{where}: selfplay.mix"
    if not total:
        raise ConfigError(f"{place}: leaves nothing to train {round_name(number)} on")
    found = {part: weight / total / len(parts) for weight, parts in present for part in parts}
    for part, share in found.items():
        if share < SMALLEST_SHARE:
            raise ConfigError(
                f"{place}: gives {part} a share of {share:.2g} in {round_name(number)}, "
                f"less than {SMALLEST_SHARE}"
            )
    return {part: round(share, 3) for part, share in found.items()}


def _check_rounds(rounds: dict[str, Part], where: str) -> None:
    if not rounds:
        raise ConfigError(f"{where}: selfplay: expected a part {round_name(0)!r}, found none")
    for number in range(len(rounds)):
        if round_name(number) not in rounds:
            raise ConfigError(
                f"{where}: selfplay: expected the parts {round_name(0)} to "
                f"{round_name(len(rounds) - 1)} besides the seed's, found {', '.join(rounds)}"
            )
        found = rounds[round_name(number)].round
        if found != number:
            place = f"{where}: parts.{round_name(number)}"
            raise ConfigError(f"{place}: round should be {number}, is {found}")


def _check_numbers(settings: SelfPlay, where: str) -> None:
    mix = asdict(settings.mix)
    for name, weight in mix.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"{where}: selfplay.mix.{name} should not be negative, is {weight}")
    if settings.checkpoints < 1:
        raise ConfigError(
            f"{where}: selfplay.checkpoints should be at least 1, is {settings.checkpoints}"
        )
    if not all(settings.launch) or not settings.launch:
        raise ConfigError(f"{where}: selfplay.launch: expected a command, found an empty word")
    if not 0 < settings.restart <= 1:
        raise ConfigError(f"{where}: selfplay.restart should be in (0, 1], is {settings.restart}")


def _check_flags(table: dict[str, Any], own: tuple[str, ...], where: str) -> None:
    for name in table:
        if name in own:
            raise ConfigError(f"{where}.{name}: is set for each round; leave it out")
