"""The disk cache of ranges: within its cap, whole or not at all, never an error."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.shards.cache import RangeCache
from palaestra.shards.storage import ByteRange

URL = "s3://bucket/data/shard-000000.tar"


def place(number: int, size: int = 100) -> ByteRange:
    """A range of `size` bytes."""
    return ByteRange(URL, number * 1000, number * 1000 + size)


def content(wanted: ByteRange) -> bytes:
    """What lies there."""
    return bytes([wanted.start // 1000 % 251]) * (wanted.stop - wanted.start)


def held(cache: RangeCache) -> int:
    """Bytes in its folder."""
    return sum(path.stat().st_size for path in cache.folder.iterdir())


def test_it_gives_back_what_was_put_under_the_same_range_and_tag(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path / "new" / "folder", 1000)
    assert cache.get(place(1), 7) is None
    cache.put(place(1), 7, b"x" * 100)
    assert RangeCache(cache.folder, 1000).get(place(1), 7) == b"x" * 100
    assert cache.get(place(1), 8) is None
    assert cache.get(place(2), 7) is None
    assert cache.get(place(1)._replace(url=URL[:-1]), 7) is None
    cache.put(place(1), 7, b"y" * 100)
    assert cache.get(place(1), 7) == b"y" * 100
    cache.put(place(3, 1001), 7, bytes(1001))
    assert cache.get(place(3, 1001), 7) is None
    assert held(cache) == 100


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 400), st.booleans()), max_size=60))
def test_the_cap_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]]
) -> None:
    cache = RangeCache(tmp_path_factory.mktemp("cache"), 1000)
    for number, size, write in steps:
        wanted = place(number, size)
        if write:
            cache.put(wanted, 0, content(wanted))
            assert cache.get(wanted, 0) == content(wanted)
        else:
            assert cache.get(wanted, 0) in (None, content(wanted))
        assert held(cache) <= 1000


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 1000)
    for number in range(10):
        cache.put(place(number), 0, content(place(number)))
        path = cache._path(place(number), 0)
        os.utime(path, ns=(number, number))  # a clock that ticks between any two
    assert cache.get(place(0), 0)
    cache.put(place(10), 0, content(place(10)))
    left = [number for number in range(11) if cache.get(place(number), 0)]
    assert left == [0, 3, 4, 5, 6, 7, 8, 9, 10]


def test_what_a_killed_process_left_is_evicted(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 1000)
    cache.put(place(0), 0, content(place(0)))
    (orphan,) = tmp_path.iterdir()
    orphan = orphan.rename(f"{orphan}.0123456789")
    os.utime(orphan, ns=(0, 0))
    for number in range(1, 11):
        cache.put(place(number), 0, content(place(number)))
    assert not orphan.exists()


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path / "cache", 100_000)
    cache.put(place(0), 0, content(place(0)))
    shutil.rmtree(cache.folder)
    assert cache.get(place(0), 0) is None
    cache.put(place(1), 0, content(place(1)))
    cache.put(place(2), 0, content(place(2)))
    assert cache.get(place(2), 0) == content(place(2))


def test_a_disk_that_cannot_be_written_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = RangeCache(tmp_path / "file" / "folder", 1000)
    for number in range(3):
        cache.put(place(number), 0, content(place(number)))
        assert cache.get(place(number), 0) is None
    (line,) = caplog.messages
    assert line == f"{cache.folder}: Not a directory; nothing more is cached"


def test_a_full_disk_leaves_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A real limit on the size of files, in place of a full disk."""
    cache = RangeCache(tmp_path, 1 << 20)
    cache.put(place(0), 0, content(place(0)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        for number in range(1, 4):
            cache.put(place(number, 900), 0, bytes(900))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cache.get(place(0), 0) == content(place(0))
    assert len(list(tmp_path.iterdir())) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


WORK = """
import random, sys
from palaestra.shards.cache import RangeCache
from palaestra.shards.ranges import ByteRange
cache, rng = RangeCache(sys.argv[1], 20_000), random.Random(int(sys.argv[2]))
hits = 0
for _ in range(1500):
    number = rng.randrange(300)
    wanted, expected = ByteRange("memory://x", number, number + 100), bytes([number % 251]) * 100
    data = cache.get(wanted, 0)
    assert data in (None, expected), wanted
    hits += data is not None
    if data is None:
        cache.put(wanted, 0, expected)
assert cache._writable
print(hits)
"""


def test_processes_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORK, str(tmp_path)]
    workers = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in range(3)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert all(int(output) > 100 for output in outputs)
    assert held(RangeCache(tmp_path, 0)) <= 20_000 * (1 + 3 / 64) + 3 * 100
