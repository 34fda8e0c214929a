"""The league file: read, added to and written, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from palaestra.generate.league import (
    ANCHORS,
    FORMAT,
    League,
    Matches,
    Member,
    read_league,
    to_json,
    with_matches,
    with_member,
    write_league,
)
from palaestra.shards.errors import ConfigError, UnknownNameError
from recipe_files import load_with_league
from recipe_files import write_league as write_members

LEARNED = Member("run", "palaestra.train.agent:load", arguments={"url": "s3://b/run"})
ROW = Matches("sumo", 1, "strong", "weak", 7, 60, 10, 30)
OTHERS = (replace(ROW, level=2), replace(ROW, task="ball"), replace(ROW, seed=8))


@pytest.fixture
def league() -> League:
    return with_matches(League(FORMAT, (*ANCHORS, LEARNED)), (ROW, *OTHERS))


def refused(message: str, do: Callable[[], object], where: str = "") -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        do()
    assert str(caught.value).startswith(where) and "\n" not in str(caught.value)


def test_what_is_written_is_read(league: League, tmp_path: Path) -> None:
    url = str(tmp_path / "league.json")
    rated = replace(LEARNED, name="rated", rating=1180.5, interval=(1100.0, 1250.25))
    written = write_league(url, with_member(league, rated))
    assert written == replace(with_member(league, rated), version=1)
    assert read_league(url) == written
    assert read_league(url).members == (*ANCHORS, LEARNED, rated)
    assert json.loads(Path(url).read_text()) == json.loads(json.dumps(to_json(written)))
    assert write_league(url, written).version == read_league(url).version == 2


def test_a_file_of_members_alone_is_a_league(tmp_path: Path) -> None:
    url = write_members(tmp_path, [{"name": "a", "policy": "expert", "noise": 0.5}])
    assert read_league(url) == League(FORMAT, (Member("a", "expert", 0.5),))


def test_a_league_that_somebody_else_has_written_is_not_overwritten(
    league: League, tmp_path: Path
) -> None:
    url = str(tmp_path / "league.json")
    written = write_league(url, league)
    write_league(url, written)
    before = Path(url).read_text()
    refused("version 2 is there, expected 1", lambda: write_league(url, written), url)
    refused("version 2 is there, expected 0", lambda: write_league(url, league), url)
    assert Path(url).read_text() == before


def test_what_could_not_be_read_is_not_written(league: League, tmp_path: Path) -> None:
    url = tmp_path / "league.json"
    wrong = replace(league, payoff=(replace(ROW, wins=-1),))
    refused("wins should not be negative", lambda: write_league(str(url), wrong), str(url))
    assert not url.exists()


def test_the_same_matches_are_there_once(league: League) -> None:
    assert with_matches(league, league.payoff) == league
    assert with_matches(league, reversed(league.payoff)) == league
    assert {row.key for row in league.payoff} == {row.key for row in (ROW, *OTHERS)}
    again = replace(ROW, wins=61, losses=29)
    changed = with_matches(league, [again])
    assert again in changed.payoff and ROW not in changed.payoff
    assert set(changed.payoff) - {again} == set(league.payoff) - {ROW}
    exchanged = replace(ROW, first=ROW.second, second=ROW.first)
    assert len(with_matches(league, [exchanged]).payoff) == len(league.payoff) + 1


def test_the_order_in_which_matches_come_does_not_show(league: League) -> None:
    one, other = with_matches(league, ()), replace(league, payoff=())
    for row in reversed(league.payoff):
        other = with_matches(other, [row])
    assert one == other


def test_members_are_added_and_never_changed(league: League) -> None:
    new = Member("new", "expert", 0.3)
    assert with_member(league, new).members == (*league.members, new)
    assert with_member(league, new).payoff == league.payoff
    assert with_member(league, replace(LEARNED, rating=900.0)) is league
    other = replace(LEARNED, arguments={"url": "s3://b/other"})
    message = "'run' is .*'s3://b/run'.*, not .*'s3://b/other'"
    refused(message, lambda: with_member(league, other))
    noisier = Member("weak", "expert", 0.5)
    message = "'weak' is 'expert' with noise 2, not 'expert' with noise 0.5"
    refused(message, lambda: with_member(league, noisier))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": "stong"}, "unknown member 'stong'; did you mean 'strong'"),
        ({"second": "nobody"}, "unknown member 'nobody'"),
        ({"task": "summo"}, "unknown task 'summo'; did you mean 'sumo'"),
        ({"level": 4}, "sumo has levels 1 to 3, not 4"),
        ({"task": "reach"}, "reach is a task of 1 player"),
        ({"wins": -1}, "wins should not be negative, is -1"),
        ({"draws": -2}, "draws should not be negative"),
        ({"losses": -3}, "losses should not be negative"),
        ({"seed": -1}, "seed should not be negative"),
    ],
)  # fmt: skip
def test_matches_that_cannot_have_been_are_refused(
    change: dict[str, Any], message: str, league: League, tmp_path: Path
) -> None:
    wrong = replace(ROW, **change)
    refused(message, lambda: with_matches(league, [wrong]), "payoff: ")
    data = to_json(replace(league, payoff=(ROW, wrong)))
    url = write_members(tmp_path, data["members"], payoff=data["payoff"])
    refused(message, lambda: read_league(url), f"{url}: payoff[1]: ")
    refused(message, lambda: read_league(url), f"{url}: payoff[1]: ")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"payoff": [to_json(League(FORMAT, (), payoff=(ROW,)))["payoff"][0]] * 2},
         r"payoff\[1\]: these matches are there twice: \('sumo', 1, 'strong', 'weak', 7\)"),
        ({"payoff": [{"task": "sumo"}]}, r"payoff\[0\]: key 'level' is missing"),
        ({"payoff": [{"wins": 1.5}]}, r"payoff\[0\]: "),
        ({"payoff": {}}, "payoff: expected a list"),
        ({"version": -1}, "version should not be negative, is -1"),
        ({"version": "1"}, "version: expected int"),
        ({"matches": []}, "unknown key 'matches'"),
    ],
)  # fmt: skip
def test_a_file_with_wrong_entries_is_refused(
    entries: dict[str, Any], message: str, tmp_path: Path
) -> None:
    url = write_members(tmp_path, to_json(League(FORMAT, ANCHORS))["members"], **entries)
    refused(message, lambda: read_league(url), f"{url}: ")


@pytest.mark.parametrize("interval", [[1.0], [2.0, 1.0], [1.0, "2"], 3, [1.0, float("inf")], {}])
def test_an_interval_that_is_none_is_refused(interval: Any, tmp_path: Path) -> None:
    member = {"name": "a", "policy": "expert", "rating": 1.0, "interval": interval}
    url = write_members(tmp_path, [{"name": "b", "policy": "expert"}, member])
    refused("interval", lambda: read_league(url), f"{url}: members[1]: ")


def test_anchors_can_be_a_recipes_opponents(tmp_path: Path) -> None:
    """`random` is what recipes call the same policy; the other names are free."""
    assert [anchor.name for anchor in ANCHORS] == ["random", "weak", "medium", "strong"]
    recipe = load_with_league(tmp_path, [asdict(anchor) for anchor in ANCHORS])
    assert [recipe.player(anchor.name) for anchor in ANCHORS] == [a.player for a in ANCHORS]
    assert {name for b in recipe.behaviours for name in b.opponents} == {
        "self", *(anchor.name for anchor in ANCHORS),
    }  # fmt: skip


def test_unknown_names_are_a_kind_of_their_own(league: League) -> None:
    with pytest.raises(UnknownNameError):
        with_matches(league, [replace(ROW, first="nobody")])
