"""Corpora of matches and of demonstrations, as real tasks make them."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import generate_runs as runs
import pytest
from palaestra.generate import work
from palaestra.generate.generation import Options, explain, generate
from palaestra.generate.plan import MATCHES_PER_SHARD, Wave, episode_seed, plan
from palaestra.generate.policies import Expert
from palaestra.generate.pool import Failed
from palaestra.generate.recipe import Recipe
from palaestra.generate.replay import draw, read_segments, replay
from palaestra.generate.rollout import Label, play
from palaestra.generate.world import World
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from palaestra.shards.errors import RolloutError
from recipe_files import load_with_league
from small_corpus import build

MATCHES = """name = "matches"
steps = 20_480
shard_steps = 9_000
wave = 8
image_size = 8
seed = 3
round = 4
heldout = true
league = "{league}"

[sampling]
pfsp = 0
self_play = 0

[policies.champion]
policy = "expert"
noise = 0.1
rating = 1200

[policies.novice]
policy = "random"
rating = 800

[[behaviours]]
tasks = ["sumo", "tag"]
policy = "champion"
opponents = ["novice"]
weight = 2

[[behaviours]]
tasks = ["ball"]
policy = "champion"

[[behaviours]]
tasks = ["sumo"]
policy = "champion"
opponents = ["league"]
weight = 2
"""
MEMBERS = [
    {"name": "veteran", "policy": "expert", "noise": 0.3, "rating": 1100},
    {"name": "fresh", "policy": "random"},
]
RATINGS = {"champion": 1200.0, "novice": 800.0, "veteran": 1100.0, "fresh": None}
OUTCOMES = {("win", "loss"), ("loss", "win"), ("draw", "draw")}

Rows = list[dict[str, Any]]


def assert_replays(corpus: Corpus) -> None:
    found = replay(corpus, *draw(corpus, None), workers=1)
    assert found.failed == [] and all(not outcome.differences for outcome in found.outcomes)


def ends(rows: Rows) -> Rows:
    return [row for row in rows if row["terminated"] or row["truncated"]]


# Matches


@pytest.fixture(scope="module")
def matches(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Five waves of four matches each, against a novice, itself and two of a league."""
    folder = tmp_path_factory.mktemp("matches")
    return build(f"memory://{uuid.uuid4().hex}", load_with_league(folder, MEMBERS, MATCHES))


@pytest.fixture(scope="module")
def rows(matches: Corpus) -> Rows:
    return list(matches.index.iter_rows(named=True))


@pytest.fixture(scope="module")
def sides(rows: Rows) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Of every match the ends of its two episodes, player 0's first."""
    found: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in ends(rows):
        assert row["player"] not in found[row["match"]]
        found[row["match"]][row["player"]] = row
    assert len(found) == 20 and all(set(pair) == {0, 1} for pair in found.values())
    return [(pair[0], pair[1]) for pair in found.values()]


