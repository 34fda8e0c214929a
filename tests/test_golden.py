"""A corpus of format version 1, kept in `golden/`: every reader finds in it what it has to hold.

`python tests/test_golden.py` writes it anew; do that only with a new format version.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from conftest import RECIPE, SCHEMA, make_episode
from hypothesis import given, settings
from hypothesis import strategies as st
from palaestra.shards import index
from palaestra.shards.audit.audit import audit
from palaestra.shards.card import write_card
from palaestra.shards.codec import JSON_FIELDS, decode, decode_sample
from palaestra.shards.corpus import Corpus, Manifest
from palaestra.shards.episode import ARRAYS, Episode
from palaestra.shards.errors import CorruptionError
from palaestra.shards.index import COLUMNS
from palaestra.shards.plain import open_corpus
from palaestra.shards.reader import Reader
from palaestra.shards.segments import Source
from palaestra.shards.writer import ShardWriter

GOLDEN = Path(__file__).parent / "golden"
OLDER = Path(__file__).parent / "golden_without_sampling"  # the same, before two fields were added
TAR = GOLDEN / "data" / "shard-000000.tar"
EXPECTED = GOLDEN / "expected.json"

Arrays = dict[str, np.ndarray[Any, Any]]
Samples = dict[str, Arrays]


def episodes() -> list[Episode]:
    """A long episode in two segments, both sides of a match, one that fell: all kinds of null."""
    early: dict[str, Any] = {"truncated": False, "final_state_xxh3": None}
    match: dict[str, Any] = {
        "task": "sumo", "level": 3, "instruction": "push the rövär out", "round": 2,
        "seed": (1 << 63) - 1, "terminated": True, "truncated": False, "match": 1,
        "final_state_xxh3": 99, "sampling": "pfsp", "sampling_probability": 0.125,
    }  # fmt: skip
    winner: dict[str, Any] = {
        "player": 0, "policy": "expert+noise0.3", "rating": 1203.5, "outcome": "win",
        "opponent": "random", "opponent_rating": 990.0, "completion_step": 4,
    }  # fmt: skip
    loser: dict[str, Any] = {
        "player": 1, "policy": "random", "rating": 990.0, "outcome": "loss",
        "opponent": "expert+noise0.3", "opponent_rating": 1203.5,
    }  # fmt: skip
    frames = np.arange(256, dtype=np.uint8)[:, None, None, None] + np.zeros((8, 8, 3), np.uint8)
    return [
        make_episode(256, 0, pixels=frames, **early),
        make_episode(9, 0, segment=1, completion_step=260),
        make_episode(5, 1, **match, **winner),
        make_episode(5, 3, **match, **loser),
        make_episode(1, 2, terminated=True, truncated=False, cause="diverged: BADQACC"),
    ]


def digest(array: np.ndarray[Any, Any]) -> str:
    """dtype, shape and a hash of the values in C order."""
    values = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
    return f"{array.dtype.str} {list(array.shape)} {values}"


def described(samples: Samples) -> dict[str, dict[str, str]]:
    return {
        key: {name: digest(a) for name, a in arrays.items()} for key, arrays in samples.items()
    }


def expected() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(EXPECTED.read_text())["arrays"]
    return found


def by_key(files: Iterable[tuple[str, bytes]]) -> Samples:
    """Arrays of `KEY.NAME.npy.zst` files, by nothing of ours."""
    samples: Samples = {}
    for name, data in files:
        key, _, suffix = name.partition(".")
        if suffix.endswith(".npy.zst"):
            plain = zstandard.ZstdDecompressor().decompress(data)
            array = np.load(io.BytesIO(plain))
            samples.setdefault(key, {})[suffix.removesuffix(".npy.zst")] = array
    return samples


def by_tarfile(tmp_path: Path) -> Samples:
    with tarfile.open(TAR) as tar:
        return by_key((m.name, tar.extractfile(m).read()) for m in tar)  # type: ignore[union-attr]


def by_gnu_tar(tmp_path: Path) -> Samples:
    subprocess.run(["tar", "--extract", "--file", str(TAR)], cwd=tmp_path, check=True)
    return by_key((path.name, path.read_bytes()) for path in sorted(tmp_path.iterdir()))


def by_webdataset(tmp_path: Path) -> Samples:
    import webdataset

    dataset = webdataset.WebDataset(str(TAR), shardshuffle=False).decode(decode)
    samples = {s["__key__"]: {n: s[f"{n}.npy.zst"] for n in ARRAYS} for s in dataset}
    del dataset
    gc.collect()
    return samples


def by_datasets(tmp_path: Path) -> Samples:
    import datasets

    datasets.disable_progress_bars()
    dataset = datasets.load_dataset(
        str(GOLDEN), split="train", streaming=True, cache_dir=str(tmp_path / "cache")
    )
    kinds = dict(zip(ARRAYS, ("f4", "f4", "u1", "f4", "u1"), strict=True))
    return {
        s["__key__"]: {n: np.asarray(s[f"{n}.npy.zst"], kinds[n]) for n in ARRAYS}
        for s in dataset
    }  # fmt: skip


def by_index(tmp_path: Path) -> Samples:
    """Each sample alone, by its byte range."""
    data, samples = memoryview(TAR.read_bytes()), {}
    for row in Corpus.open(str(GOLDEN)).index.iter_rows(named=True):
        piece = data[row["offset"] : row["offset"] + row["bytes"]]
        episode = decode_sample(piece, row["key"], "golden")
        samples[row["key"]] = {name: getattr(episode, name) for name in ARRAYS}
    return samples


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset's
@pytest.mark.parametrize(
    "read", [by_tarfile, by_gnu_tar, by_webdataset, by_datasets, by_index], ids=lambda f: f.__name__
)
def test_all_read_the_same(read: Callable[[Path], Samples], tmp_path: Path) -> None:
    assert described(read(tmp_path)) == expected()


@pytest.mark.parametrize("plain", [False, True], ids=["index", "plain tar"])
def test_the_reader_delivers_the_same(
    plain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALAESTRA_CACHE", str(tmp_path))
    corpus = open_corpus(str(TAR)) if plain else Corpus.open(str(GOLDEN))
    reader = Reader([Source(corpus)], batch_size=5, micro_batch=5, seed=0)
    (batch,) = reader.stream(0, 1)
    wanted = expected()
    for slot, key in enumerate(reader.keys(0)):
        steps = batch.steps[slot]
        for name in ("action", "reward", "state", "pixels"):
            assert digest(getattr(batch, name)[slot, :steps]) == wanted[key][name]
    assert sorted(reader.keys(0)) == sorted(wanted)
    reader.close()


def test_the_format_page_reads_it_without_our_code() -> None:
    page = (GOLDEN.parents[1] / "docs" / "format.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "palaestra" not in code
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=GOLDEN, check=True, capture_output=True, text=True)
    assert done.stdout == "000000000000-0-00 reach (256, 8, 8, 3)\n"


def test_the_format_page_names_every_column() -> None:
    page = (GOLDEN.parents[1] / "docs" / "format.md").read_text()
    generic = {f"{name}_{kind}" for name in ARRAYS for kind in ("min", "max", "nan")}
    assert all(f"`{name}`" in page for name in {*COLUMNS, *JSON_FIELDS} - generic)


INDEX = (GOLDEN / "index" / "shard-000000.parquet").read_bytes()


@settings(max_examples=300)
@given(st.integers(0, len(INDEX) - 1), st.integers(0, 7))
def test_a_bit_flipped_in_an_index_is_detected_or_harmless(byte: int, bit: int) -> None:
    data = bytearray(INDEX)
    data[byte] ^= 1 << bit
    info, rows = index.from_parquet(INDEX, "index")
    try:
        found, flipped = index.from_parquet(bytes(data), "here.parquet")
    except CorruptionError as error:
        assert str(error).startswith("here.parquet: ") and "\n" not in str(error)
    else:
        assert flipped.equals(rows)
        for name in ("fingerprint", "tar_bytes", "tar_xxh3"):
            assert getattr(found, name) == getattr(info, name)


def test_the_order_of_batches_has_not_changed() -> None:
    reader = Reader([Source(Corpus.open(str(GOLDEN)))], batch_size=3, micro_batch=3, seed=11)
    value = 0
    for batch in range(20):
        value = reader.digest(batch, value)
    assert f"{value:016x}" == json.loads(EXPECTED.read_text())["digest"]
    reader.close()


def test_the_same_episodes_still_give_the_same_bytes(tmp_path: Path) -> None:
    known = json.loads(EXPECTED.read_text())
    assert list(zstandard.ZSTD_VERSION) == known["zstd"], "other versions may compress otherwise"
    corpus = write(tmp_path / "again")
    assert Path(corpus.tar_url(0)).read_bytes() == TAR.read_bytes()
    assert corpus.index.equals(Corpus.open(str(GOLDEN)).index)


def test_a_corpus_without_the_newer_fields_is_read() -> None:
    corpus, newer = Corpus.open(str(OLDER)), Corpus.open(str(GOLDEN))
    assert set(corpus.index["sampling"]) == {""}
    assert newer.index["sampling"].to_list() == ["", "", "pfsp", "pfsp", ""]
    moved = ("sampling", "sampling_probability", "offset", "bytes", "xxh3")
    assert corpus.index.drop(moved).equals(newer.index.drop(moved))
    data = memoryview((OLDER / "data" / "shard-000000.tar").read_bytes())
    for row, episode in zip(corpus.index.iter_rows(named=True), episodes(), strict=True):
        piece = data[row["offset"] : row["offset"] + row["bytes"]]
        found = decode_sample(piece, row["key"], "older")
        assert (found.sampling, found.sampling_probability) == ("", None)
        assert (found.key, found.rating) == (episode.key, episode.rating)
    batches = [Reader([Source(c)], batch_size=3, micro_batch=3, seed=11) for c in (corpus, newer)]
    assert batches[0].keys(0) == batches[1].keys(0)
    for reader in batches:
        reader.close()


@pytest.mark.parametrize("folder", [GOLDEN, OLDER], ids=lambda path: path.name)
def test_the_audit_finds_no_damage(folder: Path) -> None:
    """Its recipe is not what it was made from, so only steps and mixture may be missed."""
    checks = audit(Corpus.open(str(folder)), deep=True).checks
    assert {check.name for check in checks if check.passed is False} <= {"steps", "mixture"}


def write(folder: Path) -> Corpus:
    """The golden corpus."""
    corpus = Corpus.create(str(folder), Manifest(SCHEMA, RECIPE, 3, 1, {"palaestra": "golden"}))
    writer = ShardWriter(corpus, 0)
    for episode in episodes():
        writer.add(episode)
    writer.commit()
    write_card(corpus)
    corpus.write_merged()
    return Corpus.open(str(folder))


def main() -> None:
    """Write it and what it has to hold."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    corpus = write(GOLDEN)
    reader = Reader([Source(corpus)], batch_size=3, micro_batch=3, seed=11)
    value = 0
    for batch in range(20):
        value = reader.digest(batch, value)
    reader.close()
    arrays = described({e.key: {name: getattr(e, name) for name in ARRAYS} for e in episodes()})
    about = {"zstd": zstandard.ZSTD_VERSION, "digest": f"{value:016x}", "arrays": arrays}
    EXPECTED.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
