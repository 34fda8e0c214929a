"""Metrics of a run: each line there when its checkpoint is, none twice, remote files renewed."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_filesystem import Script, register
from palaestra.shards import storage
from palaestra.shards.errors import StorageError
from palaestra.train import log as log_module
from palaestra.train.log import METRICS, Log, read_lines
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from waiting import wait_for


@pytest.fixture(autouse=True)
def _failing_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`faulty://` exists, a fault is not tried again, and temporary folders are the test's."""
    monkeypatch.setenv("PALAESTRA_STORAGE_DEADLINE", "0")
    register()
    yield
    Script.clear()


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a run that is not local; what is written before it goes there is below tmp_path."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(log_module.tempfile, "tempdir", str(tmp_path / "temporary"))
    return f"faulty://{uuid.uuid4().hex}"


def write(log: Log, *updates: int, shift: float = 0.0) -> None:
    for update in updates:
        log.write(update, {"policy_loss": update + shift, "rate": 0.5})


def losses(run: str) -> list[tuple[float, float]]:
    return [(line["update"], line["policy_loss"]) for line in read_lines(f"{run}/{METRICS}")]


def points(run: str, folder: Path) -> list[tuple[int, float]]:
    """What TensorBoard shows of the run's loss, of a copy of its event files."""
    shutil.rmtree(folder, ignore_errors=True)
    storage.download_folder(f"{run}/tensorboard", folder)
    events = EventAccumulator(str(folder)).Reload()
    assert set(events.Tags()["scalars"]) == {"policy_loss", "rate"}
    return [(event.step, event.value) for event in events.Scalars("policy_loss")]


def puts() -> int:
    return sum(method == "pipe_file" and "metrics" in path for method, path in Script.calls)


def test_a_local_line_is_in_its_file_at_once(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/run", 0)
    write(log, 0)
    text = (tmp_path / "run/metrics.jsonl").read_text()
    assert text == '{"update": 0, "policy_loss": 0.0, "rate": 0.5}\n'
    log.close()
    assert points(f"{tmp_path}/run", tmp_path / "copy") == [(0, 0.0)]


@pytest.mark.parametrize("local", [True, False])
def test_a_resumed_run_drops_what_came_after_its_checkpoint(
    local: bool, remote: str, tmp_path: Path
) -> None:
    run = f"{tmp_path}/run" if local else remote
    killed = Log(run, 0)
    write(killed, 0, 1, 2, 3)
    killed.flush()
    storage.write_bytes(  # as if killed in the middle of a line
        f"{run}/metrics.jsonl", storage.read_bytes(f"{run}/metrics.jsonl") + b'{"update": 4, "pol'
    )
    assert losses(run) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    second = int(time.time())  # TensorBoard orders event files by the second in their names
    wait_for(lambda: int(time.time()) > second)
    log = Log(run, 2)
    write(log, 2, 3, 4, shift=0.5)
    log.close()
    assert losses(run) == [(0, 0), (1, 1), (2, 2.5), (3, 3.5), (4, 4.5)]
    assert points(run, tmp_path / "copy") == losses(run)
    killed.close()


def test_a_last_line_without_its_end_is_ended(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"update": 0, "policy_loss": 3}')
    log = Log(str(tmp_path), 1)
    write(log, 1)
    log.close()
    assert losses(str(tmp_path)) == [(0, 3), (1, 1)]


def test_a_remote_run_is_renewed_once_in_a_while_and_by_flush(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(remote, 0)
    write(log, 0)
    wait_for(lambda: losses(remote) == [(0, 0)])  # the first line shows that it works
    write(log, *range(1, 100))
    assert puts() == 1  # the next is a minute away
    log.flush()
    assert puts() == 2 and len(losses(remote)) == 100
    assert len(points(remote, tmp_path / "copy")) == 100
    monkeypatch.setattr(log_module, "UPLOAD_EVERY_S", 0.0)
    log.flush()
    updates = iter(range(100, 10**6))
    wait_for(lambda: puts() > 3, lambda: write(log, next(updates)))
    log.close()
    assert len(losses(remote)) == next(updates)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_larger_the_files_the_rarer_they_go_up(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "UPLOAD_EVERY_S", 0.0)
    monkeypatch.setattr(log_module, "UPLOAD_RATE", 1.0)  # a line is a minute's worth
    log = Log(remote, 0)
    write(log, *range(50))
    wait_for(lambda: len(losses(remote)) > 0)
    write(log, *range(50, 100))
    assert puts() == 1
    log.close()


def test_uploads_do_not_queue_behind_a_slow_one(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "UPLOAD_EVERY_S", 0.0)
    monkeypatch.setattr(log_module, "UPLOAD_RATE", 1e12)
    log, answered = Log(remote, 0), threading.Event()
    log._upload = log._uploader.submit(answered.wait)
    write(log, *range(50))
    answered.set()
    log.close()
    assert puts() == 1 and len(losses(remote)) == 50


def test_who_lost_the_run_does_not_write_over_its_successor(remote: str) -> None:
    log = Log(remote, 0)
    write(log, 0)
    log.flush()
    write(log, 1)
    log.close(upload=False)
    assert losses(remote) == [(0, 0)]


def test_a_store_that_fails_costs_a_warning_until_a_checkpoint_needs_it(
    remote: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_module, "UPLOAD_EVERY_S", 0.0)
    monkeypatch.setattr(log_module, "UPLOAD_RATE", 1e12)
    log = Log(remote, 0)
    denied = PermissionError("denied")
    with caplog.at_level(logging.WARNING):
        Script.faults["pipe_file"] = [denied]
        updates = iter(range(10**6))
        wait_for(lambda: losses(remote), lambda: write(log, next(updates)))
        (record,) = caplog.records
        assert record.getMessage() == (
            f"{remote}/metrics.jsonl: denied; metrics are uploaded later"
        )
        wait_for(lambda: log._upload is not None and log._upload.done())
        Script.faults["pipe_file"] = [denied]
        with pytest.raises(StorageError, match=r"metrics\.jsonl: denied"):
            log.flush()
        Script.faults["pipe_file"] = [denied]
        log.close()
        assert caplog.messages[1:] == [
            f"{remote}: the last metrics are lost: {remote}/metrics.jsonl: denied"
        ]
