"""What emerged: matches replayed in waves are those that were played, and the numbers add up."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from palaestra.evaluate.episodes import frame_of
from palaestra.evaluate.runs import evaluation_seeds, play_wave
from palaestra.evaluate.selfplay import emergence_replay
from palaestra.evaluate.selfplay.emergence import (
    BEFORE,
    COLUMNS,
    MEASURES,
    Tracks,
    endings,
    measures,
    summaries,
)
from palaestra.evaluate.selfplay.emergence_files import (
    rivals_of,
)
from palaestra.evaluate.selfplay.emergence_replay import REACH, WIDTH, measured, replay
from palaestra.evaluate.standings import ALL
from palaestra.evaluate.statistics import wilson
from palaestra.generate.players import load
from palaestra.generate.policies import Match
from palaestra.generate.recipe import Player
from palaestra.generate.rollout import Policy
from palaestra.generate.tasks import sumo
from palaestra.generate.work import versions
from palaestra.generate.world import Observation, World
from palaestra.shards.errors import RolloutError

Frames = tuple[pl.DataFrame, pl.DataFrame]


class Still:
    """A player that never moves."""

    def reset(self, world: World, seeds: list[int]) -> None:
        self.shape = world.nlane, world.schema.action_size

    def act(self, observation: Observation) -> NDArray[np.float32]:
        return np.zeros((len(observation.state), self.shape[1]), np.float32)


def expert(noise: float = 0.0) -> Policy:
    return load(Player("expert", noise))


def played(task: str, level: int, mine: Policy, theirs: Policy, count: int = 4) -> Frames:
    """Both sides of some matches, as an evaluation records them."""
    world = World(task, level, count, pixels=False)
    policy = Match([mine, theirs], alternate=True)
    runs = play_wave(policy, world, evaluation_seeds(0, count))
    frame = frame_of(runs, "round-1", "round-0", 0)
    return tuple(frame.filter(policy=name).sort("run") for name in ("round-1", "round-0"))  # type: ignore[return-value]


@pytest.fixture(name="shoved", scope="module")
def shoved_out() -> Frames:
    return played("sumo", 3, expert(0.3), expert(1.0), 8)


# real matches


def test_two_that_stand_still_far_apart_never_touch() -> None:
    mine, theirs = played("sumo", 1, Still(), Still())
    found = measured(mine, theirs, versions(), 1)
    assert found["contact"].to_list() == [0] * 4 and found["effort"].to_list() == [0] * 4
    assert found["ending"].to_list() == ["time_limit"] * 4
    assert found["outcome"].to_list() == ["draw"] * 4
    assert found["seconds"].to_list() == pytest.approx([512 * 0.04] * 4)
    assert found["speed"].max() < 0.01  # type: ignore[operator]
    world = World("sumo", 1, 4, pixels=False)
    world.reset(mine["seed"].to_list())
    place = world.task.rovers.position.reshape(4, 2, 3)[:, :, :2]  # type: ignore[attr-defined]
    apart = np.linalg.norm(place[:, 1] - place[:, 0], axis=1)
    assert found["distance"].to_numpy() == pytest.approx(apart, abs=0.01)


def test_one_that_pushes_a_still_one_touches_it_and_pushes_it_out() -> None:
    mine, theirs = played("sumo", 1, expert(), Still())
    for own, other, outcome in ((mine, theirs, "win"), (theirs, mine, "loss")):
        found = measured(own, other, versions(), 1)
        assert found["ending"].to_list() == ["pushed_out"] * 4
        assert found["outcome"].to_list() == [outcome] * 4
        assert found["contact"].min() > 0.3  # type: ignore[operator]
        assert found["distance"].max() < 1  # type: ignore[operator]
    assert found["effort"].to_list() == [0] * 4, "the still one's"
    pushing = measured(mine, theirs, versions(), 1)
    assert pushing["effort"].min() > 0.3 and pushing["speed"].max() > 0.5  # type: ignore[operator]


def test_a_still_evader_is_caught_and_a_still_pursuer_is_not_in_time() -> None:
    mine, theirs = played("tag", 1, expert(), Still(), 2)
    found = measured(mine, theirs, versions(), 1)
    assert found["player"].to_list() == [0, 1] and found["outcome"].to_list() == ["win"] * 2
    assert found["ending"].to_list() == ["caught", "time_limit"]
    assert found["steps"][0] < 512 == found["steps"][1]


def test_a_goal_ends_a_match_of_ball() -> None:
    found = measured(*played("ball", 1, expert(), Still(), 2), versions(), 1)
    assert found["ending"].to_list() == ["goal"] * 2


def test_means_are_of_the_policys_own_actions_up_to_the_end(shoved: Frames) -> None:
    found = measured(*shoved, versions(), 1)
    assert len(set(found["steps"])) > 2, "they end at different steps"
    for row, effort in zip(shoved[0]["actions"], found["effort"], strict=True):
        assert effort == pytest.approx(np.abs(row.to_numpy()).mean())
    assert found.schema == COLUMNS


def test_a_wave_is_its_matches_one_by_one(
    shoved: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = shoved
    together = measured(mine, theirs, versions(), 1)
    assert measured(mine, theirs, versions(), 2).equals(together)
    monkeypatch.setattr(emergence_replay, "WIDTH", 1)
    assert measured(mine, theirs, versions(), 1).equals(together) and WIDTH > 200


def test_contact_is_where_the_chassis_are_no_distance_apart(shoved: Frames) -> None:
    mine, theirs = shoved
    tracks, found = replay(mine, theirs, versions()), 0
    for sim in range(3):
        one = replay(mine[sim : sim + 1], theirs[sim : sim + 1], versions())
        world = World("sumo", 3, 1, pixels=False)
        world.reset([mine["seed"][sim]])
        model = world.batch.get_model(0)
        geoms = [model.geom(f"{name}_chassis").id for name in ("blue", "red")]
        sides = sorted(((mine, sim), (theirs, sim)), key=lambda side: side[0]["player"][sim])
        actions = np.zeros((int(one.steps[0]), 2, world.schema.action_size), np.float32)
        for player, (side, row) in enumerate(sides):
            actions[:, player, :2] = side["actions"][row].to_numpy().reshape(-1, 2)
        for t, action in enumerate(actions):
            world.step(action)
            gap = mujoco.mj_geomDistance(model, world.batch.get_data(0), *geoms, 1.0, None)
            if abs(gap) > 1e-6:
                assert one.contact[0, t] == tracks.contact[sim, t] == (gap < 0), (sim, t, gap)
            found += gap < 0
    assert found > 20


def test_no_two_rovers_touch_beyond_reach() -> None:
    assert 2 * np.hypot(*sumo.BODY_HIGH[:2]) < REACH


@pytest.mark.parametrize("column", ["actions", "rewards", "seed", "cause"])
def test_what_was_not_so_recorded_is_refused(shoved: Frames, column: str) -> None:
    mine, theirs = shoved
    if column in ("actions", "rewards"):
        changed = mine.with_columns(pl.col(column).list.eval(pl.element() * 0.9))
    elif column == "seed":
        changed = mine.with_columns(pl.col("seed") + 1)
    else:
        changed = mine.with_columns(cause=pl.lit("diverged: BADQACC"))
    with pytest.raises(RolloutError, match=r"level 3, seed \d+, against round-0: replays diff"):
        measured(changed, theirs, versions(), 1)


def test_other_versions_are_named(shoved: Frames) -> None:
    changed = shoved[0].with_columns(pl.col("seed") + 1)
    with pytest.raises(RolloutError, match=r"made with mujoco 3\.0"):
        measured(changed, shoved[1], versions() | {"mujoco": "3.0"}, 1)


def test_as_many_actions_as_steps_are_needed(shoved: Frames) -> None:
    short = shoved[1].with_columns(pl.col("actions").list.head(4))
    with pytest.raises(RolloutError, match="expected 2 actions and a reward in each of"):
        measured(shoved[0], short, versions(), 1)


# numbers by hand


def tracks(**changes: object) -> Tracks:
    """A match of four steps of which three count: 2, 1 and 1 m apart, in contact in the last."""
    place = np.zeros((1, 5, 2, 3))
    place[0, :, 0, 0] = 0, 0, 1, 1, 9
    place[0, :, 1, 0] = 2, 2, 2, 2, 2
    place[..., 2] = 0.2
    made = Tracks(
        "sumo", 0.5, np.array([0]), np.array([3]), place, np.array([[False, False, True, True]]),
        np.array([[[0.0, 0.0], [1.0, -1.0], [0.5, 0.0], [1.0, 1.0]]], np.float32),
        np.array([[True, False]]), np.array([True]), np.array([False]),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_measures_by_hand() -> None:
    found = {name: float(values[0]) for name, values in measures(tracks()).items()}
    assert found == pytest.approx(
        {"contact": 1 / 3, "distance": 4 / 3, "speed": 2 / 3, "effort": 1.25 / 3, "seconds": 1.5}
    )
    other = measures(tracks(player=np.array([1])))
    assert other["speed"][0] == 0 and other["distance"][0] == found["distance"]


def test_the_step_that_broke_a_match_does_not_count() -> None:
    found = measures(tracks(diverged=np.array([True])))
    assert (found["contact"][0], found["distance"][0], found["seconds"][0]) == (0, 1.5, 1.5)
    broken = measures(tracks(steps=np.array([1]), diverged=np.array([True])))
    assert np.isnan(broken["contact"][0]) and broken["seconds"][0] == 0.5


@pytest.mark.parametrize(
    ("changes", "ending"),
    [
        ({}, "pushed_out"),
        ({"contact": np.zeros((1, 4), bool)}, "drove_out"),
        ({"contact": np.array([[False, False, False, True]])}, "drove_out"),
        ({"won": np.array([[False, False]])}, "both_out"),
        ({"terminated": np.array([False])}, "time_limit"),
        ({"diverged": np.array([True])}, "diverged"),
        ({"position": tracks().position - (0, 0, 0.1)}, "fell"),
        ({"task": "tag"}, "caught"),
        ({"task": "another"}, "terminated"),
    ],
)
def test_endings_by_hand(changes: dict[str, object], ending: str) -> None:
    assert endings(tracks(**changes)) == [ending]


def test_a_touch_long_before_the_end_is_no_push() -> None:
    contact = np.zeros((1, 30), bool)
    contact[0, 19] = True
    place = np.full((1, 31, 2, 3), 0.2)
    for steps, ending in ((29, "pushed_out"), (30, "drove_out")):
        found = tracks(contact=contact, position=place, steps=np.array([steps]))
        assert endings(found) == [ending]


def rows(outcomes: dict[str, int], task: str = "sumo", opponent: str = "round-0") -> pl.DataFrame:
    """Matches with these outcomes."""
    ended = [outcome for outcome, count in outcomes.items() for _ in range(count)]
    values = {name: [0.5] * len(ended) for name in ("contact", "distance", "speed", "effort")}
    return pl.DataFrame({
        "opponent": opponent, "task": task, "level": 1, "run": range(len(ended)), "player": 0,
        "seed": range(len(ended)), "return": 0.0, "steps": 100, "outcome": ended, "cause": "",
        "seconds": 4.0, "ending": ["time_limit" if o == "draw" else "fell" for o in ended],
    } | values, COLUMNS)  # fmt: skip


def test_wins_are_out_of_decided_matches_and_draws_are_told() -> None:
    matches = rows({"win": 230, "draw": 31, "loss": 170})
    (found,) = summaries(1, matches, rivals_of(1))
    assert (found.matches, found.wins, found.draws, found.losses) == (431, 230, 31, 170)
    assert found.decided == 400 and found.won == wilson(230, 400)
    assert found.endings == {"fell": 400, "time_limit": 31}
    assert found.rival == BEFORE and set(found.means) == set(MEASURES)
    assert found.means["steps"].value == 100 and found.means["seconds"].value == 4
    (drawn,) = summaries(1, rows({"draw": 3}), rivals_of(1))
    assert drawn.won is None and drawn.draws == 3


def test_two_tasks_are_told_apart_and_their_wins_together() -> None:
    tag = rows({"win": 10, "loss": 10}, "tag")
    frame = pl.concat([rows({"win": 200}), tag, rows({"loss": 5}, opponent="strong")])
    found = list(summaries(1, frame, rivals_of(1)))
    told = [(one.rival, one.task, one.wins, one.losses) for one in found]
    assert told == [
        (BEFORE, ALL, 210, 10), (BEFORE, "sumo", 200, 0), (BEFORE, "tag", 10, 10),
        ("strong", "sumo", 0, 5),
    ]  # fmt: skip
    assert found[0].means == {} and found[0].endings == {}
    assert rivals_of(1) == ("round-0", *rivals_of(0))
    assert rivals_of(0) == ("strong", "medium", "weak", "random")
