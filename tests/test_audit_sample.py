"""A sample of the segments: which are drawn, what is read of them, what it says of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pytest
from conftest import make_episode
from palaestra.shards.audit.audit import audit
from palaestra.shards.audit.report import Verified
from palaestra.shards.audit.sampling import choose, upper_bound
from palaestra.shards.audit.verify import DEEP_CHECKS, HEADERS
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import ARRAYS
from test_audit import failed

MakeCorpus = Callable[..., Corpus]


@pytest.mark.parametrize("sample", [1, 10, 300, 100_000])
def test_the_bound_of_a_clean_sample_is_the_closed_form(sample: int) -> None:
    assert upper_bound(0, sample) == pytest.approx(1 - 0.01 ** (1 / sample), rel=1e-6)
    assert upper_bound(0, sample, 0.95) == pytest.approx(1 - 0.05 ** (1 / sample), rel=1e-6)


@pytest.mark.parametrize(("bad", "sample"), [(1, 2), (1, 100), (7, 300), (299, 300), (40, 20_000)])
def test_the_bound_is_the_quantile_of_a_beta_distribution(bad: int, sample: int) -> None:
    """Clopper and Pearson's upper bound is the 99 % quantile of Beta(bad + 1, sample − bad)."""
    share = upper_bound(bad, sample)
    quantile = mpmath.betainc(bad + 1, sample - bad, 0, share, regularized=True)
    assert float(quantile) == pytest.approx(0.99, abs=1e-9)
    assert bad / sample < share < 1


def test_the_bound_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    assert upper_bound(5, 5) == 1.0
    for share in (0.003, 0.02):
        bounds = [upper_bound(int(bad), 200) for bad in rng.binomial(200, share, 2_000)]
        assert np.mean(np.array(bounds) >= share) >= 0.985


def test_every_segment_is_drawn_once_and_as_often_as_any_other() -> None:
    counts = {3: 5, 4: 0, 9: 20, 11: 1}
    assert {s: list(r) for s, r in choose(counts, 100, seed=0).items()} == {
        3: list(range(5)), 9: list(range(20)), 11: [0]
    }  # fmt: skip
    drawn = np.zeros(26)
    for seed in range(2_000):
        chosen = choose(counts, 7, seed)
        assert sum(map(len, chosen.values())) == 7
        for shard, rows in chosen.items():
            assert len(set(rows)) == len(rows)
            drawn[{3: 0, 9: 5, 11: 25}[shard] + rows] += 1
    mean, deviation = 2_000 * 7 / 26, math.sqrt(2_000 * 7 / 26 * 19 / 26)
    assert np.abs(drawn - mean).max() < 4.5 * deviation
    again = choose(counts, 7, seed=5)
    assert all((rows == again[shard]).all() for shard, rows in choose(counts, 7, 5).items())


def make_many(make_corpus: MakeCorpus) -> Corpus:
    return make_corpus([[make_episode(20, 4 * s + i) for i in range(4)] for s in range(6)])


def test_a_sample_verifies_what_it_draws(make_corpus: MakeCorpus) -> None:
    corpus = make_many(make_corpus)
    report = audit(corpus, sample=10, seed=2)
    names = [check.name for check in report.checks]
    assert names[-len(DEEP_CHECKS) :] == ["held out", *DEEP_CHECKS[1:]]
    assert failed(report).keys() <= {"steps", "mixture"}
    verified = report.verified
    assert (verified.mode, verified.segments, verified.corrupt) == ("sample", 10, 0)
    assert verified.bound == upper_bound(0, 10)
    assert verified.steps == 200
    assert set(verified.bytes_by_member) == {"json", *ARRAYS, HEADERS}
    assert verified.sentence(24) == (
        "verified by a sample: 0 of 10 segments are corrupt, "
        "so at 99% confidence fewer than 37% of all 24 are"
    )
    whole = audit(corpus, deep=True).verified
    assert sum(whole.bytes_by_member.values()) == corpus.index["bytes"].sum()
    assert audit(corpus, sample=24).verified == Verified(
        "sample", 24, 0, 0.0, whole.steps, whole.bytes_by_member
    )


def test_a_sample_finds_damage_where_it_looks(make_corpus: MakeCorpus) -> None:
    corpus = make_many(make_corpus)
    rows = corpus.index
    drawn = {
        int(row) + 4 * shard
        for shard, numbers in choose(dict.fromkeys(range(6), 4), 10, seed=2).items()
        for row in numbers
    }
    for number, row in enumerate(rows.iter_rows(named=True)):
        tar = Path(corpus.tar_url(row["shard"]))
        whole = tar.read_bytes()
        damaged = bytearray(whole)
        damaged[row["offset"] + row["bytes"] // 2] ^= 1
        tar.write_bytes(damaged)
        report = audit(corpus, sample=10, seed=2)
        assert report.verified.corrupt == (number in drawn)
        assert ("segment checksums" in failed(report)) == (number in drawn)
        if number in drawn:
            assert row["key"] in failed(report)["segment checksums"]
            assert report.verified.bound == upper_bound(1, 10)
        tar.write_bytes(whole)


def test_a_sample_survives_a_short_and_a_missing_tar(make_corpus: MakeCorpus) -> None:
    corpus = make_many(make_corpus)
    short, gone = Path(corpus.tar_url(1)), Path(corpus.tar_url(2))
    short.write_bytes(short.read_bytes()[: corpus.index["bytes"][4]])
    gone.unlink()
    report = audit(corpus, sample=24)
    assert report.verified.corrupt == 3 + 4
    assert failed(report)["segment checksums"].endswith("(7 in all)")
