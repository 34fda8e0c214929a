"""Push: slide a cube over the floor onto a mark, with the closed gripper."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm
from ..task import Floats, Ints, Score, Task

TOLERANCE = 0.05  # m
CUBE = 0.03  # m, half a side
CUBE_LOW, CUBE_HIGH = (0.4, -0.12), (0.5, 0.12)  # m
DISTANCE_LOW, DISTANCE_HIGH = 0.12, 0.18  # m from cube to goal
BEARING = 0.9  # rad to either side of straight ahead
CUBE_COLOUR, GOAL_COLOUR = (0.9, 0.15, 0.15, 1.0), (0.1, 0.85, 0.25, 1.0)
LOW, HIGH = 0.03, 0.12  # m, heights of the hand when pushing and when travelling
BEHIND = 0.065  # m from the cube's centre to where a push starts
DONE = 0.015  # m, the script stops pushing here
GAIN = 10.0  # 1/s
PUSH_SPEED = 0.2  # m/s


class Push(Task):
    """Level 1: a near goal, ahead of the cube."""

    name = "push"
    family = "arm"
    levels = 1
    substeps = arm.SUBSTEPS
    friction_spread = 0.27  # 0.4 to 0.7
    action_size = arm.ACTIONS
    instruction = "push the red cube onto the green disc"

    def build(self) -> mujoco.MjSpec:
        spec = arm.build()
        goal = spec.worldbody.add_body(name="goal", mocap=True)
        goal.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[TOLERANCE, 0.002, 0], rgba=GOAL_COLOUR,
            contype=0, conaffinity=0,
        )  # fmt: skip
        cube = spec.worldbody.add_body(name="cube")
        cube.add_freejoint(name="cube")
        cube.add_geom(
            name="cube", type=mujoco.mjtGeom.mjGEOM_BOX, size=[CUBE] * 3, mass=0.15,
            friction=[0.55, 0.005, 0.0001], rgba=CUBE_COLOUR,
            priority=1,  # a contact otherwise takes the larger friction: always the floor's 1
        )  # fmt: skip
        return spec

    def bind(self, batch: Batch) -> None:
        self.arm = arm.Arm(batch)
        self.goal = batch.mocap_pos[:, 0]
        joint = batch.model.joint("cube")
        self.body = batch.model.body("cube").id
        start = joint.qposadr[0]
        self.pose = batch.qpos[:, start : start + 7]
        self.xmat = batch.bind("xmat")

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        self.arm.reset(ids, generators, spread=0.15)
        for sim, g in zip(ids, generators, strict=True):
            place = g.uniform(CUBE_LOW, CUBE_HIGH)
            distance, bearing = g.uniform(DISTANCE_LOW, DISTANCE_HIGH), g.uniform(-BEARING, BEARING)
            yaw = g.uniform(-np.pi / 4, np.pi / 4)
            self.pose[sim] = (*place, CUBE, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
            offset = distance * np.array((np.cos(bearing), np.sin(bearing)))
            self.goal[sim] = (*(place + offset), 0.002)

    def apply(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.arm.observe(slots)
        cube, goal, hand = self.pose[:, :3], self.goal, self.arm.hand
        slots["object_1_position"][:] = cube
        slots["object_1_rotation"][:] = arm.columns(self.xmat[:, self.body])
        slots["goal_position"][:] = goal
        slots["to_object_1"][:] = cube - hand
        slots["to_goal"][:] = goal - hand
        slots["object_1_to_goal"][:] = goal - cube

    def score(self) -> Score:
        cube_to_goal = np.linalg.norm((self.goal - self.pose[:, :3])[:, :2], axis=1)
        hand_to_cube = np.linalg.norm(self.pose[:, :3] - self.arm.hand, axis=1)
        reward = 0.8 * np.exp(-8.0 * cube_to_goal) + 0.2 * np.exp(-8.0 * hand_to_cube)
        return Score(reward, cube_to_goal < TOLERANCE, np.zeros(len(reward), bool))

    def expert(self) -> NDArray[np.float32]:
        """Travel high to behind the cube, come down, push along the line to the goal."""
        hand, cube = self.arm.hand, self.pose[:, :3]
        gap = (self.goal - cube)[:, :2]
        distance = np.linalg.norm(gap, axis=1, keepdims=True)
        ahead = gap / np.maximum(distance, 1e-6)
        relative = hand[:, :2] - cube[:, :2]
        along = (relative * ahead).sum(axis=1, keepdims=True)
        aside = relative - along * ahead
        off = np.linalg.norm(aside, axis=1, keepdims=True)

        pushing = (along < -0.01) & (off < 0.025) & (hand[:, 2:] < LOW + 0.03)
        start = cube[:, :2] - BEHIND * ahead
        travel = GAIN * (start - hand[:, :2])
        near = np.linalg.norm(start - hand[:, :2], axis=1, keepdims=True) < 0.025
        height = np.where(pushing | near, LOW, HIGH)
        # low and beside the cube: rise before crossing it
        low = hand[:, 2:] < HIGH - 0.03
        travel = np.where(low & ~near, 0.3 * travel, travel)
        push = np.minimum(GAIN * distance, PUSH_SPEED) * ahead - 8.0 * aside
        planar = np.where(pushing, push, travel)
        finished = distance < DONE
        planar = np.where(finished, 0.0, planar)
        velocity: Floats = np.concatenate((planar, GAIN * (height - hand[:, 2:])), axis=1)
        velocity[finished[:, 0], 2] = 0.0
        return self.arm.move(arm.limit_speed(velocity))
