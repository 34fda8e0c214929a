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
NEAREST, FARTHEST = 2.0, 3.0  # m, goals along the way, which is the world's x
ASIDE = 0.3  # m, goals to either side of it
YAW = 1.1  # rad, the start's heading to either side of it
UPRIGHT, LOWEST = 0.5, 0.12  # cosine of the tilt and m of height: below, the robot has fallen
FIRST, LAST = 0.55, 0.35  # m, no obstacle is nearer to the start or to the goal
BUMP_LENGTH, BUMP_HEIGHT = (0.05, 0.15), (0.02, 0.04)  # m
GAP_LENGTH, GAP_DEPTH = (0.07, 0.11), 0.3  # m; a foot is 0.06 wide
BEGIN, END, SIDE = -1.2, 4.2, 1.2  # m, where slabs begin and end; half the width of all obstacles
GOAL_COLOUR, DISC_COLOUR = (0.1, 0.9, 0.25, 1.0), (0.1, 0.7, 0.2, 1.0)
OBSTACLE_COLOUR, PIT_COLOUR = (0.8, 0.66, 0.36, 1.0), (0.16, 0.1, 0.12, 1.0)
NEAR, SLOW = 0.1, 0.2  # m from the goal where the script stands, and over which it slows down


class Gait(NamedTuple):
    """A trot, found by `benchmarks/tune_quadruped.py`; its fields may be (n, 1), one for each.

    One gait serves all levels. Of 100 episodes that tuning and choice never saw, it completes 100,
    98 and 88 at levels 1, 2 and 3; with action noise of 0.2, 100, 99 and 89; of 0.5, 98, 75 and 82.
    """

    frequency: float | Floats = 2.15
    """Hz"""
    stride: float | Floats = 0.133
    """m, half the way of a foot along the body"""
    lift: float | Floats = 0.121
    """m, asked of a swinging foot; the soft servos lag behind"""
    lead: float | Floats = -0.31
    """rad, of a foot's lift before its swing"""
    height: float | Floats = 0.23
    """m, from foot to hip"""
    lean: float | Floats = 0.028
    """m, the feet ahead of the hips"""
    turn: float | Floats = 1.13
    """1/rad, difference of left and right strides by heading error"""
    swerve: float | Floats = 0.47
    """How much of its advance it gives up for the sharpest turn"""


