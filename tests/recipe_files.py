"""Recipes for tests: small ones as text, those of `recipes/` loaded, and what a plan must hold."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from palaestra.generate.league import AGENT, ANCHORS, FORMAT, League, Member, to_json
from palaestra.generate.plan import MATCHES_PER_SHARD, cells, plan
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.generate.recipe_file import load_recipe, read_recipe
from palaestra.generate.resolve import PLACEHOLDER, choose_part
from palaestra.shards import storage
from palaestra.shards.errors import ConfigError

ROOT = Path(__file__).parent.parent
RECIPE = """name = "tiny"
steps = 6144
shard_steps = 1024
wave = 2
seed = 5

[[behaviours]]
tasks = ["reach", "push"]
policy = "expert"
noise = 0.2

[[behaviours]]
tasks = ["reach"]
policy = "random"
weight = 0.25
"""
MATCHES = """name = "matches"
steps = 100_000
wave = 2

[policies.rival]
policy = "palaestra.train.agent:load"
arguments = { url = "rival", temperature = 0.5 }
rating = 1100

[[behaviours]]
tasks = ["sumo", "reach"]
levels = [1, 2]
policy = "expert"
opponents = ["self", "rival", "random"]
"""
LEAGUE = """name = "league"
steps = 200_000
wave = 2
league = "{league}"

[policies.rival]
policy = "expert"
noise = 0.7

[[behaviours]]
tasks = ["tag"]
policy = "expert"
noise = 0.1
opponents = ["league", "self"]
"""
MEMBERS = [
    {"name": "old", "policy": "palaestra.train.agent:load", "arguments": {"url": "run-0"}},
    {"name": "new", "policy": "expert", "noise": 0.3, "rating": 1200},
]
PARTS = """name = "rounds"
steps = 100_000
wave = 2
seed = 7

[parts.first]
weight = 1
keep = "success"

[parts.second]
weight = 3
round = 2

[policies.learner]
policy = "palaestra.train.agent:load"
arguments = { url = "{bucket}/{learner}", also = [{ url = "{learner}" }], pattern = "{1} { }" }

[[behaviours]]
tasks = ["reach"]
policy = "expert"

[[behaviours]]
parts = ["second"]
tasks = ["push"]
policy = "learner"
weight = 4
"""


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.toml"
    path.write_text(text)
    return str(path)


def load(folder: Path, text: str, **options: Any) -> Recipe:
    return load_recipe(write(folder, text), **options)


def write_league(folder: Path, members: Any, **other: Any) -> str:
    path = folder / "league.json"
    path.write_text(json.dumps({"format": "palaestra-league", "members": members} | other))
    return str(path)


def load_with_league(folder: Path, members: Any, text: str = LEAGUE, **options: Any) -> Recipe:
    return load(folder, text, values={"league": write_league(folder, members)}, **options)


def refused(message: str, do: Callable[[], object], where: str = "") -> None:
    """It raises a ConfigError of one line that begins with `where`."""
    with pytest.raises(ConfigError, match=message) as caught:
        do()
    assert str(caught.value).startswith(where) and "\n" not in str(caught.value)


def played(behaviours: Sequence[Behaviour]) -> Counter[tuple[str, int]]:
    return Counter((task, level) for b in behaviours for task in b.tasks for level in b.levels)


def real_recipes() -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for path in sorted((ROOT / "recipes").glob("*.toml")):
        found += [(str(path), part) for part in read_recipe(str(path)).parts or [None]]
    return found


def values_of(url: str, part: str | None, allow_code: bool = False) -> dict[str, str]:
    """A value for every name that a part asks for."""
    recipe = choose_part(read_recipe(url, allow_code), part, url)
    names = PLACEHOLDER.findall(f"{recipe.players()} {recipe.league}")
    values = {name: f"/runs/{name}" for name in names}
    return values | ({"league": league_of(recipe.round)} if "league" in names else {})


def league_of(round: int) -> str:
    """URL of the league with which a round begins: the anchors and who came of earlier rounds."""
    rounds = (f"round-{number}" for number in range(round))
    learned = (Member(name, AGENT, arguments={"url": f"/runs/{name}"}) for name in rounds)
    url = f"memory://leagues/{round}.json"
    storage.write_json(url, to_json(League(FORMAT, (*ANCHORS, *learned))))
    return url


def load_real(url: str, part: str | None) -> Recipe:
    return load_recipe(url, part=part, values=values_of(url, part))


REAL = [pytest.param(*x, id=Path(x[0]).stem + f"-{x[1]}" * bool(x[1])) for x in real_recipes()]


def assert_holds_the_mixture(recipe: Recipe) -> None:
    """Every cell has its share of the steps, to one wave; shards are full but for one."""
    shards = plan(recipe)
    assert all(shards)
    for waves in shards:
        assert len(waves) == 1 or sum(wave.steps for wave in waves) <= recipe.shard_steps
        assert sum(wave.nsim for wave in waves) < MATCHES_PER_SHARD
    waves = [wave for shard in shards for wave in shard]
    total = sum(wave.steps for wave in waves)
    longest = max(wave.steps for wave in waves)
    assert recipe.steps <= total < recipe.steps + longest
    mixture = cells(recipe)
    assert sum(share for _, share in mixture) == pytest.approx(1)
    shares: dict[str, float] = defaultdict(float)  # of equal cells together
    for wave, share in mixture:
        shares[repr(wave)] += share
    written: dict[str, int] = defaultdict(int)
    for wave in waves:
        written[repr(wave)] += wave.steps
    assert set(written) <= set(shares)
    for key, share in shares.items():
        assert abs(written[key] - share * total) <= longest, key
