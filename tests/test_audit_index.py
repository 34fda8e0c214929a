"""The audit over many shards: read a few at a time, faults added up, none lost in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import RECIPE, SCHEMA, default_shards, make_episode
from palaestra.shards import index, storage
from palaestra.shards.audit import survey
from palaestra.shards.audit.audit import audit
from palaestra.shards.audit.report import GROUP
from palaestra.shards.audit.summary import finest, summarise
from palaestra.shards.audit.survey import ahead
from palaestra.shards.corpus import Corpus, Manifest
from palaestra.shards.writer import ShardWriter
from test_audit import FIRST, failed, put, rewrite

MakeCorpus = Callable[..., Corpus]
MANY = 2 * survey.SHARDS_AT_ONCE + 3  # shards: two whole parts and some


def test_faults_of_all_parts_are_counted_and_the_first_is_named(make_corpus: MakeCorpus) -> None:
    behaviours = RECIPE["behaviours"][1:]
    shards = [[make_episode(4, shard, policy="random")] for shard in range(MANY)]
    corpus = make_corpus(shards, steps=4 * MANY, behaviours=behaviours)
    report = audit(corpus)
    assert failed(report) == {}
    assert report.totals["segments"] == report.totals["shards"] == MANY
    assert report.totals["bytes"] == sum(f.stat().st_size for f in Path(corpus.url).glob("data/*"))

    last = MANY - 1
    rewrite(corpus, 5, put(FIRST, reward_max=2.0))
    rewrite(corpus, last, put(FIRST, reward_max=2.0, match=7, key="000000000007-0-00"))
    Path(corpus.tar_url(last)).write_bytes(b"")
    found = failed(audit(corpus))
    assert set(found) == {"shards", "rewards", "keys", "seeds"}
    assert found["rewards"] == f"sample 000000000005-0-00 leaves [0, 1] (2 of {MANY:,} in all)"
    assert found["keys"] == f"match 7 is in shard 7 and in shard {last}"
    assert found["seeds"] == "match 7: seed differs within the match"


@pytest.mark.parametrize("other", [1, survey.SHARDS_AT_ONCE + 1])
def test_a_match_in_two_shards_is_found_within_a_part_and_across(
    make_corpus: MakeCorpus, other: int
) -> None:
    shards = [[make_episode(4, shard)] for shard in range(other + 1)]
    twice = make_episode(4, 0, segment=1, final_state_xxh3=None)  # another key, so no key is twice
    found = failed(audit(make_corpus([*shards[:-1], [twice]])))
    assert found["keys"] == f"match 0 is in shard 0 and in shard {other}"
    assert "segments" in found


def merged_rows(corpus: Corpus) -> tuple[index.ShardInfo, pl.DataFrame]:
    where = corpus.merged_url
    return index.from_parquet(Path(where).read_bytes(), where)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda rows, info: (rows[:-1], info), "differs from the shards' indexes"),
        (lambda rows, info: (pl.concat([rows, rows[-1:]]), info), "differs from the shards'"),
        (lambda rows, info: (rows[::-1], info), "differs from the shards'"),
        (lambda rows, info: (put(FIRST, rating=0.5)(rows), info), "differs from the shards'"),
        (lambda rows, info: (rows, dataclasses.replace(info, moments=index.Moments())), "differs"),
        (lambda rows, info: (rows, dataclasses.replace(info, fingerprint="f")), "stale index"),
    ],
)  # fmt: skip
def test_the_merged_index_equals_the_shards(
    make_corpus: MakeCorpus, change: Callable[..., tuple[pl.DataFrame, index.ShardInfo]],
    finding: str,
) -> None:  # fmt: skip
    corpus = make_corpus()
    info, rows = merged_rows(corpus)
    changed, told = change(rows, info)
    groups = [changed[i : i + 3] for i in range(0, len(changed), 3)]  # other than the shards'
    Path(corpus.merged_url).write_bytes(index.to_parquet(groups, told))
    found = failed(audit(corpus))
    assert set(found) == {"merged index"}
    assert finding in found["merged index"]

    data = Path(corpus.merged_url).read_bytes()
    Path(corpus.merged_url).write_bytes(data[: len(data) // 2])
    assert "index.parquet: " in failed(audit(corpus))["merged index"]


def test_copies_are_found(make_corpus: MakeCorpus) -> None:
    """The same episode under another match and seed; the same bytes; the same arrays alone."""
    corpus = make_corpus()
    rewrite(corpus, 0, put(pl.col("match") == 1, final_state_xxh3=7))
    rewrite(corpus, 1, put(pl.col("match") == 11, final_state_xxh3=7))
    # both segments of each match now have the hash, as no index of ours would
    assert failed(audit(corpus)) == {"duplicates": "match 11 ends in the state of match 1"}

    same = make_corpus(name="bytes")
    rewrite(same, 0, put(pl.col("segment") == 1, xxh3=7))
    assert failed(audit(same)) == {
        "duplicates": "sample 000000000001-0-01 has the bytes of sample 000000000000-0-01"
    }

    shards = default_shards()
    shards[1][0] = dataclasses.replace(shards[0][0], match=10, seed=1010, policy="random")
    arrays = make_corpus(shards, name="arrays")
    assert failed(audit(arrays)) == {}
    assert failed(audit(arrays, deep=True)) == {
        "contents": "sample 000000000010-0-00 holds the arrays of sample 000000000000-0-00"
    }


def test_held_out_tasks_are_found(tmp_path: Path) -> None:
    def make(name: str, held: tuple[tuple[str, int], ...], **recipe: bool) -> Corpus:
        manifest = Manifest(SCHEMA, RECIPE | recipe, 3, 2, {}, held_out=held)
        corpus = Corpus.create(str(tmp_path / name), manifest)
        for shard, episodes in enumerate(default_shards()):
            writer = ShardWriter(corpus, shard)
            for episode in episodes:
                writer.add(episode)
            writer.commit()
        return corpus

    leak = failed(audit(make("leak", (("lever", 1), ("reach", 1)))))
    assert leak == {
        "held out": "holds reach level 1 (1,216 steps), which no training corpus may: heldout is "
        "not set in its recipe"
    }
    assert failed(audit(make("other level", (("lever", 1), ("reach", 2))))) == {}
    checks = audit(make("meant", (("reach", 1),), heldout=True)).checks
    (check,) = (check for check in checks if check.name == "held out")
    assert check.passed
    assert check.finding.startswith("for evaluation only, as its recipe says: holds reach level 1")


def test_a_remote_corpus_gives_the_same_report(make_corpus: MakeCorpus) -> None:
    local = make_corpus()
    storage.upload_folder(Path(local.url), "memory://audit/corpus")
    remote = audit(Corpus.open("memory://audit/corpus"), deep=True)
    here = audit(local, deep=True)
    assert remote.passed
    assert remote.to_json() | {"url": ""} == here.to_json() | {"url": ""}
    sampled = audit(Corpus.open("memory://audit/corpus"), sample=5).verified
    assert (sampled.segments, sampled.corrupt) == (5, 0)


def test_the_summary_by_hand() -> None:
    """Shares, quantiles and what they are by, of ten episodes in two groups."""
    count = 10
    first = pl.Series(range(count)) < 6
    episodes = pl.DataFrame({
        "task": "reach", "level": 1, "policy": pl.Series(["a"] * 6 + ["b"] * 4),
        "opponent": pl.Series(["x", "y"] * 5), "round": 0, "segments": 1,
        "steps": first.cast(pl.Int64) * 100 + 100, "bytes": 1000,
        "return": np.arange(10.0), "success": first, "completion_step": [7] * 6 + [None] * 4,
        "saturated": 10.0, "moving": 50, "repeated": 5,
    })  # fmt: skip
    a, b = summarise(episodes, ["policy"]).to_dicts()
    assert (a["episodes"], a["steps"], a["share"], b["share"]) == (6, 1200, 0.75, 0.25)
    assert (a["bytes_per_step"], b["bytes_per_step"]) == (5.0, 10.0)
    assert (a["return_min"], a["return_p50"], a["return_max"], b["return_p25"]) == (0, 2.5, 5, 6.75)
    assert (a["saturation"], b["saturation"], a["frozen"]) == (0.05, 0.1, 0.1)
    assert (a["completion_p50"], b["completion_p50"], b["success_rate"]) == (7, None, 0)
    assert len(summarise(episodes, GROUP)) == 4
    assert [finest(episodes, most)[1] for most in (4, 3, 1)] == [
        ["task", "level", "policy", "opponent"], ["task", "level", "policy"], ["task", "level"],
    ]  # fmt: skip


def test_the_next_item_is_made_ahead_and_errors_come_through() -> None:
    made = []

    def numbers() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number
        raise ValueError("the end")

    items = ahead(numbers())
    assert next(items) == 0
    assert next(items) == 1
    assert 1 in made
    with pytest.raises(ValueError, match="the end"):
        list(items)
