"""Generate one shard, and a whole corpus with a pool of processes."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ..shards import storage
from ..shards.card import write_card
from ..shards.console import console, progress
from ..shards.corpus import Corpus, Manifest
from ..shards.errors import CorpusError
from ..shards.writer import ShardWriter
from . import raster
from .plan import MATCHES_PER_SHARD, Wave, episode_seed, plan
from .policies import make_policy
from .pool import check_workers, in_processes
from .recipe import Recipe
from .registry import held_out, task_class
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
    tasks = sorted({task for behaviour in recipe.behaviours for task in behaviour.tasks})
    ranges = [task_class(task).reward_range for task in tasks]
    reward_range = (min(low for low, _ in ranges), max(high for _, high in ranges))
    return Manifest(
        schema=make_schema(recipe.image_size, reward_range),
        recipe=recipe.to_json(),
        seed=recipe.seed,
        shards=len(plan(recipe)),
        versions=versions(),
        held_out=held_out(),
        horizons={task: task_class(task).horizon for task in tasks},
    )


def versions() -> dict[str, str]:
    """Everything that decides a shard's bytes: packages, the C library, CPU features."""
    packages = ("palaestra", "mujoco", "numpy", "numba", "polars", "pyarrow", "zstandard")
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


def versions_apart(recorded: Mapping[str, str], but: Collection[str] = ()) -> list[str]:
    """What decides bytes (but for some of it) and is not here as a manifest records it."""
    return [
        f"{name} {recorded.get(name) or 'unknown'} (here {found or 'unknown'})"
        for name, found in versions().items()
        if name not in but and recorded.get(name) != found
    ]


def write_shard(
    corpus: Corpus, recipe: Recipe, shard: int, on_step: Callable[[int], None] = lambda n: None
) -> ShardReport:
    """Play a shard's waves and commit it: the same bytes wherever it runs."""
    writer = play_shard(corpus, recipe, shard, on_step)
    writer.commit()
    ends = [row for row in writer.rows if row["terminated"] or row["truncated"]]
    return ShardReport(
        shard, sum(row["steps"] for row in writer.rows), len(ends),
        sum(row["success"] for row in ends), len(writer.tar.getbuffer()),
    )  # fmt: skip


def play_shard(
    corpus: Corpus, recipe: Recipe, shard: int, on_step: Callable[[int], None] = lambda n: None
) -> ShardWriter:
    """Play a shard's waves into memory."""
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
    return writer


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
        info, _ = corpus.read_index(shard)
    except CorpusError:
        return False
    return storage.size(corpus.tar_url(shard)) == info.tar_bytes


def generate(recipe: Recipe, url: str, workers: int | None = None) -> Corpus:
    """Generate what is missing of a recipe's corpus at `url`.

    Raises DifferentCorpusError when the destination holds anything else. Killed at any moment,
    it leaves whole shards only; the same call goes on.
    """
    check_workers(workers)
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
            write = partial(write_shard, corpus, recipe)
            for report in in_processes(write, missing, workers):
                done, successes = done + report.episodes, successes + report.successes
                advance(steps[report.shard], f"{successes / max(done, 1):.0%} success")
    if missing or not storage.exists(corpus.merged_url):
        write_card(corpus)
        corpus.write_merged()
    return Corpus.open(url)

