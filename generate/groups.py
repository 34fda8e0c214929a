"""Which tasks and levels a behaviour plays: by name, family, `train` or `heldout`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..shards.errors import UnknownNameError
from .recipe import Behaviour
from .registry import check_level, task_classes
from .task import Task

TRAIN, HELDOUT = "train", "heldout"


def pairs(behaviour: Behaviour, where: str = "") -> list[tuple[str, int]]:
    """A behaviour's (task, level) pairs, as `chosen_pairs`."""
    return chosen_pairs(behaviour.tasks, behaviour.levels, where)


def chosen_pairs(
    words: Sequence[str], levels: Sequence[int] | None, where: str = ""
) -> list[tuple[str, int]]:
    """(task, level) pairs, each once, in the order of the words; without levels, all of each.

    A task named by itself must have every level, else ConfigError; a group leaves out levels that
    a task lacks. Families and `train` leave out what is held out of training, `heldout` all else.
    UnknownNameError for a word that is neither.
    """
    return list(dict.fromkeys(
        pair for word in words for pair in _pairs_of(word, levels, where)
    ))  # fmt: skip


def _pairs_of(
    word: str, levels: Sequence[int] | None, where: str
) -> Iterator[tuple[str, int]]:
    classes = task_classes()
    groups = {cls.family for cls in classes.values()} | {TRAIN, HELDOUT}
    if word in classes:
        for level in _all(classes[word]) if levels is None else levels:
            check_level(classes[word], level, where)
            yield word, level
    elif word in groups:
        for name, cls in classes.items():
            if word in (cls.family, TRAIN, HELDOUT):
                asked = _all(cls) if levels is None else levels
                there = [level for level in asked if level in _all(cls)]
                wanted = [level for level in there if (level in cls.held_out) == (word == HELDOUT)]
                yield from ((name, level) for level in wanted)
    else:
        raise UnknownNameError("task", word, (*classes, *groups), where)


def _all(cls: type[Task]) -> range:
    return range(1, cls.levels + 1)
