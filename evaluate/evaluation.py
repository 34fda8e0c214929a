"""An evaluation: checked whole, then played and scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..generate.registry import check_level, task_class, task_classes
from ..generate.work import versions
from ..generate.world import World
from ..shards.console import progress
from ..shards.corpus import Corpus
from ..shards.errors import ConfigError
from .behaviour import score_corpus
from .players import Player
from .runs import MAXIMUM_RUNS, Runs, play_runs
from .statistics import Scores, normalised, score

DATA = "behaviour data"  # row of a corpus's own episodes
INTERVAL_STREAM = 2  # of Philox keys; worlds and policies draw from 0 and 1
Pair = tuple[str, int]


@dataclass(frozen=True)
class Settings:
    """Everything that decides an evaluation's numbers; stored in results.json."""

    policies: tuple[dict[str, Any], ...]
    """Each one's name, source and checkpoint update (None for a script)."""
    tasks: tuple[Pair, ...]
    """(task, level) pairs."""
    runs: int
    """Of each policy on each pair."""
    history: bool
    """Whether learned policies see their past actions."""
    seed: int
    width: int
    """Simulations in lockstep; a learned policy's bits depend on it."""
    threads: int
    corpus: str | None = None
    corpus_fingerprint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Cell:
    """One policy's scores on one task and level; also the corpus's own, as policy DATA."""

    policy: str
    task: str
    level: int
    scores: Scores
    normalised: float | None = None
    """Mean return with random at 0 and the expert at 1, if both were evaluated."""
    diverged: int = 0
    """Runs whose simulation diverged; they count as failures."""
    behaviour: str = ""
    """Part of the corpus; empty for all of it and for played policies."""


@dataclass(frozen=True)
class Evaluation:
    """What was asked, and what came of it."""

    settings: Settings
    versions: dict[str, str]
    players: tuple[Player, ...]
    cells: tuple[Cell, ...]
    """One per row and pair; rows in the order random, behaviour data, learned, expert."""
    behaviours: tuple[Cell, ...]
    """The corpus's episodes by behaviour."""
    runs: dict[tuple[str, Pair], Runs]
    """By (policy name, pair)."""

    @property
    def rows(self) -> list[str]:
        """Names of the table's rows, in order."""
        return list(dict.fromkeys(cell.policy for cell in self.cells))

    def cell(self, policy: str, pair: Pair) -> Cell | None:
        """The cell of a row; None where the corpus has no such pair."""
        found = (c for c in self.cells if (c.policy, c.task, c.level) == (policy, *pair))
        return next(found, None)


def require_counts(runs: int, width: int, threads: int, seed: int) -> None:
    """Raise ConfigError naming the flag that is out of range."""
    limits = {"runs": (runs, MAXIMUM_RUNS), "width": (width, 100_000), "threads": (threads, 1024)}
    for flag, (value, most) in limits.items():
        if not 1 <= value <= most:
            raise ConfigError(f"--{flag} should be in [1, {most:,}], is {value}")
    if not 0 <= seed < 1 << 40:
        raise ConfigError(f"--seed should be in [0, 2^40), is {seed}")


def choose_pairs(
    tasks: Sequence[str], levels: Sequence[int], players: Sequence[Player]
) -> tuple[Pair, ...]:
    """The (task, level) pairs that flags and policies ask for.

    Without flags: those that the first checkpoint was trained on, else every task that is not
    held out, at level 1. Raises UnknownNameError or ConfigError naming the flag.
    """
    learned = next((player for player in players if player.learned), None)
    if not tasks and not levels and learned is not None:
        pairs = learned.tasks
    else:
        names = tasks or [n for n, c in task_classes().items() if c.players == 1]
        pairs = tuple((task, level) for task in names for level in levels or (1,))
        if not tasks:
            pairs = tuple((t, level) for t, level in pairs if level not in task_class(t).held_out)
    for task, level in pairs:
        where = "--tasks" if task in tasks else learned.source if learned else ""
        cls = task_class(task, where)
        check_level(cls, level, "--levels" if levels else where)
        if cls.players != 1:
            raise ConfigError(f"--tasks: {task} is a match of {cls.players} players, not a run")
    return tuple(dict.fromkeys(pairs))


def require_fitting(players: Sequence[Player], pairs: Sequence[Pair]) -> None:
    """Raise SchemaMismatchError unless each learned player fits every task's world."""
    for player in players:
        for task, level in pairs if player.learned else ():
            world = World(task, level, 1, image_size=player.image_size, pixels=False)
            player.policy.reset(world, [0])


def evaluate(settings: Settings, players: Sequence[Player], corpus: Corpus | None) -> Evaluation:
    """Play and score every player on every pair; the same settings give the same numbers."""
    runs = {(player.name, pair): result for player, pair, result in _play_all(settings, players)}
    cells = [
        Cell(
            name, task, level,
            score(r.returns, r.completion_step, r.horizon, _generator(settings)),
            diverged=sum(map(bool, r.causes)),
        )
        for (name, (task, level)), r in runs.items()
    ]  # fmt: skip
    data = _data_cells(settings, corpus) if corpus is not None else []
    cells += [cell for cell in data if not cell.behaviour]
    behaviours = [cell for cell in data if cell.behaviour]
    cells = _in_order(cells, settings, players)
    return Evaluation(
        settings, _versions(players), tuple(players), tuple(_normalise(c, cells) for c in cells),
        tuple(_normalise(c, cells) for c in behaviours), runs,
    )  # fmt: skip


def _play_all(
    settings: Settings, players: Sequence[Player]
) -> Iterator[tuple[Player, Pair, Runs]]:
    horizons = sum(task_class(task).horizon for task, _ in settings.tasks)
    with progress("evaluate", settings.runs * horizons * len(players)) as advance:
        for player in players:
            for task, level in settings.tasks:
                world = World(
                    task, level, settings.width, image_size=player.image_size,
                    pixels=player.pixels, nthread=settings.threads,
                )  # fmt: skip
                note = f"{player.name} on {task} {level}"
                yield player, (task, level), play_runs(
                    player.policy, world, settings.runs, settings.seed,
                    partial(advance, note=note),
                )  # fmt: skip


def _generator(settings: Settings) -> np.random.Generator:
    """Draws of a cell's intervals: the same whichever other cells there are."""
    key = np.array((settings.seed, INTERVAL_STREAM), np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _data_cells(settings: Settings, corpus: Corpus) -> list[Cell]:
    generator = _generator(settings)
    return [
        Cell(DATA, task, level, scores, behaviour=behaviour)
        for (task, level), behaviour, scores in score_corpus(corpus, settings.tasks, generator)
    ]


def _in_order(cells: list[Cell], settings: Settings, players: Sequence[Player]) -> list[Cell]:
    learned = [player.name for player in players if player.learned]
    names = ["random", DATA, *learned, "expert"]
    return sorted(
        cells, key=lambda c: (names.index(c.policy), settings.tasks.index((c.task, c.level)))
    )


def _normalise(cell: Cell, cells: Sequence[Cell]) -> Cell:
    baselines = {
        other.policy: other.scores.mean_return.value
        for other in cells
        if (other.task, other.level) == (cell.task, cell.level)
    }
    value = normalised(
        cell.scores.mean_return.value, baselines.get("random"), baselines.get("expert")
    )
    return dataclasses.replace(cell, normalised=value)


def _versions(players: Sequence[Player]) -> dict[str, str]:
    found = versions()
    if any(player.learned for player in players):
        import torch

        found |= {"torch": torch.__version__}
        found |= {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    return found
