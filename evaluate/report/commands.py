"""The command line that repeats an evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from ...generate.groups import HELDOUT, TRAIN
from ...generate.registry import task_classes
from ...shards.errors import PalaestraError
from ..entrants import BLIND, Pair, display_names
from ..pairs import ALL, choose_pairs
from ..settings import Settings


def command_line(settings: Settings) -> str:
    """A command that repeats the evaluation; where it takes several, as joined ones do, a line
    each."""
    chosen = list(_tasks(settings))
    ends = ["DIR"] if len(chosen) == 1 else [f"DIR-{i + 1}" for i in range(len(chosen))]
    lines = [
        [*_command(settings, flags), "--output", end]
        for flags, end in zip(chosen, ends, strict=True)
    ]
    if len(lines) > 1:
        lines.append(["evaluate", "merge", *ends, "--output", "DIR"])
    return "\n".join(map(shlex.join, lines))


def _command(settings: Settings, tasks: Sequence[str]) -> list[str]:
    words = ["evaluate", *_policies(settings), *tasks]
    history = {policy.history for policy in settings.policies if policy.learned}
    if history:
        words += ["--history", "both" if len(history) == 2 else "on" if True in history else "off"]
    for flag in ("runs", "seed", "width"):
        words += [f"--{flag}", str(getattr(settings, flag))]
    for flag in ("corpus", "league"):
        value = getattr(settings, flag)
        words += [f"--{flag}", value] if value else []
    return words


def _policies(settings: Settings) -> Iterator[str]:
    """Each method's word: its source alone where that has its name, else NAME=URL,URL."""
    methods: dict[str, list[str]] = {}
    for policy in settings.policies:
        own = methods.setdefault(policy.method.removesuffix(BLIND), [])
        if policy.source not in own:
            own.append(policy.source)
    plain = {name for name, sources in methods.items() if len(sources) == 1}
    while True:  # a name shows fewer parents, the fewer others there are to tell it from
        names = [name for name in methods if name in plain]
        shown = display_names([methods[name][0] for name in names])
        misnamed = {name for name, short in zip(names, shown, strict=True) if name != short}
        if not misnamed:
            break
        plain -= misnamed
    for name, sources in methods.items():
        yield sources[0] if name in plain else f"{name}={','.join(sources)}"


def _tasks(settings: Settings) -> Iterator[list[str]]:
    """Flags that choose just these tasks and levels, or several that do it together."""
    tasks, levels = (list(dict.fromkeys(part)) for part in zip(*settings.tasks, strict=True))
    families = {cls.family for cls in task_classes().values()}
    for names in ([ALL], [TRAIN], [HELDOUT], *([f] for f in sorted(families)), tasks, []):
        for numbers in ([], levels):
            if _chosen(names, numbers, settings) == settings.tasks:
                yield _flags(names, numbers)
                return
    by_levels: dict[tuple[int, ...], list[str]] = {}
    for task in tasks:
        own = tuple(level for name, level in settings.tasks if name == task)
        by_levels.setdefault(own, []).append(task)
    for own, alike in by_levels.items():
        yield _flags(alike, own)


def _chosen(names: Sequence[str], levels: Sequence[int], settings: Settings) -> tuple[Pair, ...]:
    try:
        return choose_pairs(names, levels, settings.policies)
    except PalaestraError:  # a task that lacks one of the levels
        return ()


def _flags(names: Sequence[str], levels: Sequence[int]) -> list[str]:
    flags = ["--tasks", *names] if names else []
    return flags + (["--levels", *map(str, levels)] if levels else [])
