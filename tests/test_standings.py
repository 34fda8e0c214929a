"""Matches in an evaluation: who meets whom, win, draw and loss, ratings, the league."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from evaluate_runs import fails, played, settings_for, write_checkpoint
from palaestra.evaluate.__main__ import Arguments, command
from palaestra.evaluate.entrants import find_entrants
from palaestra.evaluate.evaluation import Evaluation
from palaestra.evaluate.opponents import find_opponents
from palaestra.evaluate.standings import anchor_matches, payoff_of
from palaestra.generate.league import AGENT, ANCHORS, Member, read_league, to_json
from palaestra.generate.league import League as League_
from palaestra.shards import storage
from palaestra.shards.errors import CheckpointError, ConfigError, SchemaMismatchError
from palaestra.shards.schema import Schema, Slot
from palaestra.train.places import WEIGHTS

SUMO = (("sumo", 1),)
NAMES = [anchor.name for anchor in ANCHORS]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """The expert and an untrained network in matches."""
    url = str(write_checkpoint(tmp_path_factory.mktemp("run") / "net", tasks=SUMO))
    return played(settings_for((url, "expert"), ("sumo",), runs=8, width=8))


def test_everybody_meets_the_anchors_and_each_other(evaluation: Evaluation) -> None:
    met = [(match.policy, match.opponent) for match in evaluation.matches]
    # the expert is the strong anchor: nobody meets both
    rivals = ["random", "weak", "medium"]
    assert met == [
        ("net", "expert"), *(("net", name) for name in rivals),
        *(("expert", name) for name in rivals),
    ]  # fmt: skip
    assert not evaluation.cells and not evaluation.summary
    for match in evaluation.matches:
        assert match.wins + match.draws + match.losses == match.matches == 8
        assert match.won.value == match.wins / 8


def test_rows_tell_both_sides(evaluation: Evaluation) -> None:
    frame = evaluation.recorded.frame
    assert len(frame) == 2 * 8 * len(evaluation.matches)
    for match in evaluation.matches:
        sides = [
            frame.filter((pl.col("policy") == a) & (pl.col("opponent") == b)).sort("run")
            for a, b in ((match.policy, match.opponent), (match.opponent, match.policy))
        ]
        assert sides[0]["player"].to_list() == [0, 1] * 4
        assert (sides[0]["outcome"] == "win").sum() == (sides[1]["outcome"] == "loss").sum()
        assert (sides[0]["outcome"] == "win").sum() == match.wins
        assert sides[0]["values"].null_count() == 8


def test_ratings_are_pinned_on_the_strong_anchor(evaluation: Evaluation) -> None:
    assert list(evaluation.ratings) == ["all", "sumo"]
    rated = {rating.name: rating for rating in evaluation.ratings["all"]}
    assert set(rated) == {"net", *NAMES}
    assert rated["strong"].value == rated["strong"].low == 1000.0
    assert rated["random"].value is not None and rated["random"].value < 800
    table = payoff_of(evaluation.settings, evaluation.matches)
    assert set(table.names) == {"net", *NAMES}
    # the expert's own matches take the place of those that are kept with the code
    place = {name: i for i, name in enumerate(table.names)}
    assert table.played[place["strong"], place["weak"]] == 8
    assert table.played[place["random"], place["weak"]] > 8


def test_the_anchors_own_matches_come_with_the_code() -> None:
    rows = list(anchor_matches(SUMO))
    meetings = {(row.first, row.second) for row in rows}
    assert meetings == {(a, b) for a in NAMES for b in NAMES if a != b}
    assert all(row.wins + row.draws + row.losses == 100 for row in rows)


# the league


def arguments_of(url: str, folder: Path, league: str, **changes: Any) -> Arguments:
    arguments = Arguments(
        (url,), str(folder), runs=4, width=4, tasks=("sumo",), levels=(1,), history="on",
        league=league, update_league=True,
    )  # fmt: skip
    return replace(arguments, **changes)


def test_a_league_grows_and_forgets_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    league = str(tmp_path / "league.json")
    urls = [str(write_checkpoint(tmp_path / f"r{n}", seed=n, tasks=SUMO)) for n in (0, 1)]
    command(arguments_of(urls[0], tmp_path / "0", league))
    assert f"{league}: version 1, 5 members, new: random" in capsys.readouterr().out
    first = read_league(league)
    assert first.names == (*NAMES, "r0")
    member = first.members[-1]
    assert (member.policy, member.arguments) == (AGENT, {"url": f"{urls[0]}/{WEIGHTS}"})
    assert member.rating is not None and member.interval is not None
    assert member.interval[0] <= member.rating <= member.interval[1]
    own = [row for row in first.payoff if "r0" in (row.first, row.second)]
    assert len(own) == 4 and {row.wins + row.draws + row.losses for row in own} == {4}

    command(arguments_of(urls[0], tmp_path / "0", league))  # the same again adds nothing
    assert read_league(league) == first

    command(arguments_of(urls[1], tmp_path / "1", league))
    second = read_league(league)
    assert second.version == 2 and second.names == (*first.names, "r1")
    assert set(first.payoff) < set(second.payoff)
    met = {row.second for row in second.payoff if row.first == "r1"}
    assert met == {*NAMES, "r0"}, "it meets the members"
    assert json.loads(Path(league).read_text()) == json.loads(json.dumps(to_json(second)))


def test_two_policies_of_one_name_do_not_join(tmp_path: Path) -> None:
    league = str(tmp_path / "league.json")
    one, two = (str(write_checkpoint(tmp_path / n / "run", tasks=SUMO)) for n in "ab")
    command(arguments_of(one, tmp_path / "0", league))
    with pytest.raises(ConfigError, match="'run' has the name of another one in the league"):
        command(arguments_of(two, tmp_path / "1", league))
    command(arguments_of(f"other={two}", tmp_path / "1", league))
    assert read_league(league).names == (*NAMES, "run", "other")


def test_a_member_that_cannot_play_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    league, out = tmp_path / "league.json", tmp_path / "out"
    words = ("random", "--tasks", "sumo", "--league", league, "--output", out)
    assert "league.json" in fails(capsys, *words)
    entrants = find_entrants(["random"]).entrants

    def meets(**fields: Any) -> None:
        member = Member("other", **fields)
        storage.write_json(str(league), to_json(League_("palaestra-league", (member,))))
        find_opponents(str(league), entrants)

    with pytest.raises(CheckpointError, match=r"league\.json: member 'other': .*nothing there"):
        meets(policy=AGENT, arguments={"url": str(tmp_path / "gone")})
    schema = Schema((Slot("wheels", 4),), 7, 16, (0.0, 1.0))
    foreign = write_checkpoint(tmp_path / "foreign", schema)
    with pytest.raises(SchemaMismatchError, match=r"member 'other': .*schema differs in slots"):
        meets(policy=AGENT, arguments={"url": str(foreign)})
    with pytest.raises(ConfigError, match="os:system"):
        meets(policy="os:system", arguments={"command": "true"})
