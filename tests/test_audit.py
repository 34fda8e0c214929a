"""The audit: a good corpus passes, and every planted fault fails exactly its check."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import default_shards, make_episode
from palaestra.shards import index
from palaestra.shards.audit.audit import audit
from palaestra.shards.audit.report import Report
from palaestra.shards.audit.terminal import print_report
from palaestra.shards.audit.verify import DEEP_CHECKS
from palaestra.shards.codec import decode_episode, decode_sample, encode_episode, tar_member
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import CorpusError, CorruptionError
from palaestra.shards.writer import ShardWriter

MakeCorpus = Callable[..., Corpus]
FIRST = pl.col("key") == pl.col("key").first()
CHECKS = (
    "complete", "shards", "strays", "merged index", "byte ranges", "steps", "mixture", "keys",
    "finite", "actions", "rewards", "frozen videos", "segments", "matches", "seeds", "duplicates",
    "held out",
)  # fmt: skip


def failed(report: Report) -> dict[str, str]:
    """Name → finding of the checks that failed."""
    return {check.name: check.finding for check in report.checks if check.passed is False}


def rewrite(
    corpus: Corpus, shard: int, change: Callable[[pl.DataFrame], pl.DataFrame], **info: Any
) -> None:
    """Plant a fault in a shard's index; the merged index goes, so that it does not differ."""
    path = Path(corpus.index_url(shard))
    data = path.read_bytes()
    known, rows = index.from_parquet(data, str(path))
    known = dataclasses.replace(known, **info)
    path.write_bytes(index.to_parquet([change(rows)], known))
    Path(corpus.merged_url).unlink(missing_ok=True)


