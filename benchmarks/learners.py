"""Offline learners of d3rlpy on a corpus exported as a Minari dataset, played on our seeds.

One network of d3rlpy's defaults learns all tasks, as ours does: it sees the state and a one-hot
vector of task and level, where ours reads an instruction. It trains for a number of minutes of
this process's CPU time, reading the data left out, and plays every task and level as `evaluate`
would: the same worlds, seeds and records. One line of JSON tells what it took.

Run: python benchmarks/learners.py DATASET PLAYED --algorithm iql [--minutes 20] [--seed 0]
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import d3rlpy
import minari
import numpy as np
import structlog
import torch
import tyro
from d3rlpy.algos import BCConfig, IQLConfig, TD3PlusBCConfig
from d3rlpy.dataset import MDPDataset
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.preprocessing import StandardObservationScaler
from numpy.typing import NDArray
from palaestra.evaluate.episodes import frame_of, joined
from palaestra.evaluate.runs import evaluation_seeds, play_wave
from palaestra.generate.rollout import Observation
from palaestra.generate.world import World

ALGORITHMS = {"bc": BCConfig, "iql": IQLConfig, "td3+bc": TD3PlusBCConfig}
BATCH = 256  # transitions; the default of all but BC, whose is 100
EVERY = 250  # updates between two looks at the clock
Pair = tuple[str, int]
Floats = NDArray[np.float32]


def read_dataset(folder: Path) -> tuple[MDPDataset, list[Pair]]:
    """The transitions of a Minari dataset, states with a one-hot of (task, level), and the pairs.

    A time limit is a timeout, not a terminal. Entries of the state that never change are left in:
    the scaler makes them zero.
    """
    dataset = minari.MinariDataset(folder / "data")
    about = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
    pairs = sorted({(str(one["task"]), int(one["level"])) for one in about})
    columns: dict[str, list[Floats]] = {n: [] for n in ("state", "action", "reward", "end", "cut")}
    for one, episode in zip(about, dataset.iterate_episodes(), strict=True):
        states = episode.observations["state"][:-1]
        code = one_hot(pairs, (str(one["task"]), int(one["level"])), len(states))
        columns["state"].append(np.concatenate((states, code), axis=1))
        columns["action"].append(episode.actions)
        columns["reward"].append(episode.rewards.astype(np.float32))
        columns["end"].append(episode.terminations.astype(np.float32))
        columns["cut"].append(episode.truncations.astype(np.float32))
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    return MDPDataset(*whole.values()), pairs


def one_hot(pairs: Sequence[Pair], pair: Pair, rows: int) -> Floats:
    """(rows, pairs) with ones where `pair` is."""
    return np.tile(np.eye(len(pairs), dtype=np.float32)[pairs.index(pair)], (rows, 1))


def make_learner(algorithm: str) -> Any:
    """d3rlpy's defaults, normalised states."""
    config = ALGORITHMS[algorithm](
        batch_size=BATCH, observation_scaler=StandardObservationScaler()
    )
    return config.create(device="cpu:0")


def train(learner: Any, dataset: MDPDataset, minutes: float) -> int:
    """Update until so much CPU time is spent; returns the updates."""
    began, updates = time.process_time(), 0
    for _ in learner.fitter(
        dataset, 1 << 40, EVERY, logger_adapter=NoopAdapterFactory(), show_progress=False
    ):
        updates += EVERY
        if time.process_time() - began >= 60 * minutes:
            break
    return updates


class Player:
    """A learner's policy in our worlds."""

    def __init__(self, learner: Any, pairs: Sequence[Pair]) -> None:
        self.learner, self.pairs = learner, pairs

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        """Begin a wave."""
        self.code = one_hot(self.pairs, (world.task.name, world.task.level), world.nlane)

    def act(self, observation: Observation) -> Floats:
        """(nlane, action_size) actions without exploration, entries not used included."""
        seen = np.concatenate((observation.state, self.code), axis=1)
        action: Floats = np.clip(self.learner.predict(seen), -1.0, 1.0).astype(np.float32)
        return action


def main(
    dataset: Annotated[Path, tyro.conf.Positional], played: Annotated[Path, tyro.conf.Positional],
    algorithm: Literal["bc", "iql", "td3+bc"] = "iql", minutes: float = 20.0, seed: int = 0,
    runs: int = 100,
) -> None:  # fmt: skip
    """Train one learner and write what it played."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    torch.set_num_threads(1)
    steps, pairs = read_dataset(dataset)
    d3rlpy.seed(seed)
    learner, began = make_learner(algorithm), time.process_time()
    updates = train(learner, steps, minutes)
    spent = time.process_time() - began
    player, seeds = Player(learner, pairs), evaluation_seeds(0, runs)
    frames = [
        frame_of(play_wave(player, World(*pair, runs, pixels=False), seeds), algorithm, "", 0)
        for pair in pairs
    ]
    joined(frames).write_parquet(played)
    print(json.dumps({"cpu_s": round(spent, 1), "updates": updates}))


if __name__ == "__main__":
    tyro.cli(main)
