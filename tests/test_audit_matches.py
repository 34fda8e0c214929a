"""The audit of matches, and of what was kept: shares of both sides, and what the sides tell."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import make_episode
from palaestra.generate.recipe import Behaviour, Player, Recipe
from palaestra.shards.audit.audit import audit
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from small_corpus import build
from test_audit import failed, put, rewrite

MakeCorpus = Callable[..., Corpus]
EXPERT, LEARNER = "expert+noise0.3", "learner"
RATINGS = {LEARNER: 1210.5, "champion": 1350.0}
OUTCOMES = {"win": "loss", "loss": "win", "draw": "draw"}
STEPS = 8


def match(
    number: int, own: str = LEARNER, rival: str = "champion", outcome: str = "win", **both: Any
) -> Iterator[Episode]:
    """Both sides of a match, which `own` plays as player 0 in even ones, and ends so for it."""
    players = [(own, rival, outcome), (rival, own, OUTCOMES[outcome])]
    if number % 2:
        players.reverse()
    for player, (policy, opponent, end) in enumerate(players):
        values: dict[str, Any] = {
            "task": "sumo", "match": number, "player": player, "policy": policy,
            "opponent": opponent, "rating": RATINGS.get(policy), "outcome": end,
            "opponent_rating": RATINGS.get(opponent), "terminated": True, "truncated": False,
            "seed": 100 + number, "final_state_xxh3": number,
        }  # fmt: skip
        yield make_episode(STEPS, 10 * number + player, **(values | both))


def behaviour(
    policy: str, opponent: str, weight: float = 1.0, noise: float = 0.0
) -> dict[str, Any]:
    """Of a resolved recipe."""
    return {
        "tasks": ["sumo"], "levels": [1], "policy": policy, "noise": noise, "weight": weight,
        "arguments": {}, "opponents": [opponent],
    }  # fmt: skip


BEHAVIOURS = [
    behaviour(LEARNER, "champion", 0.5), behaviour("expert", "self", 0.25, noise=0.3),
    behaviour("random", "random", 0.25),
]  # fmt: skip
PLAYED = [(LEARNER, "champion")] * 2 + [(EXPERT, EXPERT), ("random", "random")]


@pytest.fixture(name="make")
def maker(make_corpus: MakeCorpus) -> MakeCorpus:
    """A corpus of waves of two matches, a shard each: of PLAYED, or as given."""

    def make(played: list[tuple[str, str]] = PLAYED, **recipe: Any) -> Corpus:
        numbers, outcomes = itertools.count(), itertools.cycle(OUTCOMES)
        shards = [
            [episode for number in itertools.islice(numbers, 2)
             for episode in match(number, *pair, outcome=next(outcomes))] for pair in played
        ]  # fmt: skip
        wanted = {"steps": 4 * STEPS * len(played), "wave": 4, "behaviours": BEHAVIOURS}
        return make_corpus(shards, **(wanted | recipe))

    return make


def test_matches_against_named_opponents_pass(make: MakeCorpus) -> None:
    report = audit(make(), deep=True)
    assert failed(report) == {}
    finding = {check.name: check.finding for check in report.checks}
    assert finding["mixture"] == "within 0 steps of the recipe's shares; a wave is 32"
    assert finding["matches"] == "both players tell the same of each"
    assert "kept" not in finding
    shares = {(row["policy"], row["opponent"]): row["share"] for row in report.table.to_dicts()}
    assert shares == {
        (LEARNER, "champion"): 0.25, ("champion", LEARNER): 0.25, (EXPERT, EXPERT): 0.25,
        ("random", "random"): 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("played", "finding"),
    [
        (
            [(LEARNER, "champion")] * 6 + PLAYED[2:],
            "sumo level 1 champion against learner: 37.5% of the steps, 25.0% in the recipe (2 in",
        ),
        (
            PLAYED * 3 + [(LEARNER, "champion")] * 5,
            "sumo level 1 champion against learner: 32.4% of the steps, 25.0% in the recipe (4 in",
        ),
        (
            [(LEARNER, LEARNER), (LEARNER, "champion"), *PLAYED[2:]],
            "sumo level 1 learner: 25.0% of the steps, 0.0% in the recipe",
        ),
        (
            [(LEARNER, "expert"), (LEARNER, "champion"), *PLAYED[2:]],
            "sumo level 1 expert against learner: 12.5% of the steps, 0.0% in the recipe (2 in",
        ),
        (
            [*PLAYED[:2], (EXPERT, "random"), (EXPERT, "random")],
            "sumo level 1 expert+noise0.3 against random: 25.0% of the steps, 0.0% in the recipe",
        ),
    ],
)  # fmt: skip
def test_shares_that_are_off_fail(
    make: MakeCorpus, played: list[tuple[str, str]], finding: str
) -> None:
    found = failed(audit(make(played)))
    assert set(found) == {"mixture"}
    assert finding in found["mixture"]


def test_several_behaviours_may_share_a_side(make: MakeCorpus) -> None:
    """Each of their cells may be off by a wave: so may all of them together, by so many."""
    twice = [
        behaviour(LEARNER, "champion", 0.25), behaviour("champion", LEARNER, 0.25),
        *BEHAVIOURS[1:],
    ]  # fmt: skip
    played = PLAYED * 3 + [(LEARNER, "champion")] * 5  # 40 steps too many of each side: 2.5 of 16
    assert "mixture" in failed(audit(make(played, behaviours=twice)))
    assert failed(audit(make(played[:-2], name="fewer"))) != {}
    assert failed(audit(make(played[:-2], name="shared", behaviours=twice))) == {}


FIRST = pl.col("match") == 0
SECOND = FIRST & (pl.col("player") == 1)
LACKS = "has not one episode each of players 0 and 1"
DIFFERS = (
    "has players who differ in task, level, sampling, sampling_probability, round, steps or final "
    "state"
)
UNLIKELY = "was not drawn with a chance in (0, 1]"
STRANGERS = "has players who are not each other's opponent, ratings included"
UNDECIDED = "did not end in a win and a loss, or in a draw for both"


@pytest.mark.parametrize(
    ("change", "others", "wrong"),
    [
        (lambda rows: rows.filter(~SECOND), {"byte ranges", "steps"}, LACKS),
        (put(SECOND, player=2, key="000000000000-2-00"), set(), LACKS),
        (put(SECOND, match=2, key="000000000002-1-00"), {"seeds", "keys", "duplicates"}, LACKS),
        (put(SECOND, player=0), {"keys", "segments"}, LACKS),
        (put(FIRST, opponent=""), {"mixture"}, STRANGERS),
        (put(SECOND, opponent=""), {"mixture"}, STRANGERS),
        (put(SECOND, level=2), {"mixture"}, DIFFERS),
        (put(SECOND, task="tag"), {"mixture"}, DIFFERS),
        (put(SECOND, round=1), set(), DIFFERS),
        (put(SECOND, sampling="pfsp"), set(), DIFFERS),
        (put(SECOND, sampling_probability=0.5), set(), DIFFERS),
        (put(FIRST, sampling_probability=0.0), set(), UNLIKELY),
        (put(FIRST, sampling_probability=1.5), set(), UNLIKELY),
        (put(SECOND, steps=7), set(), DIFFERS),
        (put(SECOND, final_state_xxh3=77), set(), DIFFERS),
        (put(SECOND, policy=LEARNER), {"mixture"}, STRANGERS),
        (put(SECOND, opponent="champion"), {"mixture"}, STRANGERS),
        (put(SECOND, rating=1.0), set(), STRANGERS),
        (put(SECOND, opponent_rating=None), set(), STRANGERS),
        (put(FIRST, outcome="win"), set(), UNDECIDED),
        (put(SECOND, outcome="draw"), set(), UNDECIDED),
        (put(SECOND, outcome=None), set(), UNDECIDED),
        (put(FIRST, outcome=None), set(), UNDECIDED),
        (put(FIRST, outcome="victory"), set(), UNDECIDED),
        (put(FIRST, seed=2 + (1 << 62)), set(), ""),
        (put(SECOND, seed=2 + (1 << 62)), {"seeds"}, ""),
    ],
)  # fmt: skip
def test_a_side_that_tells_otherwise_is_found(
    make: MakeCorpus, change: Callable[[pl.DataFrame], pl.DataFrame], others: set[str], wrong: str
) -> None:
    corpus = make()
    rewrite(corpus, 0, change)
    found = failed(audit(corpus))
    assert set(found) == others | ({"matches"} if wrong else set())
    if wrong:
        assert found["matches"].startswith(f"match 0 {wrong}")


def test_faults_are_counted_by_match(make: MakeCorpus) -> None:
    corpus = make()
    rewrite(corpus, 0, put(pl.col("player") == 1, rating=1.0))
    rewrite(corpus, 3, put(pl.col("match") == 7, outcome="win"))
    assert failed(audit(corpus)) == {"matches": f"match 0 {STRANGERS} (3 in all)"}


def test_only_what_succeeded_is_kept(make: MakeCorpus, make_corpus: MakeCorpus) -> None:
    drawn = failed(audit(make(keep="success")))  # every third match is
    assert drawn == {"kept": "match 2, player 0 did not succeed, or was won by nobody (4 in all)"}

    reach = {"behaviours": [behaviour("random", "self") | {"tasks": ["reach"], "opponents": []}]}
    alone = [make_episode(STEPS, n, policy="random", completion_step=3) for n in range(2)]
    shards = [[*match(10, "random", "random"), *match(11, "random", "random")], alone]
    recipe = {"keep": "success", "steps": 6 * STEPS, "wave": 4, "behaviours": [
        behaviour("random", "self", 2.0), *reach["behaviours"]]}  # fmt: skip
    report = audit(make_corpus(shards, name="good", **recipe))
    assert failed(report) == {}
    (kept,) = (check for check in report.checks if check.name == "kept")
    assert kept.finding == "every episode succeeded, every match was won by somebody"
    shards[1][1] = make_episode(STEPS, 1, policy="random")
    found = failed(audit(make_corpus(shards, name="bad", **recipe)))
    assert found == {"kept": "match 1, player 0 did not succeed, or was won by nobody"}


def test_what_generate_makes_passes(tmp_path: Path) -> None:
    """Both kinds of opponents, a name of the recipe's own, and tasks that are held out."""
    recipe = Recipe(
        "matches", 6 * 1024,
        (
            Behaviour(("sumo",), "expert", noise=0.4, opponents=("self",), weight=0.3),
            Behaviour(("sumo",), "clumsy", opponents=("random",), weight=0.4),
            Behaviour(("lever",), "expert", weight=0.3),
        ),
        seed=2, wave=6, image_size=8, shard_steps=6_000, heldout=True, round=2,
        policies={"clumsy": Player("expert", 0.8, rating=900.0)},
    )  # fmt: skip
    for keep in ("all", "success"):
        corpus = build(str(tmp_path / keep), replace(recipe, keep=keep))
        report = audit(corpus, deep=True)
        assert failed(report) == {}
        finding = {check.name: check.finding for check in report.checks}
        assert finding["held out"].startswith("for evaluation only, as its recipe says: holds lev")
        assert ("kept" in finding) == (keep == "success")
