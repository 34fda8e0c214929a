"""Simulate episodes of a corpus again from their seeds and stored actions, and compare."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from ..shards import storage
from ..shards.codec import decode_sample
from ..shards.console import Advance, no_progress
from ..shards.corpus import Corpus
from ..shards.episode import Episode
from ..shards.errors import ConfigError, CorpusError, CorruptionError, RolloutError
from ..shards.schema import SEGMENT_STEPS
from ..shards.storage import ByteRange
from .compare import Difference, compare
from .pool import in_processes
from .registry import check_level, task_class
from .replay_report import Outcome, Replay
from .rollout import Label, play
from .slots import make_schema
from .work import versions_apart
from .world import Observation, World

SAMPLE = 32  # matches
LANES = 32  # played in lockstep; at 64×64 pixels their frames take 100 MB stored and 100 MB played
STEPS_PER_WORKER = 1 << 17  # a process takes two seconds to start: it does not pay for fewer
STORED_ONLY = ("polars", "pyarrow", "zstandard")  # decide a file's bytes, not what is played
COLUMNS = (
    "key", "task", "level", "match", "player", "segment", "seed", "steps", "shard", "offset",
    "bytes", "xxh3", "terminated", "truncated",
)  # fmt: skip


def check_flags(sample: int | None, everything: bool, seed: int, repair: bool) -> int | None:
    """How many matches to draw, None for all; ConfigError for flags that do not go together."""
    if repair and (everything or sample is not None):
        raise ConfigError("--repair looks at every shard: --sample and --all are for replaying")
    if everything and sample is not None:
        raise ConfigError("--all replays every match, --sample some of them: choose one")
    if sample is not None and sample < 1:
        raise ConfigError(f"--sample should be positive, is {sample}")
    if not 0 <= seed < 1 << 64:
        raise ConfigError(f"--seed should be in [0, 2^64), is {seed}")
    return None if everything else sample or SAMPLE


def draw(corpus: Corpus, sample: int | None, seed: int = 0) -> tuple[pl.DataFrame, int]:
    """Index rows of `sample` matches, each equally likely, or of all; and how many there are."""
    matches = corpus.select("match")["match"].unique().sort()
    if sample is None or sample >= len(matches):
        return corpus.select(*COLUMNS), len(matches)
    rng = np.random.Generator(np.random.Philox(seed))
    chosen = matches.gather(rng.choice(len(matches), sample, replace=False))
    return corpus.select(*COLUMNS, where=pl.col("match").is_in(chosen.implode())), len(matches)


def replay(
    corpus: Corpus, rows: pl.DataFrame, total: int, workers: int | None = None,
    advance: Advance = no_progress,
) -> Replay:  # fmt: skip
    """Replay the episodes that were drawn, of `total` matches; `advance` is told of steps.

    Raises CorpusError for damaged or missing segments, ConfigError for a task that is not there,
    SchemaMismatchError for a corpus of another suite, StorageError for what cannot be read.
    """
    ours = make_schema(corpus.schema.image_size, corpus.schema.reward_range)
    ours.require_equal(corpus.schema, corpus.url)
    waves = list(make_waves(corpus.url, rows))
    one = partial(replay_wave, replace(corpus))  # a copy, without the index that this one has read
    fitting = 1 + int(rows["steps"].sum()) // STEPS_PER_WORKER
    count = min(len(waves), workers or min(len(os.sched_getaffinity(0)), fitting))
    outcomes: list[Outcome] = []
    for found in map(one, waves) if count == 1 else in_processes(one, waves, count):
        outcomes += found
        bad = sum(bool(outcome.differences) for outcome in outcomes)
        advance(sum(outcome.steps for outcome in found), f"{bad:,} differ" if bad else "")
    outcomes.sort(key=lambda outcome: (outcome.match, outcome.player))
    apart = versions_apart(corpus.manifest.versions, but=STORED_ONLY)
    return Replay(corpus.url, total, tuple(apart), tuple(outcomes))


def make_waves(url: str, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Rows to play in lockstep, of one task and level; `sim` numbers a wave's matches."""
    for (task, level), cell in rows.group_by("task", "level", maintain_order=True):
        cls = task_class(str(task), url)
        check_level(cls, int(str(level)), url)
        _check_whole(url, cell, cls.players)
        number = pl.col("match").rank("dense").cast(pl.Int64) - 1
        width = max(1, LANES // cls.players)
        numbered = cell.with_columns(sim=number % width, wave=number // width)
        yield from numbered.partition_by("wave", include_key=False, maintain_order=True)


def _check_whole(url: str, rows: pl.DataFrame, players: int) -> None:
    """Raise CorpusError unless all players of each match have all segments up to the end."""
    segment, player = pl.col("segment"), pl.col("player")
    lanes = rows.group_by("match", "player").agg(
        whole=(segment.max() + 1 == pl.len()) & (segment.n_unique() == pl.len())
        & (pl.col("terminated") | pl.col("truncated")).any()
    )  # fmt: skip
    matches = lanes.group_by("match").agg(
        whole=pl.col("whole").all() & (player.max() + 1 == players) & (pl.len() == players)
    )
    broken = matches.filter(~pl.col("whole"))["match"].sort()
    if len(broken):
        raise CorpusError(f"{url}: match {broken[0]}: its index lacks segments or players")


def replay_wave(corpus: Corpus, rows: pl.DataFrame) -> list[Outcome]:
    """Play a wave's matches again and compare every segment with what is stored."""
    task, level = rows.select("task", "level").row(0)
    lanes = rows.group_by("sim", "player").agg(pl.col("match", "seed").first(), pl.sum("steps"))
    lanes = lanes.sort("sim", "player")
    seeds = lanes.filter(pl.col("player") == 0)["seed"].to_list()
    renderer = corpus.manifest.recipe.get("renderer", "raster")
    world = World(task, level, len(seeds), image_size=corpus.schema.image_size, renderer=renderer)
    stored = Stored(corpus, rows)
    found: list[dict[str, Difference]] = [{} for _ in range(world.nlane)]
    for played in play(world, stored, seeds, Label("replay")):  # whose matches are simulations
        lane = played.match * world.task.players + played.player
        for difference in stored.compare(lane, played):
            before = found[lane].get(difference.what)
            found[lane][difference.what] = before.merged(difference) if before else difference
    columns = lanes.select("match", "player", "steps").iter_rows()
    return [
        Outcome(task, level, match, player, steps, tuple(sorted(f.values(), key=lambda d: d.step)))
        for (match, player, steps), f in zip(columns, found, strict=True)
    ]


class Stored:
    """A policy that repeats stored actions; it holds the segments that are being played."""

    def __init__(self, corpus: Corpus, rows: pl.DataFrame) -> None:
        self.corpus, self.rows = corpus, rows
        self.episodes: dict[int, Episode] = {}

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        self.world = world
        self.action = np.zeros((world.nlane, SEGMENT_STEPS, world.schema.action_size), np.float32)

    def act(self, observation: Observation) -> NDArray[np.float32]:
        segment, time = divmod(self.world.time, SEGMENT_STEPS)
        if time == 0:
            self._read(segment)
        return self.action[:, time]

    def _read(self, segment: int) -> None:
        rows = self.rows.filter(pl.col("segment") == segment)
        lanes = rows["sim"] * self.world.task.players + rows["player"]
        self.episodes = dict(zip(lanes, read_segments(self.corpus, rows), strict=True))
        self.action[:] = 0
        for lane, episode in self.episodes.items():
            # a world takes no others; what was changed here shows when actions are compared
            self.action[lane, : episode.steps] = np.clip(np.nan_to_num(episode.action), -1, 1)

    def compare(self, lane: int, played: Episode) -> Iterator[Difference]:
        """How a lane's segment that was just played differs from the stored one.

        There is none where the replay goes on beyond the stored end, which has differed by then.
        """
        if lane in self.episodes:
            yield from compare(self.episodes[lane], played, self.corpus.schema)


def read_segments(corpus: Corpus, rows: pl.DataFrame) -> list[Episode]:
    """The rows' segments; CorruptionError names one whose bytes or arrays are not as they were."""
    urls = [corpus.tar_url(shard) for shard in rows["shard"]]
    places = rows.select("offset", "bytes", "xxh3", "key").rows()
    wanted = [ByteRange(u, p[0], p[0] + p[1]) for u, p in zip(urls, places, strict=True)]
    found = []
    for url, (_, _, xxh3, key), data in zip(urls, places, storage.read_ranges(wanted), strict=True):
        if xxhash.xxh3_64_intdigest(data) != xxh3:
            fault = "checksum differs from its index; --repair makes its shard again"
            raise CorruptionError(f"{url}: sample {key}: {fault}")
        episode = decode_sample(memoryview(data), key, f"{url}: sample {key}")
        try:
            episode.validate(corpus.schema)
        except RolloutError as error:
            raise CorruptionError(f"{url}: {error}") from error
        found.append(episode)
    return found
