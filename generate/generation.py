"""A whole corpus: what is missing is handed to an engine, shard by shard."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import xxhash

from ..shards import storage
from ..shards.card import write_card
from ..shards.console import Advance, console, progress
from ..shards.corpus import Corpus
from ..shards.errors import (
    ConfigError,
    DifferentCorpusError,
    PalaestraError,
    StorageError,
    UnknownNameError,
)
from ..shards.storage import local_path
from . import pool, raster
from .array import Share
from .plan import plan, planned_steps
from .players import Provenance, inspect_players
from .pool import Advanced, Event, Failed, Finished, check_workers
from .recipe import Recipe
from .work import ShardReport, is_complete, manifest_of, schema_of, write_shard

ENGINES = ("processes", "ray")
FEWEST_BYTES = 100  # a step, in the smallest corpus we have seen; a disk with less is too full
HOPELESS = 8  # shards that failed, and none finished: the rest would fail as well
LOOKS = 16  # indexes read at once, to see what is there


@dataclass(frozen=True)
class Options:
    """How a corpus is made; nothing here changes its bytes."""

    workers: int | None = None
    """Processes; by default one per core of the affinity mask."""
    engine: str = "processes"
    """Or `ray`."""
    ray_address: str | None = None
    """Of a running cluster; by default Ray starts on this machine."""
    share: Share | None = None
    """Of the shards, where several jobs make one corpus."""
    shards: tuple[int, ...] | None = None
    """Only these."""
    attempts: int = 3
    """At a shard, before it is given up."""
    debug: bool = False
    """Show tracebacks of shards that were given up."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    corpus: Corpus
    failures: tuple[Failed[int], ...]
    """Shards that were given up."""
    missing: int
    """Shards that are not there: given up, or others' to make."""


def generate(recipe: Recipe, url: str, options: Options | None = None) -> Outcome:
    """Generate what is missing at `url` of a resolved recipe's corpus.

    Killed at any moment, it leaves whole shards only; the same call goes on. A shard that fails
    is tried again, then given up while the rest goes on. Raises ConfigError for what cannot be,
    DifferentCorpusError when the destination holds anything else, StorageError when it cannot be
    written, CheckpointError for a policy that cannot be loaded.
    """
    options = options or Options()
    check_options(recipe, options)
    provenance = inspect_players(recipe, schema_of(recipe))
    wanted = chosen(len(plan(recipe)), options)
    if storage.exists(storage.join(url, "corpus.json")):
        _require_same_league(recipe, url, provenance)
    else:
        check_room(recipe, url, wanted)  # before there is anything that fewer steps differ from
    corpus = Corpus.create(url, manifest_of(recipe, provenance))
    _remove_leftovers(url)  # of processes that were killed, the manifest's too
    missing = find_missing(corpus, wanted)
    failures: list[Failed[int]] = []
    if missing:
        check_room(recipe, url, missing)
        try:
            failures = _play_all(corpus, recipe, missing, options)
        finally:
            _remove_leftovers(url)  # and of workers
    absent = set(range(corpus.manifest.shards)).difference(corpus.complete_shards())
    absent |= {failure.item for failure in failures}  # whose index may be there, and no tar
    if not absent and (missing or not storage.exists(corpus.merged_url)):
        write_card(corpus)
        corpus.write_merged()
    return Outcome(Corpus.open(url), tuple(failures), len(absent))


def _require_same_league(recipe: Recipe, url: str, provenance: Provenance) -> None:
    """Raise DifferentCorpusError if the league is not what it was when the corpus was begun."""
    league = recipe.league
    before = Corpus.open(url).manifest.dependencies.get(league)
    if league and before not in (None, provenance.dependencies[league]):
        raise DifferentCorpusError(
            f"{league} changed since {url} was begun, which holds to one league: name a copy that "
            "stays as it is, or another destination"
        )


def check_options(recipe: Recipe, options: Options) -> None:
    """Raise ConfigError or UnknownNameError naming the flag that cannot be met."""
    check_workers(options.workers)
    if options.engine not in ENGINES:
        raise UnknownNameError("engine", options.engine, ENGINES, "--engine")
    if options.ray_address is not None and options.engine != "ray":
        raise ConfigError("--ray-address is for --engine ray")
    count = len(plan(recipe))
    for shard in options.shards or ():
        if not 0 <= shard < count:
            raise ConfigError(f"--shards: the recipe has shards 0 to {count - 1}, not {shard}")


def chosen(shards: int, options: Options) -> Sequence[int]:
    """Which of so many shards this command is to make, if they are not there."""
    wanted: Sequence[int] = range(shards)
    if options.shards is not None:
        wanted = sorted(set(options.shards))
    return wanted if options.share is None else options.share.of(wanted)


