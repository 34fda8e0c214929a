"""Storage against a real object store (OpenStack Swift's S3 API) behind a proxy with faults."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import Fault, FaultProxy
from palaestra.shards import retry, storage
from palaestra.shards.audit.audit import audit
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import StorageError
from palaestra.shards.reader import Reader, Source
from palaestra.shards.storage import ByteRange

pytestmark = pytest.mark.xdist_group("s3")  # one worker starts the store

MakeCorpus = Callable[..., Corpus]
DATA = np.random.default_rng(0).bytes(40_000)
TABLE = pa.table({"a": np.arange(60_000), "b": np.random.default_rng(1).random(60_000)})
STALLS = ["drip", "silence"]
READ_FAULTS = ["500", "503", "cut", "reset", *STALLS]
WRITE_FAULTS = ["500", "503", "spoil", "silence"]


PATIENT, IMPATIENT = retry.ATTEMPTS, 30


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """An attempt is given two seconds instead of fifteen, the call its minute as ever.

    Not where every fault is answered at once: a busy machine would seem to stall.
    """
    chosen = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if chosen.get("kind", "silence") in STALLS:
        monkeypatch.setattr(retry, "ATTEMPTS", IMPATIENT)


def require_retries(found: int, expected: int, kind: str) -> None:
    """As many as faults; a busy machine may seem to stall once more, and no harm is done."""
    assert found >= expected if kind in STALLS else found == expected


def read_column(url: str) -> Any:
    """Column b of the table at a URL."""
    with storage.parquet_source(url, ["b"]) as source:
        return pq.ParquetFile(source).read(["b"])


def test_everything_works_without_faults(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", PATIENT)  # a busy machine is no fault
    url = f"{bucket}/folder"
    assert not storage.exists(url) and storage.names(url) == [] and storage.size(url) is None
    storage.write_bytes(f"{url}/data", DATA)
    storage.write_json(f"{url}/inner/json", {"a": 1})
    assert storage.exists(url) and storage.exists(f"{url}/data")
    assert storage.names(url) == ["data", "inner"]
    assert storage.size(f"{url}/data") == len(DATA)
    assert storage.read_bytes(f"{url}/data") == DATA
    assert storage.read_json(f"{url}/inner/json") == {"a": 1}
    wanted = [ByteRange(f"{url}/data", i * 100, i * 101 + 7) for i in range(150)]
    assert storage.read_ranges(wanted) == [DATA[r.start : r.stop] for r in wanted]
    storage.append_line(f"{url}/log", "one")
    storage.append_line(f"{url}/log", "two")
    assert storage.read_bytes(f"{url}/log") == b"one\ntwo\n"
    storage.download_folder(url, tmp_path / "down")
    assert (tmp_path / "down" / "data").read_bytes() == DATA
    storage.upload_folder(tmp_path / "down", f"{bucket}/up")
    assert storage.names(f"{bucket}/up") == ["data", "inner", "log"]
    storage.remove(f"{bucket}/up")
    storage.remove(f"{bucket}/up")
    assert storage.names(bucket) == ["folder"]


@pytest.mark.parametrize("piece", [16 << 20, 9_999])
def test_a_file_is_read_in_pieces(bucket: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PIECE", piece)
    storage.write_bytes(f"{bucket}/data", DATA)
    storage.write_bytes(f"{bucket}/empty", b"")
    assert storage.read_bytes(f"{bucket}/data") == DATA
    assert storage.read_bytes(f"{bucket}/empty") == b""


@pytest.mark.parametrize("kind", READ_FAULTS)
def test_a_read_goes_on_after_a_fault(bucket: str, store: FaultProxy, kind: str) -> None:
    url = f"{bucket}/data"
    storage.write_bytes(url, DATA)
    before = storage.retries()
    store.faults = [Fault(kind)]
    wanted = [ByteRange(url, i * 1000, i * 1000 + 900) for i in range(20)]
    store.requests.clear()
    assert storage.read_ranges(wanted) == [DATA[r.start : r.stop] for r in wanted]
    require_retries(len(store.requests), 20 + 1, kind)  # the one that failed, and no other
    require_retries(storage.retries(), before + 1, kind)


@pytest.mark.parametrize("kind", ["503", "cut"])
def test_an_index_is_read_after_a_fault(
    bucket: str, store: FaultProxy, kind: str, tmp_path: Path
) -> None:
    pq.write_table(TABLE, tmp_path / "table", row_group_size=20_000)
    storage.write_bytes(f"{bucket}/table", (tmp_path / "table").read_bytes())
    before = storage.retries()
    store.faults = [Fault(kind, times=3)]
    assert read_column(f"{bucket}/table").equals(TABLE.select("b"))
    assert storage.retries() > before


@pytest.mark.parametrize("kind", WRITE_FAULTS)
def test_a_write_goes_on_after_a_fault(bucket: str, store: FaultProxy, kind: str) -> None:
    before = storage.retries()
    store.faults = [Fault(kind, method="PUT")]
    storage.write_bytes(f"{bucket}/data", DATA)
    require_retries(storage.retries(), before + 1, kind)
    assert storage.read_bytes(f"{bucket}/data") == DATA


def test_every_other_call_goes_on_after_a_fault(
    bucket: str, store: FaultProxy, tmp_path: Path
) -> None:
    storage.write_bytes(f"{bucket}/folder/data", DATA)
    calls: dict[str, tuple[str, Callable[[], Any]]] = {
        "exists": ("HEAD", lambda: storage.exists(f"{bucket}/folder/data")),
        "size": ("HEAD", lambda: storage.size(f"{bucket}/folder/data") == len(DATA)),
        "names": ("GET", lambda: storage.names(f"{bucket}/folder") == ["data"]),
        "download": ("GET", lambda: storage.download_folder(f"{bucket}/folder", tmp_path) is None),
        "upload": ("PUT", lambda: storage.upload_folder(tmp_path, f"{bucket}/up") is None),
        "remove": ("POST", lambda: storage.remove(f"{bucket}/up") is None),
    }
    for name, (method, call) in calls.items():
        before = storage.retries()
        store.faults = [Fault("503", method=method)]
        assert call(), name
        assert storage.retries() == before + 1, name
    assert (tmp_path / "data").read_bytes() == DATA
    assert storage.names(bucket) == ["folder"]


def test_what_stays_is_told_at_once(bucket: str, store: FaultProxy) -> None:
    storage.write_bytes(f"{bucket}/data", DATA)
    missing = "s3://there-is-no-such-bucket/data"
    before = storage.retries()
    store.faults = [Fault("403", method="PUT"), Fault("403", path="data")]
    there, nothing = f"{bucket}/data", f"{bucket}/no"
    lines = {
        f"{there}: HTTP 403 AccessDenied": lambda: storage.write_bytes(there, b""),
        f"{there}: bytes 0 to 9: HTTP 403 AccessDenied": lambda: storage.read_range(there, 0, 9),
        f"{nothing}: not found": lambda: storage.read_bytes(nothing),
        f"{missing}: not found": lambda: storage.read_bytes(missing),
        f"{missing}: not found .there is no such b": lambda: storage.write_bytes(missing, b""),
        f"{there}: bytes 39999 to 40001: expected in the file, which ends at byte 40000":
            lambda: storage.read_range(there, 39999, 40001),
        f"{there}: bytes 50000 to 50001: HTTP 416": lambda: storage.read_range(there, 50000, 50001),
    }  # fmt: skip
    for line, call in lines.items():
        with pytest.raises(StorageError, match=line) as caught:
            call()
        assert "\n" not in str(caught.value) and "gave up" not in str(caught.value)
    assert storage.retries() == before


def test_the_deadline_ends_it(
    bucket: str, store: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(retry.VARIABLE, "0.5")
    storage.write_bytes(f"{bucket}/data", DATA)
    store.faults = [Fault("503", times=1000)]
    line = rf"{bucket}/data: bytes 0 to 9: HTTP 503 SlowDown: injected; gave up after \d+ attempts"
    with pytest.raises(StorageError, match=line):
        storage.read_range(f"{bucket}/data", 0, 9)


def test_a_store_that_is_away_for_a_while_is_waited_for(
    bucket: str, store: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{bucket}/data", DATA)
    door = FaultProxy(store.upstream)
    with door.running():
        pass  # now there is a port at which nobody listens
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": door.url})
    before, opened, closed = storage.retries(), threading.Event(), threading.Event()

    def open_later() -> None:
        while storage.retries() < before + 2:
            opened.wait(0.01)
        with door.running():
            opened.set()
            closed.wait()

    opener = threading.Thread(target=open_later)
    opener.start()
    try:
        assert storage.read_range(f"{bucket}/data", 0, 9) == DATA[:9]
        assert opened.is_set()
    finally:
        closed.set()
        opener.join()


def contents(corpus: Corpus) -> list[bytes]:
    """Every array of two epochs, in the reader's order."""
    reader = Reader([Source(corpus)], batch_size=8, micro_batch=4, seed=1)
    try:
        batches = [batch for parts in reader.batches(0, 2) for batch in parts]
    finally:
        reader.close()
    return [
        array.tobytes() for batch in batches for array in vars(batch).values() if array is not None
    ]


