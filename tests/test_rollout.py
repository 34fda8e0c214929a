"""Waves come apart into the right segments, whatever the episodes' lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from palaestra.generate import registry
from palaestra.generate.policies import Expert, Match, Random
from palaestra.generate.rollout import COMPLETION_STEPS, Completion, Label, outcome, play, seat
from palaestra.generate.slots import ACTION_SIZE
from palaestra.generate.task import Ints, Score
from palaestra.generate.tasks.reach import Reach
from palaestra.generate.world import Observation, World
from palaestra.shards.episode import Episode
from palaestra.shards.errors import ConfigError, RolloutError

IMAGE = 16
NSIM = 3


class Long(Reach):
    """Two segments."""

    name = "long"
    horizon = 512


class Leaving(Reach):
    """Simulation i really ends at step LENGTHS[i]; reward counts the episode's steps in 1/1000."""

    name = "leaving"
    horizon = 512
    lengths: ClassVar[tuple[int, ...]] = (1, 256, 257, 300, 512, 600)

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        super().reset(ids, generators)
        self.time = 0

    def apply(self, action: NDArray[np.float32]) -> None:
        super().apply(action)
        self.time += 1

    def score(self) -> Score:
        _, success, _ = super().score()
        terminated = self.time >= np.array(self.lengths)
        return Score(np.full(len(success), self.time / 1000), success, terminated)


