"""What `generate plan` measures, against what is really generated."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from palaestra.generate.estimate import estimate, print_estimate
from palaestra.generate.measure import cost_of, measure, rounds
from palaestra.generate.plan import plan
from palaestra.generate.pool import in_processes
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.generate.recipe_file import load_recipe
from palaestra.generate.tally import SUMS, worker_memory
from palaestra.generate.trial import Trial
from palaestra.generate.work import manifest_of, write_shard
from palaestra.shards.console import console
from palaestra.shards.corpus import Corpus
from recipe_files import write

PATIENCE_S = 300  # a hang fails instead of blocking the suite
MIXED = """name = "mixed"
steps = 36_000
shard_steps = 16_384
wave = 8
image_size = 32
seed = 11

[[behaviours]]
tasks = ["reach", "swingup"]
levels = [1, 2]
policy = "expert"
noise = 0.4

[[behaviours]]
tasks = ["sumo", "push"]
policy = "expert"
opponents = ["self", "random"]

[[behaviours]]
tasks = ["quadruped"]
policy = "random"
"""
ROUNDS = """name = "rounds"
steps = 60_000
wave = 4
image_size = 16

[parts]
demonstrations = { weight = 1, keep = "success" }
round-1 = { weight = 3, round = 1 }

[policies]
learner = { policy = "palaestra.train.agent:load", arguments = { url = "{learner}" } }

[[behaviours]]
tasks = ["reach"]
levels = [1, 2]
policy = "expert"

