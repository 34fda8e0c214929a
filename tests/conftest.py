"""Synthetic corpora: small, exact, made without a simulator, so that a fault can be planted."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when datasets is imported: tests ask no server

import numpy as np
import pytest
from hypothesis import settings
from palaestra.shards.card import write_card
from palaestra.shards.corpus import Corpus, Manifest
from palaestra.shards.episode import Episode
from palaestra.shards.schema import Schema, Slot
from palaestra.shards.writer import ShardWriter

if TYPE_CHECKING:
    from fault_proxy import FaultProxy

# a deadline is a time limit, and machines are shared
settings.register_profile("palaestra", deadline=None)
settings.load_profile("palaestra")

SCHEMA = Schema(
    slots=(Slot("joint_positions", 3), Slot("goal", 2)),
    action_size=2, image_size=8, reward_range=(0.0, 1.0),
)  # fmt: skip
RECIPE: dict[str, Any] = {
    "name": "synthetic", "steps": 1216, "seed": 3, "shard_steps": 608, "wave": 2, "image_size": 8,
    "behaviours": [
        {"tasks": ["reach"], "levels": [1], "policy": "expert", "noise": 0.3, "weight": 0.5,
         "arguments": {}, "opponents": []},
        {"tasks": ["reach"], "levels": [1], "policy": "random", "noise": 0.0, "weight": 0.5,
         "arguments": {}, "opponents": []},
    ],
}  # fmt: skip


def make_episode(steps: int = 256, number: int = 0, **fields: Any) -> Episode:
    """A segment of SCHEMA with random arrays from `number`; `fields` replace its values."""
    rng = np.random.default_rng(number)
    size, reward = SCHEMA.image_size, rng.random(steps, np.float32)
    values: dict[str, Any] = {
        "task": "reach", "level": 1, "instruction": "touch the ball", "match": number, "player": 0,
        "segment": 0, "policy": "expert+noise0.3", "opponent": "", "rating": None,
        "opponent_rating": None, "sampling": "", "sampling_probability": None, "round": 0,
        "outcome": None, "seed": 1000 + number,
        "terminated": False, "truncated": True, "cause": "", "completion_step": None,
        "final_state_xxh3": (1 << 64) - 1 - number,
        "pixels": rng.integers(0, 256, (steps, size, size, 3), np.uint8),
        "state": rng.standard_normal((steps, SCHEMA.state_size), np.float32),
        "action": rng.uniform(-1, 1, (steps, SCHEMA.action_size)).astype(np.float32),
        "reward": reward, "success": (reward > 0.9).astype(np.uint8),
    }  # fmt: skip
    return Episode(**(values | fields))


def default_shards() -> list[list[Episode]]:
    """Two shards: in each a wave of two 304-step episodes, of one behaviour each."""
    shards = []
    for shard, policy in enumerate(("expert+noise0.3", "random")):
        episodes = []
        for match in (10 * shard, 10 * shard + 1):
            early = {"truncated": False, "final_state_xxh3": None}
            late = {"segment": 1, "completion_step": 280 if policy != "random" else None}
            episodes += [
                make_episode(256, match, policy=policy, **early),
                make_episode(48, match, policy=policy, **late),
            ]
        shards.append(episodes)
    return shards


@pytest.fixture(name="episode", scope="session")
def episode_factory() -> Callable[..., Episode]:
    """`make_episode`."""
    return make_episode


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Corpus]:
    """Writes a complete corpus of given shards, two by default, into `tmp_path`/corpus or `url`."""

    def make(
        shards: Iterable[Iterable[Episode]] | None = None, name: str = "corpus", url: str = "",
        horizons: dict[str, int] | None = None, **recipe: Any,
    ) -> Corpus:  # fmt: skip
        chosen = default_shards() if shards is None else [list(shard) for shard in shards]
        manifest = Manifest(
            SCHEMA, RECIPE | recipe, 3, len(chosen), {"palaestra": "test"}, horizons=horizons or {}
        )
        corpus = Corpus.create(url or str(tmp_path / name), manifest)
        for number, episodes in enumerate(chosen):
            writer = ShardWriter(corpus, number)
            for episode in episodes:
                writer.add(episode)
            writer.commit()
        write_card(corpus)
        corpus.write_merged()
        return Corpus.open(corpus.url)

    return make


@pytest.fixture(scope="session")
def store() -> Iterator[FaultProxy]:
    """A real object store behind a proxy that injects faults; for tests of the xdist group `s3`."""
    from s3_store import object_store

    with object_store() as proxy:
        yield proxy


@pytest.fixture
def bucket(store: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket in `store`, found by the AWS variables; faults end with the test."""
    from palaestra.shards.storage import filesystem
    from s3_store import environment

    for name, value in environment(store.url).items():
        monkeypatch.setenv(name, value)
    url = f"s3://test-{uuid.uuid4().hex}"
    fs, path = filesystem(url)
    fs.mkdir(path)
    yield url
    store.faults.clear()


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], str]:
    """The one line on stderr with which `train` exits 1, run in this process."""

    from palaestra.train.__main__ import main  # torch, which most tests do without

    def refused(arguments: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("train: error: ")
        return line

    return refused
