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
ASIDE_LOW, ASIDE_HIGH = 0.2, 0.34  # m sideways from cube to goal at level 2
FIELD_LOW, FIELD_HIGH = (0.3, -0.24), (0.5, 0.24)  # m, where both lie
WALL = (0.05, 0.015, 0.03)  # m, half its sides, the long one along x or along y
WALL_PLACE = (0.41, 0.0)  # m
WALL_SHIFT = (0.05, 0.04)  # m, away from the way round it, for reach; and to either side
BEFORE_LOW, BEFORE_HIGH = (0.085, -0.02), (0.105, 0.02)  # m across and along, from wall to cube
AFTER_LOW, AFTER_HIGH = (0.1, 0.02), (0.12, 0.06)  # m, and to goal; the way round is along, > 0
CUBE_COLOUR, GOAL_COLOUR = (0.9, 0.15, 0.15, 1.0), (0.1, 0.85, 0.25, 1.0)
LOW, HIGH = 0.03, 0.1  # m, heights of the hand when pushing and when travelling
BEHIND = 0.065  # m from the cube's centre to where a push starts
INSIDE, ROUND, BESIDE = 0.035, 0.07, 0.12  # m from the cube's centre, where a hand goes round it
ROUND_SPEED = 0.35  # m/s
DONE = 0.015  # m, the script stops pushing here
GAIN = 10.0  # 1/s
PUSH_SPEED = 0.2  # m/s
CLEAR = 0.045  # m, from the cube's way to the wall's end: half the cube's diagonal is 4.2 cm
LANE = 0.085  # m from the wall's middle to the cube that is pushed along it
CORNER = (0.02, 0.07)  # m across and along, from the wall's end to where the way round it leads


