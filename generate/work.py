"""One shard: what it is made with, and how it is played and written."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from ..shards import storage
from ..shards.corpus import Corpus, Manifest
from ..shards.episode import Episode
from ..shards.errors import CorpusError, PalaestraError, RolloutError
from ..shards.schema import Schema
from ..shards.writer import ShardWriter
from .plan import MATCHES_PER_SHARD, Wave, episode_seed, plan
from .players import Provenance, label_of, players_of, policy_of
from .recipe import Recipe
from .registry import held_out, task_class
from .rollout import Policy, play
from .slots import make_schema
from .world import World

TRIES = 16  # times as many episodes played as kept, before a policy is held to be unable

Tell = Callable[[int], None]


@dataclass(frozen=True)
class ShardReport:
    """What a worker says of a finished shard."""

    shard: int
    steps: int
    bytes: int
    scores: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Episodes and successes by policy."""


def manifest_of(recipe: Recipe, provenance: Provenance | None = None) -> Manifest:
    """The manifest of a resolved recipe's corpus, made on this machine."""
    provenance = provenance or Provenance()
    return Manifest(
        schema=schema_of(recipe),
        recipe=recipe.to_json(),
        seed=recipe.seed,
        shards=len(plan(recipe)),
        versions=versions() | provenance.versions,
        dependencies=provenance.dependencies,
        held_out=held_out(),
        horizons={task: task_class(task).horizon for task in _tasks(recipe)},
    )


def schema_of(recipe: Recipe) -> Schema:
    """What the samples of its corpus look like."""
    ranges = [task_class(task).reward_range for task in _tasks(recipe)]
    reward_range = (min(low for low, _ in ranges), max(high for _, high in ranges))
    return make_schema(recipe.image_size, reward_range)


def _tasks(recipe: Recipe) -> list[str]:
    return sorted({task for behaviour in recipe.behaviours for task in behaviour.tasks})


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
    corpus: Corpus, recipe: Recipe, shard: int, tell: Tell = lambda steps: None
) -> ShardReport:
    """Play a shard's waves and commit it: the same bytes wherever it runs."""
    writer = play_shard(corpus, recipe, shard, tell)
    writer.commit()
    scores: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for row in writer.rows:
        if row["terminated"] or row["truncated"]:
            episodes, successes = scores[row["policy"]]
            scores[row["policy"]] = episodes + 1, successes + row["success"]
    steps = sum(row["steps"] for row in writer.rows)
    return ShardReport(shard, steps, writer.tar.tell(), dict(scores))


def play_shard(
    corpus: Corpus, recipe: Recipe, shard: int, tell: Tell = lambda steps: None
) -> ShardWriter:
    """Play a shard's waves into memory; `tell` hears of steps, in all as many as are planned.

    Errors carry a note that names the wave. What a policy raises of its own becomes a RolloutError:
    it need not survive the way home from a worker, and an OSError is none of our storage.
    """
    writer = ShardWriter(corpus, shard)
    match = shard * MATCHES_PER_SHARD
    for wave in plan(recipe)[shard]:
        told = 0

        def on_step(lanes: int) -> None:
            nonlocal told
            told += lanes
            tell(lanes)

        try:
            match += play_wave(writer, recipe, wave, match, on_step)
        except PalaestraError as error:
            error.add_note(describe(recipe, wave, match))
            raise
        except Exception as error:
            failure = RolloutError(f"{type(error).__name__}: {error}")
            failure.add_note(describe(recipe, wave, match))
            raise failure from error
        tell(wave.steps - told)  # episodes may end early, and others are played and not kept
    return writer


def describe(recipe: Recipe, wave: Wave, match: int) -> str:
    """A wave in words, with the seed of its first match."""
    rival = f" against {wave.opponent}" if wave.opponent else ""
    seed = episode_seed(recipe.seed, match)
    return (
        f"{wave.task} level {wave.level}, {wave.behaviour.label}{rival}, {wave.nsim} matches from "
        f"{match}, whose seed is {seed}"
    )


def play_wave(
    writer: ShardWriter, recipe: Recipe, wave: Wave, first: int, on_step: Tell
) -> int:
    """Play a wave's matches, numbered from `first`, into the writer; how many were played.

    Where only successes are kept, more follow until there are as many of those as planned.
    """
    policy = policy_of(recipe, wave, writer.corpus.manifest.dependencies)
    if recipe.keep == "all":
        _play(writer, recipe, wave, first, policy, on_step)
        writer.end_wave()
        return wave.nsim
    # a learned policy's floats depend on the width; a script's do not
    scripted = all(player.scripted for player in players_of(recipe, wave))
    kept = played = 0
    while kept < wave.nsim:
        more = replace(wave, nsim=wave.nsim - kept) if scripted else wave
        good = _play(writer, recipe, more, first + played, policy, on_step)
        good = good[: wave.nsim - kept]
        writer.end_wave(good)
        kept, played = kept + len(good), played + more.nsim
        if kept < wave.nsim and played > TRIES * max(kept, 1):
            raise RolloutError(f"keep = 'success': {kept} of {played} matches succeeded")
    return played


def _play(
    writer: ShardWriter, recipe: Recipe, wave: Wave, first: int, policy: Policy, on_step: Tell
) -> list[int]:
    """Play matches into the writer; those that succeeded, in order."""
    world = World(
        wave.task, wave.level, wave.nsim, image_size=recipe.image_size, renderer=recipe.renderer
    )
    seeds = [episode_seed(recipe.seed, first + sim) for sim in range(wave.nsim)]
    good = set()
    for episode in play(world, policy, seeds, label_of(recipe, wave, first), on_step):
        writer.add(episode)
        if succeeded(episode):
            good.add(episode.match)
    return sorted(good)


def succeeded(episode: Episode) -> bool:
    """Whether it ends a match that somebody won, or an episode that was completed."""
    if not (episode.terminated or episode.truncated):
        return False
    return episode.completion_step is not None if not episode.opponent else episode.outcome == "win"


def is_complete(corpus: Corpus, shard: int) -> bool:
    """Whether the index of a shard is this corpus's, and its tar has the size that it says."""
    if not storage.exists(corpus.index_url(shard)):
        return False
    try:
        info, _ = corpus.read_index(shard)
    except CorpusError:
        return False
    return storage.size(corpus.tar_url(shard)) == info.tar_bytes
