"""Generate one shard, and a whole corpus with a pool of processes."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ..shards import storage
from ..shards.card import write_card
from ..shards.console import console, progress
from ..shards.corpus import Corpus, Manifest
from ..shards.errors import ConfigError, CorpusError, PalaestraError
from ..shards.writer import ShardWriter
from . import raster
from .plan import MATCHES_PER_SHARD, Wave, episode_seed, plan
from .policies import make_policy
from .recipe import Recipe
from .registry import task_class
from .rollout import Label, play
from .slots import make_schema
from .world import World


@dataclass(frozen=True)
class ShardReport:
    """What a worker says of a finished shard."""

    shard: int
    steps: int
    episodes: int
    successes: int
    bytes: int


def manifest_of(recipe: Recipe) -> Manifest:
    """The manifest of a recipe's corpus, made on this machine."""
    ranges = [task_class(t).reward_range for b in recipe.behaviours for t in b.tasks]
    reward_range = (min(low for low, _ in ranges), max(high for _, high in ranges))
    return Manifest(
        schema=make_schema(recipe.image_size, reward_range),
        recipe=recipe.to_json(),
        seed=recipe.seed,
        shards=len(plan(recipe)),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Everything that decides a shard's bytes: packages, the C library, CPU features."""
    packages = ("palaestra", "mujoco", "numpy", "numba", "zstandard")
    features = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        flags = next((x for x in info.read_text().splitlines() if x.startswith("flags")), "")
        known = ("sse4_2", "avx", "avx2", "fma", "avx512f")
        features = " ".join(flag for flag in known if flag in flags.split())
    return {name: version(name) for name in packages} | {
        "libc": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
        "cpu_features": features,
    }


def write_shard(
    corpus: Corpus, recipe: Recipe, shard: int, on_step: Callable[[int], None] = lambda n: None
) -> ShardReport:
    """Play a shard's waves and commit it: the same bytes wherever it runs."""
    writer = ShardWriter(corpus, shard)
    match = shard * MATCHES_PER_SHARD
    for wave in plan(recipe)[shard]:
        world = _world(wave, recipe.image_size)
        behaviour = wave.behaviour
        policy = make_policy(behaviour.policy, behaviour.noise, behaviour.arguments)
        seeds = [episode_seed(recipe.seed, match + sim) for sim in range(wave.nsim)]
        label = Label(behaviour.label, first_match=match)
        for episode in play(world, policy, seeds, label, on_step):
            writer.add(episode)
        match += wave.nsim
    writer.commit()
    ends = [row for row in writer.rows if row["terminated"] or row["truncated"]]
    return ShardReport(
        shard, sum(row["steps"] for row in writer.rows), len(ends),
        sum(row["success"] for row in ends), len(writer.tar.getbuffer()),
    )  # fmt: skip


_worlds: dict[tuple[str, int, int, int], World] = {}


def _world(wave: Wave, image_size: int) -> World:
    """A process keeps its worlds: compiling a model costs as much as a second of play."""
    key = (wave.task, wave.level, wave.nsim, image_size)
    if key not in _worlds:
        _worlds[key] = World(wave.task, wave.level, wave.nsim, image_size=image_size)
    return _worlds[key]


def is_complete(corpus: Corpus, shard: int) -> bool:
    """Whether the index of a shard is this corpus's, and its tar has the size that it says."""
    try:
        info = corpus.shard_info(shard)
    except CorpusError:
        return False
    return storage.size(corpus.tar_url(shard)) == info.tar_bytes


def generate(recipe: Recipe, url: str, workers: int | None = None) -> Corpus:
    """Generate what is missing of a recipe's corpus at `url`.

    Raises DifferentCorpusError when the destination holds anything else. Killed at any moment,
    it leaves whole shards only; the same call goes on.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers should be positive, is {workers}")
    for behaviour in recipe.behaviours:  # a name that does not import is found before any write
        make_policy(behaviour.policy, behaviour.noise, behaviour.arguments)
    corpus = Corpus.create(url, manifest_of(recipe))
    shards = plan(recipe)
    present = set(corpus.complete_shards())
    missing = [s for s in range(len(shards)) if s not in present or not is_complete(corpus, s)]
    steps = {shard: sum(wave.steps for wave in shards[shard]) for shard in missing}
    if present and missing:
        console.print(f"{len(shards) - len(missing)} of {len(shards)} shards are there already")
    if missing:
        raster.compile()  # once, before the workers start
        with progress("generate", sum(steps.values())) as advance:
            done = successes = 0
            for report in _run(corpus, recipe, missing, workers):
                done, successes = done + report.episodes, successes + report.successes
                advance(steps[report.shard], f"{successes / max(done, 1):.0%} success")
    if missing or not storage.exists(corpus.merged_url):
        write_card(corpus)
        corpus.write_merged()
    return Corpus.open(url)


def _run(
    corpus: Corpus, recipe: Recipe, shards: list[int], workers: int | None
) -> Iterator[ShardReport]:
    """Reports in order of completion, from processes of one thread each.

    Spawned, not forked: a forked child hangs in polars or in its parent's Batch.
    """
    count = min(len(shards), workers or len(os.sched_getaffinity(0)))
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        count, multiprocessing.get_context("spawn"), _start_worker, (Path.cwd(),)
    ) as pool:
        try:
            with _interrupts_held():
                waiting: set[Future[ShardReport]] = {
                    pool.submit(write_shard, corpus, recipe, shard) for shard in shards
                }
            while waiting:
                # without a timeout, ctrl-C was seen to wake this thread only when a shard ended
                finished, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BaseException as error:  # do not sit out the shards in progress
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise PalaestraError(
                    "a worker died, perhaps for want of memory; the same command goes on from "
                    "here, with fewer --workers if need be"
                ) from error
            raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold ctrl-C back: processes started meanwhile never see it, it is the parent's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _start_worker(folder: Path) -> None:
    """Relative URLs mean the same here as in the parent; without it there is no work."""
    os.chdir(folder)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