def put(where: pl.Expr, **values: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Set columns to values where the condition holds."""
    columns = {
        name: pl.when(where).then(pl.lit(value, index.COLUMNS[name])).otherwise(pl.col(name))
        for name, value in values.items()
    }
    return lambda rows: rows.with_columns(**columns)


def test_a_good_corpus_passes(make_corpus: MakeCorpus) -> None:
    report = audit(make_corpus(), deep=True)
    assert failed(report) == {}
    assert tuple(check.name for check in report.checks) == CHECKS + DEEP_CHECKS
    assert all(check.passed for check in report.checks)
    assert report.totals["steps"] == 4 * 304
    assert report.totals["episodes"] == 4
    assert report.totals["segments"] == 8
    expert, noise = report.table.to_dicts()
    returns = [sum(float(e.reward.sum(dtype=float)) for e in pair) for pair in zip(
        *[iter(default_shards()[0])] * 2, strict=True
    )]  # fmt: skip
    assert expert["return_mean"] == pytest.approx(np.mean(returns))
    assert (expert["share"], expert["success_rate"]) == (0.5, 1.0)
    assert expert["return_min"] == pytest.approx(min(returns))
    assert expert["return_max"] == pytest.approx(max(returns))
    assert (expert["length_mean"], expert["length_p50"]) == (304, 304)
    assert expert["completion_p50"] == 280
    assert (noise["success_rate"], noise["completion_p50"]) == (0.0, None)
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["passed"] is True


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (put(FIRST, key="000000000007-0-00"), {"keys"}),
        (put(pl.col("match") == 1, match=0), {"keys", "segments", "seeds"}),
        (put(FIRST, state_nan=1), {"finite"}),
        (put(FIRST, state_max=float("inf")), {"finite"}),
        (put(FIRST, action_min=None), {"finite"}),
        (put(FIRST, action_min=-1.5), {"actions"}),
        (put(FIRST, reward_max=1.01), {"rewards"}),
        (put(FIRST, frozen_frames=231), {"frozen videos"}),
        (put(FIRST, frozen_frames=230), set()),
        (put(FIRST, frozen_frames=245, completion_step=20), set()),
        (put(FIRST, frozen_frames=255, completion_step=20), {"frozen videos"}),
        (put(pl.col("segment") == 1, frozen_frames=47, completion_step=200), set()),
        (put(FIRST, truncated=True), {"segments"}),
        (put(FIRST, steps=255), {"segments"}),
        (put(pl.col("segment") == 1, truncated=False), {"segments"}),
        (put(pl.col("segment") == 1, terminated=True), {"segments"}),
        (put(pl.col("segment") == 1, final_state_xxh3=None), {"segments"}),
        (put(pl.col("segment") == 1, segment=2), {"segments", "keys"}),
        (put(FIRST, policy="random", round=3), {"segments"}),
        (put(FIRST, rating=7.0), {"segments"}),
        (put(FIRST, outcome="draw"), {"segments", "matches"}),
        (put(pl.col("segment") == 1, outcome="draw"), {"segments"}),
        (put(pl.col("match") == 1, player=1, outcome="draw"), {"keys", "matches"}),
        (lambda rows: rows.filter(~FIRST), {"segments", "byte ranges"}),
        (put(pl.col("match") == 1, seed=1 << 63), {"seeds"}),
        (put(pl.col("match") == 1, seed=1000), {"seeds"}),
        (put(FIRST, seed=5), {"seeds"}),
        (put(FIRST, offset=512), {"byte ranges"}),
        (put(FIRST, shard=1), {"byte ranges"}),
        (put(pl.col("match") >= 0, policy="expert"), {"mixture"}),
        (put(pl.col("match") >= 0, policy="random"), set()),
        (put(pl.col("match") >= 0, task="push"), {"mixture"}),
    ],
)  # fmt: skip
def test_a_fault_in_the_index_fails_its_check(
    make_corpus: MakeCorpus, change: Callable[[pl.DataFrame], pl.DataFrame], checks: set[str]
) -> None:
    corpus = make_corpus()
    rewrite(corpus, 0, change)
    found = failed(audit(corpus))
    assert set(found) == checks
    assert not any("\n" in finding for finding in found.values())


def test_steps_and_mixture_follow_the_recipe(make_corpus: MakeCorpus) -> None:
    assert set(failed(audit(make_corpus(name="short", steps=1217)))) == {"steps"}
    waves = [
        [make_episode(256, 2 * i + j, policy="random" if i == 7 else "expert+noise0.3")
         for j in range(2)] for i in range(8)
    ]  # fmt: skip
    finding = failed(audit(make_corpus(waves, name="skew")))["mixture"]
    assert "87.5% of the steps, 50.0% in the recipe" in finding
    fall = [dataclasses.replace(e, terminated=True, truncated=False) for e in waves[7]]
    fall = [make_episode(9, e.match, policy="random", terminated=True, truncated=False)
            for e in fall]  # fmt: skip
    early = audit(make_corpus([waves[0], fall], name="early", steps=1024))
    assert failed(early) == {}
    assert "494 fewer by episodes that ended early" in early.checks[5].finding
    falls = [[make_episode(9, e.match, policy=e.policy, terminated=True, truncated=False)
              for e in wave] for wave in (waves[0], waves[7])]  # fmt: skip
    assert set(failed(audit(make_corpus(falls, name="all early", steps=1024)))) == {"steps"}
    told = make_corpus(falls, name="told", steps=1024, horizons={"reach": 256})
    assert failed(audit(told)) == {}
    damaged = make_corpus(name="damaged", behaviours=[{"tasks": ["reach"]}])
    with pytest.raises(CorpusError, match=r"corpus\.json: cannot read its recipe"):
        audit(damaged)


def test_frozen_videos_and_bad_numbers_are_found_in_what_was_written(
    make_corpus: MakeCorpus,
) -> None:
    still = np.zeros((256, 8, 8, 3), np.uint8)
    state = np.zeros((256, 5), np.float32)
    state[9, 2] = np.nan
    episodes = default_shards()
    episodes[0][0] = dataclasses.replace(
        episodes[0][0], pixels=still, state=state, action=np.full((256, 2), 2, np.float32),
        reward=np.full(256, -1, np.float32),
    )  # fmt: skip
    found = failed(audit(make_corpus(episodes), deep=True))
    assert set(found) == {"frozen videos", "finite", "actions", "rewards"}
    assert all("000000000000-0-00" in finding for finding in found.values())


def test_a_task_whose_videos_are_frozen_is_found_among_many(make_corpus: MakeCorpus) -> None:
    tasks = ["push"] * 20 + ["reach"] * 100
    corpus = make_corpus([[make_episode(256, i, task=task) for i, task in enumerate(tasks)]])
    rewrite(corpus, 0, put(pl.col("match").is_in([0, *range(20, 25)]), frozen_frames=255))
    assert "frozen videos" not in failed(audit(corpus))  # a twentieth of each
    rewrite(corpus, 0, put(pl.col("match") == 1, frozen_frames=255))
    assert "; push 1 has 10.0% of its own" in failed(audit(corpus))["frozen videos"]


def test_faults_in_files_fail_their_checks(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    merged, tar = Path(corpus.merged_url), Path(corpus.tar_url(1))
    whole = tar.read_bytes()

    tar.write_bytes(whole[:-700])
    assert set(failed(audit(corpus))) == {"shards"}
    tar.unlink()
    assert "found no file" in failed(audit(corpus))["shards"]
    tar.write_bytes(whole)

    stray = tar.with_name("shard-000002.tar")
    stray.write_bytes(whole)
    assert failed(audit(corpus)) == {
        "strays": "data/shard-000002.tar belongs to no complete shard"
    }
    stray.rename(tar.with_name(".shard-000002.tar.0f"))  # what kill -9 leaves: nobody reads it
    assert failed(audit(corpus)) == {}

    content = merged.read_bytes()
    rewrite(corpus, 0, put(pl.col("match") == 0, instruction="other"))
    merged.write_bytes(content)
    assert set(failed(audit(corpus))) == {"merged index"}


def test_an_unfinished_or_stale_corpus_is_told_apart(make_corpus: MakeCorpus) -> None:
    corpus, other = make_corpus(), make_corpus(name="other", steps=7)
    Path(corpus.merged_url).unlink()
    path = Path(corpus.index_url(1))
    path.unlink()
    report = audit(corpus)
    assert set(failed(report)) == {"complete", "strays"}
    assert "unfinished, next is shard 1" in failed(report)["complete"]
    assert [c.name for c in report.checks if c.passed is None] == ["steps", "mixture"]

    path.write_bytes(Path(other.index_url(1)).read_bytes())
    assert "stale index" in failed(audit(corpus))["shards"]
    path.write_bytes(b"PAR1")
    assert "damaged index" in failed(audit(corpus))["shards"]
    path.unlink()
    Path(corpus.index_url(0)).unlink()
    empty = audit(corpus, deep=True)
    assert set(failed(empty)) == {"complete", "strays"}
    print_report(empty)


def test_deep_finds_what_the_index_cannot_know(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    tar = Path(corpus.tar_url(0))
    whole = tar.read_bytes()

    for byte, deeper in ((40_000, {"decoding"}), (len(whole) - 1, set()), (200, {"decoding"})):
        damaged = bytearray(whole)
        damaged[byte] ^= 0x10
        tar.write_bytes(damaged)
        assert failed(audit(corpus)) == {}
        sample = {"segment checksums"} if deeper else set()
        found = failed(audit(corpus, deep=True))
        assert set(found) == {"tar checksums"} | sample | deeper
        assert all(str(tar) in finding for finding in found.values())
    tar.write_bytes(whole[:-62_000])
    assert set(failed(audit(corpus, deep=True))) == {"shards", *DEEP_CHECKS[:3]}
    tar.unlink()
    assert set(failed(audit(corpus, deep=True))) == {"shards", *DEEP_CHECKS[:3]}
    tar.write_bytes(whole)

    change = put(FIRST, **{"return": 1.0, "saturation": 0.25})
    rewrite(corpus, 0, change, moments=index.Moments())
    found = failed(audit(corpus, deep=True))
    assert set(found) == {"index values"}
    assert "sample 000000000000-0-00: return, saturation differ" in found["index values"]
    assert "(2 in all)" in found["index values"]
    rewrite(corpus, 0, put(FIRST, task="reach", round=3))
    assert "round differ" in failed(audit(corpus, deep=True))["index values"]


def test_deep_finds_samples_that_break_the_schema(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    loose = dataclasses.replace(corpus.schema, action_size=3)
    foreign = Corpus(corpus.url, dataclasses.replace(corpus.manifest, schema=loose))
    writer = ShardWriter(foreign, 0)
    for episode in default_shards()[0]:
        action = np.zeros((episode.steps, 3), np.float32)
        writer.add(dataclasses.replace(episode, action=action))
    writer.commit()
    rewrite(corpus, 0, lambda rows: rows, fingerprint=corpus.manifest.fingerprint)
    found = failed(audit(corpus, deep=True))
    assert set(found) == {"schema"}
    assert "action should be float32(256, 2), is float32(256, 3)" in found["schema"]


def test_a_sample_holds_its_own_members_once() -> None:
    episode = make_episode(3, 1)
    members = [tar_member(f"{episode.key}.{n}", m) for n, m in encode_episode(episode).items()]
    assert decode_sample(memoryview(b"".join(members)), episode.key, "x").match == 1
    for wrong in (members[:-1], [*members, members[0]]):
        with pytest.raises(CorruptionError, match="x: "):
            decode_sample(memoryview(b"".join(wrong)), episode.key, "x")
    with pytest.raises(CorruptionError, match="found member"):
        decode_sample(memoryview(b"".join(members)), "another", "x")
    with pytest.raises(CorruptionError, match="is missing"):
        decode_episode({}, "x")


def run_audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command."""
    words = [sys.executable, "-m", "palaestra.shards", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_exits_with_0_1_and_2(tmp_path: Path, make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    good = run_audit(corpus.url, "--deep", "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout) == audit(corpus, deep=True).to_json()

    Path(corpus.tar_url(1)).unlink()
    bad = run_audit(corpus.url)
    assert (bad.returncode, bad.stderr) == (1, "")
    line = next(line for line in bad.stdout.splitlines() if " shards " in line and "FAIL" in line)
    assert "expected" in line and "found no file" in line  # whole, though no terminal is this wide
    assert "expert+noise0.3" in bad.stdout and "50.0%" in bad.stdout

    nothing = run_audit(str(tmp_path / "nothing"), "--json")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr.startswith("audit: error: ") and nothing.stderr.count("\n") == 1
