"""Reach: bring the hand to a marked point in the air."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm
from ..task import Score, Task

TOLERANCE = 0.02  # m
GOAL_LOW, GOAL_HIGH = (0.32, -0.25, 0.06), (0.55, 0.25, 0.32)  # m
GAIN = 8.0  # 1/s, hand speed per distance
GOAL_COLOUR = (0.1, 0.85, 0.25, 1.0)


class Reach(Task):
    """Level 1: a free goal anywhere in the workspace."""

    name = "reach"
    levels = 1
    substeps = arm.SUBSTEPS
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

    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        self.arm.reset(generators, spread=0.3)
        self.goal[:] = [g.uniform(GOAL_LOW, GOAL_HIGH) for g in generators]

    def apply(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.arm.observe(slots)
        slots["goal_position"][:] = self.goal
        slots["hand_to_goal"][:] = self.goal - self.arm.hand

    def score(self) -> Score:
        distance = np.linalg.norm(self.goal - self.arm.hand, axis=1)
        return Score(np.exp(-8.0 * distance), distance < TOLERANCE, np.zeros(len(distance), bool))

    def expert(self) -> NDArray[np.float32]:
        velocity = GAIN * (self.goal - self.arm.hand)
        speed = np.linalg.norm(velocity, axis=1, keepdims=True)
        velocity *= arm.HAND_SPEED / np.maximum(speed, arm.HAND_SPEED)
        return self.arm.move(velocity)
