"""The fault contract on whole corpora: every fault is named, or makes no difference at all."""

from __future__ import annotations

import dataclasses
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xxhash
from conftest import RECIPE, SCHEMA, default_shards, make_episode
from faulty_filesystem import Script, register
from palaestra.shards import index, storage
from palaestra.shards.audit.audit import audit
from palaestra.shards.codec import encode_episode, tar_member
from palaestra.shards.corpus import Corpus, Manifest
from palaestra.shards.episode import Episode
from palaestra.shards.errors import PalaestraError, StorageError
from palaestra.shards.reader import Reader, Source
from palaestra.shards.writer import END_OF_TAR, ShardWriter

MakeCorpus = Callable[..., Corpus]
SHARD = r"shard-000001"
KEY = "000000000010-0-00"  # the first sample of shard 1


def read_all(url: str) -> list[bytes]:
    """Every array of one epoch, in the reader's order."""
    reader = Reader([Source(Corpus.open(url))], batch_size=8, micro_batch=4, seed=1)
    try:
        batches = [batch for parts in reader.batches(0, 1) for batch in parts]
    finally:
        reader.close()
    return [
        array.tobytes() for batch in batches for array in vars(batch).values() if array is not None
    ]


def audit_all(url: str) -> str:
    """What a deep audit finds wrong, or raises; empty if all is well."""
    try:
        report = audit(Corpus.open(url), deep=True)
    except PalaestraError as error:
        return str(error)
    return "; ".join(f"{c.name}: {c.finding}" for c in report.checks if c.passed is False)


def alter(url: str, change: Callable[[bytearray], bytes | bytearray]) -> None:
    """Change a file in place."""
    storage.write_bytes(url, bytes(change(bytearray(storage.read_bytes(url)))))


def flip(at: int) -> Callable[[bytearray], bytearray]:
    """Invert a bit."""

    def change(data: bytearray) -> bytearray:
        data[at] ^= 1
        return data

    return change


def sample(corpus: Corpus) -> dict[str, Any]:
    """Index row of the sample KEY."""
    return corpus.index.row(by_predicate=pl.col("key") == KEY, named=True)


def rewrite(corpus: Corpus, change: Callable[[Episode, dict[str, bytes]], Iterable[bytes]]) -> None:
    """Write shard 1 anew with right checksums throughout; `change` gives its samples' members."""
    tar, rows, moments = b"", [], index.Moments()
    for episode in default_shards()[1]:
        data = b"".join(change(episode, encode_episode(episode)))
        digest = xxhash.xxh3_64_intdigest(data)
        rows.append(index.row(episode, 1, len(tar), len(data), digest))
        moments.add(episode.state)
        tar += data
    tar += END_OF_TAR
    info = index.ShardInfo(
        corpus.manifest.fingerprint, len(tar), xxhash.xxh3_64_intdigest(tar), moments
    )
    storage.write_bytes(corpus.tar_url(1), tar)
    frame = pl.DataFrame(rows, schema=index.COLUMNS)
    storage.write_bytes(corpus.index_url(1), index.to_parquet([frame], info))
    corpus.write_merged()


def headed(episode: Episode, members: dict[str, bytes]) -> list[bytes]:
    """Whole members of a tar."""
    return [tar_member(f"{episode.key}.{name}", data) for name, data in members.items()]


