"""Repairing a corpus: the same bytes come back, or the file is left alone and the reason named."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from palaestra.generate import __main__ as command
from palaestra.generate import repair as module
from palaestra.generate.damage import find_damage
from palaestra.generate.plan import plan
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.generate.repair import Repairs, recipe_of, repair
from palaestra.shards import index, storage
from palaestra.shards.audit import audit
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import ConfigError, CorpusError, CorruptionError, StorageError
from small_corpus import RECIPE, build, contents, made_elsewhere, rewritten

PATIENCE_S = 60  # for a process; a hang fails instead of blocking the suite
TAR, INDEX, MERGED = "data/shard-000001.tar", "index/shard-000001.parquet", "index.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build(str(tmp_path_factory.mktemp("whole") / "corpus"))


@pytest.fixture
def corpus(whole: Corpus, tmp_path: Path) -> Corpus:
    """A copy to damage."""
    return Corpus.open(str(shutil.copytree(whole.url, tmp_path / "corpus")))


def mend(corpus: Corpus, allow_code: bool = False) -> Repairs:
    return repair(corpus, find_damage(corpus), allow_code, workers=1)


Damager = Callable[[Path], None]


def remove(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.write_bytes(b"not what it was" * 100)


def restamp(**info: object) -> Damager:
    """An index whose pages are right and whose metadata is not."""

    def change(path: Path) -> None:
        known, rows = index.from_parquet(path.read_bytes(), str(path))
        path.write_bytes(index.to_parquet([rows], dataclasses.replace(known, **info)))

    return change


stale = restamp(fingerprint="of another")


def test_a_whole_corpus_is_left_alone(corpus: Corpus) -> None:
    def stamps() -> dict[str, tuple[int, int]]:
        paths = Path(corpus.url).rglob("*")
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in paths}

    before, told = stamps(), list[float]()
    damages = find_damage(corpus, lambda amount, note="": told.append(amount))
    assert damages == [] and sum(told) == corpus.manifest.shards
    assert mend(corpus) == Repairs(corpus.url, corpus.manifest.shards, (), ())
    assert stamps() == before


@pytest.mark.parametrize(
    ("damage", "written", "fault"),
    [
        ({TAR: remove}, [TAR], r"shard-000001\.tar: missing"),
        ({TAR: shorten}, [TAR], r"shard-000001\.tar: expected [\d,]+ bytes, found [\d,]+"),
        ({TAR: empty}, [TAR], r"shard-000001\.tar: expected [\d,]+ bytes, found 0"),
        ({TAR: flip}, [TAR], r"shard-000001\.tar: checksum differs from its index"),
        ({INDEX: remove}, [INDEX], r"shard-000001\.parquet: missing"),
        ({INDEX: shorten}, [INDEX], r"shard-000001\.parquet: damaged index"),
        ({INDEX: empty}, [INDEX], r"shard-000001\.parquet: damaged index"),
        ({INDEX: flip}, [INDEX], r"shard-000001\.parquet: damaged index"),
        ({INDEX: foreign}, [INDEX], r"shard-000001\.parquet: damaged index"),
        ({INDEX: stale}, [INDEX], r"shard-000001\.parquet: stale index"),
        ({INDEX: restamp(tar_xxh3=1)}, [INDEX], r"000001\.tar: checksum differs from its index"),
        ({INDEX: restamp(tar_bytes=1)}, [INDEX], r"000001\.tar: expected 1 bytes, found"),
        ({TAR: remove, INDEX: remove}, [TAR, INDEX], r"shard-000001\.parquet: missing"),
        ({TAR: flip, INDEX: stale}, [TAR, INDEX], r"shard-000001\.parquet: stale index"),
        ({TAR: flip, INDEX: remove, MERGED: remove}, [TAR, INDEX], "missing"),
        ({TAR: remove, INDEX: flip, MERGED: flip}, [TAR, INDEX], "damaged index"),
    ],
)
def test_the_same_bytes_come_back(
    damage: dict[str, Damager], written: list[str], fault: str, corpus: Corpus, whole: Corpus
) -> None:
    import re

    for name, change in damage.items():
        change(Path(corpus.url) / name)
    found = mend(corpus)
    (done,) = found.repairs
    assert done.refused is None and [*done.written] == [f"{corpus.url}/{name}" for name in written]
    assert done.shard == 1 and re.search(fault, done.fault) and "\n" not in done.fault
    assert found.rebuilt == ((corpus.merged_url,) if MERGED in damage else ())
    assert contents(corpus.url) == contents(whole.url)


@pytest.mark.parametrize("change", [remove, shorten, empty, flip, foreign, stale])
def test_a_lost_merged_index_comes_back(change: Damager, corpus: Corpus, whole: Corpus) -> None:
    change(Path(corpus.merged_url))
    found = mend(corpus)
    assert (found.repairs, found.rebuilt) == ((), (corpus.merged_url,))
    assert contents(corpus.url) == contents(whole.url)


def test_a_lost_card_comes_back(corpus: Corpus, whole: Corpus) -> None:
    (Path(corpus.url) / "README.md").unlink()
    assert mend(corpus).rebuilt == (f"{corpus.url}/README.md",)
    assert contents(corpus.url) == contents(whole.url)


def test_an_unfinished_corpus_is_finished(whole: Corpus, tmp_path: Path) -> None:
    begun = Corpus.create(str(tmp_path / "begun"), whole.manifest)
    found = repair(begun, find_damage(begun), workers=2)
    assert [done.shard for done in found.repairs] == [0, 1, 2] and len(found.rebuilt) == 2
    assert contents(begun.url) == contents(whole.url)
    assert audit(Corpus.open(begun.url), deep=True).passed
