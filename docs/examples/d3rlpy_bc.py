"""Behaviour cloning or IQL of d3rlpy on one task of a corpus, from the state.

Run: python docs/examples/d3rlpy_bc.py CORPUS [--task reach] [--level 1] [--iql] [--updates 3000]
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import d3rlpy
import gymnasium
import numpy as np
import polars as pl
import structlog
from d3rlpy.algos import BCConfig, IQLConfig
from d3rlpy.dataset import MDPDataset
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.preprocessing import StandardObservationScaler
from numpy.typing import NDArray
from palaestra.generate.adapter import env_id
from palaestra.generate.registry import task_class
from palaestra.shards.codec import decode_array, sample_members
from palaestra.shards.corpus import Corpus
from palaestra.shards.storage import read_range

ARRAYS = ("state", "action", "reward")
Floats = NDArray[np.float32]


def read_steps(url: str, task: str, level: int, limit: int) -> Iterator[dict[str, Floats]]:
    """`state`, `action` and `reward` of the first episodes' segments, in order, and how each ends.

    An episode's segments share match and player. Pixels stay packed: of a sample only what is
    wanted is decompressed.
    """
    corpus, keys = Corpus.open(url), ("match", "player", "segment")
    wanted = (pl.col("task") == task) & (pl.col("level") == level)
    what = (*keys, "key", "shard", "offset", "bytes", "terminated", "truncated")
    rows = corpus.select(*what, where=wanted).sort(keys)
    rows = rows.filter(pl.struct("match", "player").rank("dense") <= limit)
    for row in rows.iter_rows(named=True):
        tar, key = corpus.tar_url(row["shard"]), row["key"]
        data = read_range(tar, row["offset"], row["offset"] + row["bytes"])
        members = sample_members(memoryview(data), key, tar)
        arrays = {n: decode_array(members[f"{n}.npy.zst"], f"{tar}: {key}.{n}") for n in ARRAYS}
        last = np.arange(len(arrays["reward"])) == len(arrays["reward"]) - 1
        ends = {name: (last & row[name]).astype(np.float32) for name in ("terminated", "truncated")}
        yield arrays | ends


def make_dataset(url: str, task: str, level: int, limit: int) -> MDPDataset:
    """The steps one after another; a time limit is a timeout, and not a terminal."""
    segments = list(read_steps(url, task, level, limit))
    whole = {name: np.concatenate([part[name] for part in segments]) for name in segments[0]}
    actions = whole["action"][:, : task_class(task).action_size]  # the rest are zero
    return MDPDataset(
        whole["state"], actions, whole["reward"], whole["terminated"], whole["truncated"]
    )


def make_learner(iql: bool) -> Any:
    """The algorithm, which sees normalised states."""
    scaler = StandardObservationScaler()
    if iql:
        return IQLConfig(observation_scaler=scaler).create(device="cpu")
    return BCConfig(batch_size=256, observation_scaler=scaler).create(device="cpu")


def success(learner: Any, task: str, level: int, episodes: int) -> float:
    """Share of new episodes, one a lane, that the learner's policy completes."""
    envs = gymnasium.make_vec(f"palaestra.generate.gym:{env_id(task, level)}", episodes)
    observation, _ = envs.reset(seed=1_000_000)
    ended, completed = np.zeros((2, episodes), bool)
    while not ended.all():
        action = learner.predict(observation)
        observation, _, terminated, truncated, info = envs.step(action)
        over = (terminated | truncated) & ~ended
        completed |= info["is_success"] & over
        ended |= over
    envs.close()
    return float(completed.mean())


def main(words: Sequence[str] | None = None) -> None:
    """Train, print the losses, then say how many episodes the policy completes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--task", default="reach")
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--limit", type=int, default=1000, help="episodes to learn from")
    parser.add_argument("--iql", action="store_true", help="implicit Q-learning instead of cloning")
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--every", type=int, default=500, help="updates between printed losses")
    parser.add_argument("--episodes", type=int, default=100, help="to test on")
    arguments = parser.parse_args(words)

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    dataset = make_dataset(arguments.corpus, arguments.task, arguments.level, arguments.limit)
    print(f"{dataset.size()} episodes, {dataset.transition_count:,} transitions")
    d3rlpy.seed(0)
    learner = make_learner(arguments.iql)
    for epoch, metrics in learner.fitter(
        dataset, arguments.updates, arguments.every, logger_adapter=NoopAdapterFactory(),
        show_progress=False,
    ):  # fmt: skip
        losses = {name: x for name, x in metrics.items() if name.endswith("loss")}
        text = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        print(f"update {epoch * arguments.every:,}: {text}")
    rate = success(learner, arguments.task, arguments.level, arguments.episodes)
    print(f"success {rate:.0%} of {arguments.episodes} episodes")


if __name__ == "__main__":
    main()