def truncate_tar(corpus: Corpus) -> None:
    """An upload that ended early."""
    alter(corpus.tar_url(1), lambda data: data[: sample(corpus)["bytes"] // 2])


def damage_header(corpus: Corpus) -> None:
    """A bit of a member's size."""
    alter(corpus.tar_url(1), flip(sample(corpus)["offset"] + 130))


def write_damaged_header(corpus: Corpus) -> None:
    """The same by a writer whose checksums agree."""

    def change(episode: Episode, members: dict[str, bytes]) -> list[bytes]:
        first, *rest = headed(episode, members)
        return [bytes(flip(130)(bytearray(first))) if episode.key == KEY else first, *rest]

    rewrite(corpus, change)


def flip_payload(corpus: Corpus) -> None:
    """A bit in the middle of a sample."""
    row = sample(corpus)
    alter(corpus.tar_url(1), flip(row["offset"] + row["bytes"] // 2))


def write_without_member(corpus: Corpus) -> None:
    """A writer that forgot the actions of one sample."""

    def change(episode: Episode, members: dict[str, bytes]) -> list[bytes]:
        if episode.key == KEY:
            del members["action.npy.zst"]
        return headed(episode, members)

    rewrite(corpus, change)


def write_wrong_schema(corpus: Corpus) -> None:
    """Samples of one action more than corpus.json says."""

    def change(episode: Episode, members: dict[str, bytes]) -> list[bytes]:
        action = np.zeros((episode.steps, SCHEMA.action_size + 1), np.float32)
        return headed(episode, encode_episode(dataclasses.replace(episode, action=action)))

    rewrite(corpus, change)


def write_nan(corpus: Corpus) -> None:
    """A simulation that diverged, told as it is."""
    writer = ShardWriter(corpus, 1)
    for episode in default_shards()[1]:
        state = episode.state.copy()
        if episode.key == KEY:
            state[3, 1] = np.nan
        writer.add(dataclasses.replace(episode, state=state))
    writer.commit()
    corpus.write_merged()


def lose_tar(corpus: Corpus) -> None:
    """A shard's samples are gone."""
    storage.remove(corpus.tar_url(1))


def lose_indexes(corpus: Corpus) -> None:
    """All that says where samples lie is gone."""
    for url in (corpus.index_url(0), corpus.index_url(1), corpus.merged_url):
        storage.remove(url)


def rewrite_behind_the_index(corpus: Corpus) -> None:
    """Another shard in its place; the index is that of the old one."""
    old = storage.read_bytes(corpus.index_url(1))
    rewrite(corpus, lambda episode, members: headed(episode, members)[::-1])
    storage.write_bytes(corpus.index_url(1), old)
    corpus.write_merged()


def take_a_foreign_index(corpus: Corpus) -> None:
    """An index of another corpus."""
    manifest = Manifest(SCHEMA, RECIPE | {"name": "other"}, 3, 2, {"palaestra": "test"})
    other = ShardWriter(Corpus(corpus.url, manifest), 1)
    for episode in default_shards()[1]:
        other.add(episode)
    _, rows = other.finish()
    storage.write_bytes(corpus.index_url(1), rows)
    storage.remove(corpus.merged_url)


DAMAGE: dict[str, tuple[Callable[[Corpus], None], str, str]] = {
    "truncated tar": (truncate_tar, rf"{SHARD}\.tar: bytes", rf"{SHARD}\.tar: expected .* bytes"),
    "damaged header": (damage_header, f"{KEY}: checksum", KEY),
    "damaged header, checksums right": (write_damaged_header, KEY, KEY),
    "flipped bit": (flip_payload, f"{KEY}: checksum", KEY),
    "missing member": (write_without_member, f"{KEY}.*action", KEY),
    "wrong schema": (write_wrong_schema, rf"{SHARD}.*action.*expected", "action"),
    "NaN": (write_nan, KEY, f"finite: .*{KEY}"),
    "missing tar": (lose_tar, rf"{SHARD}\.tar: not found", rf"{SHARD}\.tar: .*no file"),
    "missing indexes": (lose_indexes, "no complete shard", "complete: 0 of 2"),
    "stale index": (rewrite_behind_the_index, f"{SHARD}.*checksum", SHARD),
    "foreign index": (take_a_foreign_index, rf"{SHARD}\.parquet: stale", f"{SHARD}.*stale index"),
}  # fmt: skip


def require_named(corpus: Corpus, damage: str) -> None:
    """Plant the damage; reader and audit both name the place."""
    plant, by_reader, by_audit = DAMAGE[damage]
    assert audit_all(corpus.url) == ""
    plant(corpus)
    with pytest.raises(PalaestraError, match=by_reader) as caught:
        read_all(corpus.url)
    assert corpus.url in str(caught.value) and "\n" not in str(caught.value)
    found = audit_all(corpus.url)
    assert pl.Series([found]).str.contains(by_audit).all(), found


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(make_corpus: MakeCorpus, damage: str) -> None:
    require_named(make_corpus(), damage)


@pytest.mark.xdist_group("s3")
@pytest.mark.parametrize("damage", ["truncated tar", "flipped bit", "missing tar", "foreign index"])
def test_damage_in_an_object_store_is_named(
    make_corpus: MakeCorpus, bucket: str, damage: str
) -> None:
    require_named(make_corpus(url=f"{bucket}/corpus"), damage)


def test_one_bit_anywhere_is_named_or_makes_no_difference(make_corpus: MakeCorpus) -> None:
    corpus, rng = make_corpus(), random.Random(0)
    files = sorted(path for path in Path(corpus.url).rglob("*") if path.is_file())
    expected, named = read_all(corpus.url), 0
    rows = {shard: corpus.read_index(shard)[1] for shard in (0, 1)}
    for path in 6 * files:
        whole = path.read_bytes()
        path.write_bytes(flip(rng.randrange(len(whole)))(bytearray(whole)))
        try:
            assert read_all(corpus.url) == expected, path
        except PalaestraError as error:
            assert corpus.url in str(error)
            named += 1
        if not audit_all(corpus.url):  # a bit of the card, or of what Parquet says beside the data
            assert all(corpus.read_index(shard)[1].equals(rows[shard]) for shard in rows), path
            assert path.suffix in (".md", ".parquet")
        path.write_bytes(whole)
    assert named > len(files)
    assert audit_all(corpus.url) == ""


def test_a_shard_without_its_index_does_not_count(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    expected = read_all(corpus.url)
    storage.remove(corpus.index_url(1))
    assert read_all(corpus.url) == expected  # by the merged index
    assert "complete: 1 of 2" in audit_all(corpus.url)
    storage.remove(corpus.merged_url)
    assert Corpus.open(corpus.url).complete_shards() == [0]


def test_a_full_disk_is_told_and_what_is_there_stays(
    tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    """A real limit on the size of files, in place of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match=r"shard-000000\.tar: .*File too large"):
            make_corpus()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    corpus = Corpus.open(str(tmp_path / "corpus"))
    assert corpus.complete_shards() == [] and storage.names(f"{corpus.url}/data") == []
    assert audit_all(make_corpus().url) == ""


@pytest.mark.parametrize("writes", range(5))
def test_a_store_that_is_full_is_told_and_what_is_there_stays(
    make_corpus: MakeCorpus, writes: int
) -> None:
    """At the n-th write: corpus.json, two shards' tars and indexes."""
    register()
    Script.clear()
    full = [OSError(28, "No space left on device")]
    Script.faults["pipe_file"] = [*[""] * writes, *full]
    with pytest.raises(StorageError, match=r"faulty://corpus/.*: .*No space left on device"):
        make_corpus(url="faulty://corpus")
    if writes:
        assert Corpus.open("faulty://corpus").complete_shards() == [0] * (writes > 2)
    finished = make_corpus(url="faulty://corpus")
    assert audit_all(finished.url) == ""
    assert read_all(finished.url) == read_all(make_corpus().url)
    Script.clear()


WRITE = """
import sys
sys.path.insert(0, sys.argv[2])
from test_chaos import interrupted_corpus, shard_writer
corpus = interrupted_corpus(sys.argv[1])
for shard in range(1000):
    if shard not in corpus.complete_shards():
        shard_writer(corpus, shard).commit()
        print("wrote one", flush=True)
"""


def interrupted_corpus(url: str) -> Corpus:
    """One of a thousand shards, which no writer of a fifth of a second completes."""
    return Corpus.create(url, Manifest(SCHEMA, RECIPE, 3, 1000, {"palaestra": "test"}))


def shard_writer(corpus: Corpus, shard: int) -> ShardWriter:
    """Two short episodes that no other shard has."""
    writer = ShardWriter(corpus, shard)
    for number in (2 * shard, 2 * shard + 1):
        writer.add(make_episode(40, number))
    return writer


def kill_writers(url: str, times: int, seed: int) -> Corpus:
    """Let processes write a shard of a corpus each, and kill -9 them at a random moment after."""
    rng = random.Random(seed)
    for _ in range(times):
        command = [sys.executable, "-c", WRITE, url, str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.2))
            writer.send_signal(signal.SIGKILL)
    return interrupted_corpus(url)


def require_whole(corpus: Corpus) -> None:
    """What counts as complete is the same, byte for byte, as if it had been left in peace."""
    assert len(corpus.complete_shards()) > 1
    for shard in corpus.complete_shards():
        found = [storage.read_bytes(url(shard)) for url in (corpus.tar_url, corpus.index_url)]
        assert found == list(shard_writer(corpus, shard).finish())
    bad = [check for check in audit(corpus, deep=True).checks if check.passed is False]
    assert {check.name for check in bad} <= {"complete", "strays"}, bad


def test_kill_9_leaves_whole_shards_only(tmp_path: Path) -> None:
    require_whole(kill_writers(str(tmp_path / "corpus"), times=4, seed=1))


@pytest.mark.xdist_group("s3")
def test_kill_9_leaves_whole_objects_only(bucket: str) -> None:
    require_whole(kill_writers(f"{bucket}/corpus", times=2, seed=2))