[[behaviours]]
parts = ["round-1"]
tasks = ["reach", "sumo"]
policy = "learner"
"""


def one(task: str, policy: str = "expert", wave: int = 4, **options: Any) -> Recipe:
    behaviour = Behaviour((task,), policy, **options)
    return Recipe("one", 1, (behaviour,), wave=wave, image_size=16)


def within(found: float, expected: float, factor: float) -> None:
    assert expected / factor < found < expected * factor


def play(recipe: Recipe, nsim: int, enough: Callable[[Trial], bool] = lambda run: False) -> Trial:
    return Trial(recipe, nsim).play(enough)


def test_whole_episodes_tell_what_a_planned_step_comes_to() -> None:
    recipe = one("sumo")
    run = play(recipe, 2)
    steps = sum(row["steps"] for row in run.rows)
    assert run.whole and steps == sum(run.lanes) and run.planned == 2 * 2 * 512 > steps
    cost = cost_of(recipe, run, seconds=8.0)
    assert cost.written * run.planned == pytest.approx(steps)
    assert cost.segments * run.planned == pytest.approx(len(run.rows))
    assert cost.bytes * run.planned == pytest.approx(run.tar.tell())
    assert cost.seconds * run.planned == pytest.approx(8.0)


def test_where_only_successes_are_kept_more_is_played() -> None:
    recipe = one("sumo", "random", opponents=("expert",))
    run = play(recipe, 6)
    run.good = set(sorted({row["match"] for row in run.rows})[:2])
    kept = [row for row in run.rows if row["match"] in run.good]
    every, some = (cost_of(replace(recipe, keep=k), run, 1.0) for k in ("all", "success"))
    assert some.tries == 7 / 3 and some.seconds > every.seconds * some.tries
    planned = run.planned * 2 / 6
    assert some.written * planned == pytest.approx(sum(row["steps"] for row in kept))
    assert some.bytes * planned == pytest.approx(sum(row["bytes"] for row in kept))
    run.good = set()  # then as many would be played as can be told, and what was played is all
    none = cost_of(replace(recipe, keep="success"), run, 1.0)
    assert none == replace(every, seconds=none.seconds, tries=7.0)


def test_rounds_until_all_have_succeeded() -> None:
    rng = np.random.default_rng(0)
    for nsim, chance in ((1, 0.5), (4, 0.9), (32, 0.5), (64, 0.1)):
        played = rng.geometric(chance, (20_000, nsim)).max(axis=1).mean()
        assert abs(rounds(nsim, 1 / chance) - played) < 0.5
    assert rounds(64, 1.0) == 1.0


def test_matches_that_somebody_won_and_episodes_that_were_completed_are_good() -> None:
    run = play(one("reach"), 3)
    assert run.good == {row["match"] for row in run.rows if row["success"]} == {0, 1, 2}
    run = play(one("sumo"), 3)
    assert run.good == {row["match"] for row in run.rows if row["outcome"] == "win"} != set()


def test_a_wave_that_was_cut_off_counts_what_was_played() -> None:
    recipe = replace(one("maze", "random"), keep="success")
    run = play(recipe, 2, lambda run: len(run.lanes) == 300)
    assert not run.whole and len(run.rows) == 2 and run.planned == 600
    cost = cost_of(recipe, run, seconds=6.0)
    assert (cost.written, cost.segments) == (1.0, 1 / 256)
    assert cost.bytes == pytest.approx(run.tar.tell() / 512)
    assert cost.seconds == pytest.approx(0.01)


def test_a_standstill_is_left_out_of_the_rate() -> None:
    run = play(one("reach"), 2, lambda run: len(run.lanes) == 2)
    took = [5.0] + [0.01] * 20 + [0.5] + [0.02] * 20  # s; the first sets up
    run.lanes, run.times = [2] * 42, [sum(took[: i + 1]) for i in range(42)]
    assert run.per_step() == pytest.approx((20 * 0.01 + 21 * 0.02) / 82)
    assert run.per_step(20) == pytest.approx(0.005)
    run.lanes, run.times = [2], [5.0]  # all that there is
    assert run.per_step() == 2.5


def test_few_episodes_tell_nearly_what_a_whole_wave_does() -> None:
    recipe = one("swingup", wave=32)
    few, whole = measure(recipe, 0.0), measure(recipe, 1e9)
    assert few.written == whole.written == 1.0 and few.segments == whole.segments == 1 / 256
    within(few.bytes, whole.bytes, 1.5)
    within(few.seconds, whole.seconds, 2.0)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A recipe's URL, and what the command says of it."""
    url = write(tmp_path_factory.mktemp("mixed"), MIXED)
    words = [sys.executable, "-m", "palaestra.generate", "plan", url, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0 and not done.stderr
    return url, json.loads(done.stdout)


def test_a_plan_is_near_what_is_generated(planned: tuple[str, dict[str, Any]]) -> None:
    url, found = planned
    recipe = load_recipe(url)
    corpus = Corpus.create(f"memory://{uuid.uuid4().hex}", manifest_of(recipe))
    start = time.process_time()
    for shard in range(corpus.manifest.shards):
        write_shard(corpus, recipe, shard)
    seconds, index = time.process_time() - start, corpus.index
    (part,) = found["parts"]
    assert (part["name"], part["shards"]) == ("mixed", corpus.manifest.shards)
    assert found["steps"] == sum(wave.steps for shard in plan(recipe) for wave in shard)
    within(found["written"], index["steps"].sum(), 1.5)
    within(found["segments"], len(index), 1.5)
    within(found["bytes"], index["bytes"].sum(), 1.5)
    within(found["seconds"], seconds, 2.0)
    assert found["written"] < 0.95 * found["steps"]  # sumo ends early, and is a quarter


def test_json_holds_every_behaviour_and_every_cost(planned: tuple[str, dict[str, Any]]) -> None:
    _, found = planned
    (part,) = found["parts"]
    assert [(row["policy"], row["opponent"]) for row in part["rows"]] == [
        ("expert+noise0.4", ""), ("expert", ""), ("expert", "self"), ("expert", "random"),
        ("random", ""),
    ]  # fmt: skip
    for what in SUMS:
        assert sum(row[what] for row in part["rows"]) == pytest.approx(part[what])
        assert part[what] == pytest.approx(found[what])
    assert found["missing"] == [] and not any(row["unknown"] for row in part["rows"])
    cells = [(c["task"], c["level"], c["policy"], c["opponent"]) for c in found["measured"]]
    assert len(cells) == len(set(cells)) >= 6 and all(c["bytes"] > 0 for c in found["measured"])


def peak(recipe: Recipe) -> tuple[float, float]:
    """Of this process and of its shard's tar, once it has written one; in bytes."""
    corpus = Corpus(f"memory://{uuid.uuid4().hex}", manifest_of(recipe))
    report = write_shard(corpus, recipe, 0)
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return 1024.0 * int(line.split()[1]), report.bytes


@pytest.mark.parametrize(("wave", "size"), [(8, 32), (32, 64)])
def test_memory_is_near_a_workers_peak(wave: int, size: int) -> None:
    behaviour = Behaviour(("reach",), "random")
    recipe = Recipe("memory", 2 * wave * 256, (behaviour,), wave=wave, image_size=size)
    ((measured, shard),) = in_processes(peak, [recipe], 1)
    within(worker_memory(wave, size, shard, shard / 2), measured, 1.4)


@pytest.mark.slow
def test_learned_policies_are_measured_where_their_checkpoints_are_given(tmp_path: Path) -> None:
    from test_agent import export  # here, because it imports torch

    url, run = write(tmp_path, ROUNDS), export(tmp_path / "run.safetensors")
    without, given = estimate(url), estimate(url, values={"learner": run})
    assert without.missing == ("learner",) and given.missing == ()
    assert {cell.policy for cell in without.costs} == {"expert", "expert+noise0.4"}
    learned = {cell.task: cost for cell, cost in given.costs.items() if cell.policy == "learner"}
    assert {task: cost.device for task, cost in learned.items()} == dict.fromkeys(
        ("reach", "sumo"), next(iter(learned.values())).device
    )
    assert all(cost.device for cost in learned.values())
    slow = {part.name: part.total("seconds") for part in given.parts}
    fast = {part.name: part.total("seconds") for part in without.parts}
    assert slow["round-1"] > fast["round-1"]
    with console.capture() as capture:
        print_estimate(given, (1,))
    assert "learned policies: measured in one process, on" in capture.get()
