"""Whom a policy meets of a league, how often, and what corpora tell of it."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter, defaultdict
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
from evaluate_runs import write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from palaestra.generate.generation import generate
from palaestra.generate.league import AGENT, ANCHORS, FORMAT, League, Matches, Member, write_league
from palaestra.generate.plan import plan
from palaestra.generate.recipe import SELF, Recipe, Sampling
from palaestra.generate.sampling import draw_from, floored, prioritised, win_rates
from palaestra.generate.slots import make_schema
from palaestra.shards.errors import (
    CheckpointError,
    DifferentCorpusError,
    SchemaMismatchError,
)
from recipe_files import load, refused

ROWS = (
    Matches("sumo", 1, "new", "old", 0, 6, 2, 0),
    Matches("sumo", 2, "old", "new", 0, 3, 0, 1),
    Matches("tag", 1, "new", "old", 0, 0, 0, 50),
    Matches("sumo", 1, "old", "older", 0, 9, 0, 0),
)
LEARNED = [Member(name, AGENT, arguments={"url": name}) for name in ("older", "old", "new")]
LEAGUE = League(FORMAT, (*ANCHORS, *LEARNED), payoff=ROWS)
WEIGHTS = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=40)


def test_win_rates_by_hand() -> None:
    rates = win_rates(ROWS, "new", ["old", "older", "random"], "sumo")
    assert rates == [(6 + 1 + 1 + 1) / (8 + 4 + 2), 0.5, 0.5]
    assert win_rates(ROWS, "old", ["new", "older"], "sumo") == [(1 + 3 + 1) / 14, 10 / 11]
    assert win_rates(ROWS, "new", ["old"], "tag") == [1 / 52]


@pytest.mark.parametrize(
    ("weighting", "weights"),
    [("even", [0.75 * 0.25, 0.25, 0.1 * 0.9]), ("hard", [0.0625, 0.25, 0.81])],
)
def test_priorities_by_hand(weighting: str, weights: list[float]) -> None:
    expected = [weight / sum(weights) for weight in weights]
    if weighting == "hard":  # the first is below 1/15
        expected = [1 / 15, *(14 / 15 * weight / (0.25 + 0.81) for weight in weights[1:])]
    assert prioritised([0.75, 0.5, 0.1], weighting) == pytest.approx(expected)


@given(WEIGHTS)
def test_nobody_is_below_the_floor_and_the_rest_keep_their_proportions(
    weights: list[float]
) -> None:
    floor = 1 / (5 * len(weights))
    found = floored(weights, floor)
    assert sum(found) == pytest.approx(1) and min(found) >= floor
    above = sorted((w, p) for w, p in zip(weights, found, strict=True) if p > floor)
    for (less, lower), (more, higher) in pairwise(above):
        assert higher / lower == pytest.approx(more / less)
    for weight, share in zip(weights, found, strict=True):
        assert above == [] or share > floor or weight <= above[0][0]


def by_rule(sampling: Sampling, policy: str = "new", task: str = "sumo") -> dict[str, float]:
    shares: Counter[str] = Counter()
    for rival in draw_from(LEAGUE, sampling, policy, task):
        shares[rival.rule] += rival.probability  # type: ignore[assignment]
    return dict(shares)


def test_the_rules_have_their_shares() -> None:
    assert by_rule(Sampling()) == pytest.approx({"pfsp": 0.5, "self_play": 0.35, "past": 0.15})
    assert by_rule(Sampling(3, 0, 1)) == pytest.approx({"pfsp": 0.75, "past": 0.25})
    rivals = list(draw_from(LEAGUE, Sampling(), "new", "sumo"))
    assert [r.name for r in rivals if r.rule == "self_play"] == [SELF]
    others = [name for name in LEAGUE.names if name != "new"]
    assert [r.name for r in rivals if r.rule == "pfsp"] == others
    past = {r.name: r.probability for r in rivals if r.rule == "past"}
    assert past == pytest.approx(dict.fromkeys(others, 0.15 / 6))


def test_priority_follows_the_task() -> None:
    """On tag the newest always lost to the one before: hopeless by x(1 − x), urgent by (1 − x)²."""
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for task in ("sumo", "tag"):
        for weighting in ("even", "hard"):
            for rival in draw_from(LEAGUE, Sampling(weighting=weighting), "new", task):
                if rival.rule == "pfsp":
                    found[task, weighting][rival.name] = rival.probability
    assert found["tag", "even"]["old"] == pytest.approx(0.5 / 30)  # the floor
    assert found["tag", "hard"]["old"] > 3 * found["tag", "hard"]["random"]
    assert found["sumo", "even"]["old"] < found["sumo", "even"]["random"]


def test_a_policy_alone_in_its_league_meets_itself() -> None:
    league = League(FORMAT, (LEARNED[0],))
    (rival,) = draw_from(league, Sampling(1, 0, 0), "older", "sumo")
    assert asdict(rival) == {"name": SELF, "rule": "self_play", "probability": 1.0}


# In recipes

TEXT = """name = "round"
steps = 4_000_000
wave = 2
round = 3
league = "{league}"