class Doubled(Leaving):
    """Two players that end together, after 2 and 300 steps; player 1's reward is negative."""

    name = "doubled"
    players = 2
    cameras = ("main", "main")
    lengths = (2, 300)

    def apply(self, action: NDArray[np.float32]) -> None:
        super().apply(action[::2])

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        for player in (0, 1):
            super().observe({name: array[player::2] for name, array in slots.items()})

    def score(self) -> Score:
        reward, success, terminated = (np.repeat(array, 2) for array in super().score())
        return Score(reward * np.tile((1.0, -1.0), len(reward) // 2), success, terminated)

    def expert(self) -> NDArray[np.float32]:
        return np.repeat(super().expert(), 2, axis=0)


@pytest.fixture(autouse=True)
def throwaway_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = registry.task_classes() | {task.name: task for task in (Long, Leaving, Doubled)}
    monkeypatch.setattr(registry, "task_classes", lambda: classes)


class Noted:
    """Wraps a policy and keeps copies of what it saw and did."""

    def __init__(self) -> None:
        self.policy = Expert(0.2)

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        self.states: list[NDArray[np.float32]] = []
        self.actions: list[NDArray[np.float32]] = []
        self.frames: list[NDArray[np.uint8]] = []
        self.policy.reset(world, seeds)

    def act(self, observation: Observation) -> NDArray[np.float32]:
        assert observation.pixels is not None
        self.states.append(observation.state.copy())
        self.frames.append(observation.pixels.copy())
        self.actions.append(self.policy.act(observation))
        return self.actions[-1]


def copied(episodes: Iterator[Episode]) -> list[Episode]:
    """The arrays are views that the next segment overwrites."""
    names = ("pixels", "state", "action", "reward", "success")
    return [replace(e, **{name: getattr(e, name).copy() for name in names}) for e in episodes]


def wave(task: str, nsim: int, first_match: int = 40) -> tuple[World, Noted, list[Episode]]:
    world, policy = World(task, 1, nsim, image_size=IMAGE), Noted()
    label = Label("noted", opponent="nobody", round=3, first_match=first_match)
    return world, policy, copied(play(world, policy, range(50, 50 + nsim), label))


def completion_reference(success: NDArray[np.uint8]) -> int | None:
    for start in range(len(success) - COMPLETION_STEPS + 1):
        if success[start : start + COMPLETION_STEPS].all():
            return start
    return None


@given(st.lists(st.integers(0, 1), max_size=60).flatmap(
    lambda bits: st.just(np.repeat(np.array(bits, np.uint8), 4))
))  # fmt: skip
def test_completion_is_the_first_of_ten_steps_held(success: NDArray[np.uint8]) -> None:
    completion, never = Completion(1), np.zeros(1, bool)
    for time, value in enumerate(success):
        completion.update(np.array([value]), never, time)
    expected = completion_reference(success)
    assert completion.step[0] == (-1 if expected is None else expected)


def test_nine_steps_of_success_complete_nothing() -> None:
    completion = Completion(2)
    success = np.zeros((40, 2), np.uint8)
    success[3:12, 0] = success[20:29, 0] = success[25:35, 1] = 1
    for time, value in enumerate(success):
        completion.update(value, np.zeros(2, bool), time)
    assert completion.step.tolist() == [-1, 25]


def test_success_at_a_real_ending_completes_at_once() -> None:
    completion = Completion(3)
    success = np.zeros((6, 3), np.uint8)
    success[5, 0] = success[3:6, 1] = 1
    for time, value in enumerate(success):
        completion.update(value, np.array([time == 5, time == 5, time == 5]), time)
    assert completion.step.tolist() == [5, 3, -1]


def test_one_segment_per_episode_of_256_steps() -> None:
    world, _, episodes = wave("reach", NSIM)
    assert [e.key for e in episodes] == [f"{40 + n:012d}-0-00" for n in range(NSIM)]
    for sim, episode in enumerate(episodes):
        episode.validate(world.schema)
        assert (episode.task, episode.level, episode.seed) == ("reach", 1, 50 + sim)
        assert (episode.policy, episode.opponent, episode.round) == ("noted", "nobody", 3)
        assert episode.steps == 256 and episode.truncated and not episode.terminated
        assert episode.cause == "" and episode.outcome is None
        assert episode.final_state_xxh3 == world.final_state_xxh3(sim)
        assert episode.completion_step == completion_reference(episode.success) is not None


def test_segments_hold_what_the_policy_saw_and_did() -> None:
    _, policy, episodes = wave("long", NSIM)
    for episode in episodes:
        sim, start = episode.match - 40, 256 * episode.segment
        for t in range(episode.steps):
            np.testing.assert_array_equal(episode.state[t], policy.states[start + t][sim])
            np.testing.assert_array_equal(episode.action[t], policy.actions[start + t][sim])
            np.testing.assert_array_equal(episode.pixels[t], policy.frames[start + t][sim])


def test_a_long_episode_comes_in_two_segments() -> None:
    world, _, episodes = wave("long", NSIM)
    assert [(e.match, e.segment, e.steps) for e in episodes] == [
        *((40 + n, 0, 256) for n in range(NSIM)), *((40 + n, 1, 256) for n in range(NSIM)),
    ]  # fmt: skip
    for sim, (first, last) in enumerate(zip(episodes[:NSIM], episodes[NSIM:], strict=True)):
        first.validate(world.schema)
        last.validate(world.schema)
        assert not first.truncated and not first.terminated and first.final_state_xxh3 is None
        assert last.truncated and not last.terminated
        assert last.final_state_xxh3 == world.final_state_xxh3(sim)
        success = np.concatenate((first.success, last.success))
        assert last.completion_step == completion_reference(success) is not None
        assert first.completion_step == completion_reference(first.success)
        assert not np.array_equal(first.state, last.state)


def test_episodes_end_where_they_end() -> None:
    world, policy, episodes = wave("leaving", len(Leaving.lengths))
    assert [(e.match - 40, e.segment, e.steps) for e in episodes] == [
        (0, 0, 1), (1, 0, 256), (2, 0, 256), (3, 0, 256), (4, 0, 256), (5, 0, 256),
        (2, 1, 1), (3, 1, 44), (4, 1, 256), (5, 1, 256),
    ]  # fmt: skip
    for episode in episodes:
        episode.validate(world.schema)
        length = Leaving.lengths[episode.match - 40]
        stop = 256 * episode.segment + episode.steps
        assert episode.terminated == (stop == length)
        assert episode.truncated == (stop == 512 < length)
        assert (episode.final_state_xxh3 is None) == (stop < min(length, 512))
        np.testing.assert_array_equal(
            episode.reward, np.arange(stop - episode.steps + 1, stop + 1, dtype=np.float32) / 1000
        )
    assert len(policy.actions) == 512  # the wave goes on for the longest
    states = world.batch.bind("time")
    expected = np.minimum(Leaving.lengths, 512) * world.task.substeps * 0.005
    np.testing.assert_allclose(states.ravel(), expected)  # and stops the others' clocks


def test_a_wave_stops_with_its_last_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leaving, "lengths", (2, 1, 3))
    _, policy, episodes = wave("leaving", 3)
    assert [(e.match, e.steps) for e in episodes] == [(41, 1), (40, 2), (42, 3)]
    assert len(policy.actions) == 3


def test_steps_are_reported_as_they_are_played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leaving, "lengths", (2, 1, 4))
    told: list[int] = []
    world = World("leaving", 1, 3, image_size=IMAGE)
    episodes = copied(play(world, Expert(), [1, 2, 3], Label("expert"), told.append))
    assert told == [3, 2, 1, 1]
    assert sum(told) == sum(episode.steps for episode in episodes)


def test_a_divergence_is_an_ending_with_a_cause() -> None:
    class Saboteur(Noted):
        def act(self, observation: Observation) -> NDArray[np.float32]:
            if len(self.actions) == 10:
                world.batch.qvel[1] = np.nan
                return np.zeros((NSIM, ACTION_SIZE), np.float32)
            return super().act(observation)

    world = World("reach", 1, NSIM, image_size=IMAGE)
    policy = Saboteur()
    played = play(world, policy, [1, 2, 3], Label("noted"))
    first = next(played)
    assert (first.match, first.steps) == (1, 11)
    assert first.terminated and not first.truncated
    assert first.cause.startswith("diverged: ")
    assert first.reward[10] == 0 and first.success[10] == 0
    assert first.final_state_xxh3 is not None
    first.validate(world.schema)


