"""The corpus on disk: exact round trips, foreign readers, planted damage, refused destinations."""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import SCHEMA, make_episode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from palaestra.shards.codec import (
    decode,
    decode_array,
    decode_episode,
    encode_array,
    encode_episode,
    split_members,
    tar_member,
)
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import ARRAYS, Episode
from palaestra.shards.errors import (
    CorpusError,
    CorruptionError,
    DifferentCorpusError,
    NotACorpusError,
    PalaestraError,
    RolloutError,
    StorageError,
    VersionError,
)

MakeCorpus = Callable[..., Corpus]
FIELDS = [field.name for field in dataclasses.fields(Episode) if field.name not in ARRAYS]


def require_equal(found: Episode, expected: Episode) -> None:
    """Same fields, same arrays to the last bit."""
    for name in FIELDS:
        assert getattr(found, name) == getattr(expected, name), name
    for name in ARRAYS:
        a, b = getattr(found, name), getattr(expected, name)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name


def sample_bytes(episode: Episode) -> bytes:
    """A sample as it lies in a tar."""
    members = encode_episode(episode).items()
    return b"".join(tar_member(f"{episode.key}.{name}", data) for name, data in members)


def read_sample(data: bytes) -> Episode:
    """What a strict reader makes of a sample's bytes."""
    members = {n.partition(".")[2]: m for n, m in split_members(memoryview(data), "a.tar")}
    return decode_episode(members, "a.tar: sample")


@pytest.mark.parametrize(
    "episode",
    [
        make_episode(256, 1),
        make_episode(1, 2, terminated=True, truncated=False, cause="fell", completion_step=0),
        make_episode(7, 3, player=1, segment=3, opponent="elder", rating=1500.0,
                     opponent_rating=-12.25, round=4, instruction="touch the bäll",
                     seed=(1 << 63) - 1, truncated=False, final_state_xxh3=None),
        make_episode(2, 4, state=np.full((2, SCHEMA.state_size), np.nan, np.float32)),
    ],
    ids=["full", "one step", "two players", "nan"],
)  # fmt: skip
def test_episode_round_trip(episode: Episode) -> None:
    data = sample_bytes(episode)
    require_equal(read_sample(data), episode)
    assert list(encode_episode(episode))[-1] == "pixels.npy.zst"
    assert sample_bytes(episode) == data


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.dtype(d) for d in ("f4", "u1", "i8", "f8", "bool")]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    )
)
def test_array_round_trip(array: np.ndarray[Any, Any]) -> None:
    found = decode_array(encode_array(array), "x")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


FRAME = encode_array(np.arange(300, dtype=np.float32))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(FRAME) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_detected_or_harmless(byte: int, bit: int) -> None:
    data = bytearray(FRAME)
    data[byte] ^= 1 << bit
    try:
        found = decode_array(bytes(data), "here", max_bytes=1 << 16)
    except CorruptionError as error:
        assert "here" in str(error)
    else:
        assert found.tobytes() == np.arange(300, dtype=np.float32).tobytes()


def test_a_pickle_or_an_oversized_frame_is_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    import zstandard

    with pytest.raises(CorruptionError, match="here"):
        decode_array(zstandard.compress(buffer.getvalue()), "here")
    with pytest.raises(CorruptionError, match="at most 100"):
        decode_array(FRAME, "here", max_bytes=100)


def test_the_same_episodes_give_the_same_bytes(make_corpus: MakeCorpus) -> None:
    first, second = make_corpus(name="first"), make_corpus(name="second")
    assert list(snapshot(Path(first.url)).values()) == list(snapshot(Path(second.url)).values())


def test_tarfile_reads_a_shard_and_the_index_finds_its_samples(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus([[make_episode(5, i) for i in range(3)]])
    path = Path(corpus.tar_url(0))
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}
        assert len(members) == 3 * (1 + len(ARRAYS))
        content = {m.name: tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]
    for row in corpus.index.iter_rows(named=True):
        expected = make_episode(5, row["match"])
        data = path.read_bytes()[row["offset"] : row["offset"] + row["bytes"]]
        require_equal(read_sample(data), expected)
        own = {n.partition(".")[2]: d for n, d in content.items() if n.startswith(row["key"])}
        require_equal(decode_episode(own, "tarfile"), expected)


@pytest.fixture
def mixed(make_corpus: MakeCorpus) -> tuple[Corpus, dict[str, Episode]]:
    """A shard whose first samples have null where a late one has a value."""
    plain: dict[str, Any] = {"truncated": False, "final_state_xxh3": None}
    episodes = [make_episode(5 + i, i, **plain) for i in range(6)]
    episodes.append(make_episode(9, 6, completion_step=3, rating=1.5))
    return make_corpus([episodes]), {episode.key: episode for episode in episodes}


