"""Two real rounds of self-play, killed on the way: they go on, and nothing is done twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import train_runs
from palaestra.generate.league import ANCHORS, read_league
from waiting import PATIENCE_S, wait_for

ROUNDS = ("round-0", "round-1")
RECIPE = """name = "two-rounds"
steps = 36_000
seed = 3
shard_steps = 2048
wave = 8
image_size = 16
league = "{league}"

[sampling]
temperature = 1.0

[selfplay]
seed = ["demonstrations"]
checkpoints = 2

[selfplay.train]
preset = "tiny"
inputs = "state"
updates = 16
batch = 4
micro_batch = 4
precision = "fp32"
ranks = 1
validation_share = 0.0
validate_every = 0

[selfplay.evaluate]
tasks = ["sumo"]
levels = [1]
runs = 4
width = 4

[parts.demonstrations]
weight = 1
keep = "success"

[parts.round-0]
weight = 1

[parts.round-1]
weight = 2
round = 1

[[behaviours]]
parts = ["demonstrations", "round-0"]
tasks = ["reach", "sumo"]
policy = "expert"

[[behaviours]]
parts = ["round-0"]
tasks = ["reach", "sumo"]
policy = "expert"
noise = 1.0

[[behaviours]]
parts = ["round-1"]
tasks = ["reach"]
policy = "latest"
weight = 0.2

[[behaviours]]
parts = ["round-1"]
tasks = ["sumo"]
policy = "latest"
opponents = ["league"]
weight = 0.8
"""
STAGES = ["demonstrations/generate", "demonstrations/audit"] + [
    f"{name}/{command}"
    for name in ROUNDS for command in ("generate", "audit", "train", "evaluate")
]  # fmt: skip


@contextmanager
def driving(folder: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    """The command, in a session of its own; nothing of it outlives the block."""
    paths = [str(folder / name) for name in ("recipe.toml", "dest")]
    command = [sys.executable, "-m", "palaestra.evaluate", "selfplay", *paths, "--workers", "1"]
    process = subprocess.Popen(
        [*command, *map(str, words)],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    with train_runs.ending(process):
        yield process


def kill_when(folder: Path, stage: str, sign: Path, *words: object) -> None:
    """Kill the driver, and nothing else, once the sign of a stage under way is there."""
    with driving(folder, *words) as process:
        wait_for(lambda: sign.exists() or process.poll() is not None, patience_s=3 * PATIENCE_S)
        assert process.poll() is None, process.communicate()
        process.kill()
        process.wait()
        wait_for(lambda: not train_runs.family(process.pid))
        out, _ = process.communicate()
    assert stage not in finished(folder)
    assert out.count("\n"), "it says what it does"


def done(folder: Path, *words: object) -> str:
    """It ends well, and says so without a word on stderr."""
    with driving(folder, *words) as process:
        out, errors = process.communicate(timeout=3 * PATIENCE_S)
    assert (process.returncode, errors) == (0, ""), errors[-1500:]
    return out


def finished(folder: Path) -> list[str]:
    path = folder / "dest" / "selfplay.json"
    return [stage["name"] for stage in read(path)["stages"]] if path.exists() else []


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def tree(folder: Path, *but: str) -> dict[str, tuple[int, str]]:
    """When each file below was written, and what is in it."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in but
    }  # fmt: skip


@pytest.mark.slow
def test_two_rounds_killed_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    dest = tmp_path / "dest"
    first, second = dest / "round-0", dest / "round-1"

    kill_when(tmp_path, "demonstrations/generate", dest / "demonstrations/corpus/corpus.json")
    assert finished(tmp_path) == []
    printed = done(tmp_path, "--rounds", 1)
    assert finished(tmp_path) == STAGES[:6]
    assert "round 0 of 1: train" in printed and "round 1 of 1" not in printed
    rounds = {name: tree(dest / name) for name in ("demonstrations", "round-0")}

    kill_when(tmp_path, "round-1/generate", second / "corpus/corpus.json")
    kill_when(tmp_path, "round-1/train", second / "run/checkpoints/update-00000008/checkpoint.json")
    assert finished(tmp_path) == STAGES[:8]
    corpus = tree(second / "corpus")
    told_to_stop(tmp_path, second / "run" / "metrics.jsonl")
    printed = done(tmp_path)

    assert finished(tmp_path) == STAGES, "each once, in order"
    assert {name: tree(dest / name) for name in rounds} == rounds, "nothing was done again"
    assert tree(second / "corpus") == corpus and "generate" not in printed
    assert_league(dest)
    assert_second_corpus(second)
    assert read(first / "run/run.json")["warm_start"] == ""
    assert f"{first}/run" in read(second / "run/run.json")["warm_start"]
    assert train_runs.marker(second / "run", 16)["update"] == 16

    (dest / "report.html").unlink()
    assert f"report: {dest}/report.html" in done(tmp_path), "it is made again"
    whole = tree(dest)
    assert "dest: every stage is finished" in done(tmp_path)
    assert tree(dest) == whole
    assert {"report.html", "league.json", "selfplay.json"} < set(whole)
    assert "owner.json" not in whole


def told_to_stop(folder: Path, metrics: Path) -> None:
    """SIGTERM to the driver alone reaches `train`, which saves; both leave with 75."""
    before = metrics.read_text().count("\n")
    with driving(folder) as process:
        wait_for(lambda: metrics.read_text().count("\n") > before, patience_s=3 * PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    if process.returncode:  # else it came after the last update
        line = "round-1/train was stopped with exit code 75; the same command goes on from there"
        assert (process.returncode, errors) == (75, f"evaluate selfplay: error: {line}\n")


def assert_league(dest: Path) -> None:
    """Two networks of each round joined, in order, and are rated."""
    league = read_league(str(dest / "league.json"))
    joined = [f"{name}{update}" for name in ROUNDS for update in ("@8", "")]
    assert league.names == (*(anchor.name for anchor in ANCHORS), *joined)
    for member in league.members:
        assert member.rating is not None and member.interval is not None, member
        assert member.interval[0] <= member.rating <= member.interval[1]
    met = {(row.first, row.second) for row in league.payoff}
    assert ("round-1", "round-0") in met
    begun = [read_league(str(dest / name / "league.json")).names for name in ROUNDS]
    assert begun == [league.names[:4], league.names[:6]]


def assert_second_corpus(folder: Path) -> None:
    """It names its league, and each match says how its opponent was chosen, and both ratings."""
    league = folder / "league.json"
    text = (folder / "corpus/corpus.json").read_text()
    assert str(league) in text and hashlib.sha256(league.read_bytes()).hexdigest() in text
    rows = pl.read_parquet(folder / "corpus/index.parquet")
    assert set(rows["round"]) == {1} and set(rows["task"]) == {"reach", "sumo"}
    matches = rows.filter(pl.col("opponent") != "")
    assert set(matches["task"]) == {"sumo"}
    assert set(matches["sampling"]) <= {"pfsp", "self_play", "past"}
    assert len(set(matches["opponent"])) > 1
    assert "round-0" in set(matches["policy"]), "the last checkpoint is the newest"
    for column in ("sampling_probability", "rating", "opponent_rating"):
        assert matches[column].null_count() == 0, column
    alone = rows.filter(pl.col("task") == "reach")
    assert set(alone["sampling"]) == {""} and alone["sampling_probability"].is_null().all()
