"""Reach: bring the hand to a marked point in the air."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm
from ..task import Floats, Ints, Score, Task

TOLERANCE = 0.02  # m
BALL = 0.03  # m, radius: at 2 cm it is three pixels wide
GOAL_LOW, GOAL_HIGH = (0.32, -0.25, 0.06), (0.55, 0.25, 0.32)  # m
GAIN = 8.0  # 1/s, hand speed per distance
GOAL_COLOUR = (0.1, 0.85, 0.25, 1.0)
STEP = arm.TIMESTEP * arm.SUBSTEPS  # s

WALL = (0.16, 0.02, 0.15)  # m, half its sides: it points away from the arm
WALL_FORWARD, WALL_ASIDE = 0.44, 0.03  # m, its middle, and the most to either side
TOP_LOW, TOP_HIGH = 0.18, 0.28  # m; the rest of the wall is below the floor
BESIDE_LOW, BESIDE_HIGH = (0.34, 0.14, 0.08), (0.46, 0.24, 0.16)  # m from wall to hand and goal
PALM = 0.1  # m, the hand is beside the wall's middle, and not above it: half the palm is 5.5 cm
CROSSING, SLACK = 0.045, 0.02  # m above the wall, where the hand crosses it and may begin to

CENTRE_LOW, CENTRE_HIGH = (0.36, -0.1, 0.14), (0.44, 0.1, 0.24)  # m, of a moving goal's path
RADIUS_LOW, RADIUS_HIGH = 0.07, 0.1  # m, of its two half axes
PACE_LOW, PACE_HIGH = 1.8, 2.4  # rad/s: at 13 cm/s or more, it does not linger at a still hand
HAND_LOW, HAND_HIGH = (0.34, -0.22, 0.1), (0.5, 0.22, 0.3)  # m, within reach pointing down
APART = 0.06  # m at least, from that path to the hand at first


class Reach(Task):
    """Level 1: a free goal anywhere in the workspace. Level 2: a wall between it and the hand.
    Level 3: a goal that moves along an ellipse.
    """

    name = "reach"
    family = "arm"
    substeps = arm.SUBSTEPS
    action_size = arm.ACTIONS
    instruction = "move the hand to the green ball"

    def build(self) -> mujoco.MjSpec:
        spec = arm.build()
        goal = spec.worldbody.add_body(name="goal", mocap=True)
        goal.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[BALL, 0, 0], rgba=GOAL_COLOUR,
            contype=0, conaffinity=0,
        )  # fmt: skip
        if self.level == 2:
            arm.add_wall(spec.worldbody.add_body(name="wall", mocap=True), "wall", WALL)
        return spec

    def bind(self, batch: Batch) -> None:
        self.arm = arm.Arm(batch)
        self.goal = batch.mocap_pos[:, 0]
        if self.level == 2:
            self.wall = batch.mocap_pos[:, batch.model.body("wall").mocapid[0]]
        self.time = batch.bind("time")
        # the path at level 3: centre + cos(angle) first + sin(angle) second
        self.centre, self.first, self.second = np.zeros((3, batch.nsim, 3))
        self.start, self.pace = np.zeros((2, batch.nsim))

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        if self.level == 1:
            self.arm.reset(ids, generators, spread=0.3)
            self.goal[ids] = [g.uniform(GOAL_LOW, GOAL_HIGH) for g in generators]
            return
        place = self._place_wall if self.level == 2 else self._place_path
        for sim, g in zip(ids, generators, strict=True):
            place(sim, g)
        if self.level == 3:
            self.goal[ids] = self._path(0.0)[0][ids]

    def _place_wall(self, sim: int, g: np.random.Generator) -> None:
        hand, goal = g.uniform(BESIDE_LOW, BESIDE_HIGH, (2, 3))
        side, aside = g.choice((-1.0, 1.0)), g.uniform(-WALL_ASIDE, WALL_ASIDE)
        hand[1], goal[1] = aside + side * hand[1], aside - side * goal[1]
        self.arm.place(sim, arm.reaching(hand))
        self.goal[sim] = goal
        self.wall[sim] = WALL_FORWARD, aside, g.uniform(TOP_LOW, TOP_HIGH) - WALL[2]

    def _place_path(self, sim: int, g: np.random.Generator) -> None:
        axes = np.linalg.qr(g.normal(size=(3, 2)))[0].T
        self.centre[sim] = g.uniform(CENTRE_LOW, CENTRE_HIGH)
        self.first[sim], self.second[sim] = axes * g.uniform(RADIUS_LOW, RADIUS_HIGH, (2, 1))
        self.start[sim], self.pace[sim] = g.uniform(-np.pi, np.pi), g.uniform(PACE_LOW, PACE_HIGH)
        angles = np.linspace(-np.pi, np.pi, 33)[:, None]
        path = self.centre[sim] + np.cos(angles) * self.first[sim]
        path += np.sin(angles) * self.second[sim]
        hand = self.centre[sim]  # at least RADIUS_LOW from the path, should no draw do
        for draw in g.uniform(HAND_LOW, HAND_HIGH, (20, 3)):
            if np.linalg.norm(path - draw, axis=1).min() > APART:
                hand = draw
                break
        self.arm.place(sim, arm.reaching(hand))

    def _path(self, time: Floats | float) -> tuple[Floats, Floats]:
        """(n, 3) m and m/s, the moving goal's position and velocity at a time in s."""
        angle = self.start + self.pace * time
        cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
        velocity = self.pace[:, None] * (cosine * self.second - sine * self.first)
        return self.centre + cosine * self.first + sine * self.second, velocity

    def apply(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(action)
        if self.level == 3:
            self.goal[:] = self._path(self.time + STEP)[0]

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.arm.observe(slots)
        slots["goal_position"][:] = self.goal
        slots["to_goal"][:] = self.goal - self.arm.hand
        if self.level == 2:
            slots["obstacle_1_position"][:] = self.wall
            slots["obstacle_1_size"][:] = WALL
        if self.level == 3:
            angle = self.start + self.pace * self.time
            slots["phase"][:] = np.column_stack((np.sin(angle), np.cos(angle)))

    def score(self) -> Score:
        distance = np.linalg.norm(self.goal - self.arm.hand, axis=1)
        return Score(np.exp(-8.0 * distance), distance < TOLERANCE, np.zeros(len(distance), bool))

    def expert(self) -> NDArray[np.float32]:
        velocity: Floats = GAIN * (self.goal - self.arm.hand)
        if self.level == 2:
            velocity = self._over_the_wall(velocity)
        if self.level == 3:
            velocity += self._path(self.time)[1]
        return self.arm.move(arm.limit_speed(velocity))

    def _over_the_wall(self, velocity: Floats) -> Floats:
        """While the hand is on the wrong side: rise, and only then go across."""
        hand = self.arm.hand
        side = np.sign(self.goal[:, 1] - self.wall[:, 1])
        past = side * (hand[:, 1] - self.wall[:, 1])
        rise = self.wall[:, 2] + WALL[2] + CROSSING - hand[:, 2]
        there, high = past > PALM, rise < SLACK
        away = -GAIN * side * np.maximum(0.0, past + PALM)  # from the wall, should it be too near
        planar = np.where((there | high)[:, None], velocity[:, :2], away[:, None] * (0.0, 1.0))
        return np.column_stack((planar, np.where(there, velocity[:, 2], GAIN * rise)))
