"""Quadruped: walk on four legs to a marked place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import quadruped
from ..scenes.quadruped import FORWARD, GROUND, LEFT
from ..slots import OBSTACLES
from ..task import Floats, Ints, Score, Task

TOLERANCE = 0.3  # m
NEAREST, FARTHEST = 1.8, 2.8  # m, goals ahead of the start
ASIDE = 0.3  # m
YAW = 1.1  # rad to either side, the start's heading
UPRIGHT, LOWEST = 0.5, 0.12  # cosine and m: less has fallen
FIRST, LAST = 0.55, 0.35  # m, no obstacle is nearer to the start and to the goal
BUMP_LENGTH, BUMP_HEIGHT = (0.05, 0.15), (0.02, 0.04)  # m
GAP_LENGTH, GAP_DEPTH = (0.08, 0.12), 0.3  # m
WAY = (-1.2, 4.0, 1.2)  # m, where slabs begin and end, and half the width of slabs and bumps
GOAL_COLOUR = (0.1, 0.85, 0.25, 1.0)
OBSTACLE_COLOUR = (0.75, 0.62, 0.35, 1.0)
PIT_COLOUR = (0.15, 0.1, 0.12, 1.0)


class Gait(NamedTuple):
    """What `benchmarks/tune_quadruped.py` searches."""

    frequency: float | Floats = 2.0
    """Hz"""
    stride: float | Floats = 0.125
    """m, half a step"""
    lift: float | Floats = 0.118
    """m"""
    lead: float | Floats = -0.65
    """rad"""
    height: float | Floats = 0.235
    """m, from foot to hip"""
    lean: float | Floats = 0.01
    """m, the feet forward"""
    turn: float | Floats = 1.33
    """1/rad"""
    swerve: float | Floats = 0.57


GAIT = Gait()


class Quadruped(Task):
    """Level 1: flat ground. Level 2: bumps across the way. Level 3: gaps across it."""

    name = "quadruped"
    family = "locomotion"
    horizon = 512
    substeps = quadruped.SUBSTEPS
    action_size = len(quadruped.JOINTS)
    instruction = "walk to the green pole"

    def build(self) -> mujoco.MjSpec:
        spec = quadruped.build()
        world = spec.worldbody
        solid = {"contype": GROUND, "conaffinity": 0}
        pit = self.level == 3
        world.add_geom(
            name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.1],
            pos=[0, 0, -GAP_DEPTH * pit], rgba=PIT_COLOUR if pit else quadruped.FLOOR_COLOUR,
            **solid,
        )
        for k in range((0, len(OBSTACLES), len(OBSTACLES) + 1)[self.level - 1]):
            world.add_geom(
                name=f"ground_{k}", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.1] * 3,
                rgba=OBSTACLE_COLOUR, **solid,
            )
        goal = world.add_body(name="goal", mocap=True)
        goal.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.06, 0.6, 0], pos=[0, 0, 0.6],
            rgba=GOAL_COLOUR, contype=0, conaffinity=0,
        )  # fmt: skip
        spec.body("torso").add_camera(
            name="main", mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM, pos=[-1.3, -0.5, 0.8],
            xyaxes=[0.36, -0.93, 0, 0.4, 0.15, 0.9], fovy=50,
        )
        return spec

    def bind(self, batch: Batch) -> None:
        self.robot = quadruped.Quadruped(batch)
        self.goal = batch.mocap_pos[:, 0]
        self.gait = GAIT
        self.obstacles = np.zeros((batch.nsim, len(OBSTACLES), 2, 3))
        if self.level > 1:
            first = batch.model.geom("ground_0").id
            self.place = batch.expand("geom_pos")[:, first:]
            self.size = batch.expand("geom_size")[:, first:]

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        for sim, g in zip(ids, generators, strict=True):
            self.robot.place(int(sim), g, 0.0, 0.0, g.uniform(-YAW, YAW))
            self.goal[sim] = g.uniform(NEAREST, FARTHEST), g.uniform(-ASIDE, ASIDE), 0.0
            if self.level > 1:
                self._obstruct(int(sim), g)

    def _obstruct(self, sim: int, g: np.random.Generator) -> None:
        """Three obstacles, each in its third of the way."""
        n = len(OBSTACLES)
        length = g.uniform(*(BUMP_LENGTH if self.level == 2 else GAP_LENGTH), n)
        third = (self.goal[sim, 0] - LAST - FIRST) / n
        start = FIRST + third * np.arange(n) + g.uniform(0, 1, n) * (third - length)
        places, sizes = self.obstacles[sim, :, 0], self.obstacles[sim, :, 1]
        places[:, 0], sizes[:, 0], sizes[:, 1] = start + length / 2, length / 2, WAY[2]
        if self.level == 2:
            sizes[:, 2] = g.uniform(*BUMP_HEIGHT, n) / 2
            places[:, 2] = sizes[:, 2]
            self.place[sim, :n], self.size[sim, :n] = places, sizes
            return
        sizes[:, 2] = GAP_DEPTH / 2
        places[:, 2] = -GAP_DEPTH / 2
        edges = np.concatenate((WAY[:1], np.stack((start, start + length), 1).ravel(), WAY[1:2]))
        begin, end = edges[::2], edges[1::2]
        self.place[sim, : n + 1] = np.stack(
            ((begin + end) / 2, np.zeros(n + 1), np.full(n + 1, -GAP_DEPTH / 2)), 1
        )
        self.size[sim, : n + 1] = np.stack(
            ((end - begin) / 2, np.full(n + 1, WAY[2]), np.full(n + 1, GAP_DEPTH / 2)), 1
        )

    def apply(self, action: NDArray[np.float32]) -> None:
        self.robot.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.robot.observe(slots, self.gait.frequency)
        slots["goal_position"][:] = self.goal
        slots["to_goal"][:] = self.robot.inward(self.goal - self.robot.position)
        if self.level > 1:
            for k in OBSTACLES:
                slots[f"obstacle_{k}_position"][:] = self.obstacles[:, k - 1, 0]
                slots[f"obstacle_{k}_size"][:] = self.obstacles[:, k - 1, 1]

    def score(self) -> Score:
        gap = (self.goal - self.robot.position)[:, :2]
        distance = np.sqrt((gap * gap).sum(axis=1))
        up = self.robot.rotation[:, 2, 2]
        reward = np.maximum(up, 0.0) * np.exp(-np.maximum(distance - TOLERANCE / 2, 0.0))
        fallen = (up < UPRIGHT) | (self.robot.position[:, 2] < LOWEST)
        return Score(reward, (distance < TOLERANCE) & ~fallen, fallen)

    def expert(self) -> NDArray[np.float32]:
        robot, gait = self.robot, self.gait
        rotation = robot.rotation
        gap = (self.goal - robot.position)[:, :2]
        distance = np.sqrt((gap * gap).sum(axis=1, keepdims=True))
        ahead = rotation[:, :2, 0]
        heading = np.arctan2(
            ahead[:, :1] * gap[:, 1:] - ahead[:, 1:] * gap[:, :1],
            (ahead * gap).sum(axis=1, keepdims=True),
        )
        effort = np.minimum(np.maximum((distance - 0.1) / 0.2, 0.0), 1.0)
        turn = np.minimum(np.maximum(gait.turn * heading, -1.0), 1.0) * effort
        go = effort * np.maximum(1.0 - gait.swerve * np.abs(turn), 0.0)
        stride = np.minimum(np.maximum(go - turn * LEFT, -1.0), 1.0) * gait.stride
        phase = robot.phase(gait.frequency) + np.where(FORWARD * LEFT > 0, 0.0, np.pi)
        x = gait.lean - stride * np.cos(phase)
        beat = np.sin(phase + gait.lead)
        length = gait.height - gait.lift * np.maximum(beat, 0.0) * effort
        return robot.step_to(x, length)
