"""Tasks by name: every module in `generate/tasks` that defines a Task is one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from ..shards.errors import ConfigError, UnknownNameError
from . import tasks as tasks_package
from .task import Task


@cache
def task_classes() -> dict[str, type[Task]]:
    """Every task's class by its name, sorted."""
    found: dict[str, type[Task]] = {}
    for info in pkgutil.iter_modules(tasks_package.__path__):
        module = importlib.import_module(f"{tasks_package.__name__}.{info.name}")
        for _, value in inspect.getmembers(module, inspect.isclass):
            if value.__module__ == module.__name__ and issubclass(value, Task):
                found[value.name] = value
    return dict(sorted(found.items()))


def task_class(name: str, where: str = "") -> type[Task]:
    """The class of a task; UnknownNameError suggests the nearest name."""
    classes = task_classes()
    if name not in classes:
        raise UnknownNameError("task", name, classes, where)
    return classes[name]


def make_task(name: str, level: int) -> Task:
    """A task at a level; ConfigError if it has no such level."""
    cls = task_class(name)
    check_level(cls, level)
    return cls(level)


def check_level(cls: type[Task], level: int, where: str = "") -> None:
    """Raise ConfigError unless the task has this level."""
    if not 1 <= level <= cls.levels:
        prefix = f"{where}: " if where else ""
        raise ConfigError(f"{prefix}{cls.name} has levels 1 to {cls.levels}, not {level}")


def held_out() -> tuple[tuple[str, int], ...]:
    """(task, level) of everything that no training corpus may hold."""
    classes = task_classes().items()
    return tuple((name, level) for name, cls in classes for level in sorted(cls.held_out))
