"""What follows from a recipe: the resolved one that is stored, its plan, and those we ship."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from palaestra.generate import registry
from palaestra.generate.league import ANCHORS
from palaestra.generate.plan import MATCHES_PER_SHARD, Wave, cells, episode_seed, plan
from palaestra.generate.recipe import SELF, Behaviour, Recipe
from palaestra.generate.recipe_file import load_recipe, read_recipe, stored_recipe
from palaestra.generate.resolve import resolve
from palaestra.generate.sampling import DRAWN
from palaestra.generate.tasks.reach import Reach
from palaestra.shards.schema import EVALUATION_BIT
from recipe_files import (
    LEAGUE,
    MATCHES,
    MEMBERS,
    PARTS,
    REAL,
    RECIPE,
    ROOT,
    assert_holds_the_mixture,
    load,
    load_real,
    load_with_league,
    played,
    refused,
    write,
    write_league,
)

# What is stored


def assert_stored_as_it_is(recipe: Recipe) -> None:
    """It survives corpus.json, and there is nothing left in it to resolve."""
    stored = stored_recipe(json.loads(json.dumps(recipe.to_json())), "corpus.json")
    assert stored == recipe and plan(stored) == plan(recipe)
    assert resolve(stored, "corpus.json", values={}) == recipe
    for behaviour in recipe.behaviours:
        assert len(behaviour.opponents) <= 1 and not behaviour.parts
        assert set(behaviour.tasks) <= set(registry.task_classes())


@pytest.mark.parametrize(("url", "part"), REAL)
def test_a_real_recipe_is_stored_as_it_is(url: str, part: str | None) -> None:
    assert_stored_as_it_is(load_real(url, part))


def test_others_are_stored_as_they_are(tmp_path: Path) -> None:
    assert_stored_as_it_is(load(tmp_path, RECIPE))
    assert_stored_as_it_is(load(tmp_path, MATCHES))
    assert_stored_as_it_is(load_with_league(tmp_path, MEMBERS))
    assert_stored_as_it_is(
        load(tmp_path, PARTS, part="second", values={"bucket": "b", "learner": "l"})
    )


def test_a_stored_recipe_is_checked_again(tmp_path: Path) -> None:
    data = load(tmp_path, RECIPE.replace('"random"', '"os:getcwd"'), allow_code=True).to_json()
    refused("--allow-code", lambda: stored_recipe(data, "x/corpus.json: recipe"), "x/corpus.json")
    assert stored_recipe(data, "corpus.json", allow_code=True)


WORDS = ("train", "arm", "locomotion", "match", "reach", "push", "sumo", "tag")
BEHAVIOURS = st.builds(
    Behaviour,
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(tuple),
    st.sampled_from(["expert", "random"]),
    st.sets(st.integers(1, 3), min_size=1).map(lambda found: tuple(sorted(found))),
    weight=st.floats(0.5, 2.0),
    opponents=st.lists(st.sampled_from(["self", "expert", "random"]), max_size=3).map(tuple),
)


@settings(max_examples=20)
@given(st.lists(BEHAVIOURS, min_size=1, max_size=4))
def test_resolving_changes_nobodys_share(behaviours: list[Behaviour]) -> None:
    """Against the definition: evenly over pairs, then over opponents; by the weights' sum."""
    classes = registry.task_classes()
    wanted: dict[tuple[str, int, str, str], float] = defaultdict(float)
    for b in behaviours:
        found = {
            (name, level) for name, cls in classes.items() for level in b.levels for word in b.tasks
            if word in (name, cls.family, "train") and level not in cls.held_out
        }  # fmt: skip
        for name, level in found:
            rivals = (b.opponents or ("self",)) if classes[name].players == 2 else ("",)
            for rival in rivals:
                share = b.weight / len(found) / len(rivals)
                wanted[name, level, b.policy, rival] += share
    recipe = Recipe("r", 10**8, tuple(behaviours), wave=1)
    resolved = resolve(recipe, "r", values={}, steps=3_000_000)
    total = sum(b.weight for b in behaviours)
    assert sum(b.weight for b in resolved.behaviours) == pytest.approx(total)
    shares: dict[tuple[str, int, str, str], float] = defaultdict(float)
    for wave, share in cells(resolved):
        shares[wave.task, wave.level, wave.behaviour.label, wave.opponent] += share
    assert shares == pytest.approx({key: weight / total for key, weight in wanted.items()})


# Plans


class Long(Reach):
    name = "long"
    horizon = 1024


class Duel(Reach):
    name = "duel"
    players = 2
    horizon = 512


@pytest.fixture
def more_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = registry.task_classes() | {"long": Long, "duel": Duel}
    monkeypatch.setattr(registry, "task_classes", lambda: classes)


MIXTURES = [
    ((("reach",), 1.0),),
    ((("reach", "push"), 0.7), (("reach", "push"), 0.2), (("reach", "push"), 0.1)),
    ((("reach", "long"), 1.0), (("duel",), 0.001), (("push",), 3.0)),
    ((("long",), 1.0), (("reach",), 1.0), (("duel", "push"), 0.5)),
    tuple((("reach",), float(weight)) for weight in range(1, 12)),
]


@pytest.mark.usefixtures("more_tasks")
@pytest.mark.parametrize("mixture", MIXTURES, ids=len)
@pytest.mark.parametrize("shard_steps", [1, 5000, 60_000])
def test_a_plan_holds_the_mixture(
    mixture: tuple[tuple[tuple[str, ...], float], ...], shard_steps: int
) -> None:
    behaviours = tuple(Behaviour(tasks, "expert", weight=weight) for tasks, weight in mixture)
    assert_holds_the_mixture(Recipe("r", 300_000, behaviours, shard_steps=shard_steps, wave=4))


