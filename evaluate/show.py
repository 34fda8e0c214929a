"""`evaluate show RESULTS`: watch one run of an evaluation again, at any size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.markup import escape

from ..generate.preview import MAXIMUM_BYTES, MAXIMUM_SIZE
from ..generate.registry import task_classes
from ..generate.video import film
from ..generate.view import require_image_size
from ..shards import storage
from ..shards.console import console
from ..shards.errors import ConfigError, UnknownNameError
from ..shards.faults import naming
from .entrants import Pair
from .episodes import COLUMNS
from .output import EPISODES, read_settings
from .pairs import players_of
from .runs import evaluation_seeds
from .settings import Settings
from .video import ending, facts_of, replay, same_run

NEEDED = tuple(name for name in COLUMNS if name != "values")


@dataclass(frozen=True)
class Chosen:
    """One run of an evaluation."""

    pair: Pair
    policy: str
    opponent: str
    """Empty without one."""
    others: tuple[str, ...]
    """Opponents that the policy met there besides."""
    run: int
    seed: int

    @property
    def stem(self) -> str:
        """Of its file's name."""
        task, level = self.pair
        against = f"-vs-{self.opponent}" if self.opponent else ""
        return re.sub(r"[^\w.+-]", "-", f"{task}-{level}-{self.policy}{against}-seed{self.run}")


def show(
    url: str, task: str, level: int | None, seed: str, policy: str | None, opponent: str | None,
    output: str, size: int,
) -> None:  # fmt: skip
    """Replay a run of the evaluation at `url` and write it as a GIF below the URL `output`.

    `seed` is the run's number or its 64-bit seed. By default the level is the only one, the policy
    the first learned one, else the first, and the opponent the first it met. Raises ConfigError or
    UnknownNameError naming the flag, RolloutError for a run that replays differently here, and
    StorageError for what cannot be read or written.
    """
    require_image_size(size, "--size")
    if size > MAXIMUM_SIZE:
        raise ConfigError(f"--size should be at most {MAXIMUM_SIZE}, is {size}")
    storage.filesystem(output)  # a URL that nothing here can open is known before any work
    settings, origin = read_settings(url)
    chosen = choose(settings, url, task, level, seed, policy, opponent)
    sides = _read_sides(storage.join(url, EPISODES), chosen)
    row = facts_of(sides.filter(pl.col("policy") == chosen.policy))
    clip = replay(sides, row["player"], size=size, versions=origin["versions"])
    where = storage.join(output, f"{chosen.stem}.gif")
    storage.write_bytes(where, film([clip], row["steps"], 1, MAXIMUM_BYTES))
    _tell(chosen, row, where)


def _tell(chosen: Chosen, row: Mapping[str, Any], where: str) -> None:
    others = f" (it also met {', '.join(chosen.others)})" if chosen.others else ""
    until = ", up to the step that broke it" if row["cause"] else ""
    told = {
        "policy": chosen.policy,
        "opponent": f"{chosen.opponent}{others}" if chosen.opponent else "",
        "task": f"{chosen.pair[0]} level {chosen.pair[1]}",
        "run": f"{chosen.run}, seed {chosen.seed}",
        "outcome": f"{ending(row)}, return {row['return']:.2f} in {row['steps']} steps",
        "replay": f"equals what was recorded, bit for bit{until}",
        "file": where,
    }
    for name, text in told.items():
        if text:
            console.print(f"{name + ':':<9} {escape(text)}")


