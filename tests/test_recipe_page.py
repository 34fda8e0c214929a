"""The reference page of recipes: its examples load, play and parse, and no key is left out."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tyro
from palaestra.generate.__main__ import Arguments, PlanArguments
from palaestra.generate.players import Provenance, inspect_players
from palaestra.generate.policies import make_policy
from palaestra.generate.recipe import Behaviour, Player, Recipe
from palaestra.generate.recipe_file import load_recipe, read_recipe
from palaestra.generate.world import World
from recipe_files import ROOT, assert_holds_the_mixture, values_of

PAGE = (ROOT / "docs/recipes.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.S)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader who has copied the page's recipes, league and policy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for number, text in enumerate(blocks("toml")):
        (tmp_path / f"{number}.toml").write_text(text)
    (league,) = blocks("json")
    (tmp_path / "league.json").write_text(league)
    (policy,) = blocks("python")
    (tmp_path / "lazy.py").write_text(policy)
    return tmp_path


def test_the_pages_recipes_load(beside: Path) -> None:
    assert len(PAGE.splitlines()) <= 150
    recipes = sorted(beside.glob("*.toml"))
    assert len(recipes) == 3
    for path in recipes:
        for part in read_recipe(str(path), allow_code=True).parts or [None]:
            values = values_of(path.name, part, allow_code=True)
            recipe = load_recipe(path.name, part=part, values=values, allow_code=True)
            assert_holds_the_mixture(recipe)


def test_the_pages_policy_plays(beside: Path) -> None:
    (path,) = (path for path in beside.glob("*.toml") if "lazy:" in path.read_text())
    recipe = load_recipe(path.name, allow_code=True)
    world = World("reach", 1, 3)
    assert inspect_players(recipe, world.schema) == Provenance()
    (player,) = recipe.players().values()
    policy = make_policy(player.policy, 0.0, player.arguments)
    world.reset([1, 2, 3])
    policy.reset(world, [1, 2, 3])
    action = policy.act(world.observe())
    assert action.shape == (3, world.schema.action_size) and 0.1 < abs(action).max() <= 0.2
    assert np.isfinite(world.step(action).reward).all()


def test_the_page_knows_every_key() -> None:
    for kind in (Recipe, Behaviour, Player):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in PAGE, field.name


def test_the_pages_commands_parse() -> None:
    lines = [line for text in blocks("sh") for line in text.replace("\\\n", "").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    for line in (line for line in words if line[:1] == ["generate"]):
        kind, rest = (PlanArguments, line[2:]) if line[1] == "plan" else (Arguments, line[1:])
        assert tyro.cli(kind, args=rest)
    launchers = {word for line in words for word in line if word.startswith("generate/launch/")}
    assert launchers == {"generate/launch/slurm.sh", "generate/launch/pbs.sh"}
    assert all((ROOT / name).exists() for name in launchers)
