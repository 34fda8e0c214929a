"""The best episodes of a corpus: read alone, or marked in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from palaestra.shards.reader import Reader
from palaestra.shards.returns import best_episodes
from palaestra.shards.segments import Source, load_segments

MakeCorpus = Callable[..., Corpus]
MakeEpisode = Callable[..., Episode]


def ranked(
    make_corpus: MakeCorpus, episode: MakeEpisode, returns: Sequence[Sequence[float]],
    first: int = 0, **fields: object,
) -> Corpus:  # fmt: skip
    """A corpus with an episode in two segments for each return; a shard for each list."""

    def segments(match: int, total: float) -> list[Episode]:
        # most of it in one segment or the other: neither's own return tells
        parts = (0.75 * total, 0.25 * total)[:: 1 if match % 2 else -1]
        return [
            episode(
                16, match, segment=i, truncated=i == 1, reward=np.full(16, r / 16, np.float32),
                **fields,
            )
            for i, r in enumerate(parts)
        ]  # fmt: skip

    numbers = iter(range(first, 1000))
    shards = [[s for r in shard for s in segments(next(numbers), r)] for shard in returns]
    return make_corpus(shards, name=f"ranked-{first}")


def matches_of(corpus: Corpus, where: pl.Expr) -> list[int]:
    """Matches whose every segment is read with this filter."""
    table = load_segments(Source(corpus, where=where))
    assert Counter(table.match.tolist()) == dict.fromkeys(table.match.tolist(), 2)
    return sorted(set(table.match.tolist()))


@pytest.mark.parametrize("merged", [True, False])
def test_the_best_episodes_are_those_with_the_highest_returns(
    make_corpus: MakeCorpus, episode: MakeEpisode, merged: bool
) -> None:
    returns = [[1.0, 9.0, 3.0, 5.0], [2.0, 8.0, 7.0, 4.0], [6.0, 0.5]]
    corpus = ranked(make_corpus, episode, returns)
    if not merged:
        Path(corpus.merged_url).unlink()
        corpus = Corpus.open(corpus.url)
    assert matches_of(corpus, best_episodes([corpus], 0.1)) == [1]
    assert matches_of(corpus, best_episodes([corpus], 0.3)) == [1, 5, 6]
    assert matches_of(corpus, best_episodes([corpus], 0.01)) == [1]  # one at least
    # of those that another filter leaves, whole episodes still
    where = pl.col("match") >= 2
    assert matches_of(corpus, where & best_episodes([corpus], 0.25, where)) == [5, 6]
    first = pl.col("segment") == 0
    best = load_segments(Source(corpus, where=first & best_episodes([corpus], 0.3, first)))
    assert sorted(best.match.tolist()) == [1, 5, 6]
    # an episode of which more segments are left counts once
    uneven = first | (pl.col("match") == 1)
    best = load_segments(Source(corpus, where=uneven & best_episodes([corpus], 0.2, uneven)))
    assert sorted(best.match.tolist()) == [1, 1, 5]


def test_the_best_are_found_over_all_corpora_and_within_their_kind(
    make_corpus: MakeCorpus, episode: MakeEpisode
) -> None:
    """Returns of another task, level, side or opponent do not compare."""
    one = ranked(make_corpus, episode, [[1.0, 2.0, 3.0]])
    other = ranked(make_corpus, episode, [[4.0]], 10)
    assert matches_of(one, best_episodes([one], 0.5)) == [1, 2]  # rounded to even
    both = best_episodes([one, other], 0.5)
    assert matches_of(one, both) == [2]
    assert matches_of(other, both) == [10]
    kinds: list[dict[str, object]] = [
        {"task": "push"}, {"level": 2}, {"player": 1}, {"opponent": "random"}
    ]  # fmt: skip
    for number, fields in enumerate(kinds, 2):
        easy = ranked(make_corpus, episode, [[7.0, 8.0]], 10 * number, **fields)
        best = best_episodes([one, easy], 0.3)
        assert matches_of(one, best) == [2]
        assert matches_of(easy, best) == [10 * number + 1]


def test_equals_of_the_last_one_chosen_are_chosen_too(
    make_corpus: MakeCorpus, episode: MakeEpisode
) -> None:
    corpus = ranked(make_corpus, episode, [[4.0, 2.0, 2.0, 2.0, 1.0]])
    assert matches_of(corpus, best_episodes([corpus], 0.4)) == [0, 1, 2, 3]


def test_what_is_marked_comes_with_the_batch(
    make_corpus: MakeCorpus, episode: MakeEpisode
) -> None:
    corpus = ranked(make_corpus, episode, [[1.0, 9.0], [3.0, 5.0]])
    some = Source(corpus, where=pl.col("match") != 0, top=best_episodes([corpus], 0.5))
    source = Reader([some], batch_size=8, micro_batch=4, seed=0)
    for number, micro_batches in enumerate(source.batches(0, 3)):
        matches = [int(key.split("-")[0]) for key in source.keys(number)]
        marked = [bool(top) for batch in micro_batches for top in batch.top]
        assert marked == [match in (1, 3) for match in matches]
        assert set(matches) == {1, 2, 3}
    (padded,) = Reader([some], batch_size=1, micro_batch=2, seed=0).stream(0, 1)
    assert not padded.top[1]
    (plain,) = Reader([Source(corpus)], batch_size=8, micro_batch=8, seed=0).stream(0, 1)
    assert plain.top.all()
    source.close()
