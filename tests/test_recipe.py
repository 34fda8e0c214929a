"""Recipes: what each key means, and what is refused, and how."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from palaestra.generate import registry, work
from palaestra.generate.league import read_league
from palaestra.generate.plan import MATCHES_PER_SHARD, cells
from palaestra.generate.recipe import SELF, Behaviour, Player
from palaestra.generate.recipe_check import LIMITS
from palaestra.generate.recipe_file import load_recipe, parse_shards, parse_values
from palaestra.shards.errors import ConfigError, PalaestraError, StorageError
from recipe_files import (
    LEAGUE,
    MATCHES,
    MEMBERS,
    PARTS,
    RECIPE,
    load,
    load_with_league,
    played,
    refused,
)

# What is refused


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 6144", "steps = = 3", "malformed TOML: .*line 2"),
        ("steps = 6144", "stepps = 6144", "unknown key 'stepps'; did you mean 'steps'"),
        ("noise", "nose", r"behaviours\[0\]: unknown key 'nose'; did you mean 'noise'"),
        ('name = "tiny"\n', "", "key 'name' is missing"),
        ('policy = "random"\n', "", r"behaviours\[1\]: key 'policy' is missing"),
        ("steps = 6144", 'steps = "many"', "steps: expected int, found 'many'"),
        ("steps = 6144", "steps = 1.5", "steps: expected int, found 1.5"),
        ("steps = 6144", "steps = true", "steps: expected int, found True"),
        ("steps = 6144", "steps = 0", "steps should be from 1 to 1,000,000,000,000, is 0"),
        ("wave = 2", "wave = 0", "wave should be from 1 to 16,384, is 0"),
        ("wave = 2", "wave = 20_000", "wave should be from 1 to 16,384, is 20,000"),
        ("wave = 2", "image_size = 1", "image_size should be from 2 to 1,024, is 1"),
        ("= 1024", "= 10_000_000", "shard_steps should be from 1 to 8,388,608, is 10,000,000"),
        ("seed = 5", "seed = -1", "seed should be from 0 to .*, is -1"),
        ("seed = 5", "round = -1", "round should be from 0 to .*, is -1"),
        ("seed = 5", 'keep = "succes"', "unknown value of keep 'succes'; did you mean 'success'"),
        ("seed = 5", 'renderer = "elg"', "unknown renderer 'elg'; did you mean 'egl'"),
        ("seed = 5", "parts = 1", "parts: expected a table, found 1"),
        ("seed = 5", "policies = {a = 1}", r"policies\.a: expected a table, found 1"),
        ('["reach"]', '"reach"', r"behaviours\[1\]: tasks: expected a list, found 'reach'"),
        ('["reach"]', "[1]", r"behaviours\[1\]: tasks\[0\]: expected str, found 1"),
        ('["reach"]', "[]", r"behaviours\[1\]: tasks and levels should not be empty"),
        ('["reach"]', '["raech"]', r"behaviours\[1\]: unknown task 'raech'; did you mean 'reach'"),
        ('["reach"]', '["trian"]', r"behaviours\[1\]: unknown task 'trian'; did you mean 'train'"),
        ('["reach"]', '["lever"]', r"behaviours\[1\]: lever level 1 is held out .*heldout = true"),
        ('["reach"]', '["heldout"]', r"behaviours\[1\]: ball level 1 is held out .*heldout = true"),
        ('"random"', '"random"\nlevels = []', r"\[1\]: tasks and levels should not be empty"),
        ('"random"', '"random"\nlevels = [1, 99]', r"\[1\]: reach has levels 1 to 3, not 99"),
        ('"random"', '"radnom"', r"behaviours\[1\]: unknown policy .*; did you mean 'random'"),
        ('"random"', '"os:getcwd"', r"behaviours\[1\]: policy 'os:getcwd' .* --allow-code"),
        ('"random"', '"palaestrae:x"', r"policy 'palaestrae:x' .* --allow-code"),
        ('"random"', '"random"\nnoise = 0.1', "noise is for policy 'expert', not 'random'"),
        ('"random"', '"random"\narguments = {a = 1}', "arguments are for 'module:function'"),
        ('"random"', '"palaestra.a:b"\narguments = {a = 2020-01-01}', r"\[1\]: arguments .* JSON"),
        ('"random"', '"palaestra.a:b"\narguments = {a = nan}', r"\[1\]: arguments .* JSON"),
        ('"random"', '"random"\nparts = ["a"]', r"\[1\]: parts: the recipe has none, not 'a'"),
        ('"random"', '"random"\nopponents = ["self"]', r"opponents: none of its .* by two"),
        ("weight = 0.25", "weight = 0", r"behaviours\[1\]: weight should be positive, is 0"),
        ("weight = 0.25", "weight = nan", "weight should be positive, is nan"),
        ("weight = 0.25", "weight = inf", "weight should be positive, is inf"),
        ("noise = 0.2", "noise = -0.2", r"behaviours\[0\]: noise should be in \[0, 2\], is -0.2"),
        (RECIPE[RECIPE.index("[[") :], "behaviours = []", "behaviours: expected at least one"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_met_is_refused_by_name(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in RECIPE
    text = RECIPE.replace(old, new)
    refused(message, lambda: load(tmp_path, text), f"{tmp_path}/recipe.toml: ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rival]", "expert]", r"policies: a policy of your own cannot be called 'expert'"),
        ("rival]", "league]", r"policies: a policy of your own cannot be called 'league'"),
        ("rival]", "'']", r"a policy of your own cannot be called ''"),
        ("rival]", "'a:b']", r"policies: a policy of your own cannot be called 'a:b'"),
        ("rival]", '"a\\nb"]', r"policies: a policy of your own cannot be called 'a\\nb'"),
        ("palaestra.train.agent:load", "random", r"policies\.rival: arguments are for"),
        ("palaestra.train.agent:load", "learner", r"policies\.rival: unknown policy 'learner'"),
        ("palaestra.train.agent", "os", r"policies\.rival: policy 'os:load' .* --allow-code"),
        ("1100", "inf", r"policies\.rival: rating should be finite, is inf"),
        ("1100", "'high'", r"policies\.rival: rating: expected float, found 'high'"),
        ('"expert"', '"rival"\nnoise = 0.1', r"\[0\]: 'rival' has its noise and arguments in pol"),
        ('"expert"', '"rvial"', r"behaviours\[0\]: unknown policy 'rvial'; did you mean 'rival'"),
        ('"self"', '"slef"', r"\[0\]: opponents: unknown policy 'slef'; did you mean 'self'"),
        ('"self"', '"rivla"', r"\[0\]: opponents: unknown policy 'rivla'; did you mean 'rival'"),
        ('"self"', '"league"', r"\[0\]: opponents: 'league' needs the recipe's league"),
        ('"self"', '"os:getcwd"', r"\[0\]: opponents: policy 'os:getcwd' .* --allow-code"),
        ("[1, 2]", "[0, 1]", r"behaviours\[0\]: \w+ has levels 1 to 3, not 0"),
        ('["sumo", "reach"]\nlevels = [1, 2]', '["match"]\nlevels = [0, 1]', "has level 0"),
        ('["sumo", "reach"]\nlevels = [1, 2]', '["match"]\nlevels = [1, 4]', "has level 4"),
    ],
)  # fmt: skip
def test_policies_and_opponents_that_cannot_be_are_refused(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in MATCHES
    text = MATCHES.replace(old, new)
    refused(message, lambda: load(tmp_path, text), f"{tmp_path}/recipe.toml: ")


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"recipe\.toml: malformed TOML"):
        load_recipe(str(tmp_path / "recipe.toml"))
    with pytest.raises(PalaestraError, match=r"none\.toml: not found"):
        load_recipe(str(tmp_path / "none.toml"))


def test_no_shard_has_more_matches_than_numbers() -> None:
    shortest = min(cls.horizon for cls in registry.task_classes().values())
    most = max(LIMITS["shard_steps"][1] // shortest, LIMITS["wave"][1])
    # a wave fails once it has played TRIES times what it kept, and may overshoot by itself
    assert (work.TRIES + 1) * most < MATCHES_PER_SHARD


def test_a_recipe_says_what_it_says(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE)
    assert (recipe.steps, recipe.wave, recipe.image_size) == (6144, 2, 64)
    assert (recipe.keep, recipe.round, recipe.renderer) == ("all", 0, "raster")
    assert recipe.behaviours == (
        Behaviour(("reach", "push"), "expert", noise=0.2),
        Behaviour(("reach",), "random", weight=0.25),
    )
    assert [b.label for b in recipe.behaviours] == ["expert+noise0.2", "random"]
    assert load(tmp_path, RECIPE, steps=9000).steps == 9000
    refused("steps should be from 1", lambda: load(tmp_path, RECIPE, steps=0), str(tmp_path))
    text = RECIPE.replace('"random"', '"os:getcwd"')
    assert load(tmp_path, text, allow_code=True).behaviours[1].policy == "os:getcwd"
    text = RECIPE.replace("seed = 5", 'keep = "success"\nround = 3\nrenderer = "egl"')
    recipe = load(tmp_path, text)
    assert (recipe.keep, recipe.round, recipe.renderer) == ("success", 3, "egl")


# Groups


def test_a_group_leaves_out_what_is_held_out(tmp_path: Path) -> None:
    """And no more: the suite's classes are asked by themselves."""
    classes, held_out = registry.task_classes(), set(registry.held_out())
    everything = {(name, n) for name, cls in classes.items() for n in range(1, cls.levels + 1)}
    assert held_out
    for word in ("train", "arm", "locomotion", "match"):
        own = f'[[behaviours]]\ntasks = ["{word}"]\nlevels = [1, 2, 3]\npolicy = "expert"'
        behaviours = load(tmp_path, f"{RECIPE}\n{own}", steps=1_000_000).behaviours[2:]
        wanted = everything - held_out
        if word != "train":
            wanted = {(name, n) for name, n in wanted if classes[name].family == word}
        assert wanted and played(behaviours) == Counter(wanted)
        assert sum(b.weight for b in behaviours) == pytest.approx(1)
        cell = {b.weight / len(played([b])) for b in behaviours}  # every pair has the same share
        assert max(cell) == pytest.approx(min(cell))