[sampling]
temperature = 0.7

[[behaviours]]
tasks = ["sumo", "tag", "reach"]
levels = [1, 2]
policy = "latest"
opponents = ["league"]
"""


@pytest.fixture
def league(tmp_path: Path) -> str:
    """LEAGUE with ratings, in a file."""
    members = tuple(replace(m, rating=100.0 * i) for i, m in enumerate(LEAGUE.members))
    url = str(tmp_path / "league.json")
    write_league(url, replace(LEAGUE, members=members))
    return url


def loaded(folder: Path, league: str, text: str = TEXT) -> Recipe:
    return load(folder, text, values={"league": league})


def test_the_latest_plays_a_league(tmp_path: Path, league: str) -> None:
    recipe = loaded(tmp_path, league)
    assert {b.policy for b in recipe.behaviours} == {"new"}
    assert recipe.policies["new"].arguments == {"url": "new", "temperature": 0.7}
    assert recipe.policies["medium"].arguments == {}
    alone = [b for b in recipe.behaviours if b.tasks == ("reach",)]
    assert [(b.opponents, b.sampling, b.sampling_probability) for b in alone] == [((), "", None)]
    assert sum(b.weight for b in alone) == pytest.approx(1 / 3)
    for task in ("sumo", "tag"):
        expected = {
            (r.rule, r.name): pytest.approx(r.probability)
            for r in draw_from(LEAGUE, Sampling(), "new", task)
        }
        mine = [b for b in recipe.behaviours if task in b.tasks]
        found = {(b.sampling, *b.opponents): b.sampling_probability for b in mine}
        assert found == expected
        for b in mine:
            assert b.weight * 3 == pytest.approx(b.sampling_probability)
    waves: Counter[str] = Counter()
    for shard in plan(recipe):
        for wave in shard:
            waves[wave.behaviour.sampling] += wave.steps
    played = sum(waves.values()) - waves[""]
    for rule, share in (("pfsp", 0.5), ("self_play", 0.35), ("past", 0.15)):
        assert waves[rule] / played == pytest.approx(share, abs=0.01)


def test_the_latest_is_met_too(tmp_path: Path, league: str) -> None:
    text = TEXT.replace('policy = "latest"', 'policy = "expert"').replace('"league"]', '"latest"]')
    recipe = loaded(tmp_path, league, text)
    assert {b.opponents for b in recipe.behaviours} == {("new",), ()}
    assert recipe.policies["new"].arguments["temperature"] == 0.7


def test_the_networks_of_a_league_may_have_their_own_temperature(
    tmp_path: Path, league: str
) -> None:
    data = json.loads(Path(league).read_text())
    data["members"][-1]["arguments"]["temperature"] = 0.0
    Path(league).write_text(json.dumps(data))
    policies = loaded(tmp_path, league).policies
    assert policies["new"].arguments["temperature"] == 0.0
    assert policies["old"].arguments["temperature"] == 0.7


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("temperature = 0.7", "pfsp = -1", "sampling: pfsp should not be negative, is -1"),
        ("temperature = 0.7", "temperature = -0.1", "sampling: temperature should not be negative"),
        ("temperature = 0.7", "temperature = nan", "sampling: temperature should not be negative"),
        ("temperature = 0.7", "pfsp = 0\nself_play = 0\npast = 0", "should not all be 0"),
        ("temperature = 0.7", 'weighting = "evn"', "unknown weighting 'evn'; did you mean 'even'"),
        ("temperature = 0.7", "psfp = 1", "sampling: unknown key 'psfp'; did you mean 'pfsp'"),
        ('league = "{league}"', "", r"\[0\]: 'latest' needs the recipe's league"),
        ('policy = "latest"', 'policy = "latest"\nnoise = 1', "neither noise nor arguments"),
        ('"latest"', '"lastest"', "unknown policy 'lastest'; did you mean 'latest'"),
        ('["league"]', '["self"]\nsampling = "psfp"', "unknown sampling 'psfp'; did you mean"),
        ('["league"]', '["self"]\nsampling = "pfsp"', "should be in .0, 1., is None"),
        ('["league"]', '["self"]\nsampling_probability = 0.5', "unknown sampling ''"),
        ('["league"]', '["self"]\nsampling = "past"\nsampling_probability = 7.0', "is 7.0"),
        ('["league"]', '["self", "random"]\nsampling = "past"\nsampling_probability = 0.5',
         "sampling is of one opponent, not 2"),
        ('["sumo", "tag", "reach"]', '["reach"]', "opponents: none of its tasks is played by two"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(
    old: str, new: str, message: str, tmp_path: Path, league: str
) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new)
    values = {"league": league} if "{league}" in text else {}
    refused(message, lambda: load(tmp_path, text, values=values), f"{tmp_path}/recipe.toml: ")


def test_a_league_without_networks_has_no_latest(tmp_path: Path) -> None:
    url = str(tmp_path / "scripts.json")
    write_league(url, League(FORMAT, ANCHORS))
    refused("'latest' needs a learned member", lambda: loaded(tmp_path, url), url)


# In corpora

SMALL = """name = "small"
steps = 8192
shard_steps = 4096
wave = 4
image_size = 8
round = 1
league = "{league}"

