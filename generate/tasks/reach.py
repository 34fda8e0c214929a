"""Reach: bring the hand to a marked point in the air."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm
from ..task import Ints, Score, Task

TOLERANCE = 0.02  # m
GOAL_LOW, GOAL_HIGH = (0.32, -0.25, 0.06), (0.55, 0.25, 0.32)  # m
GAIN = 8.0  # 1/s, hand speed per distance
GOAL_COLOUR = (0.1, 0.85, 0.25, 1.0)


class Reach(Task):
    """Level 1: a free goal anywhere in the workspace."""

    name = "reach"
    family = "arm"
    levels = 1
    substeps = arm.SUBSTEPS
    action_size = arm.ACTIONS
    instruction = "move the hand to the green ball"

    def build(self) -> mujoco.MjSpec:
        spec = arm.build()
        goal = spec.worldbody.add_body(name="goal", mocap=True)
        goal.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[TOLERANCE, 0, 0], rgba=GOAL_COLOUR,
            contype=0, conaffinity=0,
        )  # fmt: skip
        return spec

    def bind(self, batch: Batch) -> None:
        self.arm = arm.Arm(batch)
        self.goal = batch.mocap_pos[:, 0]

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        self.arm.reset(ids, generators, spread=0.3)
        self.goal[ids] = [g.uniform(GOAL_LOW, GOAL_HIGH) for g in generators]

    def apply(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.arm.observe(slots)
        slots["goal_position"][:] = self.goal
        slots["to_goal"][:] = self.goal - self.arm.hand

    def score(self) -> Score:
        distance = np.linalg.norm(self.goal - self.arm.hand, axis=1)
        return Score(np.exp(-8.0 * distance), distance < TOLERANCE, np.zeros(len(distance), bool))

    def expert(self) -> NDArray[np.float32]:
        return self.arm.move(arm.limit_speed(GAIN * (self.goal - self.arm.hand)))