def test_what_is_held_out_is_for_evaluation_only(tmp_path: Path) -> None:
    text = RECIPE.replace('["reach"]', '["heldout"]\nlevels = [3, 1, 2]')
    recipe = load(tmp_path, f"heldout = true\n{text}", steps=100_000)
    assert played(recipe.behaviours[1:]) == Counter(registry.held_out())
    manifest = work.manifest_of(recipe)
    assert manifest.recipe["heldout"] is True
    assert {("lever", 1), ("maze", 3)} <= set(manifest.held_out)
    assert ("maze", 2) not in manifest.held_out
    # there, too, a family holds nothing that is held out; a task by its name does
    text = RECIPE.replace('["reach"]', '["arm", "lever"]')
    found = played(load(tmp_path, f"heldout = true\n{text}", steps=100_000).behaviours[1:])
    assert found["lever", 1] == found["reach", 1] == 1 and ("lever", 2) not in found


def test_a_pair_that_several_words_name_plays_once(tmp_path: Path) -> None:
    text = RECIPE.replace('["reach"]', '["reach", "train", "arm", "reach"]\nlevels = [2, 2, 1]')
    found = played(load(tmp_path, text, steps=1_000_000).behaviours[1:])
    assert found["reach", 2] == 1 and set(found.values()) == {1}
    assert {level for _, level in found} == {1, 2}


