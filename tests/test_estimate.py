"""`generate plan`: exact arithmetic, and measured costs against what is really generated."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from palaestra.generate.draft import A_LEAGUE, STAND_IN, draft
from palaestra.generate.estimate import Estimate, check_cores, estimate, print_estimate
from palaestra.generate.measure import Cost, _Run, cost_of, measure
from palaestra.generate.plan import plan
from palaestra.generate.pool import in_processes
from palaestra.generate.recipe import Behaviour, Player, Recipe
from palaestra.generate.recipe_file import load_recipe
from palaestra.generate.resolve import resolve
from palaestra.generate.tally import SUMS, Cell, Part, Row, choose, count, part_of, worker_memory
from palaestra.generate.work import manifest_of, write_shard
from palaestra.shards.console import console
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import StorageError
from recipe_files import LEAGUE, MATCHES, PARTS, refused, write, write_league

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
UNIT = Cost(written=0.75, segments=1 / 128, bytes=500.0, seconds=2e-4)


def one(task: str, policy: str = "expert", wave: int = 4, **options: Any) -> Recipe:
    behaviour = Behaviour((task,), policy, **options)
    return Recipe("one", 1, (behaviour,), wave=wave, image_size=16)


def within(found: float, expected: float, factor: float) -> None:
    assert expected / factor < found < expected * factor


# --- counted


def test_a_part_is_planned_steps_times_what_each_costs(tmp_path: Path) -> None:
    url = write(tmp_path, MATCHES)
    (found,) = draft(url, None, None, {}, False)
    shards, waves = plan(found.recipe), count(found.recipe)
    cells = choose([(found.recipe, wave) for wave, _ in waves], 1000)
    costs = {cell: replace(UNIT, bytes=100.0 * i) for i, cell in enumerate(cells)}
    part = part_of(found, waves, costs)
    assert part.shards == len(shards)
    every = [wave for shard in shards for wave in shard]
    assert part.total("waves") == len(every)
    assert part.total("steps") == sum(wave.steps for wave in every)
    assert part.total("written") == pytest.approx(0.75 * part.total("steps"))
    assert part.total("seconds") == pytest.approx(2e-4 * part.total("steps"))
    assert [(row.policy, row.opponent) for row in part.rows] == [
        ("expert", ""), ("expert", "self"), ("expert", "rival"), ("expert", "random"),
    ]  # fmt: skip
    byte_counts: dict[str, float] = {}
    for wave in every:
        rival = {"rival": "palaestra.train.agent:load"}.get(wave.opponent, wave.opponent)
        cost = costs[Cell(wave.task, wave.level, "expert", rival, "all")]
        byte_counts[wave.opponent] = byte_counts.get(wave.opponent, 0) + wave.steps * cost.bytes
    assert {row.opponent: row.bytes for row in part.rows} == pytest.approx(byte_counts)


def test_hours_go_by_whole_shards() -> None:
    row = Row("expert", "", False, 1, 100, 100.0, 1.0, 1.0, seconds=3600 * 10.0)
    part = Part("part", 5, 1e9, (row,))
    assert [part.hours(cores) for cores in (1, 2, 4, 5, 100)] == [10, 6, 4, 2, 2]
    both = Estimate("url", (part, part), (), {})
    assert both.hours(4) == 8 and both.total("steps") == 200


def test_many_levels_are_measured_at_the_middle_one() -> None:
    recipe = Recipe("r", 400_000, (Behaviour(("reach", "push"), "expert", (1, 2, 3)),))
    playing = [(recipe, wave) for wave, _ in count(recipe)]
    assert {(c.task, c.level) for c in choose(playing, 5)} == {("reach", 2), ("push", 2)}
    cells = choose(playing, 6)
    assert [cell.level for cell in cells] == [1, 2, 3] * 2
    for cell, single in cells.items():
        (wave,) = plan(single)[0]
        assert (wave.task, wave.level, wave.nsim) == (cell.task, cell.level, 64)


def test_the_nearest_level_that_was_measured_counts(tmp_path: Path) -> None:
    text = 'name = "r"\nsteps = 400_000\n[[behaviours]]\ntasks = ["reach"]\npolicy = "expert"\n'
    (found,) = draft(write(tmp_path, text + "levels = [1, 2, 3]"), None, None, {}, False)
    costs = {Cell("reach", n, "expert", "", "all"): replace(UNIT, bytes=n) for n in (1, 2)}
    waves = count(found.recipe)
    steps = {wave.level: number * wave.steps for wave, number in waves}
    (row,) = part_of(found, waves, costs).rows
    assert row.bytes == steps[1] + 2 * (steps[2] + steps[3])


def test_players_that_do_the_same_are_measured_once() -> None:
    policies = {"clumsy": Player("expert", 0.4)} | {
        name: Player("palaestra.train.agent:load", arguments={"url": name}) for name in "ab"
    }
    tag = partial(Behaviour, ("tag",))
    behaviours = (
        tag("expert", noise=0.4), tag("clumsy"), tag("clumsy", opponents=("random", "a", "b")),
        tag("a"), tag("b"),
    )  # fmt: skip
    recipe = Recipe("r", 1_000_000, behaviours, policies=policies)
    recipe = resolve(recipe, "recipe", values={})
    cells = choose([(recipe, wave) for wave, _ in count(recipe)], 0)
    assert {(cell.policy, cell.opponent) for cell in cells} == {
        ("expert+noise0.4", "self"), ("expert+noise0.4", "random"), ("a", "self"), ("b", "self"),
        ("expert+noise0.4", "palaestra.train.agent:load"),
    }  # fmt: skip


# --- values that are missing


def test_a_stand_in_plays_for_a_policy_whose_value_is_missing(tmp_path: Path) -> None:
    url = write(tmp_path, PARTS)
    first, second = draft(url, None, None, {"bucket": "s3://bucket"}, False)
    assert (first.name, first.unknown, first.missing) == ("first", frozenset(), frozenset())
    assert (second.unknown, second.missing) == ({"learner"}, {"learner"})
    assert second.recipe.policies["learner"] == STAND_IN
    values = {"bucket": "b", "learner": "run"}
    for found in draft(url, None, None, values, False):
        asked = values if found.name == "second" else {}
        assert found.recipe == load_recipe(url, part=found.name, values=asked)
        assert not found.unknown and not found.missing


def test_a_missing_league_is_one_opponent(tmp_path: Path) -> None:
    url = write(tmp_path, LEAGUE)
    (found,) = draft(url, None, None, {}, False)
    assert found.unknown == {A_LEAGUE} and found.missing == {"league"}
    opponents = {wave.opponent for wave, _ in count(found.recipe)}
    assert opponents == {A_LEAGUE, "self"}
    members = [{"name": "old", "policy": "random"}]
    league = write_league(tmp_path, members)
    (found,) = draft(url, None, None, {"league": league}, False)
    assert {wave.opponent for wave, _ in count(found.recipe)} == {"old", "self"}
    with pytest.raises(StorageError):
        draft(url, None, None, {"league": str(tmp_path / "none.json")}, False)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("unknown name 'lerner'; did you mean 'learner'", {"values": {"lerner": "x"}}),
        ("nothing that plays asks", {"part": "first", "values": {"learner": "x"}}),
        ("--part: unknown part 'third'", {"part": "third"}),
        ("steps should be from 1", {"steps": 0}),
        ("hold none of", {"steps": 600}),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(
    message: str, options: dict[str, Any], tmp_path: Path
) -> None:
    url = write(tmp_path, PARTS)
    refused(message, lambda: estimate(url, **options), url)


def test_cores_are_positive() -> None:
    refused("--cores should be positive, is 0", lambda: check_cores([4, 0]), "--cores")
    check_cores([1, 2])


# --- measured


def play(recipe: Recipe, nsim: int, enough: Callable[[_Run], bool] = lambda run: False) -> _Run:
    return _Run(recipe, nsim).play(recipe, enough)


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
    assert some.seconds == pytest.approx(every.seconds * (6 + 1) / (2 + 1))
    planned = run.planned * 2 / 6
    assert some.written * planned == pytest.approx(sum(row["steps"] for row in kept))
    assert some.bytes * planned == pytest.approx(sum(row["bytes"] for row in kept))
    run.good = set()  # then as many would be played as can be told, and what was played is all
    none = cost_of(replace(recipe, keep="success"), run, 1.0)
    assert none == replace(every, seconds=every.seconds * 7)


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


# --- printed


def printed(found: Estimate, cores: tuple[int, ...] = (1, 16)) -> str:
    with console.capture() as capture:
        print_estimate(found, cores)
    return capture.get()


def row(policy: str, steps: int = 1000, **options: Any) -> Row:
    values = {"opponent": "", "unknown": False, "waves": 2, "steps": steps} | options
    return Row(
        policy, written=0.5 * steps, segments=steps / 256, bytes=250e6, seconds=60.0, **values
    )


def test_the_table_has_a_line_for_each_behaviour_and_folds_small_ones() -> None:
    rows = [row("expert", 5000), row("[red]", 4000, opponent="old", unknown=True)]
    rows += [row(f"p{i}", 100 + i) for i in range(10)]
    part = Part("round-1", 30, 1.5e9, tuple(rows))
    text = printed(Estimate("url", (part, part), ("learner",), {}))
    lines = [line.split() for line in text.splitlines()]
    assert ["expert", "2", "5,000", "50%", "20", "100,000", "250", "MB", "42"] in lines
    assert next(line[:4] for line in lines if "[red]" in line) == ["[red]", "vs", "old", "*"]
    assert [line[0] for line in lines if line and line[0].startswith("p")] == [
        f"p{i}" for i in range(3, 10)
    ] * 2
    assert next(line[:4] for line in lines if "others" in line) == ["3", "others", "6", "303"]
    assert ["round-1,", "30", "shards", "24"] in [line[:4] for line in lines]
    assert ["all", "parts", "48"] in [line[:3] for line in lines]
    assert ["cores", "1", "16"] in lines and ["time", "24.0", "min", "1.6", "min"] in lines
    assert "--set learner=…; expert+noise0.4 played instead" in text
    assert "about 1.5 GB a process, learned policies apart" in text


def test_a_recipe_whose_episodes_are_whole_has_a_simple_table() -> None:
    whole = replace(row("expert"), written=1000.0)
    text = printed(Estimate("url", (Part("demo", 1, 5e8, (whole,)),), (), {}))
    assert "demo, 1 shard " in text and "all parts" not in text
    assert "written" not in text.splitlines()[1] and "planned" not in text
    assert max(map(len, text.split("steps/s:")[0].splitlines())) <= 80


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
    assert "learned policies: measured in one process, on" in printed(given)
