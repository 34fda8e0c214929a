"""Stack: build a tower of cubes, in a stated order of colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm, grasp
from ..task import Floats, Ints, Score, Task

COLOURS = {
    "red": (0.9, 0.12, 0.12, 1.0),
    "blue": (0.12, 0.3, 0.95, 1.0),
    "yellow": (0.95, 0.85, 0.1, 1.0),
    "white": (0.97, 0.97, 0.97, 1.0),
}  # from the bottom up
HALF, SIDE = grasp.HALF, 2 * grasp.HALF
UP = np.array((0.0, 0.0, SIDE))  # m, from a cube to the one on it
DISC = 0.045  # m, radius
DISC_COLOUR = (0.1, 0.8, 0.25, 1.0)
AREA_LOW, AREA_HIGH = (0.32, -0.22), (0.54, 0.22)  # m, of the cubes
DISC_LOW, DISC_HIGH = (0.36, -0.12), (0.5, 0.12)  # m
APART = 0.1  # m between cubes and disc: room for the open gripper
ON_DISC, ON_CUBE = 0.03, 0.02  # m off the middle, sideways
LEVEL = 0.012  # m, and in height
CLEARANCE = 0.06  # m between what is in the way and a cube that passes over it
FREE = 0.006  # m wider than a cube, or
AWAY = 0.06  # m from it: the hand does not hold it


class Tower(NamedTuple):
    """How far the building has come."""

    cubes: Floats
    """(n, k, 3) m"""
    targets: Floats
    """(n, k, 3) m, where each belongs: over the one below it, where that one is in place"""
    placed: NDArray[np.int64]
    """(n,) cubes in place, counted from the bottom"""


class Stack(Task):
    """Level 1: two cubes. Level 2: three. Level 3: four."""

    name = "stack"
    family = "arm"
    horizon = 1024
    substeps = arm.SUBSTEPS
    action_size = arm.ACTIONS
    instruction = "stack on the green disc: "

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.colours = list(COLOURS)[: level + 1]

    def instructions(self) -> tuple[str, ...]:
        return (self.instruction + ", ".join(self.colours),)

    def build(self) -> mujoco.MjSpec:
        spec = arm.build()
        spec.camera("main").pos = [1.0, 0.0, 0.62]
        disc = spec.worldbody.add_body(name="disc", mocap=True)
        disc.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[DISC, 0.002, 0], rgba=DISC_COLOUR,
            contype=0, conaffinity=0,
        )  # fmt: skip
        for colour in self.colours:
            grasp.add_cube(spec, colour, COLOURS[colour])
        return spec

    def bind(self, batch: Batch) -> None:
        self.arm = arm.Arm(batch)
        self.disc = batch.mocap_pos[:, 0]
        self.starts = [batch.model.joint(colour).qposadr[0] for colour in self.colours]
        self.bodies = np.array([batch.model.body(colour).id for colour in self.colours])
        self.xpos, self.xmat = batch.bind("xpos"), batch.bind("xmat")
        self.lanes = np.arange(batch.nsim)

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        self.arm.reset(ids, generators, spread=0.15)
        for sim, g in zip(ids, generators, strict=True):
            places = self._draw_places(g)
            self.disc[sim] = (*places[0], 0.0)
            yaws = g.uniform(-np.pi / 4, np.pi / 4, len(self.starts))
            for start, place, yaw in zip(self.starts, places[1:], yaws, strict=True):
                pose = (*place, HALF, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
                self.arm.qpos[sim, start : start + 7] = pose

    def _draw_places(self, g: np.random.Generator) -> Floats:
        """(1 + k, 2) m, of the disc and the cubes, apart from each other."""
        while True:
            cubes = g.uniform(AREA_LOW, AREA_HIGH, (len(self.starts), 2))
            places: Floats = np.vstack((g.uniform(DISC_LOW, DISC_HIGH), cubes))
            gaps = np.linalg.norm(places[:, None] - places, axis=2)
            if gaps[np.triu_indices(len(places), 1)].min() > APART:
                return places

    def apply(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(action)

    def _tower(self) -> Tower:
        cubes = self.xpos[:, self.bodies]
        targets = np.empty_like(cubes)
        placed = np.zeros(len(cubes), np.int64)
        below, limit = self.disc - UP / 2, ON_DISC
        for k in range(cubes.shape[1]):
            targets[:, k] = below + UP
            gap = np.abs(cubes[:, k] - targets[:, k])
            near = (np.hypot(gap[:, 0], gap[:, 1]) < limit) & (gap[:, 2] < LEVEL)
            near &= placed == k
            placed += near
            below, limit = np.where(near[:, None], cubes[:, k], targets[:, k]), ON_CUBE
        return Tower(cubes, targets, placed)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.arm.observe(slots)
        tower = self._tower()
        to_hand, to_goal = tower.cubes - self.arm.hand[:, None], tower.targets - tower.cubes
        rotations = arm.columns(self.xmat[:, self.bodies])
        for k in range(len(self.bodies)):
            slots[f"object_{k + 1}_position"][:] = tower.cubes[:, k]
            slots[f"object_{k + 1}_rotation"][:] = rotations[:, k]
            slots[f"to_object_{k + 1}"][:] = to_hand[:, k]
            slots[f"object_{k + 1}_to_goal"][:] = to_goal[:, k]
        slots["goal_position"][:] = self.disc
        slots["to_goal"][:] = self.disc - self.arm.hand
        slots["stage"][self.lanes, self._current(tower)] = 1.0
        slots["progress"][:, 0] = tower.placed / len(self.bodies)

    def _current(self, tower: Tower) -> NDArray[np.int64]:
        """(n,) the cube to handle: the lowest out of place, or one just placed and still held."""
        last = np.maximum(tower.placed - 1, 0)
        gap = np.linalg.norm(tower.cubes[self.lanes, last] - self.arm.hand, axis=1)
        held = (gap < grasp.GRASP) & (self.arm.opening < SIDE + grasp.WIDE)
        return np.where(held, last, np.minimum(tower.placed, len(self.bodies) - 1))

    def score(self) -> Score:
        tower = self._tower()
        current = np.minimum(tower.placed, len(self.bodies) - 1)
        cube = tower.cubes[self.lanes, current]
        hand_to_cube = np.linalg.norm(cube - self.arm.hand, axis=1)
        cube_to_goal = np.linalg.norm(tower.targets[self.lanes, current] - cube, axis=1)
        done = tower.placed == len(self.bodies)
        success = done & ((self.arm.opening > SIDE + FREE) | (hand_to_cube > AWAY))
        under_way = 0.3 * np.exp(-8.0 * hand_to_cube) + 0.6 * np.exp(-6.0 * cube_to_goal)
        reward = 0.9 * (tower.placed + np.where(done, 0.0, under_way)) / len(self.bodies)
        return Score(reward + 0.1 * success, success, np.zeros(len(done), bool))

    def expert(self) -> NDArray[np.float32]:
        """Carry the cubes over each other, one after the other, their faces aligned."""
        tower = self._tower()
        current = self._current(tower)
        here = self.lanes, current
        faces = grasp.face_heading(self.xmat[:, self.bodies])
        others = np.arange(len(self.bodies)) != current[:, None]
        highest = np.where(others, tower.cubes[:, :, 2], 0.0).max(axis=1)
        return self.arm.move(
            *grasp.carry(
                self.arm, tower.cubes[here], faces[here], HALF, tower.targets[here],
                highest + SIDE + CLEARANCE, faces[:, 0],
            )
        )  # fmt: skip