# Policies and opponents


def test_a_policy_plays_under_its_name(tmp_path: Path) -> None:
    text = MATCHES.replace('policy = "expert"', 'policy = "rival"')
    recipe = load(tmp_path, text)
    rival = Player(
        "palaestra.train.agent:load", arguments={"url": "rival", "temperature": 0.5}, rating=1100.0
    )
    assert {b.label for b in recipe.behaviours} == {"rival"}
    assert all(recipe.player_of(b) == rival for b in recipe.behaviours)
    assert recipe.players() == {"rival": rival, "random": Player("random")}
    idle = '[policies.idle]\npolicy = "expert"\n[policies.rival]'
    unused = text.replace("[policies.rival]", idle)
    assert set(load(tmp_path, unused).policies) == {"rival"}


def test_opponents_are_met_in_equal_parts(tmp_path: Path) -> None:
    recipe = load(tmp_path, MATCHES)
    shares = {(b.tasks, b.opponents): b.weight for b in recipe.behaviours}
    assert shares == {
        (("reach",), ()): 0.5,
        (("sumo",), ("self",)): pytest.approx(1 / 6),
        (("sumo",), ("rival",)): pytest.approx(1 / 6),
        (("sumo",), ("random",)): pytest.approx(1 / 6),
    }
    assert {b.levels for b in recipe.behaviours} == {(1, 2)}
    assert {wave.opponent for wave, _ in cells(recipe)} == {"", "self", "rival", "random"}

    alone = load(tmp_path, re.sub("opponents = .*", "", MATCHES))
    assert {b.tasks: b.opponents for b in alone.behaviours} == {
        ("reach",): (), ("sumo",): (SELF,),
    }  # fmt: skip
    twice = load(tmp_path, MATCHES.replace('"random"]', '"os:getcwd", "self"]'), allow_code=True)
    shares = {b.opponents: b.weight for b in twice.behaviours}
    assert shares["self",] == 0.25 == 2 * shares["os:getcwd",]


