"""Other people's learners on our environments and corpora: the examples, run small."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import polars as pl
import pytest
import torch
from palaestra.generate.gym import PalaestraEnv, PalaestraVectorEnv
from palaestra.shards.corpus import Corpus
from palaestra.shards.storage import join
from small_corpus import build

EXAMPLES = Path(__file__).parent.parent / "docs/examples"


def run(name: str, *words: str) -> list[str]:
    """The lines that an example prints; d3rlpy's notice of an old `gym` goes to stderr."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def names_of(name: str) -> dict[str, Any]:
    """What an example defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build(join(str(tmp_path_factory.mktemp("learners")), "corpus"))


# stable-baselines3


def test_ppo_trains_and_is_tested() -> None:
    words = ["--steps", "256", "--lanes", "2", "--rollout", "64", "--episodes", "3"]
    trained, tested = run("stable_baselines3_ppo", *words)
    assert trained == "256 steps in 10 epochs of updates"
    assert re.fullmatch(r"success \d+% of 3 episodes", tested)


def test_ppo_moves_every_weight() -> None:
    train = names_of("stable_baselines3_ppo")["train"]
    asked = {"task": "reach", "level": 1, "lanes": 2, "rollout": 64}
    weights = []
    for steps in (0, 128):
        policy, envs = train(Namespace(**asked, steps=steps))
        weights.append(policy.policy.state_dict())
        envs.close()
    before, after = weights
    assert before.keys() == after.keys() and len(before) > 10
    for name, weight in before.items():
        assert not torch.equal(weight, after[name]) and after[name].isfinite().all(), name


def test_its_lanes_are_what_single_environments_give_it() -> None:
    """To the last bit over episodes of five steps: observations, rewards, endings and the rest."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.wrappers.TimeLimit(PalaestraEnv("reach", 1), 5)

    vector = PalaestraVectorEnv("reach", 1, 3, max_episode_steps=5)
    lanes = names_of("stable_baselines3_ppo")["Lanes"](vector, seed=7)
    single = DummyVecEnv([make] * 3)
    single.seed(7)
    assert np.array_equal(lanes.reset(), single.reset())
    rng, endings = np.random.default_rng(0), 0
    for _ in range(12):
        action = rng.uniform(-1, 1, (3, 7)).astype(np.float32)
        *arrays, infos = lanes.step(action)
        *expected, told = single.step(action)
        for found, wanted in zip(arrays, expected, strict=True):
            assert np.array_equal(found, wanted)
        for info, other in zip(infos, told, strict=True):
            assert info["is_success"] == other["is_success"]
            assert ("terminal_observation" in info) == ("terminal_observation" in other)
            if "terminal_observation" in info:
                endings += 1
                assert np.array_equal(info["terminal_observation"], other["terminal_observation"])
                assert info["TimeLimit.truncated"] is other["TimeLimit.truncated"] is True
    assert endings == 6
    lanes.close()
    single.close()


# d3rlpy


def losses(lines: list[str], name: str) -> list[float]:
    return [float(x) for line in lines for x in re.findall(rf"\b{name} (-?\d+\.\d+)", line)]


def test_cloning_learns_from_a_corpus(corpus: Corpus) -> None:
    words = ["--updates", "60", "--every", "20", "--limit", "6", "--episodes", "2"]
    first, *updates, tested = run("d3rlpy_bc", corpus.url, *words)
    steps = 6 * 256
    assert first == f"6 episodes, {steps - 6:,} transitions"
    assert [line.partition(":")[0] for line in updates] == ["update 20", "update 40", "update 60"]
    found = losses(updates, "loss")
    assert len(found) == 3 and found[2] < found[1] < found[0]
    assert re.fullmatch(r"success \d+% of 2 episodes", tested)


def test_implicit_q_learning_does_too(corpus: Corpus) -> None:
    words = ["--iql", "--updates", "60", "--every", "20", "--limit", "6", "--episodes", "2"]
    _, *updates, tested = run("d3rlpy_bc", corpus.url, *words)
    assert len(updates) == 3 and tested.startswith("success ")
    actor = losses(updates, "actor_loss")
    assert len(actor) == 3 and actor[2] < actor[0]


@pytest.mark.parametrize("task", ["reach", "sumo", "tag"])
def test_the_dataset_holds_the_corpus(task: str, corpus: Corpus) -> None:
    """Endings and time limits where they belong, over episodes of several segments."""
    dataset = names_of("d3rlpy_bc")["make_dataset"](corpus.url, task, 1, 1000)
    rows = corpus.index.filter(task=task).sort("match", "player", "segment")
    episodes = rows.group_by("match", "player", maintain_order=True).agg(
        pl.col("steps", "return").sum(), pl.col("terminated", "segment").last()
    )
    assert len(dataset.episodes) == len(episodes) > 1
    assert (task == "tag") == (episodes["segment"].max() == 1)
    for episode, row in zip(dataset.episodes, episodes.iter_rows(named=True), strict=True):
        assert len(episode.rewards) == row["steps"]
        assert episode.rewards.sum(dtype=float) == pytest.approx(row["return"], abs=1e-4)
        assert bool(episode.terminated) == row["terminated"]
        assert episode.observations.shape == (row["steps"], corpus.schema.state_size)
    assert episodes["terminated"].any() == (task == "sumo")
