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


class Score(NamedTuple):
    """A task's verdict on the present state, one entry per lane."""

    reward: Floats
    """(nlane,) in the task's reward range"""
    success: NDArray[np.bool_]
    """(nlane,)"""
    terminated: NDArray[np.bool_]
    """(nlane,) real endings only; success is not one"""


class Task(ABC):
    """One task at one level. A lane is one player of one simulation: sim × players + player.

    The world calls `build` once, `bind` once, then `reset` for each wave, and `observe`,
    `score` and `expert` at every step, for all lanes together.
    """

    name: ClassVar[str]
    levels: ClassVar[int]
    players: ClassVar[int] = 1
    horizon: ClassVar[int] = 256
    """Control steps to the time limit: 256, 512 or 1 024."""
    substeps: ClassVar[int]
    """Physics steps per control step."""
    instruction: ClassVar[str]
    held_out: ClassVar[bool] = False
    reward_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    camera: ClassVar[str] = "main"

    def __init__(self, level: int) -> None:
        self.level = level

    @abstractmethod
    def build(self) -> mujoco.MjSpec:
        """The model, from primitives."""

    @abstractmethod
    def bind(self, batch: Batch) -> None:
        """Keep the live arrays and ids that the other methods read; expand varied fields."""

    @abstractmethod
    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        """Draw an initial state per simulation and write it; the world runs forward after."""

    @abstractmethod
    def apply(self, action: NDArray[np.float32]) -> None:
        """Write controls from actions (nlane, action_size) in [-1, 1]."""

    @abstractmethod
    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        """Fill this task's slots, each (nlane, slot size); the others stay zero."""

    @abstractmethod
    def score(self) -> Score:
        """Reward, success and termination of the present state."""

    @abstractmethod
    def expert(self) -> NDArray[np.float32]:
        """A scripted solution: actions (nlane, action_size) as a function of the state."""