@pytest.mark.parametrize(
    "second",
    [
        'policy = "palaestra.a:b"\narguments = {a = 2}',
        'policy = "palaestra.a:b"',
        'policy = "random"\nopponents = ["palaestra.a:b"]',
    ],
)
def test_two_players_may_not_go_by_one_name(second: str, tmp_path: Path) -> None:
    first = 'policy = "palaestra.a:b"\narguments = {a = 1}'
    for texts in ((first, second), (second, first)):
        both = "\n".join(f'[[behaviours]]\ntasks = ["tag"]\n{text}' for text in texts)
        text = f'name = "clash"\nsteps = 100_000\nwave = 2\n{both}'
        message = "behaviours: 'palaestra.a:b' plays with different settings"
        refused(message, lambda text=text: load(tmp_path, text), str(tmp_path))
    same = f'name = "same"\nsteps = 9000\nwave = 2\n[[behaviours]]\ntasks = ["tag"]\n{first}'
    assert load(tmp_path, f"{same}\n[[behaviours]]\ntasks = ['reach']\n{first}")


def test_a_name_may_not_pass_for_a_noisy_expert(tmp_path: Path) -> None:
    text = RECIPE.replace("[[", "[policies.'expert+noise0.2']\npolicy = 'expert'\n\n[[", 1)
    both = text.replace('"random"', '"expert+noise0.2"')
    refused("'expert[+]noise0.2' plays with different", lambda: load(tmp_path, both), str(tmp_path))
    assert load(tmp_path, both.replace("noise = 0.2", ""))


# Leagues