def test_players_share_their_match() -> None:
    world = World("doubled", 1, 2, pixels=False)
    episodes = copied(play(world, Expert(), [50, 51], Label("expert", first_match=40)))
    assert [e.key for e in episodes] == [
        f"{match:012d}-{player}-{segment:02d}"
        for match, segment in ((40, 0), (41, 0), (41, 1))
        for player in (0, 1)
    ]
    for episode in episodes:
        assert (np.sign(episode.reward) == (1, -1)[episode.player]).all()
        assert episode.seed == episode.match + 10
        assert episode.action.shape == (episode.steps, ACTION_SIZE)


class OnePlayer:
    """Gives one action per simulation, whatever the number of players."""

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        self.nsim = world.nsim

    def act(self, observation: Observation) -> NDArray[np.float32]:
        return np.zeros((self.nsim, ACTION_SIZE), np.float32)


def test_a_policy_for_one_player_is_refused_in_a_match() -> None:
    world = World("doubled", 1, 3, pixels=False)
    with pytest.raises(RolloutError, match=r"doubled has 2 player.*OnePlayer gave \(3, 8\)"):
        next(play(world, OnePlayer(), [1, 2, 3], Label("one")))
    with pytest.raises(ConfigError, match="doubled is played by 2, and 1 policies were given"):
        next(play(world, Match([Expert()]), [1, 2, 3], Label("one")))


def test_a_match_gives_each_player_its_own_policy() -> None:
    world = World("doubled", 1, 2, pixels=False)
    policy = Match([Expert(), Random()])
    world.reset([1, 2])
    policy.reset(world, [1, 2])
    alone = []
    for single in (Expert(), Random()):
        single.reset(world, [1, 2])
        alone.append(single.act(world.observe()))
    action = policy.act(world.observe())
    for player in (0, 1):
        np.testing.assert_array_equal(action[player::2], alone[player][player::2])
    assert not np.array_equal(alone[0], alone[1])


LABEL = Label(
    "mine", opponent="theirs", rating=1200.0, opponent_rating=None, round=3, first_match=40
)  # fmt: skip


def test_a_label_turned_is_the_opponents() -> None:
    expected = Label(
        "theirs", opponent="mine", rating=None, opponent_rating=1200.0, round=3, first_match=40
    )  # fmt: skip
    assert LABEL.turned() == expected and LABEL.turned().turned() == LABEL


def test_the_first_policy_is_player_0_of_even_simulations() -> None:
    assert [[seat(sim, player, 2) for player in (0, 1)] for sim in range(4)] == [
        [0, 1], [1, 0], [0, 1], [1, 0],
    ]  # fmt: skip
    np.testing.assert_array_equal(
        seat(np.repeat(np.arange(4), 2), np.tile((0, 1), 4), 2), [0, 1, 1, 0, 0, 1, 1, 0]
    )


def test_a_match_ends_as_the_success_of_its_last_step_says() -> None:
    success = np.array([1, 0, 0, 0, 0, 1], np.uint8)
    expected = ["win", "loss", "draw", "draw", "loss", "win"]
    assert [outcome(success, lane, 2) for lane in range(6)] == expected
    assert [outcome(success, lane, 1) for lane in range(6)] == [None] * 6


def test_every_lane_is_labelled_by_who_played_it() -> None:
    """Random play can be told by its actions, which depend on nothing but the seeds."""
    world, seeds = World("doubled", 1, 2, pixels=False), [50, 51]
    random, used = Random(), world.task.action_size
    policy = Match([Expert(), random], alternate=True)
    label = replace(LABEL, policy="expert", opponent="random")
    episodes = copied(play(world, policy, seeds, label))
    labels = [(e.match, e.player, e.segment, e.policy) for e in episodes]
    assert labels == [
        (40, 0, 0, "expert"), (40, 1, 0, "random"), (41, 0, 0, "random"), (41, 1, 0, "expert"),
        (41, 0, 1, "random"), (41, 1, 1, "expert"),
    ]  # fmt: skip
    for episode in episodes:
        lane, start = 2 * (episode.match - 40) + episode.player, 256 * episode.segment
        drawn = random.actions[lane, start : start + episode.steps, :used]
        assert np.array_equal(episode.action[:, :used], drawn) == (episode.policy == "random")
        own = label if episode.policy == "expert" else label.turned()
        assert (episode.opponent, episode.rating) == (own.opponent, own.rating)
        assert (episode.opponent_rating, episode.round) == (own.opponent_rating, 3)
        ended = episode.terminated or episode.truncated
        assert (episode.outcome is not None) == ended