def choose(
    settings: Settings, url: str, task: str, level: int | None, seed: str,
    policy: str | None = None, opponent: str | None = None,
) -> Chosen:  # fmt: skip
    """The run that flags ask for; ConfigError or UnknownNameError naming the flag."""
    pair = _pair(settings, url, task, level)
    met = _met(settings, pair)
    if not met:
        raise ConfigError(f"{url}: nobody met in {task}: there were no opponents")
    learned = [entrant.name for entrant in settings.policies if entrant.learned]
    first = next((name for name in learned if name in met), next(iter(met)))
    mine = _known("policy", policy, first, tuple(met))
    rivals = met[mine]
    if not rivals and opponent is not None:
        raise ConfigError(f"--opponent: {task} is played alone")
    rival = _known("opponent", opponent, rivals[0], rivals) if rivals else ""
    run, own_seed = _run(settings, seed)
    others = tuple(name for name in rivals if name != rival)
    return Chosen(pair, mine, rival, others, run, own_seed)


def _pair(settings: Settings, url: str, task: str, level: int | None) -> Pair:
    played = dict.fromkeys(name for name, _ in settings.tasks)
    if task not in played and task in task_classes():
        raise ConfigError(f"--task: {url} has no runs of {task}, only of {', '.join(played)}")
    if task not in played:
        raise UnknownNameError("task", task, played, "--task")
    levels = sorted(number for name, number in settings.tasks if name == task)
    if level is None and len(levels) == 1:
        return task, levels[0]
    if level not in levels:
        what = "--level is missing" if level is None else f"--level {level} was not played"
        raise ConfigError(f"{what}: {task} was played at levels {', '.join(map(str, levels))}")
    return task, level


def _met(settings: Settings, pair: Pair) -> dict[str, tuple[str, ...]]:
    """Who played a task, those that were evaluated first, and in matches against whom."""
    met: dict[str, tuple[str, ...]] = {entrant.name: () for entrant in settings.policies}
    if players_of(pair) == 1:
        return met
    for cell in settings.cells():
        if cell.pair == pair:
            name = cell.entrant.name
            met[name] = (*met[name], cell.rival)
            met[cell.rival] = (*met.get(cell.rival, ()), name)
    return {name: rivals for name, rivals in met.items() if rivals}


def _known(kind: str, name: str | None, default: str, known: Sequence[str]) -> str:
    """The name, or the default; UnknownNameError for one that is not there."""
    if name is None:
        return default
    if name not in known:
        raise UnknownNameError(kind, name, known, f"--{kind}")
    return name


def _run(settings: Settings, word: str) -> tuple[int, int]:
    """(number, seed) of the run that --seed asks for, by either."""
    try:
        value = int(word, 16 if word.lower().startswith("0x") else 10)
    except ValueError:
        raise ConfigError(f"--seed should be a run's number or seed, is {word!r}") from None
    seeds = evaluation_seeds(settings.seed, settings.runs)
    run = value if 0 <= value < len(seeds) else value - seeds[0]
    if not 0 <= run < len(seeds):
        raise ConfigError(
            f"--seed {word} was not played: expected runs 0 to {len(seeds) - 1}, or their seeds "
            f"{seeds[0]} to {seeds[-1]}"
        )
    return run, seeds[run]


def _read_sides(url: str, chosen: Chosen) -> pl.DataFrame:
    """The run's row, of a match both, by player.

    Of a local file only the row groups that may hold it are read. Raises ConfigError for a table
    that is not this evaluation's, StorageError or CorruptionError where it cannot be read.
    """
    task, level = chosen.pair
    wanted = same_run({
        "policy": chosen.policy, "opponent": chosen.opponent, "task": task, "level": level,
        "run": chosen.run,
    })  # fmt: skip
    with storage.parquet_source(url, NEEDED) as source, naming(url):
        table = pl.scan_parquet(source)
        if table.collect_schema() != pl.Schema(COLUMNS):
            raise ConfigError(f"{url}: not an evaluation's episodes: other columns")
        sides = table.select(NEEDED).filter(wanted).sort("player").collect()
    if len(sides) != players_of(chosen.pair):
        what = f"run {chosen.run} of {chosen.policy} on {task} {level}"
        raise ConfigError(f"{url}: {what} is missing: not the episodes of this evaluation")
    return sides
