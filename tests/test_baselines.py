"""The baselines that are kept with the code: whole, as good as promised, and repeatable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from palaestra.evaluate import baselines
from palaestra.evaluate.baselines import Pairing, load_baselines, measure, pairings, to_json
from palaestra.evaluate.ratings import payoff, rate
from palaestra.generate.league import ANCHORS, Matches
from palaestra.generate.registry import task_classes

WANTED = {1: 0.9, 2: 0.8, 3: 0.6}  # success of the expert by level
HARD = {1: 0.8, 2: 0.6, 3: 0.4}
HARD_TASKS = ("insert", "stack", "quadruped")
ALONE = [(n, level) for n, c in task_classes().items() if c.players == 1 for level in WANTED]
MATCHES = [(n, level) for n, c in task_classes().items() if c.players == 2 for level in WANTED]
ENDS = {"random", "strong"}
NAMES = [anchor.name for anchor in ANCHORS]  # the weakest first


def test_every_task_and_level_has_its_rows() -> None:
    found = load_baselines()
    assert found.runs == baselines.RUNS
    assert {"mujoco", "numpy", "palaestra"} <= set(found.versions)
    expected = [
        (p.task, p.level, player, name, p.policies[1 - player] if len(p.policies) == 2 else "")
        for p in pairings() for player, name in enumerate(p.policies)
    ]  # fmt: skip
    rows = [(r.task, r.level, r.player, r.policy, r.opponent) for r in found.rows]
    assert rows == sorted(expected)


@pytest.mark.parametrize(("task", "level"), ALONE)
def test_experts_keep_their_promise(task: str, level: int) -> None:
    expert = load_baselines().find(task, level, "expert")
    random = load_baselines().find(task, level, "random")
    assert expert is not None and random is not None
    assert expert.success >= (HARD if task in HARD_TASKS else WANTED)[level]
    assert random.success <= 0.05
    assert expert.mean_return > 1.2 * random.mean_return


@pytest.mark.parametrize(("task", "level"), MATCHES)
def test_the_expert_beats_random_play_from_both_sides(task: str, level: int) -> None:
    found = 0
    for row in load_baselines().rows:
        if (row.task, row.level) == (task, level) and {row.policy, row.opponent} == ENDS:
            won, lost = row.success, row.lost
            if row.policy == "random":
                won, lost = lost, won
            assert won >= 0.95 * (won + lost) and won + lost >= 0.5, row
            found += 1
    assert found == 4


def ratings(pairs: list[tuple[str, int]]) -> list[float]:
    """The anchors', by their matches from both sides on these tasks and levels."""
    stored = load_baselines()
    rows = []
    for row in stored.rows:
        task, level = row.task, row.level
        if (task, level) in pairs and row.player == 0:
            wins, losses = round(row.success * stored.runs), round(row.lost * stored.runs)
            sides, draws = (row.policy, row.opponent), stored.runs - wins - losses
            rows.append(Matches(task, level, *sides, stored.seed, wins, draws, losses))
    found = rate(payoff(NAMES, rows), np.random.default_rng(0))
    values = {rating.name: rating.value for rating in found}
    return [value for name in NAMES if (value := values[name]) is not None]


@pytest.mark.parametrize(("task", "level"), MATCHES)
def test_anchors_are_in_order(task: str, level: int) -> None:
    steps = np.diff(ratings([(task, level)]))
    assert len(steps) == len(NAMES) - 1 and (steps > 20).all(), steps


def test_anchors_are_apart_by_steps_of_a_kind() -> None:
    steps = np.diff(ratings(MATCHES))
    assert (steps > 150).all() and steps.max() < 2.5 * steps.min(), steps


def test_the_same_runs_give_the_same_rows() -> None:
    """To the rounding of another machine's floating point; on one of this kind, exactly."""
    for task in ("reach", "push"):
        (found,) = measure(Pairing(task, 1, ("random",)))
        stored = load_baselines().find(task, 1, "random")
        assert stored is not None and found.success == stored.success
        assert found.mean_return == pytest.approx(stored.mean_return, rel=1e-3)


def test_the_command_replaces_the_rows_of_a_task(tmp_path: Path) -> None:
    output = tmp_path / "baselines.json"
    baselines.command(baselines.Arguments(str(output), runs=2, tasks=("swingup",)))
    written = json.loads(output.read_text())
    assert written["runs"] == 2
    stored = json.loads(to_json(load_baselines()))["rows"]
    assert [row for row in written["rows"] if row["task"] != "swingup"] == [
        row for row in stored if row["task"] != "swingup"
    ]
    assert len(written["rows"]) == len(stored)
