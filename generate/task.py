"""What a task is: it owns meaning (model, reset, observation, reward, success, expert)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


class Score(NamedTuple):
    """A task's verdict on the present state, one entry per lane."""

    reward: Floats
    """(nlane,) in the task's reward range"""
    success: NDArray[np.bool_]
    """(nlane,) in a match, of the player who has won"""
    terminated: NDArray[np.bool_]
    """(nlane,) real endings only; success is not one. One player's ends the match for both"""


class Task(ABC):
    """One task at one level. A lane is one player of one simulation: sim × players + player.

    The world calls `build` once, `bind` once, then `reset` for each episode, and `observe`,
    `score` and `expert` at every step, for all lanes together. What an episode depends on beside
    the model's fields lives in the simulation's state (`userdata` holds what MuJoCo has no name
    for), so that the state is the whole truth.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    """`arm`, `locomotion` or `match`."""
    levels: ClassVar[int] = 3
    players: ClassVar[int] = 1
    horizon: ClassVar[int] = 256
    """Control steps to the time limit: 256, 512 or 1 024."""
    substeps: ClassVar[int]
    """Physics steps per control step."""
    action_size: ClassVar[int]
    """Actions in use, the first of the suite's ACTION_SIZE."""
    instruction: ClassVar[str]
    """At most 64 bytes; `instructions` may say more."""
    held_out: ClassVar[frozenset[int]] = frozenset()
    """Levels that no training corpus may hold."""
    reward_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    cameras: ClassVar[tuple[str, ...]] = ("main",)
    """One per player."""
    rivals: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs of geoms whose colours the second player sees exchanged, so that its own are blue."""
    mass_spread: ClassVar[float] = 0.1
    """Each episode scales every moving body's mass by a factor in 1 ± this."""
    friction_spread: ClassVar[float] = 0.2
    """And every geom's sliding friction by one in 1 ± this."""

    def __init__(self, level: int) -> None:
        self.level = level

    def instructions(self) -> tuple[str, ...]:
        """What each player is told at this level."""
        return (self.instruction,) * self.players

    @abstractmethod
    def build(self) -> mujoco.MjSpec:
        """The model, from primitives."""

    @abstractmethod
    def bind(self, batch: Batch) -> None:
        """Keep the live arrays and ids that the other methods read; expand varied fields."""

    @abstractmethod
    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        """Draw an initial state for each simulation in ids, from its generator, and write it.

        The state is the model's default before, and masses, friction, colours and camera are
        already varied; fields that the task has expanded still hold the last episode's values.
        The world computes what derives from them after.
        """

    @abstractmethod
    def apply(self, action: NDArray[np.float32]) -> None:
        """Write controls from actions (nlane, ACTION_SIZE) in [-1, 1]."""

    @abstractmethod
    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        """Fill this task's slots, each (nlane, slot size); the others stay zero."""

    @abstractmethod
    def score(self) -> Score:
        """Reward, success and termination of the present state."""

    @abstractmethod
    def expert(self) -> NDArray[np.float32]:
        """A scripted solution: actions (nlane, ACTION_SIZE) as a function of the state.

        The caller clips them to [-1, 1].
        """
