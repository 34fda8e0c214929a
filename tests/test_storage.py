"""Storage: what may pass is tried again and counted, what stays is told at once, in one line."""

from __future__ import annotations

import errno
import io
import logging
import os
import random
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import botocore.exceptions as botocore
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_filesystem import DRIP, METHODS, SHORT, Script, register
from fsspec.exceptions import FSTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from palaestra.shards import retry, storage
from palaestra.shards.errors import ConfigError, CorruptionError, StorageError
from palaestra.shards.faults import fault, is_transient
from palaestra.shards.storage import ByteRange
from s3fs.errors import translate_boto_error

DATA = bytes(range(256)) * 40
TABLE = pa.table({"a": np.arange(90_000), "b": np.random.default_rng(0).random(90_000)})


def parquet() -> bytes:
    """TABLE in three row groups; no column compresses."""
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer, row_group_size=30_000, compression="none", use_dictionary=False)
    return buffer.getvalue()


def read_column(url: str, column: str = "b") -> Any:
    """One column of the table at a URL."""
    with storage.parquet_source(url, [column]) as source:
        return pq.ParquetFile(source).read([column])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pauses of a millisecond or so, and an empty memory."""
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    register()
    Script.clear()
    yield
    Script.clear()


@pytest.fixture(params=["faulty", "faulty-sync"])
def root(request: pytest.FixtureRequest) -> str:
    """A folder of three files on a filesystem that fails as scripted."""
    url = f"{request.param}://root"
    storage.write_bytes(f"{url}/data", DATA)
    storage.write_bytes(f"{url}/more/data", DATA[::-1])
    storage.write_bytes(f"{url}/table.parquet", parquet())
    Script.calls.clear()
    return url


def server_error(status: int, code: str, message: str = "") -> BaseException:
    """What s3fs raises after such an answer."""
    answer = {
        "Error": {"Code": code, "Message": message or code},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return translate_boto_error(botocore.ClientError(answer, "GetObject"))  # type: ignore[no-any-return]


class HttpError(Exception):
    """gcsfs's, by its shape."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{code}: try again later")
        self.code = code


TRANSIENT: dict[str, Callable[[], BaseException]] = {
    "503": lambda: server_error(503, "SlowDown", "Please reduce your request rate."),
    "503 without a body": lambda: server_error(503, "503", "Service Unavailable"),
    "500": lambda: server_error(500, "InternalError"),
    "502": lambda: server_error(502, "BadGateway"),
    "429": lambda: server_error(429, "TooManyRequests"),
    "spoilt on its way": lambda: server_error(400, "XAmzContentSHA256Mismatch"),
    "timed out upload": lambda: server_error(400, "RequestTimeout"),
    "gcsfs 503": lambda: HttpError(503),
    "reset": lambda: ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "refused": lambda: botocore.EndpointConnectionError(endpoint_url="http://x", error="refused"),
    "closed": lambda: botocore.ConnectionClosedError(endpoint_url="http://x"),
    "read timeout": lambda: botocore.ReadTimeoutError(endpoint_url="http://x"),
    "incomplete": lambda: botocore.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    "cut": lambda: aiohttp.ClientPayloadError("Response payload is not completed"),
    "disconnected": lambda: aiohttp.ServerDisconnectedError(),
    "timeout": FSTimeoutError,
    "stale handle": lambda: OSError(errno.ESTALE, "Stale file handle"),
}
PERMANENT: dict[str, Callable[[], BaseException]] = {
    "denied": lambda: server_error(403, "AccessDenied", "no"),
    "expired": lambda: server_error(400, "ExpiredToken"),
    "bucket": lambda: server_error(404, "NoSuchBucket", "The specified bucket does not exist."),
    "gcsfs 403": lambda: HttpError(403),
    "credentials": lambda: botocore.NoCredentialsError(),
    "certificate": lambda: botocore.SSLError(endpoint_url="https://x", error="self-signed"),
    "disk full": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "read-only": lambda: OSError(errno.EROFS, "Read-only file system"),
    "local denied": lambda: PermissionError(errno.EACCES, "Permission denied"),
    "no client": lambda: ImportError("Install s3fs to access S3"),
}

