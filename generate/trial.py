"""A wave played on trial: into a shard that is never stored, by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..shards.corpus import Corpus, Manifest
from ..shards.episode import Episode
from ..shards.writer import ShardWriter
from .plan import plan
from .players import provenance_of
from .recipe import Recipe
from .work import play_wave, schema_of, succeeded


class _EnoughError(Exception):
    """Ends a wave before its time."""


class Trial(ShardWriter):
    """What the matches of a one-wave recipe take, `nsim` of them."""

    def __init__(self, recipe: Recipe, nsim: int) -> None:
        self.recipe = replace(recipe, keep="all")
        self.wave = replace(plan(recipe)[0][0], nsim=nsim)
        told = provenance_of(recipe)
        manifest = Manifest(
            schema_of(recipe), recipe.to_json(), recipe.seed, 1, {}, told.dependencies
        )
        super().__init__(Corpus("memory://plan", manifest), 0)
        # processor time, which leaves out what others do on a machine, where all of the work is
        # in this process; a GPU's is not
        self.clock = time.process_time if recipe.scripted else time.perf_counter
        self.good: set[int] = set()
        self.storing = 0.0
        """Seconds of encoding and the like."""
        self.lanes: list[int] = []
        """That advanced, by control step."""
        self.times: list[float] = []
        """After each control step, without `storing`."""
        self.whole = False
        self.start = self.clock()

    def add(self, episode: Episode) -> None:
        """Take in a segment."""
        begin = self.clock()
        super().add(episode)
        self.storing += self.clock() - begin
        if succeeded(episode):
            self.good.add(episode.match)

    def end_wave(self, keep: Collection[int] | None = None) -> None:
        """Append what waits."""
        begin = self.clock()
        super().end_wave(keep)
        self.storing += self.clock() - begin

    def play(self, enough: Callable[[Trial], bool]) -> Trial:
        """Play the wave until it is over or it is `enough`."""

        def on_step(lanes: int) -> None:
            self.lanes.append(lanes)
            self.times.append(self.clock() - self.storing - self.start)
            if enough(self):
                raise _EnoughError

        with suppress(_EnoughError):
            play_wave(self, self.recipe, self.wave, 0, on_step)
            self.whole = True
        self.end_wave()
        return self

    @property
    def planned(self) -> int:
        """Steps of whole episodes; of episodes that were cut off, those that were played."""
        return self.wave.steps if self.whole else sum(self.lanes)

    def per_step(self, first: int | None = None) -> float:
        """Seconds to play one, of the `first` control steps or all; the very first sets up.

        Running medians leave out where the machine stood still: up to 0.2 s when memory was new.
        """
        if len(self.times) < 2:
            return self.times[0] / self.lanes[0]
        took = np.pad(np.diff(self.times[:first]), 2, mode="edge")
        typical = np.median(sliding_window_view(took, 5), axis=1)
        return float(typical.sum()) / sum(self.lanes[1:first])