def test_both_perspectives_are_there(
    rows: Rows, sides: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    for first, second in sides:
        for name in ("task", "level", "round", "seed", "segment", "steps", "terminated", "cause"):
            assert first[name] == second[name], name
        assert (first["policy"], first["opponent"]) == (second["opponent"], second["policy"])
        assert first["rating"] == second["opponent_rating"] == RATINGS[first["policy"]]
        assert second["rating"] == first["opponent_rating"] == RATINGS[second["policy"]]
        for name in ("sampling", "sampling_probability"):
            assert first[name] == second[name]
    assert {row["round"] for row in rows} == {4}
    segments = Counter((row["match"], row["segment"]) for row in rows)
    assert set(segments.values()) == {2}


def test_everybody_is_met_and_sides_alternate(
    sides: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    """Four matches a wave: two from each side; `self` is its own opponent."""
    met = Counter((first["task"], first["policy"], first["opponent"]) for first, _ in sides)
    rivals = [("sumo", "novice"), ("tag", "novice"), ("sumo", "veteran"), ("sumo", "fresh")]
    expected = {("ball", "champion", "champion"): 4}
    for task, rival in rivals:
        expected |= {(task, "champion", rival): 2, (task, rival, "champion"): 2}
    assert met == expected
    drawn = {(f["sampling"], f["sampling_probability"]) for f, _ in sides}
    assert drawn == {("listed", 1.0), ("past", 0.5)}
    for first, second in sides:
        even = first["match"] % 2 == 0
        assert (first if even else second)["policy"] == "champion"


def test_every_segment_knows_how_its_match_ended(matches: Corpus, rows: Rows) -> None:
    """In its json and in its index row; those before the last too."""
    outcomes = {(row["match"], row["player"]): row["outcome"] for row in ends(rows)}
    for row, episode in zip(rows, read_segments(matches, matches.index), strict=True):
        assert row["outcome"] == episode.outcome == outcomes[episode.match, episode.player]
        for name in ("policy", "opponent", "rating", "opponent_rating", "round", "seed"):
            assert row[name] == getattr(episode, name), name
    early = [row for row in rows if row["segment"] == 0 and row not in ends(rows)]
    assert {row["outcome"] for row in early} == {"win", "loss", "draw"}


def test_outcomes_are_what_rewards_and_success_say(
    matches: Corpus, sides: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    assert {(first["outcome"], second["outcome"]) for first, second in sides} == OUTCOMES
    for episode in read_segments(matches, matches.index):
        if episode.terminated or episode.truncated:
            assert (episode.outcome == "win") == bool(episode.success[-1])
            if episode.terminated:  # 1 to who has won, -1 to who has lost, of all three tasks
                assert episode.outcome == {1.0: "win", -1.0: "loss"}[episode.reward[-1]]
            assert (episode.completion_step is not None) == (episode.outcome == "win")


def test_the_champion_wins_from_either_side(rows: Rows) -> None:
    """Of twelve matches against random play it has lost none so far; three would be a surprise."""
    for player in (0, 1):
        outcomes = Counter(
            row["outcome"] for row in ends(rows)
            if row["player"] == player and row["opponent"] in ("novice", "fresh")
        )  # fmt: skip
        assert outcomes.total() == 6 and outcomes["win"] >= 5


def test_matches_replay(matches: Corpus) -> None:
    assert_replays(matches)


# Demonstrations

DEMONSTRATIONS = """name = "demonstrations"
steps = 4096
shard_steps = 2048
wave = 4
image_size = 8
seed = 5
keep = "success"

[[behaviours]]
tasks = ["reach"]
policy = "expert"
noise = 1.5

[[behaviours]]
tasks = ["swingup"]
policy = "expert"
noise = 1.0
weight = 3
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Of reaching about half succeeds, of swinging up three in four."""
    return runs.load_text(tmp_path_factory.mktemp("recipe"), DEMONSTRATIONS)


@pytest.fixture(scope="module")
def demonstrations(recipe: Recipe) -> Corpus:
    return build(f"memory://{uuid.uuid4().hex}", recipe)


def succeeding(recipe: Recipe, wave: Wave, first: int, count: int = 32) -> list[int]:
    """Of so many matches from `first` on those that succeed, played side by side."""
    world = World(wave.task, wave.level, count, pixels=False)
    seeds = [episode_seed(recipe.seed, first + sim) for sim in range(count)]
    expert = Expert(recipe.player_of(wave.behaviour).noise)
    episodes = play(world, expert, seeds, Label("expert", first_match=first))
    return sorted(episode.match for episode in episodes if episode.completion_step is not None)


def expected_matches(recipe: Recipe, width: int | None = None) -> list[list[int]]:
    """Matches of each shard: per wave the first that succeed.

    The next wave's follow the last one played; that is the last one kept, as scripts play no more
    than are missing. With a `width` they are played so many at a time, to the end.
    """
    found = []
    for shard, waves in enumerate(plan(recipe)):
        first, kept = shard * MATCHES_PER_SHARD, list[int]()
        for wave in waves:
            good = succeeding(recipe, wave, first)[: wave.nsim]
            kept += good
            played = good[-1] + 1 - first
            first += played if width is None else -(-played // width) * width
        found.append(kept)
    return found


def test_what_is_stored_succeeded_and_is_as_much_as_planned(
    recipe: Recipe, demonstrations: Corpus
) -> None:
    rows = list(demonstrations.index.iter_rows(named=True))
    assert rows == ends(rows) and all(row["success"] for row in rows)
    planned = Counter(
        (shard, wave.task, wave.behaviour.label)
        for shard, waves in enumerate(plan(recipe)) for wave in waves for _ in range(wave.nsim)
    )  # fmt: skip
    assert Counter((row["shard"], row["task"], row["policy"]) for row in rows) == planned
    assert sum(row["steps"] for row in rows) == recipe.steps
    for episode in read_segments(demonstrations, demonstrations.index):
        assert episode.completion_step is not None and episode.outcome is None
        assert episode.seed == episode_seed(recipe.seed, episode.match)


def test_scripts_play_only_what_is_missing(recipe: Recipe, demonstrations: Corpus) -> None:
    expected = expected_matches(recipe)
    index = demonstrations.index
    assert [sorted(index.filter(shard=s)["match"]) for s in range(len(expected))] == expected
    for kept, whole in zip(expected, expected_matches(recipe, 4), strict=True):
        assert kept != whole  # some failed, and it matters in which widths more are played


REACHES = """name = "reaches"
steps = 2048
wave = 4
seed = 2
image_size = 8
keep = "success"

[[behaviours]]
tasks = ["reach"]
policy = "expert"
noise = 1.5
"""


def test_learned_policies_play_whole_waves(tmp_path: Path) -> None:
    """As what acts otherwise at another width must; here the script under a learned one's name."""
    learned = '"palaestra.generate.policies:Expert"\narguments = { noise = 1.5 }\n'
    text = REACHES.replace('"expert"\nnoise = 1.5\n', learned)
    corpus = build(f"memory://{uuid.uuid4().hex}", runs.load_text(tmp_path, text))
    assert corpus.index["success"].all() and corpus.index["steps"].sum() == 2048
    scripted = runs.load_text(tmp_path, REACHES)
    whole, few = (expected_matches(scripted, width)[0] for width in (4, None))
    assert sorted(corpus.index["match"]) == whole != few


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_keeps_the_same(
    workers: int, recipe: Recipe, demonstrations: Corpus, tmp_path: Path
) -> None:
    outcome = generate(recipe, str(tmp_path), Options(workers=workers))
    assert (outcome.failures, outcome.missing) == ((), 0)
    assert runs.contents(str(tmp_path)) == runs.contents(demonstrations.url)


def test_demonstrations_replay(demonstrations: Corpus) -> None:
    assert_replays(demonstrations)


IMPOSSIBLE = """name = "impossible"
steps = 2048
wave = 4
image_size = 8
keep = "success"

[[behaviours]]
tasks = ["push"]
policy = "random"
"""


def test_a_policy_that_cannot_succeed_is_told(tmp_path: Path) -> None:
    recipe = runs.load_text(tmp_path, IMPOSSIBLE)
    corpus = runs.in_memory(recipe)
    with pytest.raises(RolloutError, match="keep = 'success': 0 of 20 matches succeeded") as caught:
        work.write_shard(corpus, recipe, 0)
    where = f"(push level 1, random, 4 matches from 0, whose seed is {episode_seed(0, 0)})"
    assert explain(Failed(0, caught.value, 1)).endswith(where)
    assert set(runs.contents(corpus.url)) == {"corpus.json"}


DECIDED = """name = "decided"
steps = 4096
wave = 8
image_size = 8
heldout = true
keep = "success"

[[behaviours]]
tasks = ["ball"]
policy = "expert"
noise = 0.1
"""


def test_of_matches_those_that_somebody_won_are_kept(tmp_path: Path) -> None:
    """About half are drawn: as many more are played, and both perspectives are kept."""
    corpus = build(f"memory://{uuid.uuid4().hex}", runs.load_text(tmp_path, DECIDED))
    rows = list(corpus.index.iter_rows(named=True))
    found: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        found[row["match"]].add(row["outcome"])
    assert len(found) == 4 and all(pair == {"win", "loss"} for pair in found.values())
    assert max(found) >= 4  # some were drawn
    assert len(ends(rows)) == 8
    assert_replays(corpus)


def test_nobody_has_won_a_match_before_its_end(matches: Corpus) -> None:
    def ended(episode: Episode) -> bool:
        return episode.terminated or episode.truncated

    for episode in read_segments(matches, matches.index):
        assert work.succeeded(episode) == (ended(episode) and episode.outcome == "win")