Operation = Callable[[str, Path], Any]
OPERATIONS: dict[str, tuple[str, Operation, Any]] = {
    "exists": ("info", lambda url, _: storage.exists(f"{url}/data"), True),
    "size": ("info", lambda url, _: storage.size(f"{url}/data"), len(DATA)),
    "names": ("ls", lambda url, _: storage.names(url), ["data", "more", "table.parquet"]),
    "read_bytes": ("cat_file", lambda url, _: storage.read_bytes(f"{url}/data"), DATA),
    "read_range": ("cat_file", lambda url, _: storage.read_range(f"{url}/data", 3, 9), DATA[3:9]),
    "parquet_source": (
        "cat_file", lambda url, _: read_column(f"{url}/table.parquet").equals(TABLE.select("b")),
        True,
    ),
    "write_bytes": ("pipe_file", lambda url, _: storage.write_bytes(f"{url}/data", b"new"), None),
    "write_json": ("pipe_file", lambda url, _: storage.write_json(f"{url}/data", {"a": 1}), None),
    "append_line": ("pipe_file", lambda url, _: storage.append_line(f"{url}/data", "x"), None),
    "remove": ("rm", lambda url, _: storage.remove(f"{url}/data"), None),
    "upload_folder": ("put_file", lambda url, tmp: storage.upload_folder(tmp, url), None),
    "list_folder": ("find", lambda url, tmp: storage.download_folder(url, tmp), None),
    "download_folder": ("get_file", lambda url, tmp: storage.download_folder(url, tmp), None),
}  # fmt: skip
OPERATION = pytest.mark.parametrize(
    ("method", "operate", "expected"), OPERATIONS.values(), ids=OPERATIONS
)


def each(errors: dict[str, Callable[[], BaseException]], *often: str) -> pytest.MarkDecorator:
    """All errors in a read, the others often met in every operation."""
    cases = [
        pytest.param(*OPERATIONS[name], error, id=f"{name}-{told}")
        for name in OPERATIONS for told, error in errors.items()
        if name == "read_range" or told in often
    ]  # fmt: skip
    return pytest.mark.parametrize(("method", "operate", "expected", "error"), cases)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local folder of two files."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "inner" / "two").write_bytes(b"22")
    return tmp_path