[sampling]
past = 0

[[behaviours]]
tasks = ["sumo"]
policy = "latest"
opponents = ["league"]
"""


@pytest.fixture
def learned(tmp_path: Path) -> str:
    """A league of an untrained network and random play, which have met."""
    network = write_checkpoint(tmp_path / "network", make_schema(8, (-1.0, 1.0)))
    members = (
        Member("random", "random", rating=50.0),
        Member("net", AGENT, arguments={"url": str(network)}, rating=60.0),
    )
    rows = (Matches("sumo", 1, "net", "random", 0, 1, 0, 1),)
    url = str(tmp_path / "learned.json")
    write_league(url, League(FORMAT, members, payoff=rows))
    return url


def test_every_segment_tells_ratings_rule_and_probability(tmp_path: Path, learned: str) -> None:
    corpus = generate(loaded(tmp_path, learned, SMALL), str(tmp_path / "corpus")).corpus
    ratings = {"net": 60.0, "random": 50.0}
    total = 0.5 + 0.35
    expected = {"pfsp": ("random", 0.5 / total), "self_play": ("net", 0.35 / total)}
    seen: set[tuple[str, int]] = set()
    for row in corpus.index.iter_rows(named=True):
        rival, chance = expected[row["sampling"]]
        assert {row["policy"], row["opponent"]} == {"net", rival}
        assert row["sampling_probability"] == pytest.approx(chance)
        assert row["rating"] == ratings[row["policy"]]
        assert row["opponent_rating"] == ratings[row["opponent"]]
        if row["policy"] == "net":
            seen.add((row["opponent"], row["player"]))
    assert seen == {("random", 0), ("random", 1), ("net", 0), ("net", 1)}  # sides alternate
    digest = hashlib.sha256(Path(learned).read_bytes()).hexdigest()
    assert corpus.manifest.dependencies[learned] == digest


def test_a_league_that_changed_is_another_corpus(tmp_path: Path, learned: str) -> None:
    """Named as the reason, also where nothing that it is asked for has changed."""
    url = str(tmp_path / "corpus")
    generate(loaded(tmp_path, learned, SMALL), url)
    data = json.loads(Path(learned).read_text())
    for change in ({"version": 7}, {"payoff": []}):
        Path(learned).write_text(json.dumps(data | change))
        with pytest.raises(DifferentCorpusError, match=r"learned\.json changed since") as caught:
            generate(loaded(tmp_path, learned, SMALL), url)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["gone", "incomplete", "other schema"])
def test_a_member_that_cannot_play_is_named(fault: str, tmp_path: Path, learned: str) -> None:
    network = tmp_path / "network"
    kind: type[Exception] = CheckpointError
    if fault == "gone":
        network.rename(tmp_path / "elsewhere")
    elif fault == "incomplete":
        (network / "checkpoint.json").unlink()
    else:
        network.rename(tmp_path / "elsewhere")
        write_checkpoint(network, make_schema(16, (0.0, 1.0)))
        kind = SchemaMismatchError
    url = f"memory://{uuid.uuid4().hex}"
    with pytest.raises(kind, match=r"policy 'net': .*network") as caught:
        generate(loaded(tmp_path, learned, SMALL), url)
    assert "\n" not in str(caught.value)