class Push(Task):
    """Level 1: a near goal, ahead of the cube. Level 2: a far one, to either side. Level 3: a
    wall between them, and the way round it has two legs.
    """

    name = "push"
    family = "arm"
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
        if self.level == 3:
            arm.add_wall(spec.worldbody.add_body(name="wall", mocap=True), "wall", WALL)
        return spec

    def bind(self, batch: Batch) -> None:
        self.arm = arm.Arm(batch)
        self.goal = batch.mocap_pos[:, 0]
        joint = batch.model.joint("cube")
        self.body = batch.model.body("cube").id
        start = joint.qposadr[0]
        self.pose = batch.qpos[:, start : start + 7]
        self.xmat = batch.bind("xmat")
        if self.level == 3:
            wall = batch.model.body("wall").mocapid[0]
            self.wall, self.wall_quat = batch.mocap_pos[:, wall], batch.mocap_quat[:, wall]
            self.wall_size = np.zeros((batch.nsim, 3))

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        self.arm.reset(ids, generators, spread=0.15)
        for sim, g in zip(ids, generators, strict=True):
            cube, goal = (self._draw_near, self._draw_far, self._draw_wall)[self.level - 1](sim, g)
            yaw = g.uniform(-np.pi / 4, np.pi / 4)
            self.pose[sim] = (*cube, CUBE, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
            self.goal[sim] = (*goal, 0.002)

    def _draw_near(self, sim: int, g: np.random.Generator) -> tuple[Floats, Floats]:
        cube = g.uniform(CUBE_LOW, CUBE_HIGH)
        distance, bearing = g.uniform(DISTANCE_LOW, DISTANCE_HIGH), g.uniform(-BEARING, BEARING)
        return cube, cube + distance * np.array((np.cos(bearing), np.sin(bearing)))

    def _draw_far(self, sim: int, g: np.random.Generator) -> tuple[Floats, Floats]:
        cube, goal = g.uniform(FIELD_LOW, FIELD_HIGH, (2, 2))
        way = g.uniform(ASIDE_LOW, ASIDE_HIGH) * g.choice((-1.0, 1.0))
        middle = g.uniform(-1.0, 1.0) * (FIELD_HIGH[1] - abs(way) / 2)
        cube[1], goal[1] = middle - way / 2, middle + way / 2
        return cube, goal

    def _draw_wall(self, sim: int, g: np.random.Generator) -> tuple[Floats, Floats]:
        """The wall, and cube and goal on its two sides, in any of the eight symmetric ways."""
        across, along = np.diag(g.choice((-1.0, 1.0), 2))[:: g.choice((-1, 1))]
        wall = WALL_PLACE + g.uniform(-1.0, 1.0) * WALL_SHIFT[1] * np.array((0.0, 1.0))
        wall -= WALL_SHIFT[0] * along * (1.0, 0.0)
        before, after = g.uniform(BEFORE_LOW, BEFORE_HIGH), g.uniform(AFTER_LOW, AFTER_HIGH)
        self.wall[sim] = (*wall, WALL[2])
        turn = np.pi / 2 * abs(along[1])
        self.wall_quat[sim] = np.cos(turn / 2), 0.0, 0.0, np.sin(turn / 2)
        self.wall_size[sim] = WALL if along[0] else (WALL[1], WALL[0], WALL[2])
        return (
            wall - before[0] * across + before[1] * along,
            wall + after[0] * across + after[1] * along,
        )

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
        if self.level == 3:
            slots["obstacle_1_position"][:] = self.wall
            slots["obstacle_1_size"][:] = self.wall_size

    def score(self) -> Score:
        cube_to_goal = np.linalg.norm((self.goal - self.pose[:, :3])[:, :2], axis=1)
        hand_to_cube = np.linalg.norm(self.pose[:, :3] - self.arm.hand, axis=1)
        reward = 0.8 * np.exp(-8.0 * cube_to_goal) + 0.2 * np.exp(-8.0 * hand_to_cube)
        return Score(reward, cube_to_goal < TOLERANCE, np.zeros(len(reward), bool))

    def expert(self) -> NDArray[np.float32]:
        """Travel high to behind the cube, come down, push along the line to where it should go.

        A hand that is already low beside the cube goes round it.
        """
        hand, cube = self.arm.hand, self.pose[:, :3]
        gap = self._target() - cube[:, :2]
        distance = np.linalg.norm(gap, axis=1, keepdims=True)
        ahead = gap / np.maximum(distance, 1e-6)
        relative = hand[:, :2] - cube[:, :2]
        radius = np.maximum(np.linalg.norm(relative, axis=1, keepdims=True), 1e-6)
        along = (relative * ahead).sum(axis=1, keepdims=True)
        aside = relative - along * ahead
        off = np.linalg.norm(aside, axis=1, keepdims=True)

        low = hand[:, 2:] < LOW + 0.03
        pushing = low & (along < -0.01) & (off < 0.025)
        beside = low & (along < 0.5 * off) & (radius > INSIDE) & (radius < BESIDE)
        start = cube[:, :2] - BEHIND * ahead
        travel = GAIN * (start - hand[:, :2])
        near = np.linalg.norm(start - hand[:, :2], axis=1, keepdims=True) < 0.025
        # before the cube or above it: rise before crossing it
        travel = np.where((hand[:, 2:] < HIGH - 0.02) & ~near, 0.3 * travel, travel)
        outward = relative / radius
        circle = GAIN * (ROUND - radius) * outward
        circle += ROUND_SPEED * (along / radius * outward - ahead)
        push = np.minimum(GAIN * distance, PUSH_SPEED) * ahead - 8.0 * aside

        planar = np.where(pushing, push, np.where(beside, circle, travel))
        height = np.where(pushing | beside | near, LOW, HIGH)
        finished = np.linalg.norm((self.goal - cube)[:, :2], axis=1, keepdims=True) < DONE
        velocity: Floats = np.concatenate((planar, GAIN * (height - hand[:, 2:])), axis=1)
        return self.arm.move(arm.limit_speed(np.where(finished, 0.0, velocity)))

    def _target(self) -> Floats:
        """(n, 2) m, where to push to in a straight line: the goal or, at level 3, past a corner."""
        goal, cube = self.goal[:, :2], self.pose[:, :2]
        if self.level < 3:
            return goal
        wall, size = self.wall[:, :2], self.wall_size[:, :2]
        sides = np.sign(goal - wall)
        long = size == WALL[0]
        along, across = sides * long, sides * ~long
        end = wall + WALL[0] * along
        way, to_end = goal - cube, end - cube
        way = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
        ahead = (to_end * across).sum(axis=1)
        beyond = -(to_end * along).sum(axis=1)
        miss = ahead * (way * along).sum(axis=1) + beyond * (way * across).sum(axis=1)
        clear = (miss > CLEAR) | (ahead < -CLEAR - WALL[1])
        corner = end + CORNER[0] * across + CORNER[1] * along
        lane = cube + 0.1 * along - 2.0 * np.maximum(0.0, LANE - ahead)[:, None] * across
        detour = np.where((beyond < CLEAR)[:, None], lane, corner)
        return np.where(clear[:, None], goal, detour)