# webdataset leaves closing the tar to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_a_shard(mixed: tuple[Corpus, dict[str, Episode]]) -> None:
    import webdataset

    corpus, episodes = mixed
    dataset = webdataset.WebDataset(corpus.tar_url(0), shardshuffle=False).decode(decode)
    samples = list(dataset)
    del dataset
    gc.collect()
    assert [sample["__key__"] for sample in samples] == list(episodes)
    for sample in samples:
        episode = episodes[sample["__key__"]]
        assert sample["json"]["seed"] == episode.seed
        assert sample["json"]["instruction"] == episode.instruction
        for name in ARRAYS:
            array = sample[f"{name}.npy.zst"]
            assert array.dtype == getattr(episode, name).dtype
            np.testing.assert_array_equal(array, getattr(episode, name))


def load(tmp_path: Path, *args: Any, **kwargs: Any) -> Any:
    """`datasets.load_dataset`, offline, with its cache in `tmp_path`."""
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(
        *args, split="train", cache_dir=str(tmp_path / "cache"), **kwargs
    )  # fmt: skip


def test_datasets_streams_bare_tars(
    tmp_path: Path, mixed: tuple[Corpus, dict[str, Episode]]
) -> None:
    corpus, episodes = mixed
    files = f"{corpus.url}/data/*.tar"
    samples = list(load(tmp_path, "webdataset", data_files=files, streaming=True))
    check_samples(samples, episodes)


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_honours_the_card(
    tmp_path: Path, mixed: tuple[Corpus, dict[str, Episode]], streaming: bool
) -> None:
    corpus, episodes = mixed
    dataset = load(tmp_path, corpus.url, streaming=streaming)
    assert str(dataset.features["pixels.npy.zst"].dtype) == "uint8"
    check_samples(list(dataset), episodes)
    if streaming:
        pixels = next(iter(dataset))["pixels.npy.zst"]
        assert isinstance(pixels, np.ndarray)
        assert pixels.dtype == np.uint8
        as_numpy = next(iter(dataset.with_format("numpy")))
        assert as_numpy["state.npy.zst"].dtype == np.float32  # but datasets widens integers
        np.testing.assert_array_equal(as_numpy["pixels.npy.zst"], pixels)
    else:
        sample = dataset.with_format("numpy", dtype=None)[0]  # what the card advises
        for name in ARRAYS:
            expected = getattr(episodes[str(sample["__key__"])], name)
            assert sample[f"{name}.npy.zst"].dtype == expected.dtype


def check_samples(samples: list[dict[str, Any]], episodes: dict[str, Episode]) -> None:
    """Every value of `datasets` samples is the episode's."""
    assert [sample["__key__"] for sample in samples] == list(episodes)
    for sample in samples:
        episode, fields = episodes[sample["__key__"]], sample["json"]
        for name in sorted(set(FIELDS) - {"final_state_xxh3"}):
            assert fields[name] == getattr(episode, name), name
        state = fields["final_state_xxh3"]
        assert (int(state, 16) if state else None) == episode.final_state_xxh3
        for name in ARRAYS:
            np.testing.assert_array_equal(
                np.asarray(sample[f"{name}.npy.zst"], getattr(episode, name).dtype),
                getattr(episode, name),
            )


DATA = sample_bytes(make_episode(4, 5))
SECOND_HEADER = 1024  # the json fits one block of the tar


@pytest.mark.parametrize(
    ("damaged", "place"),
    [
        (DATA[:150] + b"\x07" + DATA[151:], "header at byte 0"),
        (DATA[:SECOND_HEADER] + b"x" + DATA[SECOND_HEADER + 1 :], f"byte {SECOND_HEADER}"),
        (DATA[:-900], "cut short"),
        (DATA[:SECOND_HEADER], "member or field 'action.npy.zst' is missing"),
        (DATA[:530] + b"\xff" + DATA[531:], "sample.json"),
        (DATA[:512] + b"[" + DATA[513:], "sample.json"),
        (DATA.replace(b'"cause"', b'"carse"'), "'cause' is missing"),
        (DATA[:SECOND_HEADER + 540] + b"\xff\xff" + DATA[SECOND_HEADER + 542 :], "sample.action"),
    ],
    ids=["header", "second header", "truncated", "missing member", "json bytes", "json syntax",
         "json field", "payload"],
)  # fmt: skip
def test_damage_is_named(damaged: bytes, place: str) -> None:
    assert read_sample(DATA).match == 5
    with pytest.raises(CorruptionError, match=r"a\.tar") as caught:
        read_sample(damaged)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [{"action": np.zeros((4, 3), np.float32)}, {"pixels": np.zeros((4, 8, 8, 3), np.float32)},
     {"reward": np.zeros(3, np.float32)}, {"terminated": True}, {"instruction": "ä" * 33}],
    ids=["shape", "dtype", "length", "both ends", "instruction"],
)  # fmt: skip
def test_the_writer_refuses_what_breaks_the_schema(fields: dict[str, Any]) -> None:
    episode = make_episode(4, 5, **fields)
    with pytest.raises(RolloutError, match=episode.key):
        episode.validate(SCHEMA)


