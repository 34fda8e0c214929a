"""Plain shards: tars without an index read as the corpus that they came from, or not at all."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import make_episode
from palaestra.shards.codec import encode_episode
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import ConfigError, CorpusError, CorruptionError
from palaestra.shards.plain import open_corpus
from palaestra.shards.reader import Reader
from palaestra.shards.segments import Source

MakeCorpus = Callable[..., Corpus]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indexes go in these tests."""
    monkeypatch.setenv("PALAESTRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def first_batch(corpus: Corpus) -> Any:
    reader = Reader([Source(corpus)], batch_size=8, micro_batch=8, seed=1)
    (batch,) = reader.stream(0, 1)
    reader.close()
    return batch


def pattern(corpus: Corpus) -> str:
    return f"{corpus.url}/data/shard-{{000000..000001}}.tar"


def test_plain_shards_read_as_their_corpus(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus = make_corpus()
    plain = open_corpus(pattern(corpus))
    assert plain.index.equals(corpus.index)
    assert plain.contents == corpus.contents and plain.schema == corpus.schema
    one, other = first_batch(corpus), first_batch(plain)
    for name in ("state", "action", "reward", "pixels", "steps", "terminated", "instruction"):
        assert (getattr(one, name) == getattr(other, name)).all(), name
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.parquet")}
    assert open_corpus(pattern(corpus)).contents == corpus.contents
    assert files == {path: path.stat().st_mtime_ns for path in cache.rglob("*.parquet")}


def test_a_tar_that_changed_is_indexed_anew(make_corpus: MakeCorpus) -> None:
    corpus, other = make_corpus(), make_corpus([[make_episode(9, 1)]] * 2, name="other")
    before = open_corpus(pattern(corpus))
    Path(corpus.tar_url(1)).write_bytes(Path(other.tar_url(1)).read_bytes())
    after = open_corpus(pattern(corpus))
    assert after.contents != before.contents and len(after.index) == 5


def write_tar(path: Path, episodes: list[Any], **options: Any) -> None:
    """As other programs do: members in any order, with times, in pax or GNU format."""
    with tarfile.open(path, "w", **options) as tar:
        for episode in episodes:
            for suffix, data in sorted(encode_episode(episode).items()):
                member = tarfile.TarInfo(f"{episode.key}.{suffix}")
                member.size, member.mtime = len(data), 1.5  # type: ignore[assignment]
                tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tars_of_other_programs_are_read(tmp_path: Path, form: int) -> None:
    episodes = [make_episode(20 + i, i) for i in range(5)]
    write_tar(tmp_path / "a.tar", episodes, format=form)
    plain = open_corpus(str(tmp_path / "a.tar"))
    assert plain.index["key"].to_list() == [episode.key for episode in episodes]
    assert [(slot.name, slot.size) for slot in plain.schema.slots] == [("state", 5)]
    assert plain.schema.action_size == 2 and plain.schema.image_size == 8
    batch = first_batch(plain)
    lengths = sorted(batch.steps.tolist())
    assert set(lengths) <= set(range(20, 25)) and len(lengths) == 8


@pytest.mark.parametrize("place", [0, 1, 2, -1])
def test_damage_is_not_passed_over(make_corpus: MakeCorpus, cache: Path, place: int) -> None:
    """A header damaged anywhere: tarfile would stop there in silence."""
    corpus = make_corpus()
    tar = Path(corpus.tar_url(1))
    data = bytearray(tar.read_bytes())
    with tarfile.open(tar) as opened:
        data[opened.getmembers()[place].offset + 150] ^= 0xFF
    tar.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"shard-000001\.tar"):
        open_corpus(pattern(corpus))
    assert not list(cache.rglob("index.parquet"))


def test_a_tar_cut_short_is_named(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    tar = Path(corpus.tar_url(1))
    data = tar.read_bytes()
    for length in (len(data) - 1024, len(data) - 1600, len(data) // 2, 700, 0):
        tar.write_bytes(data[:length])
        with pytest.raises(CorruptionError, match=r"shard-000001\.tar"):
            open_corpus(pattern(corpus))


def test_what_is_not_there_or_not_a_pattern(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no\.tar: not found"):
        open_corpus(str(tmp_path / "no.tar"))
    with pytest.raises(ConfigError, match=r"x-\{0"):
        open_corpus(str(tmp_path / "x-{0..3.tar"))
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(CorruptionError, match=r"text\.tar: not a tar"):
        open_corpus(str(tmp_path / "text.tar"))


def test_a_sample_is_called_what_its_json_says(tmp_path: Path) -> None:
    episode = make_episode(9, 1)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for suffix, data in encode_episode(episode).items():
            member = tarfile.TarInfo(f"mine.{suffix}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(CorruptionError, match=r"sample mine: its json says 000000000001-0-00"):
        open_corpus(str(tmp_path / "a.tar"))
