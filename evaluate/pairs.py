"""Which tasks and levels are evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..generate.groups import HELDOUT, TRAIN, chosen_pairs
from ..generate.registry import check_level, held_out, task_class
from .entrants import Entrant, Pair

ALL = "all"


def choose_pairs(
    tasks: Sequence[str], levels: Sequence[int], entrants: Sequence[Entrant] = ()
) -> tuple[Pair, ...]:
    """The (task, level) pairs that flags and policies ask for.

    `tasks` are names, families, `train`, `heldout` or `all`; without levels, every level of each.
    Without either: those that the first learned policy was trained on, else all. Raises
    UnknownNameError or ConfigError naming the flag.
    """
    learned = next((entrant for entrant in entrants if entrant.learned), None)
    if not tasks and learned is not None:
        own = [pair for pair in learned.tasks if not levels or pair[1] in levels]
        for task, level in own:
            check_level(task_class(task, learned.source), level, learned.source)
        if own or not levels:
            return tuple(own)
        tasks = tuple(dict.fromkeys(task for task, _ in learned.tasks))
    words = [w for word in tasks or (ALL,) for w in ((TRAIN, HELDOUT) if word == ALL else (word,))]
    return tuple(chosen_pairs(words, levels or None, "--tasks" if tasks else "--levels"))


def players_of(pair: Pair) -> int:
    """How many play a task."""
    return task_class(pair[0]).players


def alone(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Those of one player."""
    return tuple(pair for pair in pairs if players_of(pair) == 1)


def matches(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Those of two players."""
    return tuple(pair for pair in pairs if players_of(pair) == 2)


def unseen(pairs: Iterable[Pair], entrants: Iterable[Entrant]) -> frozenset[Pair]:
    """The pairs that no learned policy was trained on; without one, those held out of training."""
    learned = [entrant for entrant in entrants if entrant.learned]
    if not learned:
        return frozenset(pairs) & frozenset(held_out())
    return frozenset(pairs) - {pair for entrant in learned for pair in entrant.tasks}
