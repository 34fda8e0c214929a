"""Order is a pure function; the reader delivers exactly that, verified, at any world size."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.shards import order, storage
from palaestra.shards.batch import SegmentBatch
from palaestra.shards.cache import RangeCache
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from palaestra.shards.errors import (
    ConfigError,
    CorpusError,
    CorruptionError,
    SchemaMismatchError,
    StorageError,
    UnknownNameError,
)
from palaestra.shards.reader import Reader
from palaestra.shards.segments import Source, parse_where, split_by_match
from palaestra.shards.storage import ByteRange

MakeCorpus = Callable[..., Corpus]
MakeEpisode = Callable[..., Episode]


@given(
    st.integers(0, 10_000),
    st.integers(1, 2048),
    st.lists(st.integers(1, 1000), min_size=1, max_size=4),
)
def test_quotas_fill_every_batch_and_leave_no_gap(
    batch: int, size: int, weights: list[int]
) -> None:
    now = order.quotas(batch, size, tuple(weights))
    following = order.quotas(batch + 1, size, tuple(weights))
    assert sum(stop - start for start, stop in now) == size
    assert all(stop >= start for start, stop in now)
    assert [stop for _, stop in now] == [start for start, _ in following]
    whole = order.quotas(0, batch * sum(weights), tuple(weights))
    assert [stop for _, stop in whole] == [batch * weight for weight in weights]


@given(st.integers(1, 300), st.integers(1, 16), st.integers(0, 2**31), st.integers(0, 50))
def test_an_epoch_holds_every_segment_once_in_runs(
    count: int, run: int, seed: int, epoch: int
) -> None:
    found = order.stretch(epoch * count, (epoch + 1) * count, count, run, seed, 0)
    assert sorted(found.tolist()) == list(range(count))
    starts = found[np.flatnonzero(np.diff(found, prepend=-10) != 1)]
    assert (starts % run == 0).all()


@given(st.integers(1, 64), st.integers(1, 9), st.integers(1, 5))
def test_ranks_share_a_batch_without_overlap(size: int, world_size: int, micro: int) -> None:
    slots = np.concatenate(
        [order.rank_slice(size, r, world_size, micro) for r in range(world_size)]
    )
    real = slots[slots != order.PADDING]
    assert real.tolist() == list(range(size))
    assert len(slots) % (world_size * micro) == 0


def test_epochs_and_seeds_differ() -> None:
    orders = {
        order.stretch(100 * epoch, 100 * (epoch + 1), 100, 1, seed, source).tobytes()
        for seed in range(2) for epoch in range(2) for source in range(2)
    }  # fmt: skip
    assert len(orders) == 8


@pytest.fixture
def corpus(make_corpus: MakeCorpus, episode: MakeEpisode) -> Corpus:
    """Three shards of seven segments, of unequal length; some end for good."""

    def segment(number: int) -> Episode:
        ends = number % 3 == 0
        return episode(
            20 + number, number, policy="random" if number % 2 else "expert",
            terminated=ends, truncated=not ends,
        )  # fmt: skip

    return make_corpus([[segment(7 * shard + i) for i in range(7)] for shard in range(3)])


def reader(corpus: Corpus, **options: object) -> Reader:
    """A reader of the whole corpus in batches of eight."""
    settings: dict[str, object] = {"batch_size": 8, "micro_batch": 2, "seed": 5}
    return Reader([Source(corpus)], **(settings | options))  # type: ignore[arg-type]


def contents(batches: list[list[SegmentBatch]]) -> list[tuple[int, bytes, bytes, bytes]]:
    """(steps, state, action, pixels) of every real slot, in order."""
    found = []
    for micro_batches in batches:
        for batch in micro_batches:
            assert batch.pixels is not None
            for i, steps in enumerate(batch.steps):
                if steps:
                    arrays = (batch.state[i], batch.action[i], batch.pixels[i])
                    found.append((int(steps), *(a.tobytes() for a in arrays)))
    return found


def test_batches_hold_the_stored_arrays_and_padding_is_zero(
    corpus: Corpus, episode: MakeEpisode
) -> None:
    source = reader(corpus)
    (batches,) = source.batches(0, 1)
    keys = source.keys(0)
    for part, batch in enumerate(batches):
        for i in range(2):
            match = int(keys[2 * part + i].split("-")[0])
            stored = episode(20 + match, match)
            steps = int(batch.steps[i])
            assert steps == stored.steps
            for name in ("state", "action", "reward", "pixels"):
                array = getattr(batch, name)[i]
                assert np.array_equal(array[:steps], getattr(stored, name))
                assert not array[steps:].any()
            assert batch.terminated[i] == (match % 3 == 0)
            assert bytes(batch.instruction[i]).rstrip(b"\0").decode() == stored.instruction
            assert source.behaviours[batch.behaviour[i]] == ("random" if match % 2 else "expert")
            assert batch.valid[i].sum() == steps
    source.close()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_stream_is_the_same_for_any_ranks_and_threads(
    corpus: Corpus, world_size: int, threads: int
) -> None:
    alone = reader(corpus)
    expected = [contents([batch]) for batch in alone.batches(0, 6)]
    ranks = [
        reader(corpus, rank=r, world_size=world_size, threads=threads) for r in range(world_size)
    ]
    streams = [list(rank.batches(0, 6)) for rank in ranks]
    for number in range(6):
        together = [piece for stream in streams for piece in contents([stream[number]])]
        assert together == expected[number]
    valid = {rank.valid_steps(2) for rank in ranks}
    assert valid == {sum(steps for steps, *_ in expected[2])}


def test_resuming_anywhere_gives_the_rest_of_the_stream(corpus: Corpus) -> None:
    source = reader(corpus)
    whole = [contents([batch]) for batch in source.batches(0, 7)]
    assert [contents([batch]) for batch in reader(corpus).batches(4, 7)] == whole[4:]


def test_a_run_may_go_on_with_any_number_of_ranks(corpus: Corpus) -> None:
    """1 → 2 → 4 → 3 → 8 → 1 ranks, three batches each: delivered and hashed as by one."""
    alone = reader(corpus)
    whole = [contents([batch]) for batch in alone.batches(0, 18)]
    digests, value = [], 0
    for batch in range(18):
        value = alone.digest(batch, value)
        digests.append(value)
    cursor, resumed = 0, 0
    for world_size in (1, 2, 4, 3, 8, 1):
        ranks = [reader(corpus, rank=r, world_size=world_size) for r in range(world_size)]
        streams = [list(rank.batches(cursor, cursor + 3)) for rank in ranks]
        for number in range(3):
            found = [piece for stream in streams for piece in contents([stream[number]])]
            assert found == whole[cursor]
            resumed = ranks[-1].digest(cursor, resumed)
            assert resumed == digests[cursor]
            cursor += 1
        for rank in ranks:
            rank.close()


@pytest.mark.parametrize("read_ahead", [1, 1 << 14, 1 << 26])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_memory_in_flight_is_bounded(
    corpus: Corpus, read_ahead: int, prefetch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of storage, and not yet delivered: `read_ahead` and one global batch at most."""
    asked = [0]
    plain = storage.read_ranges

    def counted(ranges: Sequence[ByteRange]) -> list[bytes]:
        asked[0] += sum(r.stop - r.start for r in ranges)
        return plain(ranges)

    monkeypatch.setattr("palaestra.shards.fetch.storage.read_ranges", counted)
    source = reader(corpus, read_ahead=read_ahead, prefetch=prefetch)
    sizes = dict(corpus.select("key", "bytes").rows())
    shares = [sum(sizes[key] for key in source.keys(batch)) for batch in range(12)]
    delivered = 0
    for number, _ in enumerate(source.stream(0, 12)):
        assert asked[0] - delivered <= read_ahead + max(shares)
        batch, part = divmod(number, source.accumulation)
        keys = source.keys(batch)[part * 2 : part * 2 + 2]
        delivered += sum(sizes[key] for key in keys)
    assert asked[0] == delivered == sum(shares)


