"""What a run reads of its corpora, by loss, filter and split."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from palaestra.shards.segments import Segments, load_segments
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.loss import LossConfig
from palaestra.train.sources import split_sources

EPISODES = 40


@pytest.fixture
def corpus(make_corpus: Callable[..., Corpus], episode: Callable[..., Episode]) -> Corpus:
    """Forty episodes; match m has the return 8 m / 40."""
    rewards = [np.full(8, match / EPISODES, np.float32) for match in range(EPISODES)]
    return make_corpus([[episode(8, m, reward=reward) for m, reward in enumerate(rewards)]])


def read(
    corpus: Corpus, policy: str, where: str = "", share: float = 0.3
) -> tuple[Segments, ...]:
    """What training and validation see of it."""
    preset = load_preset("tiny")
    config = TrainConfig(
        corpora=(corpus.url,), weights=(3,), preset="tiny", model=preset.model, inputs="state",
        updates=1, batch=4, peak_rate=1e-3, end_rate=1e-5, warm_up=1, precision="fp32",
        loss=LossConfig(policy=policy), where=where, validation_share=share,
    )  # fmt: skip
    sources = [source for part in split_sources(config, [corpus]) for source in part]
    assert {source.weight for source in sources} == {3}
    return tuple(load_segments(source) for source in sources)


@pytest.mark.parametrize("policy", ["binary", "bc", "exp"])
def test_other_losses_read_everything(corpus: Corpus, policy: str) -> None:
    training, held = read(corpus, policy)
    assert sorted((*training.match, *held.match)) == list(range(EPISODES))
    assert 0 < len(held) < len(training)
    assert training.top.all() and held.top.all()


def best(numbers: Iterable[int], share: float) -> list[int]:
    """The highest `share` of them: a match's return grows with its number."""
    ranked = sorted(numbers)
    return ranked[-max(1, round(share * len(ranked))) :]


@pytest.mark.parametrize("where", ["", "match < 30"])
def test_top_half_reads_everything_and_marks_the_better_half_of_each_part(
    corpus: Corpus, where: str
) -> None:
    for part, everything in zip(
        read(corpus, "top-half", where), read(corpus, "bc", where), strict=True
    ):
        assert part.match.tolist() == everything.match.tolist()
        assert sorted(part.match[part.top]) == best(everything.match, 0.5)


@pytest.mark.parametrize("where", ["", "match < 30"])
@pytest.mark.parametrize(("policy", "share"), [("top10", 0.1), ("top50", 0.5)])
def test_the_best_episodes_of_each_part_are_read_alone(
    corpus: Corpus, where: str, policy: str, share: float
) -> None:
    everything = read(corpus, "bc", where)
    for part, whole in zip(read(corpus, policy, where), everything, strict=True):
        assert sorted(part.match) == best(whole.match, share)


def test_without_validation_nothing_is_kept_for_it(corpus: Corpus) -> None:
    assert len(read(corpus, "top10", share=0)[0]) == 4