@each(TRANSIENT, "503", "reset", "timeout")
def test_what_may_pass_is_tried_again_and_counted(
    root: str, folder: Path, method: str, operate: Operation, expected: Any,
    error: Callable[[], BaseException], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    before = storage.retries()
    Script.faults[method] = [error(), error()]
    assert operate(root, folder) == expected
    assert Script.faults[method] == []
    assert storage.retries() == before + 2
    logged = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(logged) == 2
    assert all(root in r.message and "trying again in" in r.message for r in logged)


@each(PERMANENT, "denied", "bucket", "disk full")
def test_what_stays_is_told_at_once(
    root: str, folder: Path, method: str, operate: Operation, expected: Any,
    error: Callable[[], BaseException],
) -> None:  # fmt: skip
    before = storage.retries()
    Script.faults[method] = [error()] * 9
    if isinstance(error(), FileNotFoundError) and method in ("info", "ls", "rm"):
        assert not operate(root, folder)  # that nothing is there answers the question
        return
    with pytest.raises(StorageError, match=root) as caught:
        operate(root, folder)
    assert "\n" not in str(caught.value) and "gave up" not in str(caught.value)
    assert storage.retries() == before
    once = 2 if method in ("put_file", "get_file") else 1  # of each of the folder's files
    assert Script.calls.count(next(c for c in Script.calls if c[0] == method)) <= once


@OPERATION
def test_the_deadline_ends_it(
    root: str, folder: Path, method: str, operate: Operation, expected: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(retry.VARIABLE, "0.05")
    Script.faults[method] = [TRANSIENT["503"]() for _ in range(10_000)]
    with pytest.raises(StorageError, match=root) as caught:
        operate(root, folder)
    line = (
        r": HTTP 503 SlowDown: Please reduce your request rate\.; gave up after (\d+) attempts in"
    )
    found = re.search(line + r" \d+\.\d s$", str(caught.value))
    assert found and int(found[1]) > 1


def test_writes_leave_what_was_meant(root: str, folder: Path) -> None:
    Script.faults["pipe_file"] = [TRANSIENT["reset"]()]
    storage.append_line(f"{root}/log", "one")
    storage.append_line(f"{root}/log", "two")
    assert storage.read_bytes(f"{root}/log") == b"one\ntwo\n"
    storage.write_json(f"{root}/json", {"a": [1]})
    assert storage.read_json(f"{root}/json") == {"a": [1]}
    Script.faults["put_file"] = [TRANSIENT["503"]()]
    storage.upload_folder(folder, f"{root}/up")
    Script.faults["get_file"] = [TRANSIENT["cut"]()]
    storage.download_folder(f"{root}/up", folder / "down")
    assert (folder / "down" / "one").read_bytes() == b"1"
    assert (folder / "down" / "inner" / "two").read_bytes() == b"22"
    storage.remove(f"{root}/up")
    storage.remove(f"{root}/up")
    assert not storage.exists(f"{root}/up")
    assert storage.names(f"{root}/up") == []
    with pytest.raises(StorageError, match=f"{root}/up: not found"):
        storage.download_folder(f"{root}/up", folder / "again")


def test_only_the_ranges_that_fail_are_fetched_again(root: str) -> None:
    ranges = [ByteRange(f"{root}/data", i, i + 5) for i in range(0, 50, 10)]
    ranges += [ByteRange(f"{root}/more/data", 7, 7)]  # an empty one asks nothing
    Script.faults["cat_file"] = ["", TRANSIENT["503"](), SHORT, "", TRANSIENT["reset"](), SHORT]
    found = storage.read_ranges(ranges)
    assert found == [DATA[i : i + 5] for i in range(0, 50, 10)] + [b""]
    reads = [call for call in Script.calls if call[0] == "cat_file"]
    assert len(reads) == 5 + 3 + 1


def test_ranges_of_several_filesystems_come_in_order(root: str, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(DATA)
    storage.write_bytes("memory://other", DATA[::-1])
    urls = [f"{root}/data", str(tmp_path / "local"), "memory://other", f"{root}/more/data"]
    wanted = [ByteRange(url, start, start + 3) for start in range(4) for url in urls]
    whole = [DATA, DATA, DATA[::-1], DATA[::-1]] * 4
    expected = [data[r.start : r.stop] for data, r in zip(whole, wanted, strict=True)]
    assert storage.read_ranges(wanted) == expected


@pytest.mark.parametrize("start", [len(DATA) - 3, len(DATA) + 3])
def test_a_range_beyond_the_end_is_told_at_once(root: str, tmp_path: Path, start: int) -> None:
    (tmp_path / "data").write_bytes(DATA)
    before = storage.retries()
    for url in (f"{root}/data", str(tmp_path / "data")):
        line = f"{url}: bytes {start} to {start + 9}: expected in the file, which ends at byte "
        with pytest.raises(StorageError, match=line + str(len(DATA))):
            storage.read_ranges([ByteRange(url, 0, 4), ByteRange(url, start, start + 9)])
    with pytest.raises(StorageError, match=f"{root}/nothing: not found"):
        storage.read_range(f"{root}/nothing", 0, 4)
    assert storage.retries() == before


def test_a_permanent_fault_among_transient_ones_ends_it(root: str) -> None:
    ranges = [ByteRange(f"{root}/data", i, i + 5) for i in range(3)]
    Script.faults["cat_file"] = [TRANSIENT["503"](), PERMANENT["denied"](), TRANSIENT["503"]()]
    with pytest.raises(StorageError, match=f"{root}/data: bytes 1 to 6: HTTP 403 AccessDenied"):
        storage.read_ranges(ranges)


@OPERATION
def test_a_server_that_drips_is_a_fault(
    folder: Path, method: str, operate: Operation, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "SHORTEST_S", 0.02)
    monkeypatch.setattr(retry, "SLOWEST", 10**9)
    monkeypatch.setenv(retry.VARIABLE, "0.08")
    storage.write_bytes("faulty://root/data", DATA)
    storage.write_bytes("faulty://root/more/data", DATA)
    storage.write_bytes("faulty://root/table.parquet", parquet())
    before = storage.retries()
    Script.faults[method] = [DRIP]
    assert operate("faulty://root", folder) == expected
    assert storage.retries() == before + 1
    Script.faults[method] = [DRIP] * 1000
    with pytest.raises(StorageError, match=r"no answer in time; gave up after"):
        operate("faulty://root", folder)


def test_a_range_that_drips_holds_up_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "SHORTEST_S", 0.02)
    monkeypatch.setenv(retry.VARIABLE, "0.08")
    storage.write_bytes("faulty://data", DATA)
    Script.calls.clear()
    Script.faults["cat_file"] = ["", DRIP, ""]
    wanted = [ByteRange("faulty://data", i, i + 9) for i in range(3)]
    assert storage.read_ranges(wanted) == [DATA[i : i + 9] for i in range(3)]
    assert len(Script.calls) == 3 + 1


def test_a_damaged_parquet_file_is_named(root: str) -> None:
    data = parquet()
    for damaged in (b"", b"PAR1", data[:-1], data[:-8] + b"\xff\xff\xff\x7fPAR1", data[:5000]):
        storage.write_bytes(f"{root}/table.parquet", damaged)
        with pytest.raises(CorruptionError, match=f"{root}/table.parquet: not Parquet") as caught:
            read_column(f"{root}/table.parquet")
        assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match=f"{root}/nothing: not found"):
        read_column(f"{root}/nothing")


def test_only_the_columns_named_are_fetched(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaestra.shards import columns

    wanted: list[ByteRange] = []
    real = columns.read_ranges
    monkeypatch.setattr(columns, "read_ranges", lambda r: wanted.extend(r) or real(r))
    assert read_column(f"{root}/table.parquet", "a").equals(TABLE.select("a"))
    read = sum(r.stop - r.start for r in wanted)
    assert 90_000 * 8 < read < 90_000 * 8 + columns.FOOTER + 3 * 4096
    monkeypatch.setattr(columns, "FOOTER", 64)  # shorter than the file's: it is read in two
    assert read_column(f"{root}/table.parquet").equals(TABLE.select("b"))


def test_local_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    """A real limit on the size of files, in place of a full disk."""
    url = str(tmp_path / "folder" / "file")
    storage.write_bytes(url, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StorageError, match=r"folder/file: .*File too large"):
            storage.write_bytes(url, bytes(9000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["file"]
    assert storage.read_bytes(url) == b"old"


def test_a_pipe_is_read_to_its_end() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"name = 'x'")
    os.close(writing)
    assert storage.read_bytes(f"/dev/fd/{reading}") == b"name = 'x'"
    os.close(reading)


@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT)
def test_transient_faults_are_known_below_others(error: Callable[[], BaseException]) -> None:
    assert is_transient(error())
    wrapped = OSError(errno.EIO, "unknown")
    wrapped.__cause__ = error()
    assert is_transient(wrapped)


def test_a_bug_is_no_fault(root: str) -> None:
    Script.faults["info"] = [TypeError("a bug")]
    with pytest.raises(TypeError, match="a bug"):
        storage.exists(f"{root}/data")
    assert str(fault("url", TimeoutError())) == "url: no answer in time"
    assert str(fault("url", OSError("one\ntwo"))) == "url: one"
    assert "no such bucket" in str(fault("url", PERMANENT["bucket"]()))
    with pytest.raises(StorageError, match="no-such-protocol"):
        storage.exists("no-such-protocol://x")


@given(st.integers(1, 2000), st.integers(0, 2**32))
def test_pauses_grow_with_full_jitter(attempt: int, seed: int) -> None:
    longest = min(retry.CAP_S, retry.BASE_S * 2 ** min(attempt, 100))
    pause = retry.backoff(attempt, random.Random(seed))
    assert 0 <= pause <= longest
    draws = [retry.backoff(attempt, rng) for rng in [random.Random(seed)] for _ in range(200)]
    assert 0.3 * longest < sum(draws) / len(draws) < 0.7 * longest


def test_pauses_leave_the_global_generator_alone(root: str) -> None:
    random.seed(1)
    state = random.getstate()
    Script.faults["info"] = [TRANSIENT["503"]()]
    assert storage.exists(root)
    assert random.getstate() == state


@pytest.mark.parametrize("text", ["soon", "-1", "nan", ""])
def test_the_deadline_is_a_number_of_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retry.VARIABLE, text)
    with pytest.raises(ConfigError, match=retry.VARIABLE):
        storage.exists("memory://x")


def test_a_deadline_of_zero_tries_once(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retry.VARIABLE, "0")
    Script.faults["info"] = [TRANSIENT["503"](), TRANSIENT["503"]()]
    with pytest.raises(StorageError, match=r"gave up after 1 attempt in 0\.0 s"):
        storage.exists(root)
    assert len(Script.faults["info"]) == 1


def test_the_s3_client_is_ours_to_bound_and_the_users_to_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fs, path = storage.filesystem("s3://bucket/key")
    assert path == "bucket/key"
    assert (fs.retries, fs.config_kwargs["retries"]["total_max_attempts"]) == (1, 1)
    assert not fs.dircache.use_listings_cache
    told = {"config_kwargs": {"read_timeout": 99}, "anon": True, "use_listings_cache": True}
    monkeypatch.setitem(fsspec.config.conf, "s3", told)
    other, _ = storage.filesystem("s3://bucket/key")
    assert other.config_kwargs == fs.config_kwargs | {"read_timeout": 99}
    assert other.anon and other.dircache.use_listings_cache
    chained, _ = storage.filesystem("simplecache::s3://bucket/key")
    assert chained.fs.config_kwargs["read_timeout"] == 99


def test_the_script_covers_every_call() -> None:
    assert {method for method, *_ in OPERATIONS.values()} == set(METHODS)
