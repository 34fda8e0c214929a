"""Which share of a corpus a task of a job array generates, from what its scheduler says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..shards.errors import ConfigError

SLURM = "SLURM_ARRAY_TASK_"
# PBS Pro and OpenPBS, then Torque: an index each, and no word of how many there are
PBS = ("PBS_ARRAY_INDEX", "PBS_ARRAYID")


@dataclass(frozen=True)
class Share:
    """One of `count` shares, counted from 0, that together hold every item exactly once."""

    index: int
    count: int

    def __post_init__(self) -> None:
        assert 0 <= self.index < self.count

    def of(self, items: Sequence[int]) -> list[int]:
        """Every count-th item from the index-th on.

        `items` must be the same in every task: all shards, say, never those that are missing now.
        """
        return list(items[self.index :: self.count])


def share_from(environment: Mapping[str, str], count: int | None = None) -> Share:
    """The share of the array task whose environment this is, under Slurm, PBS Pro or Torque.

    Slurm tells first, last, step and number of the tasks, so any range serves: 1-16 as well as
    0-15. PBS does not, so there `count` is needed. With a `count` the task's ID is the index itself
    and the other tasks do not matter: after an array 0-15, `sbatch --array=3,7 …` with a count of
    16 runs shares 3 and 7 again. Without one, a range such as 3-4 shares the whole corpus anew, and
    a list with holes is refused: it is part of another array, and Slurm does not tell of which.

    Raises ConfigError, naming the variable, when there is none, it is no number, the ID is not
    below `count`, or Slurm's tasks have holes.
    """
    if count is not None and count < 1:
        raise ConfigError(f"--array-count should be positive, is {count}")
    name = next((name for name in (f"{SLURM}ID", *PBS) if name in environment), None)
    if name is None:
        raise ConfigError(
            f"--array: expected {SLURM}ID or {PBS[0]} in the environment, found neither"
        )
    task = _number(environment, name)
    if count is None:
        if name in PBS:
            raise ConfigError(f"{name}: does not tell how many tasks there are; pass --array-count")
        return _slurm_share(environment, task)
    if task >= count:
        raise ConfigError(
            f"{name}: expected 0 to {count - 1} (--array-count {count}), found {task}"
        )
    return Share(task, count)


def _slurm_share(environment: Mapping[str, str], task: int) -> Share:
    """By its place among the array's tasks; every task sees holes anywhere, and refuses."""
    names = [SLURM + word for word in ("COUNT", "MIN", "MAX", "STEP")]
    count, first, last, step = (_number(environment, name) for name in names)
    tasks = range(first, last + 1, max(step, 1))  # in a list, steps are 1
    if task not in tasks or tasks[-1] != last or len(tasks) != count:
        raise ConfigError(
            f"{SLURM}ID: expected one of {count} tasks from {first} to {last} in steps of {step}, "
            f"found {task} in a list with holes; pass --array-count"
        )
    return Share(tasks.index(task), count)


def _number(environment: Mapping[str, str], name: str) -> int:
    """A variable's value; schedulers write plain digits."""
    value = environment.get(name)
    if value is None or not (value.isascii() and value.isdigit()):
        raise ConfigError(f"{name}: expected a number, found {value!r}")
    return int(value)
