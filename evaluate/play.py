"""All waves of an evaluation, played by a pool of processes.

A wave is a pure function of its policy, task, level, seeds and width: a worker has one thread, so
that the numbers do not depend on how many there are.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import polars as pl

from ..generate import raster
from ..generate.players import forget, load
from ..generate.policies import Match
from ..generate.pool import Advanced, Failed, Finished, run
from ..generate.recipe import Player
from ..generate.registry import task_class
from ..generate.rollout import Policy
from ..generate.work import versions
from ..generate.world import World
from ..shards.errors import CheckpointError
from .entrants import IMAGE_SIZE, Entrant, Pair
from .episodes import frame_of, joined
from .opponents import Opponent
from .runs import evaluation_seeds, play_wave

STEPS_PER_WORKER = 1 << 16  # a process takes two to four seconds to start: not for fewer


@dataclass(frozen=True)
class Cell:
    """Runs of one policy, or matches of two, on one task and level."""

    pair: Pair
    entrant: Entrant
    opponent: Entrant | Opponent | None = None

    @property
    def rival(self) -> str:
        """The opponent's name; empty without one."""
        return "" if self.opponent is None else self.opponent.name


@dataclass(frozen=True)
class Wave:
    """Some of a cell's runs."""

    cell: int
    """Which of the cells."""
    players: tuple[Player, ...]
    pair: Pair
    pixels: bool
    image_size: int
    seeds: tuple[int, ...]
    """As many as the wave is wide; the last wave of a cell has further ones for padding."""
    first: int
    """Number of its first run."""
    wanted: int
    """Runs that count."""


@dataclass(frozen=True)
class Recorded:
    """What was played, and by what."""

    frame: pl.DataFrame
    """A row per run, by COLUMNS."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of what the numbers depend on beside the settings."""
    weights: dict[str, str] = field(default_factory=dict)
    """URL → sha256 of the weights files."""


def together(parts: Sequence[Recorded]) -> Recorded:
    """Parts as one; versions that differ stand side by side.

    Raises CheckpointError if a weights file was not the same for all.
    """
    versions: dict[str, dict[str, None]] = {}
    weights: dict[str, str] = {}
    for part in parts:
        for name, version in part.versions.items():
            versions.setdefault(name, {})[version] = None
        for url, digest in part.weights.items():
            if weights.setdefault(url, digest) != digest:
                raise CheckpointError(f"{url}: changed while it was evaluated")
    shown = {name: ", ".join(found) for name, found in versions.items()}
    return Recorded(joined(part.frame for part in parts), shown, weights)


def waves_of(
    cells: Sequence[Cell], wanted: Sequence[int], runs: int, seed: int, width: int
) -> Iterator[Wave]:
    """The waves of the `wanted` cells, none wider than there are runs."""
    width = min(width, runs)
    for number in wanted:
        cell = cells[number]
        sides = [side for side in (cell.entrant, cell.opponent) if side is not None]
        pixels = any(side.pixels for side in sides)
        sizes = [side.image_size for side in sides if side.learned]
        for first in range(0, runs, width):
            yield Wave(
                number, tuple(side.player for side in sides), cell.pair, pixels,
                max(sizes, default=IMAGE_SIZE), tuple(evaluation_seeds(seed, width, first)), first,
                min(width, runs - first),
            )  # fmt: skip


def steps_of(wave: Wave) -> int:
    """Simulation steps that progress counts for a wave."""
    return len(wave.seeds) * task_class(wave.pair[0]).horizon


def play(cells: Sequence[Cell], wave: Wave, tell: Callable[[int], None]) -> Recorded:
    """Play a wave, in a worker or here."""
    policies = [load(player) for player in wave.players]
    task, level = wave.pair
    world = World(task, level, len(wave.seeds), image_size=wave.image_size, pixels=wave.pixels)
    same = all(policy is policies[0] for policy in policies)
    policy: Policy = policies[0] if same else Match(policies, alternate=True)
    runs = play_wave(policy, world, wave.seeds, tell)
    cell = cells[wave.cell]
    frame = frame_of(runs, cell.entrant.name, cell.rival, wave.first)
    computed, weights = dict[str, str](), dict[str, str]()
    for each in policies:
        computed |= getattr(each, "versions", dict)()
        weights |= getattr(each, "dependencies", dict)()
    return Recorded(frame.filter(pl.col("run") < wave.first + wave.wanted), computed, weights)


def play_all(
    cells: Sequence[Cell], waves: Sequence[Wave], workers: int | None,
    advance: Callable[[Wave, int], None],
) -> Iterator[tuple[int, Recorded]]:  # fmt: skip
    """(number of the cell, its runs) of every cell as it is complete; raises what a wave raises."""
    raster.compile()  # once, before the workers do
    found: dict[int, dict[int, Recorded]] = {}
    here = versions()
    sizes = Counter(wave.cell for wave in waves)
    for wave, played in _results(partial(play, cells), waves, workers, advance):
        found.setdefault(wave.cell, {})[wave.first] = played
        if len(found[wave.cell]) == sizes[wave.cell]:
            parts = found.pop(wave.cell)
            whole = together([parts[first] for first in sorted(parts)])
            rival = pl.col("policy") != cells[wave.cell].entrant.name  # of a match, its side last
            frame = whole.frame.sort(rival, "run")
            yield wave.cell, replace(whole, frame=frame, versions=here | whole.versions)


def _results(
    work: Callable[[Wave, Callable[[int], None]], Recorded], waves: Sequence[Wave],
    workers: int | None, advance: Callable[[Wave, int], None],
) -> Iterator[tuple[Wave, Recorded]]:  # fmt: skip
    # the longest first, so that no worker ends long after the others; a network's waves together,
    # so that it is loaded once
    order = sorted(waves, key=lambda wave: (_networks(wave), -steps_of(wave)))
    fitting = 1 + sum(map(steps_of, waves)) // STEPS_PER_WORKER
    count = min(workers or len(os.sched_getaffinity(0)), fitting, len(waves))
    if count == 1:
        with _as_in_a_worker(waves):
            for wave in order:
                yield wave, work(wave, partial(advance, wave))
        return
    with closing(run(work, order, count, attempts=2)) as events:
        for event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Advanced):
                advance(event.item, event.amount)
            elif isinstance(event, Finished):
                yield event.item, event.result


def _networks(wave: Wave) -> str:
    return repr([player for player in wave.players if not player.scripted])


@contextmanager
def _as_in_a_worker(waves: Sequence[Wave]) -> Iterator[None]:
    """Networks compute here as in a worker: their last bits depend on the number of threads."""
    if all(player.scripted for wave in waves for player in wave.players):
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        forget()
