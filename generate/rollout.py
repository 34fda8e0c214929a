"""Play a wave of episodes in lockstep and hand them out segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..shards.episode import Episode
from ..shards.errors import RolloutError
from ..shards.schema import SEGMENT_STEPS
from .world import Observation, Step, World

COMPLETION_STEPS = 10  # consecutive steps of success that complete an episode


class Policy(Protocol):
    """Anything that plays: scripted experts and learned agents alike.

    `reset` begins a wave of episodes; `act` returns actions (nlane, action_size) float32 in
    [-1, 1] for all lanes, also those that have ended.
    """

    def reset(self, world: World, seeds: Sequence[int]) -> None: ...

    def act(self, observation: Observation) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Label:
    """What a wave's episodes are called in the corpus."""

    policy: str
    opponent: str = ""
    """Of a match; the sides alternate, `Match`'s `seat` says who plays which."""
    rating: float | None = None
    opponent_rating: float | None = None
    sampling: str = ""
    """How the opponent was chosen, and with which probability."""
    sampling_probability: float | None = None
    round: int = 0
    first_match: int = 0
    """Match number of simulation 0; the others follow."""

    def turned(self) -> Label:
        """The same from the opponent's side."""
        return replace(
            self, policy=self.opponent, opponent=self.policy,
            rating=self.opponent_rating, opponent_rating=self.rating,
        )  # fmt: skip


def seat(sim: Any, player: Any, players: int) -> Any:
    """Which of alternating policies plays a lane: the first is player 0 in even simulations."""
    return (sim + player) % players


class Completion:
    """Finds each lane's completion step: the first from which success holds for ten.

    Success at a real ending is for good: a match won counts from the first step of winning.
    """

    def __init__(self, nlane: int) -> None:
        self.held = np.zeros(nlane, np.int64)
        self.step = np.full(nlane, -1)

    def update(
        self, success: NDArray[np.uint8], terminated: NDArray[np.bool_], time: int
    ) -> None:
        """Take in success and termination (nlane,) of the step numbered `time`."""
        if not success.any():
            self.held[:] = 0
            return
        self.held = np.where(success > 0, self.held + 1, 0)
        enough = np.where(terminated, 1, COMPLETION_STEPS)
        done = (self.step < 0) & (self.held >= enough)
        self.step[done] = time - self.held[done] + 1


class _Buffers:
    """One segment's arrays for all lanes, (nlane, 256, …), reused from segment to segment."""

    def __init__(self, world: World) -> None:
        schema, shape = world.schema, (world.nlane, SEGMENT_STEPS)
        size = schema.image_size if world.pixels else 0
        self.pixels = np.zeros((*shape, size, size, 3), np.uint8)
        self.state = np.zeros((*shape, schema.state_size), np.float32)
        self.action = np.zeros((*shape, schema.action_size), np.float32)
        self.reward = np.zeros(shape, np.float32)
        self.success = np.zeros(shape, np.uint8)


def act(policy: Policy, observation: Observation, world: World) -> NDArray[np.float32]:
    """The policy's actions; RolloutError unless there is one for every player."""
    action = policy.act(observation)
    expected = (world.nlane, world.schema.action_size)
    if action.shape != expected:
        raise RolloutError(
            f"{world.task.name} has {world.task.players} player(s) in each of {world.nsim} "
            f"simulations: actions should be {expected}, {type(policy).__name__} gave "
            f"{action.shape}"
        )
    return action


def play(
    world: World,
    policy: Policy,
    seeds: Sequence[int],
    label: Label,
    on_step: Callable[[int], None] = lambda lanes: None,
) -> Iterator[Episode]:
    """Yield every lane's segments as they end: at each 256th step and at the episode's end.

    The arrays of a yielded episode are views that the next segment overwrites: encode or copy
    them first. `on_step` is told how many lanes advanced.
    """
    world.reset(seeds)
    policy.reset(world, seeds)
    buffers, completion = _Buffers(world), Completion(world.nlane)
    players, used = world.task.players, world.task.action_size
    while len(world.ids):
        t = world.time % SEGMENT_STEPS
        lanes = (world.ids[:, None] * players + np.arange(players)).ravel()
        observation = world.observe(buffers.state[:, t], buffers.pixels[:, t])
        buffers.action[:, t, :used] = act(policy, observation, world)[:, :used]  # the rest: zero
        step = world.step(buffers.action[:, t])
        buffers.reward[:, t], buffers.success[:, t] = step.reward, step.success
        completion.update(step.success, step.terminated, world.time - 1)
        on_step(len(lanes))
        ended = step.terminated | step.truncated
        if t < SEGMENT_STEPS - 1 and not ended.any():
            continue
        leaving = lanes if t == SEGMENT_STEPS - 1 else lanes[ended[lanes]]
        for lane in leaving:
            yield _episode(world, buffers, completion, label, seeds, int(lane), step)
        if ended[lanes].all():
            return


def _episode(
    world: World, buffers: _Buffers, completion: Completion, label: Label,
    seeds: Sequence[int], lane: int, step: Step,
) -> Episode:  # fmt: skip
    players = world.task.players
    sim, player = divmod(lane, players)
    segment, last = divmod(world.time - 1, SEGMENT_STEPS)
    terminated = bool(step.terminated[lane])
    truncated = bool(not terminated and world.time >= world.horizon)
    completed = int(completion.step[lane])
    if players > 1 and seat(sim, player, players):
        label = label.turned()
    return Episode(
        task=world.task.name, level=world.task.level, instruction=world.instruction[lane],
        match=label.first_match + sim, player=player, segment=segment,
        policy=label.policy, opponent=label.opponent, rating=label.rating,
        opponent_rating=label.opponent_rating, sampling=label.sampling,
        sampling_probability=label.sampling_probability, round=label.round, seed=int(seeds[sim]),
        outcome=outcome(step.success, lane, players) if terminated or truncated else None,
        terminated=terminated, truncated=truncated, cause=world.causes[sim],
        completion_step=completed if completed >= 0 else None,
        final_state_xxh3=world.final_state_xxh3(sim) if terminated or truncated else None,
        pixels=buffers.pixels[lane, : last + 1], state=buffers.state[lane, : last + 1],
        action=buffers.action[lane, : last + 1], reward=buffers.reward[lane, : last + 1],
        success=buffers.success[lane, : last + 1],
    )  # fmt: skip


def outcome(success: NDArray[np.uint8], lane: int, players: int) -> str | None:
    """How a match ended for a lane, from success (nlane,) of its last step; None for one player."""
    if players == 1:
        return None
    if success[lane]:
        return "win"
    first = lane - lane % players
    return "loss" if success[first : first + players].any() else "draw"
