"""Pick and place: lift a cube onto a pillar."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm, grasp
from ..task import Floats, Ints, Score, Task

TOLERANCE = 0.05  # m; the lowest pillar is higher, so that a cube beside it is not on it
PILLAR = 0.045  # m, half a side
PILLAR_HEIGHT = 0.2  # m, half of it; what is too much stands in the floor
LOW, HIGH = 0.06, 0.2  # m, pillars' tops
FIXED = (0.46, 0.15, 0.06)  # m, level 1: middle of the pillar's top
AREA_LOW, AREA_HIGH = (0.34, -0.22), (0.56, 0.22)  # m, of cube and pillar
APART = 0.13  # m between them, sideways: room for the open gripper
WALL = (0.2, 0.015, 0.15)  # m, half sides; what is too much stands in the floor
WALL_X, WALL_Y = 0.5, 0.03  # m, its middle, and how far it may stand from the middle of the area
WALL_LOW, WALL_HIGH = 0.1, 0.15  # m, its top
ASIDE = 0.1  # m from the wall to cube and pillar
CLEARANCE = 0.06  # m between what is in the way and the middle of a cube that passes over it
ABOVE = np.array((0.0, 0.0, grasp.HALF))  # m, from what it lies on to the middle of a cube
CUBE_COLOUR, PILLAR_COLOUR = (0.9, 0.12, 0.12, 1.0), (0.1, 0.8, 0.25, 1.0)


class PickPlace(Task):
    """Level 1: a low pillar, always in one place. Level 2: of any height, anywhere. Level 3:
    behind a wall.
    """

    name = "pick_place"
    family = "arm"
    substeps = arm.SUBSTEPS
    action_size = arm.ACTIONS
    instruction = "put the red cube on the green block"

    def instructions(self) -> tuple[str, ...]:
        return (self.instruction + (", over the wall" if self.level == 3 else ""),)

    def build(self) -> mujoco.MjSpec:
        spec = arm.build()
        spec.camera("main").pos = [1.0, 0.0, 0.62]
        pillar = spec.worldbody.add_body(name="pillar", mocap=True)
        pillar.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[PILLAR, PILLAR, PILLAR_HEIGHT],
            pos=[0, 0, -PILLAR_HEIGHT], rgba=PILLAR_COLOUR,
        )  # fmt: skip
        if self.level == 3:
            wall = spec.worldbody.add_body(name="wall", mocap=True)
            arm.add_wall(wall, "wall", WALL, pos=(0, 0, -WALL[2]))
        grasp.add_cube(spec, "cube", CUBE_COLOUR)
        return spec

    def bind(self, batch: Batch) -> None:
        self.arm = arm.Arm(batch)
        model = batch.model
        # pillar and wall are placed by the middle of their tops
        self.top = batch.mocap_pos[:, model.body("pillar").mocapid[0]]
        walled = self.level == 3
        self.wall = batch.mocap_pos[:, model.body("wall").mocapid[0]] if walled else None
        self.body, start = model.body("cube").id, model.joint("cube").qposadr[0]
        self.pose = batch.qpos[:, start : start + 7]
        self.xmat = batch.bind("xmat")

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        # the hand starts at 0.2 m ± 0.28 m per rad: not in the wall
        self.arm.reset(ids, generators, spread=0.15 if self.wall is None else 0.08)
        for sim, g in zip(ids, generators, strict=True):
            yaw = g.uniform(-np.pi / 4, np.pi / 4)
            places = g.uniform(AREA_LOW, AREA_HIGH, (2, 2))
            top = np.array((*places[1], g.uniform(LOW, HIGH)))
            if self.level == 1:
                places[1], top[:] = FIXED[:2], FIXED
            if self.wall is not None:
                y, side = g.uniform(-WALL_Y, WALL_Y), g.choice((-1, 1))
                self.wall[sim] = (WALL_X, y, g.uniform(WALL_LOW, WALL_HIGH))
                reach = AREA_HIGH[1] - WALL_Y
                places[:, 1] = y + np.array((side, -side)) * g.uniform(ASIDE, reach, 2)
                top[1], top[2] = places[1, 1], min(top[2], self.wall[sim, 2] - 0.03)
            while np.hypot(*(places[0] - places[1])) < APART:
                places[0] = g.uniform(AREA_LOW, AREA_HIGH)
            self.top[sim] = top
            self.pose[sim] = (*places[0], grasp.HALF, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))

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
        if self.wall is not None:
            slots["obstacle_1_position"][:] = self.wall
            slots["obstacle_1_size"][:] = WALL

    @property
    def goal(self) -> Floats:
        """(n, 3) m, the middle of a cube that lies where it should."""
        return self.top + ABOVE

    def score(self) -> Score:
        cube = self.pose[:, :3]
        cube_to_goal = np.linalg.norm(self.goal - cube, axis=1)
        hand_to_cube = np.linalg.norm(cube - self.arm.hand, axis=1)
        lift = np.clip((cube[:, 2] - grasp.HALF) / LOW, 0.0, 1.0)
        reward = 0.2 * np.exp(-8.0 * hand_to_cube) + 0.2 * lift + 0.6 * np.exp(-6.0 * cube_to_goal)
        return Score(reward, cube_to_goal < TOLERANCE, np.zeros(len(reward), bool))

    def expert(self) -> NDArray[np.float32]:
        obstacle = self.top[:, 2] if self.wall is None else self.wall[:, 2]
        faces = grasp.face_heading(self.xmat[:, self.body])
        return self.arm.move(
            *grasp.carry(
                self.arm, self.pose[:, :3], faces, grasp.HALF, self.goal, obstacle + CLEARANCE
            )
        )