def find_missing(corpus: Corpus, wanted: Sequence[int]) -> list[int]:
    """The shards to make: of those that are wanted, what is not there whole.

    From a place of this process's own on, so that machines given the same command rarely make
    the same shard.
    """
    present = set(corpus.complete_shards())
    claimed = [shard for shard in wanted if shard in present]
    with ThreadPoolExecutor(LOOKS) as threads:
        whole = dict(zip(claimed, threads.map(partial(is_complete, corpus), claimed), strict=True))
    missing = [shard for shard in wanted if not whole.get(shard)]
    if missing and any(whole.values()):
        console.print(f"{len(wanted) - len(missing)} of {len(wanted)} shards are there already")
    own = f"{os.uname().nodename} {os.getpid()}".encode()
    start = xxhash.xxh3_64_intdigest(own) % max(len(missing), 1)
    return missing[start:] + missing[:start]


def check_room(recipe: Recipe, url: str, missing: Sequence[int]) -> None:
    """Raise StorageError if a local disk cannot hold what is missing."""
    local = local_path(url)
    if local is None:
        return
    free = shutil.disk_usage(_there(local)).free
    steps = planned_steps(recipe, missing)
    if free < steps * FEWEST_BYTES:
        raise StorageError(
            f"{url}: {steps:,} steps take at least {steps * FEWEST_BYTES / 1e9:,.1f} GB, "
            f"{free / 1e9:,.1f} GB are free"
        )


def _there(path: Path) -> Path:
    """The nearest folder to a path that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _remove_leftovers(url: str) -> None:
    storage.remove_leftovers(url, storage.join(url, "data"), storage.join(url, "index"))


def work_of(corpus: Corpus, recipe: Recipe, shard: int, tell: Callable[[int], None]) -> ShardReport:
    """What an engine runs for a shard, unless another machine has made it meanwhile."""
    if is_complete(corpus, shard):
        tell(planned_steps(recipe, [shard]))
        return ShardReport(shard, 0, 0)
    return write_shard(corpus, recipe, shard, tell)


def _play_all(
    corpus: Corpus, recipe: Recipe, missing: Sequence[int], options: Options
) -> list[Failed[int]]:
    if recipe.renderer == "raster":
        raster.compile()  # once, before the workers start
    steps = planned_steps(recipe, missing)
    with (
        progress("generate", steps) as advance,
        closing(_events(corpus, recipe, missing, options)) as events,
    ):
        shown = _Shown(advance, len(missing), options.debug)
        for event in events:
            shown.take(event)
            if len(shown.failures) >= HOPELESS and not shown.finished:
                last = shown.failures[-1].error
                raise PalaestraError(
                    f"the first {HOPELESS} shards failed, the last one with: {reason(last)}"
                ) from last
    return shown.failures


def _events(
    corpus: Corpus, recipe: Recipe, shards: Sequence[int], options: Options
) -> Generator[Event[int, ShardReport], None, None]:
    work = partial(work_of, corpus, recipe)
    if options.engine == "ray":
        from . import ray_engine  # which imports ray

        local = local_path(corpus.url)  # relative, it means another place to Ray's processes
        there = corpus if local is None else replace(corpus, url=str(local))
        work = partial(work_of, there, recipe)
        return ray_engine.run(
            work, shards, options.ray_address, attempts=options.attempts, workers=options.workers
        )
    return pool.run(work, shards, options.workers, attempts=options.attempts)


class _Shown:
    """What the progress line says."""

    def __init__(self, advance: Advance, shards: int, debug: bool) -> None:
        self.advance, self.shards, self.debug = advance, shards, debug
        self.failures: list[Failed[int]] = []
        self.finished = self.bytes = 0
        self.episodes: Counter[str] = Counter()
        self.successes: Counter[str] = Counter()

    def take(self, event: Event[int, ShardReport]) -> None:
        """Count it in."""
        if isinstance(event, Advanced):
            self.advance(event.amount)
        elif isinstance(event, Finished):
            self.finished += 1
            self.bytes += event.result.bytes
            for label, (episodes, successes) in event.result.scores.items():
                self.episodes[label] += episodes
                self.successes[label] += successes
            self.advance(0, self.note())
        else:
            self.failures.append(event)
            traces = getattr(event.error, "__notes__", []) if self.debug else []
            print("\n".join([*traces, f"generate: {explain(event)}"]), file=sys.stderr, flush=True)
            self.advance(0, self.note())

    def note(self) -> str:
        """Shards, bytes, and the share of episodes that succeeded, by policy."""
        parts = [f"{self.finished}/{self.shards} shards", f"{self.bytes / 1e6:,.0f} MB"]
        parts += [f"{len(self.failures)} failed"] if self.failures else []
        parts += [f"{x} {self.successes[x] / n:.0%}" for x, n in sorted(self.episodes.items())]
        return ", ".join(parts)


def explain(failure: Failed[int]) -> str:
    """A failure in one line: the shard, the error, and the wave with its seed."""
    return f"shard {failure.item} failed {failure.attempts} times: {reason(failure.error)}"


def reason(error: BaseException) -> str:
    """An error in one line, with its notes but for a worker's traceback."""
    name = "" if isinstance(error, PalaestraError) else f"{type(error).__name__}: "
    notes = [note for note in getattr(error, "__notes__", []) if "\n" not in note]
    text = " ".join(str(error).split())
    return f"{name}{text}" + (f" ({'; '.join(notes)})" if notes else "")
