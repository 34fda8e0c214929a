"""An evaluation: checked whole, then played and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..generate.slots import make_schema
from ..shards.console import Advance, progress
from ..shards.corpus import Corpus
from ..shards.schema import Schema
from .behaviour import score_corpus
from .entrants import Entrant, Pair
from .play import Cell, Recorded, Wave, play_all, steps_of, together, waves_of
from .ratings import Rating
from .scores import CellScores, MatchScores, interval_generator, normalised_return, score_all
from .settings import Settings
from .standings import rate_all
from .summary import Summary, summarise

DATA = "behaviour data"  # row of a corpus's own episodes


@dataclass(frozen=True)
class Evaluation:
    """What was asked, and what came of it."""

    settings: Settings
    recorded: Recorded
    cells: tuple[CellScores, ...]
    """One per row and pair of one player; rows in the order random, behaviour data, learned,
    expert."""
    matches: tuple[MatchScores, ...]
    """One per policy, opponent and pair of two players."""
    behaviours: tuple[CellScores, ...]
    """The corpus's episodes by behaviour."""
    summary: tuple[Summary, ...]
    """By group of tasks, then method."""
    ratings: dict[str, tuple[Rating, ...]]
    """Of all who met in matches, best first; over all such tasks ("all"), and of each."""

    @property
    def rows(self) -> list[str]:
        """Names of the table's rows, in order."""
        return list(dict.fromkeys(cell.policy for cell in self.cells))

    def cell(self, policy: str, pair: Pair) -> CellScores | None:
        """The cell of a row; None where the corpus has no such pair."""
        found = (cell for cell in self.cells if (cell.policy, cell.pair) == (policy, pair))
        return next(found, None)


def require_fitting(entrants: Sequence[Entrant], schemas: Mapping[str, Schema]) -> None:
    """Raise SchemaMismatchError unless each learned policy fits this version's worlds."""
    for entrant in entrants:
        if entrant.weights is not None:
            ours = make_schema(entrant.image_size, (0.0, 1.0))
            theirs = schemas[entrant.weights]
            theirs.require_equal(ours, entrant.source, but=("reward_range",))


def record(
    settings: Settings, workers: int | None = None, known: Mapping[int, Recorded] | None = None,
    keep: Callable[[int, Recorded], None] = lambda cell, recorded: None,
) -> Recorded:  # fmt: skip
    """Play every cell that is not `known` from before; `keep` is given each as it is complete.

    Raises RolloutError and CheckpointError for policies that do not play.
    """
    cells, parts = settings.cells(), dict(known or {})
    left = [number for number in range(len(cells)) if number not in parts]
    waves = list(waves_of(cells, left, settings.runs, settings.seed, settings.width))
    if workers is None:
        workers = _devices(settings)
    with progress("evaluate", sum(map(steps_of, waves))) as advance:
        for number, part in play_all(cells, waves, workers, partial(_advance, advance, cells)):
            parts[number] = part
            keep(number, part)
    return together([parts[number] for number in range(len(cells))])


def _devices(settings: Settings) -> int | None:
    """A worker per GPU where networks play on GPUs; None: one per core."""
    policies = [p.learned for p in settings.policies] + [o.learned for o in settings.opponents]
    if not any(policies):
        return None
    import torch

    return torch.cuda.device_count() or None


def _advance(advance: Advance, cells: Sequence[Cell], wave: Wave, amount: int) -> None:
    cell = cells[wave.cell]
    task, level = cell.pair
    against = f" against {cell.rival}" if cell.rival else ""
    advance(amount, note=f"{cell.entrant.name} on {task} {level}{against}")


def assemble(settings: Settings, recorded: Recorded, corpus: Corpus | None = None) -> Evaluation:
    """Every number that follows from what was played; the same whoever asks."""
    cells, matches = score_all(settings, recorded.frame)
    data = _data_cells(settings, corpus) if corpus is not None else []
    whole = [cell for cell in data if not cell.behaviour]
    parts = [cell for cell in data if cell.behaviour]
    return Evaluation(
        settings, recorded, tuple(_in_order([*cells, *whole], settings)), tuple(matches),
        tuple(parts), tuple(summarise(settings, recorded.frame)),
        {name: tuple(rated) for name, rated in rate_all(settings, matches)},
    )  # fmt: skip


def _data_cells(settings: Settings, corpus: Corpus) -> list[CellScores]:
    generator = interval_generator(settings.seed)
    return [
        CellScores(
            DATA, *pair, scores, normalised_return(pair, scores.mean_return.value),
            behaviour=behaviour,
        )
        for pair, behaviour, scores in score_corpus(corpus, settings.tasks, generator)
    ]  # fmt: skip


def _in_order(cells: list[CellScores], settings: Settings) -> list[CellScores]:
    def named(*sources: str) -> list[str]:
        return [policy.name for policy in settings.policies if policy.source in sources]

    learned = [policy.name for policy in settings.policies if policy.learned]
    names = [*named("random"), DATA, *learned, *named("expert")]
    return sorted(cells, key=lambda c: (names.index(c.policy), settings.tasks.index(c.pair)))