def test_a_leagues_members_are_met_by_rule(tmp_path: Path) -> None:
    recipe = load_with_league(tmp_path, MEMBERS)
    assert recipe.league == f"{tmp_path}/league.json"
    met = {
        (b.sampling, *b.opponents): (b.weight, b.sampling_probability) for b in recipe.behaviours
    }
    shares = {
        ("self_play", "self"): 0.35, ("pfsp", "old"): 0.25, ("pfsp", "new"): 0.25,
        ("past", "old"): 0.075, ("past", "new"): 0.075,
    }  # fmt: skip
    expected = {key: pytest.approx((share / 2, share / 2)) for key, share in shares.items()}
    assert met == expected | {("listed", "self"): (0.5, 0.5)}
    assert recipe.policies == {
        "old": Player(
            "palaestra.train.agent:load", arguments={"url": "run-0", "temperature": 1.0}
        ),
        "new": Player("expert", 0.3, rating=1200.0),
    }
    text = LEAGUE.replace('["league", "self"]', '["league", "new"]')
    refused("unknown policy 'new'", lambda: load_with_league(tmp_path, MEMBERS, text))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "members: expected at least one"),
        ([{"name": "a"}], r"members\[0\]: key 'policy' is missing"),
        ([*MEMBERS, {"name": "a", "policy": "expert", "nose": 1}], r"members\[2\]: unknown key"),
        ([{"name": "a", "policy": "exprt"}], r"members\[0\]: unknown policy 'exprt'; did you mean"),
        ([{"name": "a", "policy": "expert", "noise": 3}], r"members\[0\]: noise should be in"),
        ([{"name": "a", "policy": "os:getcwd"}], r"members\[0\]: policy 'os:getcwd' .*allow-code"),
        ([{"name": "a", "policy": "expert", "weight": 1}], r"members\[0\]: unknown key 'weight'"),
        ([{"name": "latest", "policy": "expert"}], r"\[0\]: a policy .* cannot be called 'latest'"),
        ([{"name": "a", "policy": "expert", "rating": float("nan")}], "rating should be finite"),
        ([{"name": "expert", "policy": "expert"}], r"\[0\]: a policy .* cannot be called 'expert'"),
        ([*MEMBERS, MEMBERS[0]], r"members\[2\]: 'old' is there twice"),
        ([{"name": "rival", "policy": "expert"}], r"\[0\]: 'rival' is also a policy of .*toml"),
    ],
)  # fmt: skip
def test_a_league_that_cannot_play_is_refused(
    members: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    refused(message, lambda: load_with_league(tmp_path, members), f"{tmp_path}/league.json: ")


def test_a_file_that_is_no_league_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "league.json"
    expected = "league.json: expected format 'palaestra-league', found "
    for text, found in (("[1]", r"\[1\]"), ("{}", "None"), ('{"format": "mine"}', "'mine'")):
        path.write_text(text)
        refused(expected + found, lambda: read_league(str(path)), str(path))
    path.write_text("{")
    with pytest.raises(StorageError, match=r"league\.json"):
        read_league(str(path))
    with pytest.raises(StorageError, match=r"none\.json: not found"):
        load(tmp_path, LEAGUE, values={"league": f"{tmp_path}/none.json"})


def test_a_members_code_and_name_are_checked(tmp_path: Path) -> None:
    foreign = [{"name": "a", "policy": "os:getcwd"}]
    assert "a" in load_with_league(tmp_path, foreign, allow_code=True).policies
    shadow = [{"name": "expert+noise0.1", "policy": "expert", "noise": 0.9}]
    message = "'expert[+]noise0.1' plays with different settings"
    refused(message, lambda: load_with_league(tmp_path, shadow), str(tmp_path))


# Parts and values


def test_a_part_is_a_recipe_of_its_own(tmp_path: Path) -> None:
    values = {"bucket": "s3://b", "learner": "run-1"}
    first = load(tmp_path, PARTS, part="first")
    second = load(tmp_path, PARTS, part="second", values=values)
    assert (first.name, first.steps, first.keep, first.round) == (
        "rounds/first", 25_000, "success", 0,
    )  # fmt: skip
    assert (second.name, second.steps, second.keep, second.round) == (
        "rounds/second", 75_000, "all", 2,
    )  # fmt: skip
    assert [b.label for b in first.behaviours] == ["expert"] and not first.policies
    assert [b.label for b in second.behaviours] == ["expert", "learner"]
    assert len({first.seed, second.seed, 7}) == 3
    assert first.seed == load(tmp_path, PARTS, part="first", steps=50_000).seed
    assert load(tmp_path, PARTS, part="first", steps=50_000).steps == 12_500
    assert not first.parts and not any(b.parts for b in second.behaviours)
    assert second.policies["learner"].arguments == {
        "url": "s3://b/run-1", "also": [{"url": "run-1"}], "pattern": "{1} { }",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "options", "message"),
    [
        ("", "", {}, "several parts: choose one with --part: first, second"),
        ("", "", {"part": "frist"}, "--part: unknown part 'frist'; did you mean 'first'"),
        ('["second"]', '["secnd"]', {}, r"\[1\]: unknown part 'secnd'; did you mean 'second'"),
        ('policy = "expert"', 'policy = "expert"\nparts = ["second"]', {},
         r"parts\.first: no behaviour plays in it"),
        ("weight = 3", "weight = 0", {}, r"parts\.second: weight should be positive, is 0"),
        ("weight = 3", "weight = 1e-9", {"part": "second", "values": {"bucket": "", "learner": ""}},
         "0 steps in waves of 2"),
        ("round = 2", "round = -1", {}, r"parts\.second: round should be from 0 to"),
        ('"success"', '"succes"', {}, r"parts\.first: unknown value of keep 'succes'; did you"),
        ("seed = 7", "round = 1", {}, "keep and round: say them in each of its parts"),
        ("seed = 7", 'keep = "success"', {}, "keep and round: say them in each of its parts"),
        ("", "", {"part": "second"},
         r"policies\.learner: arguments\.url: '.*' needs a value: --set bucket=…"),
        ("", "", {"part": "second", "values": {"bucket": "b"}}, "needs a value: --set learner=…"),
        ("", "", {"part": "second", "values": {"bucket": "b", "learner": "l", "leaner": "m"}},
         "--set: unknown name 'leaner'; did you mean 'learner'"),
        ("", "", {"part": "first", "values": {"learner": "l"}},
         "--set learner: nothing that plays asks for a value"),
    ],
)  # fmt: skip
def test_parts_and_values_that_cannot_be_are_refused(
    old: str, new: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert old in PARTS
    text = PARTS.replace(old, new, 1) if old else PARTS
    refused(message, lambda: load(tmp_path, text, **options), f"{tmp_path}/recipe.toml: ")


def test_a_recipe_without_parts_has_none_to_choose(tmp_path: Path) -> None:
    message = "--part first: the recipe has no parts"
    refused(message, lambda: load(tmp_path, RECIPE, part="first"), str(tmp_path))


def test_a_part_without_matches_needs_no_league(tmp_path: Path) -> None:
    parts = "[parts.a]\nweight = 1\n\n[parts.b]\nweight = 1\n"
    alone = '\n[[behaviours]]\nparts = ["b"]\ntasks = ["reach"]\npolicy = "random"\n'
    text = LEAGUE.replace("[[", f"{parts}\n[[").replace("tasks", 'parts = ["a"]\ntasks') + alone
    assert load(tmp_path, text, part="b").league == ""
    assert len(load_with_league(tmp_path, MEMBERS, text, part="a").behaviours) == 6
    message = r"recipe\.toml: league: '{league}' needs a value: --set league=…"
    refused(message, lambda: load(tmp_path, text, part="a"), str(tmp_path))


def test_values_on_the_command_line() -> None:
    assert parse_values([]) == {}
    assert parse_values(["learner=s3://b/r?a=1", "empty="]) == {
        "learner": "s3://b/r?a=1", "empty": "",
    }  # fmt: skip
    for word in ("learner", "=x", "a b=c", "", "1=x"):
        refused(f"--set: expected NAME=VALUE, found {word!r}", lambda w=word: parse_values([w]))
    refused("--set: a is given twice", lambda: parse_values(["a=1", "b=2", "a=1"]))


def test_shards_on_the_command_line() -> None:
    assert parse_shards(None) is None
    assert parse_shards("3") == (3,)
    assert parse_shards("7-9,3,8,0-0") == (0, 3, 7, 8, 9)
    for text in ("", "3,", "a", "3-", "-3", "9-7", "1 ,2", "1--2", "1.5", "0-99999999999"):
        refused(f"--shards: .* 3,7-9, found {text!r}", lambda text=text: parse_shards(text))
