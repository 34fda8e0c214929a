"""One process trains a run: who holds it, who may take it over, and who has to stop."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import faulty_filesystem
import pytest
from faulty_filesystem import Script
from palaestra.shards import storage
from palaestra.shards.errors import CheckpointError, ConfigError
from palaestra.train import owner
from palaestra.train.owner import Claim, Owner, owning, read_claim
from waiting import wait_for

LONG_S = 3600.0  # a beat that no test waits for
OWN = """
import sys
from palaestra.train.owner import owning
with owning(sys.argv[1], float(sys.argv[2])):
    print("owned", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory no write is late."""
    monkeypatch.setattr(owner, "SETTLE_S", 0.01)


@pytest.fixture
def run() -> str:
    """URL of a run where nothing is."""
    return f"memory://{uuid.uuid4().hex}"


@contextmanager
def owned_by_a_process(run: Path) -> Iterator[subprocess.Popen[str]]:
    """The run, owned by another process until its stdin ends."""
    command = [sys.executable, "-c", OWN, str(run), str(LONG_S)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "owned\n"
            yield process
        finally:
            process.kill()


def claim_of(run: str) -> Claim:
    found = read_claim(run)
    assert found is not None
    return found


def put(run: str, claim: Claim) -> None:
    storage.write_json(f"{run}/owner.json", asdict(claim))


def foreign(beat_s: float, **changed: object) -> Claim:
    """A claim that a process on another machine made."""
    claim = Claim(
        "f" * 32, "node7", "its boot pid:[1]", 41, 5, "2026-05-01T10:20:30+00:00",
        "2026-05-01T10:20:30.5+00:00", beat_s,
    )  # fmt: skip
    return replace(claim, **changed)


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """The action over and over in a thread, as another machine's."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(0.01):
            action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_the_file_says_who_and_goes_at_the_end(run: str) -> None:
    with owning(run) as held:
        found = claim_of(run)
        assert (found.pid, found.host) == (os.getpid(), os.uname().nodename)
        assert found.is_here() and found.is_alive() and found.beat_s == owner.BEAT_S
        held.check()
    assert read_claim(run) is None
    with pytest.raises(KeyError), owning(run):
        raise KeyError
    assert read_claim(run) is None


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with owned_by_a_process(tmp_path / "run") as process:
        claimed = (tmp_path / "run/owner.json").read_text()
        expected = rf"run is in use by process {process.pid} on this machine \(since 20"
        with pytest.raises(CheckpointError, match=expected), owning(f"{tmp_path}/run"):
            pass
        assert (tmp_path / "run/owner.json").read_text() == claimed
        process.communicate("")
        with owning(f"{tmp_path}/run"):
            pass


def test_a_killed_owner_is_followed_at_once(tmp_path: Path) -> None:
    with owned_by_a_process(tmp_path / "run") as process:
        process.kill()  # and not waited for: what is left of it is a zombie
        wait_for(lambda: not claim_of(f"{tmp_path}/run").is_alive())
        # its beat is an hour: watching it for three would never end
        with owning(f"{tmp_path}/run") as held:
            assert held.claim.pid == os.getpid()


def test_a_process_id_used_again_is_no_owner(run: str) -> None:
    mine = Owner(run, LONG_S).claim
    put(run, replace(mine, id="a" * 32, born=mine.born - 1))
    with owning(run):
        assert claim_of(run).born == mine.born


def test_an_owner_elsewhere_whose_file_changes_is_left_alone(
    run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # pid and host may collide: containers are numbered from 1
    claim = foreign(0.5, pid=os.getpid(), host=os.uname().nodename)
    put(run, claim)
    beats = iter(range(10**9))
    expected = rf"in use by process {os.getpid()} on {claim.host} \(since 2026-05-01 10:20:30 UTC"
    with (
        meanwhile(lambda: put(run, replace(claim, beat=f"beat {next(beats)}"))),
        pytest.raises(CheckpointError, match=expected), owning(run),
    ):  # fmt: skip
        pass
    assert claim_of(run).id == claim.id
    assert "; watching for 2 s whether it still is" in capsys.readouterr().out


def test_an_owner_elsewhere_that_is_silent_for_three_beats_is_followed(run: str) -> None:
    put(run, foreign(0.2))
    began = time.monotonic()
    with owning(run) as held:
        assert time.monotonic() - began >= 0.6
        assert claim_of(run).id == held.claim.id


def test_an_owner_elsewhere_that_ends_is_followed_at_once(run: str) -> None:
    put(run, foreign(2.0))
    with meanwhile(lambda: storage.remove(f"{run}/owner.json")):
        owner._wait_until_gone(run, foreign(LONG_S / 1e4))


def test_of_two_that_start_in_the_same_instant_one_goes_on(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the rival's write arrives after ours, while both wait to look again
    monkeypatch.setattr(owner.time, "sleep", lambda seconds: put(run, foreign(LONG_S)))
    with pytest.raises(CheckpointError, match="taken over by process 41 on node7"), owning(run):
        pass
    assert claim_of(run).id == foreign(LONG_S).id


def test_beats_show_that_the_owner_lives(run: str) -> None:
    with owning(run, 0.02):
        first = claim_of(run)
        wait_for(lambda: claim_of(run).beat != first.beat)
        assert replace(claim_of(run), beat=first.beat) == first


def test_who_was_taken_over_stops_and_leaves_the_file_alone(run: str) -> None:
    with owning(run, 0.02) as held:
        put(run, foreign(LONG_S))  # as after it was suspended for a minute
        wait_for(lambda: held.lost)
        with pytest.raises(CheckpointError, match="taken over by process 41 on node7"):
            held.check()
    assert claim_of(run) == foreign(LONG_S)


def test_the_check_asks_the_storage_itself(run: str) -> None:
    with owning(run, LONG_S) as held:
        put(run, foreign(LONG_S))
        assert not held.lost
        with pytest.raises(CheckpointError, match="taken over"):
            held.check()
        assert held.lost


def test_a_file_that_somebody_removed_comes_back(run: str) -> None:
    with owning(run, 0.02) as held:
        storage.remove(f"{run}/owner.json")
        wait_for(lambda: read_claim(run) is not None)
        held.check()


def test_a_storage_that_fails_stops_no_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PALAESTRA_STORAGE_DEADLINE", "0")
    faulty_filesystem.register()
    run = f"faulty://{uuid.uuid4().hex}"
    with caplog.at_level(logging.WARNING), owning(run, 0.02) as held:
        Script.faults["pipe_file"] += [PermissionError("denied")]
        wait_for(lambda: "denied" in caplog.text)
        before = claim_of(run).beat
        wait_for(lambda: claim_of(run).beat != before)
        assert not held.lost
    Script.clear()


def test_a_file_that_is_no_claim_is_named(tmp_path: Path) -> None:
    (tmp_path / "owner.json").write_text('{"id": 3}')
    with pytest.raises(ConfigError, match=rf"{tmp_path}/owner.json: id: expected str, found 3"):
        read_claim(str(tmp_path))