class Quadruped(Task):
    """Level 1: flat ground. Level 2: three bumps across the way, 2 to 4 cm high.
    Level 3: three gaps across it, 7 to 11 cm wide; a foot is 6 cm.
    """

    name = "quadruped"
    family = "locomotion"
    horizon = 512
    substeps = quadruped.SUBSTEPS
    action_size = len(quadruped.JOINTS)
    instruction = "walk to the green pole"

    def build(self) -> mujoco.MjSpec:
        spec = quadruped.build()
        world = spec.worldbody
        solid, ghost = {"contype": GROUND, "conaffinity": 0}, {"contype": 0, "conaffinity": 0}
        box, cylinder = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
        gaps = self.level == 3
        world.add_geom(
            name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.1],
            pos=[0, 0, -GAP_DEPTH if gaps else 0],
            rgba=PIT_COLOUR if gaps else quadruped.FLOOR_COLOUR, **solid,
        )  # fmt: skip
        for k in range((0, len(OBSTACLES), len(OBSTACLES) + 1)[self.level - 1]):
            # a bump, or a slab before or behind a gap
            world.add_geom(
                name=f"ground_{k}", type=box, size=[0.1] * 3, rgba=OBSTACLE_COLOUR, **solid
            )
        goal = world.add_body(name="goal", mocap=True)
        goal.add_geom(
            type=cylinder, size=[0.07, 0.4, 0], pos=[0, 0, 0.4], rgba=GOAL_COLOUR, **ghost
        )
        goal.add_geom(
            type=cylinder, size=[TOLERANCE, 0.004, 0], pos=[0, 0, 0.004], rgba=DISC_COLOUR, **ghost
        )
        # keeps its direction, along the way, and its distance from the robot
        spec.body("torso").add_camera(
            name="main", mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM, pos=[-1.25, -0.55, 0.85],
            xyaxes=[0.6, -2, 0, 1.8, 0.54, 4.36], fovy=50,
        )  # fmt: skip
        return spec

    def bind(self, batch: Batch) -> None:
        self.robot = quadruped.Quadruped(batch)
        self.goal = batch.mocap_pos[:, 0]
        self.gait = Gait()
        self.obstacles = np.zeros((batch.nsim, len(OBSTACLES), 2, 3))  # centres and half sizes
        if self.level > 1:
            first = batch.model.geom("ground_0").id
            self.centres = batch.expand("geom_pos")[:, first:]
            self.sizes = batch.expand("geom_size")[:, first:]

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        for sim, g in zip(ids, generators, strict=True):
            self.robot.reset(sim, g, g.uniform(-YAW, YAW))
            self.goal[sim] = g.uniform(NEAREST, FARTHEST), g.uniform(-ASIDE, ASIDE), 0.0
            if self.level == 1:
                continue
            lengths = BUMP_LENGTH if self.level == 2 else GAP_LENGTH
            begin, end = _draw_intervals(g, FIRST, self.goal[sim, 0] - LAST, lengths)
            if self.level == 2:
                ground = obstacles = _boxes(begin, end, 0.0, g.uniform(*BUMP_HEIGHT, len(begin)))
            else:
                obstacles = _boxes(begin, end, -GAP_DEPTH, 0.0)
                ground = _boxes(np.append(BEGIN, end), np.append(begin, END), -GAP_DEPTH, 0.0)
            self.obstacles[sim] = obstacles
            n = len(ground)
            self.centres[sim, :n], self.sizes[sim, :n] = ground[:, 0], ground[:, 1]

    def apply(self, action: NDArray[np.float32]) -> None:
        self.robot.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.robot.observe(slots)
        phase = self.robot.phase(self.gait.frequency)
        slots["phase"][:, :1], slots["phase"][:, 1:] = np.sin(phase), np.cos(phase)
        slots["goal_position"][:] = self.goal
        slots["to_goal"][:] = self.robot.inward(self.goal - self.robot.position)
        if self.level > 1:
            for k in OBSTACLES:
                slots[f"obstacle_{k}_position"][:] = self.obstacles[:, k - 1, 0]
                slots[f"obstacle_{k}_size"][:] = self.obstacles[:, k - 1, 1]

    def score(self) -> Score:
        gap = (self.goal - self.robot.position)[:, :2]
        distance = np.sqrt((gap * gap).sum(axis=1))
        upright = self.robot.rotation[:, 2, 2]
        fallen = (upright < UPRIGHT) | (self.robot.position[:, 2] < LOWEST)
        reward = np.maximum(upright, 0.0) * np.exp(-np.maximum(distance - TOLERANCE / 2, 0.0))
        return Score(reward, (distance < TOLERANCE) & ~fallen, fallen)

    def expert(self) -> NDArray[np.float32]:
        """Trot towards the goal, the legs of each diagonal together, and stand there.

        The robot steers as a tank does, by longer strides on one side than on the other.
        """
        robot, gait = self.robot, self.gait
        gap = (self.goal - robot.position)[:, :2]
        ahead = robot.rotation[:, :2, 0]
        heading = np.arctan2(
            ahead[:, :1] * gap[:, 1:] - ahead[:, 1:] * gap[:, :1],
            (ahead * gap).sum(axis=1, keepdims=True),
        )
        distance = np.sqrt((gap * gap).sum(axis=1, keepdims=True))
        effort = np.minimum(np.maximum((distance - NEAR) / SLOW, 0.0), 1.0)
        turn = np.minimum(np.maximum(gait.turn * heading, -1.0), 1.0)
        advance = 1.0 - gait.swerve * np.abs(turn)
        stride = np.minimum(np.maximum(advance - turn * LEFT, -1.0), 1.0)
        phase = robot.phase(gait.frequency) + np.where(FORWARD * LEFT > 0, 0.0, np.pi)
        lift = np.maximum(np.sin(phase + gait.lead), 0.0)
        return robot.step_to(
            gait.lean - gait.stride * effort * stride * np.cos(phase),
            gait.height - gait.lift * effort * lift,
        )


def _draw_intervals(
    g: np.random.Generator, low: float, high: float, lengths: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Begins and ends of an interval in each third of [low, high]."""
    n = len(OBSTACLES)
    length = g.uniform(*lengths, n)
    begin = low + (high - low) * np.arange(n) / n + g.random(n) * ((high - low) / n - length)
    return begin, begin + length


def _boxes(begin: Floats, end: Floats, low: float, high: Floats | float) -> Floats:
    """(n, 2, 3) centres and half sizes of boxes across the way."""
    boxes = np.zeros((len(begin), 2, 3))
    boxes[:, 0, 0], boxes[:, 1, 0] = (begin + end) / 2, (end - begin) / 2
    boxes[:, 1, 1] = SIDE
    boxes[:, 0, 2], boxes[:, 1, 2] = (low + high) / 2, (high - low) / 2
    return boxes
