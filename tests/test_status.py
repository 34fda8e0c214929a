"""What a user watches: the progress of a run that trains, and `train status` of any."""

from __future__ import annotations

import io
import json
import os
import uuid
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from palaestra.shards import console as console_module
from palaestra.shards import storage
from palaestra.shards.console import data_size, duration, progress
from palaestra.shards.errors import CheckpointError
from palaestra.train import owner
from palaestra.train.log import Log
from palaestra.train.owner import Claim, Owner, owning
from palaestra.train.places import Marker, checkpoints_url, update_url, write_marker
from palaestra.train.show import summary, watch
from palaestra.train.status import StatusArguments, read_status, status_command
from rich.console import Console

SETTINGS = {
    "preset": "tiny", "inputs": "state", "precision": "bf16", "batch": 16, "updates": 100,
}  # fmt: skip
METRICS = {"policy_loss": 1.25, "value_loss": 0.5, "steps": 4000.0, "steps_per_s": 8000.0}


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "SETTLE_S", 0.01)


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a run after 30 of 100 updates, validated at 10 and 20, with two checkpoints."""
    url = f"{tmp_path}/run" if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    storage.write_json(f"{url}/run.json", SETTINGS)
    log = Log(url, 0)
    for update in range(30):
        metrics = METRICS | {"data_wait": 0.004, "mfu": 0.413}
        if update < 10:
            metrics |= {"steps_per_s": 1.0}  # only the last twenty updates tell how it goes on
        if update + 1 in (10, 20):
            metrics |= {"validation/policy_loss": update / 10, "validation/value_loss": 0.25}
        log.write(update, metrics)
    log.close()
    for update in (10, 20):
        folder = checkpoints_url(url)
        storage.write_bytes(f"{update_url(folder, update)}/weights.safetensors", bytes(2_000_000))
        write_marker(folder, Marker(update, 1, 1, []))
    storage.write_bytes(f"{update_url(folder, 30)}/weights.safetensors", b"under way")
    return url


def shown(run: str, capsys: pytest.CaptureFixture[str], json: bool = False) -> str:
    status_command(StatusArguments(run, json))
    return capsys.readouterr().out


def elsewhere(run: str, silent_s: float) -> Claim:
    """A claim of a process on another machine, whose last beat was so long ago."""
    claim = Owner(run).claim
    beat = datetime.now(UTC) - timedelta(seconds=silent_s)
    changed = replace(claim, host="node7", pid=41, machine="another", beat=beat.isoformat())
    storage.write_json(f"{run}/owner.json", asdict(changed))
    return changed


def test_status_tells_where_a_run_stands(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    marker = storage.size(f"{update_url(checkpoints_url(run), 20)}/checkpoint.json") or 0
    lines = shown(run, capsys).splitlines()
    checkpoints = lines.pop()
    assert lines == [
        f"{run}: tiny, state, bf16, batches of 16 segments",
        "state        stopped; the same command goes on",
        "updates      30 of 100 (30%), 120,000 steps seen",
        "left         about 35 s of training",  # 70 updates of 4,000 steps at 8,000 steps/s
        "speed        8,000 steps/s, 0.5 s an update, data wait 0.4 %, MFU 41 %",
        "loss         policy 1.250, value 0.500",
        "validation   policy 1.900, value 0.250, after update 20",
    ]
    assert checkpoints.startswith("checkpoints  update 20 (2.0 MB, ")
    assert "ago), update 10 (2.0 MB, " in checkpoints and "update 30" not in checkpoints
    assert [c.bytes for c in read_status(run).checkpoints] == [2_000_000 + marker] * 2


def test_json_holds_the_same_numbers(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    with owning(run):
        found = json.loads(shown(run, capsys, json=True))
    assert (found["state"], found["update"], found["updates"]) == ("training", 30, 100)
    assert (found["steps"], found["seconds_per_update"]) == (120_000, 0.5)
    assert found["seconds_left"] == 35
    assert found["settings"] == SETTINGS and found["metrics"]["update"] == 29
    assert found["validation"]["update"] == 19 and found["owner"]["pid"] == os.getpid()
    assert [checkpoint["update"] for checkpoint in found["checkpoints"]] == [20, 10]
    assert all(0 <= checkpoint["age_s"] < 3600 for checkpoint in found["checkpoints"])


def test_status_tells_who_trains_the_run(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    def state() -> str:
        return shown(run, capsys).splitlines()[1].removeprefix("state        ")

    with owning(run):
        text = state()
        assert text.startswith(f"trained by process {os.getpid()} on this machine (since 20")
        assert ", last sign of life " in text
        before = storage.read_bytes(f"{run}/owner.json")
        storage.write_json(f"{run}/owner.json", json.loads(before) | {"born": 1})  # another process
        assert "on this machine" in state() and "ended without a word" in state()
        assert read_status(run).state == "silent"
        storage.write_bytes(f"{run}/owner.json", before)
    assert state() == "stopped; the same command goes on"
    elsewhere(run, silent_s=30)
    assert state().startswith("trained by process 41 on node7 (since 20")
    elsewhere(run, silent_s=7200)
    assert "process 41 on node7" in state()
    assert "shows no sign of life, the last was 2.0 h ago; the same command goes on" in state()
    storage.remove(f"{run}/owner.json")
    storage.write_json(f"{run}/run.json", SETTINGS | {"updates": 30})
    assert state() == "finished" and read_status(run).seconds_left == 0


def test_rolling_checkpoints_and_scores_in_simulation(
    run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_marker(f"{run}/rolling", Marker(28, 1, 1, []))
    scored = [(10, "lever", 0.2), (20, "lever", 0.25), (20, "maze", 0.5)]
    text = [
        json.dumps({"update": update, "task": task, "level": 3, "success": {"value": success}})
        for update, task, success in scored
    ]
    storage.write_bytes(f"{run}/evaluations.jsonl", "\n".join(text).encode())
    success, checkpoints, rolling = shown(run, capsys).splitlines()[-3:]
    assert success == "success      lever 3 25%, maze 3 50%, after update 20"
    assert checkpoints.startswith("checkpoints  update 20 (")
    assert rolling.startswith("rolling      update 28 (0.0 MB, ")


def test_a_run_that_has_just_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage.write_json(f"{tmp_path}/run.json", SETTINGS)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert shown(str(tmp_path), capsys).splitlines()[1:] == [
        "state        stopped; the same command goes on",
        "updates      0 of 100 (0%)",
        "checkpoints  none yet",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    # metrics of a remote run may be a minute behind its checkpoint
    write_marker(checkpoints_url(str(tmp_path)), Marker(40, 1, 1, []))
    assert read_status(str(tmp_path)).update == 40


def test_where_no_run_is_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no run here: expected run.json, nothing there"):
        read_status(f"{tmp_path}/nowhere")
    (tmp_path / "corpus.json").touch()
    with pytest.raises(CheckpointError, match=r"no run here: expected run.json, found corpus"):
        read_status(str(tmp_path))
    (tmp_path / "run.json").write_text("[3]")
    with pytest.raises(CheckpointError, match=r"run\.json: not a run's settings"):
        read_status(str(tmp_path))


def test_what_an_update_shows() -> None:
    assert summary(METRICS, None, None) == "loss 1.250, 8,000 steps/s"
    metrics = METRICS | {"data_wait": 0.0034, "mfu": 0.408}
    assert summary(metrics, 1.3, 480.0) == (
        "loss 1.250, validation 1.300, 8,000 steps/s, MFU 41 %, data wait 0.3 %, saved 8.0 min ago"
    )


def test_the_last_validation_and_checkpoint_stay_in_sight(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console_module, "PLAIN_INTERVAL_S", 0.0)
    with watch(100, 50) as show:
        show(METRICS | {"validation/policy_loss": 1.5})
        show.saved()
        show(METRICS)
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("train: 51 of 100 updates, ") and "validation 1.500" in first
    assert "saved" not in first and " s left, loss 1.250" in first
    for line in (second, last):
        assert line.startswith("train: 52 of 100 updates, ")
        assert "loss 1.250, validation 1.500, 8,000 steps/s, saved " in line


def test_rate_and_time_left_leave_out_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([1000.0, 1009.0, 1020.0, 1020.0, 1040.0, 1040.0])
    monkeypatch.setattr(console_module.time, "monotonic", lambda: next(clock))
    with progress("train", 100, "updates", 90) as advance:
        advance(1)  # after 9 s: nothing is printed
        advance(1)
    assert capsys.readouterr().out.splitlines() == [
        "train: 92 of 100 updates, 0.1 updates/s, 20 s, 1.3 min left",
        "train: 92 of 100 updates, 0.05 updates/s, 40 s, 2.7 min left",
    ]


def test_a_terminal_shows_a_bar_and_the_note_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(console_module, "console", terminal)
    monkeypatch.setenv("TERM", "xterm")
    note = "loss 1.250, validation 1.300, 8,000 steps/s, MFU 41 %, data wait 0.3 %, saved 8 min ago"
    with progress("train", 2000, "updates", 1000) as advance:
        for _ in range(3):
            advance(100, note)
    assert isinstance(terminal.file, io.StringIO)
    text = terminal.file.getvalue()
    frame = " ".join(text[text.rindex("train ") :].split())  # the note takes two lines of 80
    assert "65 % 1,300 of 2,000" in frame and "updates/s" in frame and note in frame


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.347, "0.35 s"), (9.96, "10 s"), (48.4, "48 s"), (60, "1.0 min"),
        (750, "12.5 min"), (3 * 3600, "3.0 h"), (71 * 3600, "71.0 h"), (7 * 604800, "49.0 days"),
    ],
)  # fmt: skip
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_in_words() -> None:
    sizes = (240_000, 3.14e6, 31.4e6, 3.14e9, 420e12)
    assert [data_size(n) for n in sizes] == ["0.2 MB", "3.1 MB", "31 MB", "3.1 GB", "420.0 TB"]
