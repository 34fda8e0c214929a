"""Behaviours that need no learning, and policies named in recipes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..shards.errors import ConfigError, PalaestraError, UnknownNameError
from ..shards.schema import Schema
from .recipe import SCRIPTED
from .rollout import Policy, seat
from .slots import ACTION_SIZE
from .task import Task
from .world import Observation, World, generators


class Random:
    """Actions uniform in [-1, 1], white in time."""

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        self.actions = _draw(world, seeds, "uniform")
        self.world = world

    def act(self, observation: Observation) -> NDArray[np.float32]:
        return self.actions[:, self.world.time]


class Expert:
    """The task's own script, with white Gaussian noise on its actions where wanted.

    Noise is white, not smooth: smooth noise teaches a policy with action history to copy itself.
    """

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        self.world = world
        # per-step draws would cost seven times more
        self.noises = _draw(world, seeds, "normal") * np.float32(self.noise) if self.noise else None

    def act(self, observation: Observation) -> NDArray[np.float32]:
        action = self.world.task.expert()
        if self.noises is not None:
            action += self.noises[:, self.world.time]
        return np.clip(action, -1.0, 1.0)


@dataclass(frozen=True)
class Seats:
    """Some lanes of a world, one in each simulation, for a policy that only observes."""

    nlane: int
    schema: Schema
    task: Task


class Match:
    """Gives each player of a match a policy of its own.

    A policy that says `observes_only` is shown its own lanes alone, which for a network is half
    the work; others look at the world itself.
    """

    def __init__(self, policies: Sequence[Policy], alternate: bool = False) -> None:
        """The first policy is player 0; if they `alternate`, in every other match player 1."""
        self.policies, self.alternate = tuple(policies), alternate

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        """Raises ConfigError unless there are as many policies as players."""
        players = world.task.players
        if len(self.policies) != players:
            raise ConfigError(
                f"{world.task.name} is played by {players}, "
                f"and {len(self.policies)} policies were given"
            )
        sim, player = np.divmod(np.arange(world.nlane), players)
        places = seat(sim, player, players) if self.alternate else player
        self.lanes = [np.flatnonzero(places == number) for number in range(players)]
        for policy, own in zip(self.policies, self.lanes, strict=True):
            seats = Seats(len(own), world.schema, world.task)
            policy.reset(seats if _observes_only(policy) else world, seeds)  # type: ignore[arg-type]

    def act(self, observation: Observation) -> NDArray[np.float32]:
        action = np.empty((len(observation.state), ACTION_SIZE), np.float32)
        for policy, own in zip(self.policies, self.lanes, strict=True):
            if _observes_only(policy):
                action[own] = policy.act(_seen_by(observation, own))
            else:
                action[own] = policy.act(observation)[own]
        return action


def _observes_only(policy: Policy) -> bool:
    return bool(getattr(policy, "observes_only", False))


def _seen_by(observation: Observation, lanes: NDArray[np.intp]) -> Observation:
    pixels = None if observation.pixels is None else observation.pixels[lanes]
    told = [observation.instruction[lane] for lane in lanes]
    return Observation(observation.state[lanes], pixels, told)


def _draw(world: World, seeds: Sequence[int], kind: str) -> NDArray[np.float32]:
    """(nlane, horizon, ACTION_SIZE) draws, each simulation's from its own generator.

    Actions that the task does not use stay zero.
    """
    used = world.task.action_size
    shape = (world.task.players, world.horizon, used)
    draws = np.zeros((world.nsim, *shape[:2], world.schema.action_size), np.float32)
    for sim, generator in enumerate(generators(seeds, "policy")):
        if kind == "uniform":
            draws[sim, ..., :used] = generator.random(shape, np.float32) * 2 - 1
        else:
            draws[sim, ..., :used] = generator.standard_normal(shape, np.float32)
    return draws.reshape(world.nlane, world.horizon, -1)


def make_policy(name: str, noise: float = 0.0, arguments: dict[str, Any] | None = None) -> Policy:
    """`expert`, `random`, or `"module:function"`, which is called with `arguments`.

    Raises UnknownNameError or ConfigError naming the policy when there is no such thing.
    """
    if name == "random":
        return Random()
    if name == "expert":
        return Expert(noise)
    if ":" not in name:
        raise UnknownNameError("policy", name, (*SCRIPTED, "module:function"))
    module, _, function = name.partition(":")
    try:
        build = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"policy {name!r} does not import: {error}") from error
    try:
        policy: Policy = build(**(arguments or {}))
    except PalaestraError:
        raise
    except TypeError as error:
        raise ConfigError(f"policy {name!r}: {error}") from error
    return policy