def test_a_corpus_at_an_endpoint_is_found_by_the_usual_variables(
    bucket: str, make_corpus: MakeCorpus
) -> None:
    local, remote = make_corpus(), make_corpus(url=f"{bucket}/corpus")
    assert contents(remote) == contents(local)
    command = [str(Path(sys.executable).with_name("audit")), remote.url, "--deep", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert audit(local, deep=True).totals["bytes"] > 0


@pytest.mark.parametrize("kind", READ_FAULTS[:-1])  # silence is a drip of nothing
def test_a_corpus_is_read_and_audited_through_faults(
    bucket: str, store: FaultProxy, make_corpus: MakeCorpus, kind: str
) -> None:
    local, remote = make_corpus(), make_corpus(url=f"{bucket}/corpus")
    before = storage.retries()
    for path in (r"\.tar$", r"index\.parquet$", r"index/shard"):
        store.faults.append(Fault(kind, path=path))
    found = contents(Corpus.open(remote.url))
    report = audit(Corpus.open(remote.url), deep=True)
    require_retries(storage.retries(), before + 3, kind)
    assert found == contents(local)
    assert [(c.name, c.passed) for c in report.checks] == [
        (c.name, c.passed) for c in audit(local, deep=True).checks
    ]
    assert report.passed


@pytest.mark.parametrize("kind", WRITE_FAULTS)
def test_a_corpus_is_written_through_faults(
    bucket: str, store: FaultProxy, make_corpus: MakeCorpus, kind: str
) -> None:
    store.faults = [Fault(kind, method="PUT", path=path) for path in (r"\.tar", "json", "index/")]
    before = storage.retries()
    remote, local = make_corpus(url=f"{bucket}/corpus"), make_corpus()
    require_retries(storage.retries(), before + 3, kind)
    for url in (local.tar_url(0), local.index_url(1), local.merged_url, f"{local.url}/corpus.json"):
        there = url.replace(local.url, remote.url)
        assert storage.read_bytes(there) == storage.read_bytes(url)
