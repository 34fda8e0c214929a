"""`evaluate RUN --watch`: every checkpoint scored once, while others come and go."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from evaluate_runs import fails, played, write_checkpoint
from palaestra.evaluate import watch
from palaestra.evaluate.baselines import load_baselines
from palaestra.evaluate.entrants import find_entrants
from palaestra.evaluate.settings import Settings
from palaestra.evaluate.watch import follow, watched_pairs
from palaestra.shards.errors import CheckpointError
from palaestra.train.places import checkpoint_url
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from waiting import wait_for

LEVER = ("lever", 1)
SETTINGS = Settings((), (LEVER,), (), 3, 0, 3)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_S", 0.01)


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run of 14 updates with a checkpoint after 7."""
    url = str(tmp_path / "run")
    write_checkpoint(Path(checkpoint_url(url, 7)))
    (tmp_path / "run" / "run.json").write_text('{"updates": 14}')
    return url


def add_last(run: str) -> None:
    """A copy may write its marker before its weights, so the checkpoint appears by its name."""
    shutil.copytree(checkpoint_url(run, 7), f"{run}/copy")
    Path(f"{run}/copy").rename(checkpoint_url(run, 14))


def lines(run: str) -> list[dict[str, Any]]:
    path = Path(run) / "evaluations.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_each_checkpoint_is_scored_once_and_the_last_ends_it(run: str) -> None:
    def train_on() -> None:
        wait_for(lambda: lines(run))
        add_last(run)

    trainer = threading.Thread(target=train_on)
    trainer.start()
    follow(run, SETTINGS, "on")
    trainer.join()
    assert [(line["update"], line["task"], line["level"]) for line in lines(run)] == [
        (7, *LEVER), (14, *LEVER),
    ]  # fmt: skip
    events = EventAccumulator(f"{run}/tensorboard/evaluate").Reload()
    points = [(event.step, event.value) for event in events.Scalars("return/lever-1")]
    expected = [(line["update"], line["mean_return"]["value"]) for line in lines(run)]
    assert points == [(update, pytest.approx(value)) for update, value in expected]
    assert set(events.Tags()["scalars"]) == {
        f"{name}/lever-1" for name in ("success", "return", "normalised")
    }
    before = (Path(run) / "evaluations.jsonl").read_bytes()
    follow(run, SETTINGS, "on")  # nothing is left
    assert (Path(run) / "evaluations.jsonl").read_bytes() == before


def test_lines_hold_what_the_report_would(run: str) -> None:
    settings = replace(SETTINGS, seed=5)
    found = watch._score(run, 7, settings, "both", None)
    assert lines(run) == found and [line["history"] for line in found] == [True, False]
    line = found[0]
    entrants = find_entrants([checkpoint_url(run, 7)]).entrants
    (cell,) = played(replace(settings, policies=entrants)).cells
    assert {name: line[name] for name in asdict(cell.scores)} == asdict(cell.scores)
    rows = [load_baselines().find(*LEVER, script) for script in ("random", "expert")]
    low, high = (row.mean_return for row in rows if row is not None)
    expected = (cell.scores.mean_return.value - low) / (high - low)
    assert line["normalised"] == pytest.approx(expected)
    assert (line["runs"], line["history"], line["seed"]) == (3, True, 5)


def test_a_killed_watcher_goes_on_and_plays_only_what_is_missing(run: str) -> None:
    (Path(run) / "run.json").write_text('{"updates": 7}')
    there = {"update": 7, "task": "lever", "runs": 3, "history": True, "seed": 0}
    whole = [json.dumps(there | {"level": level}) for level in (1, 2, 3)]
    (Path(run) / "evaluations.jsonl").write_text("\n".join([*whole, whole[0][:20]]))
    tasks = tuple(("lever", level) for level in (1, 2, 3))
    follow(run, replace(SETTINGS, tasks=(*tasks, ("reach", 1))), "on")
    found = watch.read_lines(f"{run}/evaluations.jsonl")
    assert [(line["task"], line["level"]) for line in found] == [*tasks, ("reach", 1)]


def test_a_checkpoint_that_is_deleted_meanwhile_is_left_out(run: str) -> None:
    assert watch._score(run, 3, SETTINGS, "on", None) == []
    (Path(checkpoint_url(run, 7)) / "weights.safetensors").write_bytes(b"damaged " * 8)
    with pytest.raises(CheckpointError, match="not weights of ours"):
        follow(run, SETTINGS, "on")


def test_held_out_tasks_come_before_the_chosen_ones() -> None:
    pairs = watched_pairs((("reach", 2), LEVER))
    balls, levers = ([(task, level) for level in (1, 2, 3)] for task in ("ball", "lever"))
    assert pairs == (*levers, ("maze", 3), ("reach", 2))
    pairs = watched_pairs((("tag", 1),))
    assert pairs == (*balls, *levers, ("maze", 3), ("tag", 1))


def test_matches_are_scored_against_each_anchor(run: str) -> None:
    found = watch._score(run, 7, replace(SETTINGS, tasks=(("sumo", 1),)), "on", None)
    assert [line["opponent"] for line in found] == ["random", "weak", "medium", "strong"]
    for line in found:
        assert line["wins"] + line["draws"] + line["losses"] == line["runs"] == 3
        assert line["success"]["value"] == line["wins"] / 3
    events = EventAccumulator(f"{run}/tensorboard/evaluate").Reload()
    assert "won/sumo-1-strong" in events.Tags()["scalars"]
    assert watch._left(7, replace(SETTINGS, tasks=(("sumo", 1),)), [True], {
        watch._key(line) for line in found
    }) == ()  # fmt: skip


def test_what_cannot_be_watched_is_one_line(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--watch takes one run" in fails(capsys, run, "random", "--watch")
    assert "neither --output" in fails(capsys, run, "--watch", "--output", tmp_path / "out")
    assert "no run to watch: expected run.json" in fails(capsys, tmp_path / "nowhere", "--watch")
    assert "--tasks: unknown task 'reech'" in fails(capsys, run, "--watch", "--tasks", "reech")
    assert "--output is missing" in fails(capsys, "random")