def test_a_filter_leaves_what_it_says(corpus: Corpus) -> None:
    where = parse_where("policy = 'random' and steps > 25")
    source = Reader([Source(corpus, where=where)], batch_size=4, micro_batch=4, seed=0)
    expected = corpus.index.filter((pl.col("policy") == "random") & (pl.col("steps") > 25))
    assert sorted(source.tables[0].key(n) for n in range(source.counts[0])) == sorted(
        expected["key"]
    )
    assert 0 < len(expected) < len(corpus.index)
    (batch,) = source.stream(0, 1)
    assert (batch.steps > 25).all()
    assert {source.behaviours[b] for b in batch.behaviour} == {"random"}
    nothing = Source(corpus, where=parse_where("level > 1"))
    with pytest.raises(CorpusError, match="no segment passes"):
        Reader([nothing], batch_size=4, micro_batch=4, seed=0)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("succes", UnknownNameError, "unknown column 'succes'; did you mean 'success'"),
        ("level", ConfigError, "expected a condition on a row, found Int32"),
        ("count(*) > 3", ConfigError, "expected a condition on a row"),
        ("level >", ConfigError, "unable to parse"),
        ("task = 3", ConfigError, "cannot compare"),
        ("success; drop", ConfigError, "invalid expression"),
        ("", ConfigError, "--where"),
    ],
)
def test_a_filter_that_is_none_is_refused(
    text: str, error: type[ConfigError], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        parse_where(text)
    assert "\n" not in str(caught.value)


def test_what_was_read_once_is_read_from_the_cache(corpus: Corpus, tmp_path: Path) -> None:
    cache = RangeCache(tmp_path / "cache", 1 << 24)
    whole = [contents([batch]) for batch in reader(corpus, cache=cache).batches(0, 4)]
    tars = {Path(corpus.tar_url(shard)): shard for shard in range(3)}
    for tar in tars:
        tar.rename(tar.with_suffix(".away"))
    assert [contents([b]) for b in reader(corpus, cache=cache).batches(0, 4)] == whole
    for tar in tars:
        tar.with_suffix(".away").rename(tar)
    for file in (tmp_path / "cache").iterdir():  # a disk that lies
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert [contents([b]) for b in reader(corpus, cache=cache).batches(0, 4)] == whole
    for tar in tars:
        tar.unlink()
    assert [contents([b]) for b in reader(corpus, cache=cache).batches(0, 4)] == whole


def test_bits_that_flip_on_the_way_are_read_again(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [contents([batch]) for batch in reader(corpus).batches(0, 3)]
    plain, calls = storage.read_ranges, [0]

    def flipping(ranges: Sequence[ByteRange]) -> list[bytes]:
        calls[0] += 1
        found = [bytearray(data) for data in plain(ranges)]
        if calls[0] == 2:
            found[0][700] ^= 4
        return [bytes(data) for data in found]

    monkeypatch.setattr("palaestra.shards.fetch.storage.read_ranges", flipping)
    assert [contents([batch]) for batch in reader(corpus).batches(0, 3)] == whole


def test_arrays_are_as_numpy_and_torch_want_them(corpus: Corpus) -> None:
    """Rows apart by a header's room, but aligned, writable, and contiguous each."""
    (batch,) = reader(corpus, micro_batch=8).stream(0, 1)
    for array in (batch.state, batch.action, batch.reward, batch.pixels):
        assert array is not None and array.flags.writeable and array.flags.aligned
        assert all(row.flags.c_contiguous for row in array)
        assert np.array_equal(torch.from_numpy(array).numpy(), array)


def test_every_segment_comes_once_an_epoch(corpus: Corpus) -> None:
    source = reader(corpus, batch_size=21, micro_batch=1)
    assert Counter(source.keys(0)) == Counter(corpus.index["key"].to_list())
    assert source.keys(0) != source.keys(1)


def test_the_digest_proves_the_order(corpus: Corpus) -> None:
    def digest(source: Reader, until: int) -> int:
        value = 0
        for batch in range(until):
            value = source.digest(batch, value)
        return value

    assert digest(reader(corpus), 5) == digest(reader(corpus, rank=1, world_size=2), 5)
    assert digest(reader(corpus), 5) != digest(reader(corpus, seed=6), 5)
    assert digest(reader(corpus), 4) != digest(reader(corpus), 5)


def test_weights_mix_corpora(corpus: Corpus, make_corpus: MakeCorpus, episode: MakeEpisode) -> None:
    other = make_corpus([[episode(9, 500 + i) for i in range(4)]], name="other")
    source = Reader([Source(corpus, 3), Source(other, 1)], batch_size=8, micro_batch=8, seed=0)
    for batch in range(5):
        others = sum(int(key.split("-")[0]) >= 500 for key in source.keys(batch))
        assert others == 2


def test_the_validation_split_is_by_match_and_complete(corpus: Corpus) -> None:
    training, held = split_by_match(0.3)
    kept, out = corpus.index.filter(training), corpus.index.filter(held)
    assert len(kept) + len(out) == len(corpus.index)
    assert not set(kept["match"]) & set(out["match"])
    assert 0 < len(out) < len(kept)


def test_a_flipped_bit_is_named(corpus: Corpus) -> None:
    tar = Path(corpus.tar_url(1))
    data = bytearray(tar.read_bytes())
    row = corpus.index.filter(shard=1).row(2, named=True)
    data[row["offset"] + row["bytes"] // 2] ^= 1
    tar.write_bytes(data)
    with pytest.raises(CorruptionError, match=row["key"]):
        list(reader(corpus, batch_size=21).batches(0, 1))


def test_a_truncated_or_missing_tar_is_named(corpus: Corpus) -> None:
    tar = Path(corpus.tar_url(2))
    data = tar.read_bytes()
    tar.write_bytes(data[: len(data) // 2])
    with pytest.raises(StorageError, match=r"shard-000002\.tar"):
        list(reader(corpus, batch_size=21).batches(0, 1))
    tar.unlink()
    with pytest.raises(StorageError, match=r"shard-000002\.tar: not found"):
        list(reader(corpus, batch_size=21).batches(0, 1))


def test_corpora_of_different_schemas_do_not_mix(corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(corpus.url, tmp_path / "other")
    schema = dataclasses.replace(corpus.schema, action_size=3)
    manifest = dataclasses.replace(corpus.manifest, schema=schema)
    other = Corpus(str(tmp_path / "other"), manifest)
    with pytest.raises(SchemaMismatchError, match="action_size"):
        Reader([Source(corpus), Source(other)], batch_size=4, micro_batch=4, seed=0)