@pytest.mark.parametrize(("url", "part"), REAL)
def test_the_plan_of_a_real_recipe_holds_the_mixture(url: str, part: str | None) -> None:
    recipe = load_real(url, part)
    assert_holds_the_mixture(recipe)
    waves = {repr(wave) for shard in plan(recipe) for wave in shard}
    for wave, _ in cells(recipe):  # each plays at least once, but for what a league has many of
        assert repr(wave) in waves or wave.behaviour.sampling in DRAWN


@pytest.mark.usefixtures("more_tasks")
def test_a_wave_counts_every_players_steps() -> None:
    behaviour = Behaviour(("duel",), "expert")
    ((wave, share),) = cells(Recipe("r", 1, (behaviour,), wave=8))
    assert (wave, share) == (Wave("duel", 1, behaviour, 4), 1.0)
    assert wave.steps == 8 * 512
    ((single, _),) = cells(Recipe("r", 1, (behaviour,), wave=1))
    assert single.nsim == 1


def test_a_plan_is_the_same_on_every_call() -> None:
    recipe = load_real(str(ROOT / "recipes/selfplay-500m.toml"), "round-4")
    first = plan(recipe)
    plan(dataclasses.replace(recipe, steps=1_000_000))  # a plan is kept until the next is asked for
    assert plan(recipe) == first and plan(recipe) is not first


def test_a_plan_is_the_same_in_every_process(tmp_path: Path) -> None:
    """In none does it depend on the order of a set."""
    url = write(tmp_path, LEAGUE)
    league = write_league(tmp_path, [{"name": f"m{i}", "policy": "expert"} for i in range(9)])
    code = (
        "import sys; from palaestra.generate.recipe_file import load_recipe as load\n"
        "from palaestra.generate.plan import plan\n"
        "recipe = load(sys.argv[1], values={'league': sys.argv[2]}); print(recipe, plan(recipe))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, url, league], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    recipe = load_recipe(url, values={"league": league})
    assert said == {f"{recipe} {plan(recipe)}\n"}


@pytest.mark.parametrize(
    ("text", "steps", "message"),
    [
        (RECIPE, 512, "512 steps in waves of 2 .* none of policy 'random'"),
        (RECIPE.replace("0.25", "1e-6"), 6144, "none of policy 'random': its .* raise steps"),
        (MATCHES, 4096, "none of policy 'rival'|none of policy 'random'"),
        (MATCHES, 512, "none of policy 'r|none of task 'sumo'"),
        (RECIPE.replace('["reach"]', '["train"]'), 6144, "none of task "),
    ],
)  # fmt: skip
def test_a_mixture_that_so_few_steps_cannot_hold_is_refused(
    text: str, steps: int, message: str, tmp_path: Path
) -> None:
    refused(message, lambda: load(tmp_path, text, steps=steps), f"{tmp_path}/recipe.toml: ")


def test_seeds_are_unique_and_leave_evaluation_its_own() -> None:
    matches = [shard * MATCHES_PER_SHARD + n for shard in range(50) for n in range(1000)]
    seeds = {episode_seed(1, match) for match in matches}
    assert len(seeds) == len(matches)
    assert not any(seed & EVALUATION_BIT for seed in seeds)
    assert not seeds & {episode_seed(2, match) for match in matches}


# The recipes that come with the code


@pytest.mark.parametrize(("url", "part"), REAL)
def test_only_the_validation_holds_what_is_held_out(url: str, part: str | None) -> None:
    recipe = load_real(url, part)
    found = set(played(recipe.behaviours))
    if Path(url).stem == "heldout":
        assert recipe.heldout and found == set(registry.held_out())
    else:
        assert not recipe.heldout and not found & set(registry.held_out())


def lane_steps(recipe: Recipe) -> Counter[str]:
    """Steps by who played them."""
    found: Counter[str] = Counter()
    for wave in (wave for shard in plan(recipe) for wave in shard):
        own, rival = wave.behaviour.label, wave.opponent
        for name in (own, own if rival in ("", SELF) else rival):
            found[name] += wave.steps // 2
    return found


def test_half_a_billion_steps_of_self_play() -> None:
    url = str(ROOT / "recipes/selfplay-500m.toml")
    parts = {part: load_real(url, part) for part in read_recipe(url).parts}
    assert read_recipe(url).steps == 500_000_000
    assert sum(recipe.steps for recipe in parts.values()) == 500_000_000
    assert [recipe.round for recipe in parts.values()] == [0, 0, 1, 2, 3, 4]
    assert len({recipe.seed for recipe in parts.values()}) == len(parts)

    everything = sum((played(recipe.behaviours) for recipe in parts.values()), Counter())
    assert len(everything) == 48 - len(registry.held_out())
    for recipe in parts.values():
        assert set(played(recipe.behaviours)) == set(everything)

    steps = {part: lane_steps(recipe) for part, recipe in parts.items()}
    total = sum(sum(found.values()) for found in steps.values())
    names = [f"round-{number}" for number in range(4)]
    learned = sum(found[name] for found in steps.values() for name in names)
    assert 500_000_000 <= total < 501_000_000
    assert 0.8 <= learned / total < 0.9
    assert sum(steps["demonstrations"].values()) / total == pytest.approx(0.05, abs=1e-3)
    assert set(steps["demonstrations"]) == {"expert"}
    assert parts["demonstrations"].keep == "success" and parts["round-4"].keep == "all"
    anchors = {anchor.name for anchor in ANCHORS}
    assert set(parts["round-4"].policies) == {*names, *anchors}
    assert {b.label for b in parts["round-4"].behaviours} == {
        "round-3", "expert+noise0.6", "random",
    }  # fmt: skip
    # the figure that the recipe states
    assert f"{learned / total:.0%}".replace("%", " %") in Path(url).read_text()
