"""`generate plan`: what is counted, what is missing, and how it prints."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from palaestra.generate.draft import A_LEAGUE, STAND_IN, draft
from palaestra.generate.estimate import Estimate, check_cores, estimate, print_estimate
from palaestra.generate.measure import Cost
from palaestra.generate.plan import plan
from palaestra.generate.recipe import Behaviour, Player, Recipe
from palaestra.generate.recipe_file import load_recipe
from palaestra.generate.resolve import resolve
from palaestra.generate.tally import Cell, Part, Row, choose, count, part_of
from palaestra.shards.console import console
from palaestra.shards.errors import StorageError
from recipe_files import LEAGUE, MATCHES, PARTS, refused, write, write_league

UNIT = Cost(written=0.75, segments=1 / 128, bytes=500.0, seconds=2e-4)


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


def test_a_policy_that_hardly_succeeds_is_named() -> None:
    part = Part("p", 1, 5e8, (row("expert+noise0.8"),))
    cells = [Cell("insert", level, "expert+noise0.8", "", "success") for level in (1, 2)]
    costs = dict(zip(cells, (replace(UNIT, tries=n) for n in (16.0, 17.0)), strict=True))
    text = printed(Estimate("url", (part,), (), costs))
    assert "insert 2, expert+noise0.8: not one in 16 succeeds" in text and "insert 1" not in text
    assert 'with keep = "success" more is played' in text
    assert "1 pair of task and policy, each at every level" in text


def test_a_recipe_whose_episodes_are_whole_has_a_simple_table() -> None:
    whole = replace(row("expert"), written=1000.0)
    text = printed(Estimate("url", (Part("demo", 1, 5e8, (whole,)),), (), {}))
    assert "demo, 1 shard " in text and "all parts" not in text
    assert "written" not in text.splitlines()[1] and "planned" not in text
    assert max(map(len, text.split("steps/s:")[0].splitlines())) <= 80