def _edit_manifest(url: str, **changes: Any) -> None:
    path = Path(url, "corpus.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"schema": SCHEMA.to_json() | {"version": 2}}, VersionError),
        ({"schema": []}, CorpusError),
        ({"schema": SCHEMA.to_json() | {"slots": [1]}}, CorpusError),
        ({"seed": "x"}, CorpusError),
        ({"format": "tar"}, NotACorpusError),
    ],
)
def test_a_foreign_manifest_is_one_line(
    make_corpus: MakeCorpus, changes: dict[str, Any], error: type[Exception]
) -> None:
    corpus = make_corpus()
    _edit_manifest(corpus.url, **changes)
    with pytest.raises(error, match=r"corpus\.json") as caught:
        Corpus.open(corpus.url)
    assert "\n" not in str(caught.value)


def test_opening_what_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(NotACorpusError, match="nothing there"):
        Corpus.open(str(tmp_path / "missing"))
    with pytest.raises(NotACorpusError, match="an empty folder"):
        Corpus.open(str(tmp_path))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(NotACorpusError, match=r"notes\.txt"):
        Corpus.open(str(tmp_path))
    for text in ("{", "\xff", ""):
        (tmp_path / "corpus.json").write_text(text, encoding="latin-1")
        with pytest.raises(StorageError, match=r"corpus\.json: not JSON"):
            Corpus.open(str(tmp_path))
    with pytest.raises(PalaestraError, match="no-such-protocol"):
        Corpus.open("no-such-protocol://x")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_create_goes_on_with_the_same_corpus_only(
    tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    corpus = make_corpus()
    before = snapshot(tmp_path)
    assert Corpus.create(corpus.url, corpus.manifest) == corpus
    recipe = corpus.manifest.recipe
    for change in (
        {"seed": 4}, {"shards": 9}, {"versions": {}}, {"recipe": recipe | {"steps": 1}},
        {"schema": dataclasses.replace(SCHEMA, action_size=3)},
    ):  # fmt: skip
        other = dataclasses.replace(corpus.manifest, **change)
        with pytest.raises(DifferentCorpusError, match=corpus.url):
            Corpus.create(corpus.url, other)
    assert snapshot(tmp_path) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(DifferentCorpusError, match=r"notes\.txt"):
        Corpus.create(str(foreign), corpus.manifest)
    assert [p.name for p in foreign.iterdir()] == ["notes.txt"]


def test_the_index_is_the_same_merged_or_not(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    states = np.concatenate([make_episode(n, s).state for s in (0, 1, 10, 11) for n in (256, 48)])
    mean, deviation = corpus.moments.mean_and_deviation()
    np.testing.assert_allclose(mean, states.mean(0, np.float64), atol=1e-9)
    np.testing.assert_allclose(deviation, states.std(0, np.float64), atol=1e-9)
    merged, contents = corpus.index, corpus.contents
    Path(corpus.merged_url).unlink()
    apart = Corpus.open(corpus.url)
    assert apart.index.equals(merged)
    assert apart.contents == contents
    assert apart.index["final_state_xxh3"].dtype == pl.UInt64


def test_an_index_of_another_corpus_is_stale(make_corpus: MakeCorpus) -> None:
    corpus, other = make_corpus(), make_corpus(name="other", steps=1)
    Path(corpus.merged_url).write_bytes(Path(other.merged_url).read_bytes())
    with pytest.raises(CorpusError, match=r"index\.parquet: stale index"):
        _ = Corpus.open(corpus.url).index
    Path(corpus.merged_url).unlink()
    Path(corpus.index_url(1)).write_bytes(Path(other.index_url(1)).read_bytes())
    with pytest.raises(CorpusError, match=r"shard-000001\.parquet: stale index"):
        _ = Corpus.open(corpus.url).index
    Path(corpus.index_url(1)).write_bytes(b"PAR1 no")
    with pytest.raises(CorruptionError, match=r"shard-000001\.parquet"):
        _ = Corpus.open(corpus.url).index
