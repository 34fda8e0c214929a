"""Tidy: open a drawer, put the cube into it, close it, press a button."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm, button, drawer, grasp
from ..task import Floats, Ints, Score, Task

OPEN, CLOSED = 0.11, 0.015  # m, from here on the drawer is open; up to here it is closed
PLACE_LOW, PLACE_HIGH = (0.28, 0.1), (0.32, 0.13)  # m, of the chest's front, left or right
YAW_LOW, YAW_HIGH = -0.2, 0.4  # rad outwards
MIDDLE = drawer.REACH + 2 * drawer.BOARD + drawer.INSIDE[0]  # m, from the handle back to it
ASIDE_LOW, ASIDE_HIGH = 0.085, 0.2  # m, on the other side: cube and button, clear of the chest
NEAR, FAR = (0.31, 0.38), (0.47, 0.53)  # m, how far ahead the one is, and the other
BUTTON_TOP = 0.06  # m
SUNK = 0.06  # m, a cube whose middle is lower than this is in the drawer, not on its rim
DROP = 0.085  # m, height at which the script lets the cube go: its open fingers clear the rim
CEILING = 0.16  # m, height of travel
CLEARANCE = 0.07  # m between fingertips and the button, or the handle, when travelling
AT_BAR = 0.06  # m from hand to handle, while the script moves it
CUBE_COLOUR, HANDLE_COLOUR = (0.9, 0.12, 0.12, 1.0), (0.15, 0.35, 0.95, 1.0)


class Tidy(Task):
    """Level 1: open the drawer and put the cube into it. Level 2: and close it. Level 3: and press
    the button, which lights up and counts once the rest is done.
    """

    name = "tidy"
    family = "arm"
    horizon = 1024
    substeps = arm.SUBSTEPS
    action_size = arm.ACTIONS
    instruction = "open the drawer and put the cube in"

    def instructions(self) -> tuple[str, ...]:
        more = ("", ", close it", ", close it, press the button")
        return (self.instruction + more[self.level - 1],)

    def build(self) -> mujoco.MjSpec:
        spec = arm.build()
        spec.nuserdata = 1  # whether the button has been pressed, after the rest
        camera = spec.camera("main")  # near and steep, to look into the drawer
        camera.pos, camera.alt.xyaxes = (0.86, 0, 0.72), (0, 1, 0, -0.8, 0, 0.6)
        drawer.add_drawer(spec, "drawer", HANDLE_COLOUR)
        grasp.add_cube(spec, "cube", CUBE_COLOUR)
        if self.level == 3:
            button.add_button(spec, "button", BUTTON_TOP)
        return spec

    def bind(self, batch: Batch) -> None:
        self.arm = arm.Arm(batch)
        self.drawer = drawer.Drawer(batch, "drawer")
        self.button = button.Buttons(batch, ["button"]) if self.level == 3 else None
        self.pressed = batch.bind("userdata")[:, 0]
        self.body = batch.model.body("cube").id
        self.pose = batch.qpos[:, batch.model.joint("cube").qposadr[0] :][:, :7]
        self.cube = self.pose[:, :3]
        self.xmat = batch.bind("xmat")
        self.stages, self.sims = self.level + 1, np.arange(batch.nsim)

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        self.arm.reset(ids, generators, spread=0.15)
        for sim, g in zip(ids, generators, strict=True):
            side = g.choice((-1.0, 1.0))
            place, yaw = g.uniform(PLACE_LOW, PLACE_HIGH), g.uniform(YAW_LOW, YAW_HIGH)
            self.drawer.place(sim, place * (1, side), side * yaw)
            ahead = np.array((g.uniform(*NEAR), g.uniform(*FAR)))
            aside = -side * g.uniform(ASIDE_LOW, ASIDE_HIGH, 2)
            others = np.column_stack((g.permutation(ahead), aside))
            turn = g.uniform(-np.pi / 4, np.pi / 4)
            self.pose[sim] = (*others[0], grasp.HALF, np.cos(turn / 2), 0, 0, np.sin(turn / 2))
            if self.button is not None:
                self.button.place(sim, others[1:])

    def apply(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.arm.observe(slots)
        stage, cube, bar, hand = self._stage(), self.cube, self.drawer.handle, self.arm.hand
        error = np.where(stage < 2, drawer.TRAVEL, 0.0) - self.drawer.opening
        slots["object_1_position"][:] = cube
        slots["object_1_rotation"][:] = arm.columns(self.xmat[:, self.body])
        slots["to_object_1"][:] = cube - hand
        slots["object_1_to_goal"][:] = self._drop() - cube
        slots["object_2_position"][:] = bar
        slots["object_2_rotation"][:] = arm.columns(self.drawer.rotation)
        slots["to_object_2"][:] = bar - hand
        slots["object_2_to_goal"][:, :2] = error[:, None] * self.drawer.forward
        if self.button is not None:
            slots["object_3_position"][:] = self.button.tops(0)
            slots["to_object_3"][:] = self.button.tops(0) - hand
            self.button.paint(np.maximum(stage - 2, 0)[:, None])
        slots["mechanism"][:, 0] = self.drawer.opening
        slots["mechanism_to_goal"][:, 0] = error
        slots["stage"][self.sims, np.minimum(stage, self.stages - 1)] = 1.0
        slots["progress"][:, 0] = stage / self.stages

    def score(self) -> Score:
        opening, success, top = self.drawer.opening, self._inside(), self.drawer.handle
        depth = np.zeros(len(opening))
        if self.level > 1:
            success &= opening < CLOSED
        if self.button is not None:
            depth, top = self.button.depth[:, 0], self.button.tops(0)
            success &= (self.pressed > 0) | (depth > button.PRESSED)
            self.pressed[:] = success

        stage, bar, cube = np.minimum(self._stage(), self.stages - 1), self.drawer.handle, self.cube
        away = np.linalg.norm(select(stage, bar, cube, bar, top) - self.arm.hand, axis=1)
        placed = np.exp(-5.0 * np.linalg.norm(self._drop() - cube, axis=1))
        done = select(
            stage, opening / OPEN, placed, 1.0 - opening / drawer.TRAVEL, depth / button.PRESSED
        )
        part = 0.3 * np.exp(-6.0 * away) + 0.6 * np.clip(done, 0.0, 1.0)
        reward = np.where(success, 1.0, (stage + part) / self.stages)
        return Score(reward, success, np.zeros(len(reward), bool))

    def expert(self) -> NDArray[np.float32]:
        """What the stage asks for; whatever has happened, it goes on from there."""
        hand, top, stage = self.arm.hand, self.drawer.handle, self._stage()
        pressing = np.zeros(len(stage), bool)
        if self.button is not None:
            pressing = stage == 3
            top = np.where(pressing[:, None], self.button.tops(0), top)
        faces = grasp.face_heading(self.xmat[:, self.body])
        drag = self.drawer.drag(hand, np.where(stage == 0, drawer.TRAVEL, 0.0))
        carry = grasp.carry(self.arm, self.cube, faces, grasp.HALF, self._drop(), CEILING)
        press = button.press(hand, top, pressing, CLEARANCE)
        way = np.where(stage == self.stages, 3, stage)
        velocity, grip, heading = (
            select(way, *parts) for parts in zip(drag, carry, drag, press, strict=True)
        )
        leaving = self._between_the_posts() & (stage == 1)
        velocity[leaving] = 0.0, 0.0, arm.HAND_SPEED
        grip[leaving] = -1.0
        return self.arm.move(velocity, grip, heading)

    def _inside(self) -> NDArray[np.bool_]:
        """(n,) whether the cube is in the drawer."""
        away, forward = self.cube - self.drawer.handle, self.drawer.forward
        along = away[:, 0] * forward[:, 0] + away[:, 1] * forward[:, 1] + MIDDLE
        across = away[:, 1] * forward[:, 0] - away[:, 0] * forward[:, 1]
        depth, width = drawer.INSIDE
        return (np.abs(along) < depth) & (np.abs(across) < width) & (self.cube[:, 2] < SUNK)

    def _drop(self) -> Floats:
        """(n, 3) m, above the middle of what the chest leaves open of the drawer."""
        hidden = np.maximum(MIDDLE - drawer.REACH + drawer.INSIDE[0] - self.drawer.opening, 0.0)
        place: Floats = self.drawer.handle.copy()
        place[:, :2] -= (MIDDLE - hidden / 2)[:, None] * self.drawer.forward
        place[:, 2] = DROP
        return place

    def _between_the_posts(self) -> NDArray[np.bool_]:
        """(n,) whether the hand is low at the handle, where the gripper cannot open."""
        away = self.drawer.handle - self.arm.hand
        low = away[:, 2] > np.where(self.arm.opening > 0.02, -0.03, -0.065)
        holding = np.linalg.norm(self.cube - self.arm.hand, axis=1) < 0.05
        return low & (np.hypot(away[:, 0], away[:, 1]) < 0.09) & ~holding

    def _stage(self) -> NDArray[np.intp]:
        """(n,) how many stages are done; what the hand has begun to move, it moves a little on."""
        opening = self.drawer.opening
        held = np.linalg.norm(self.arm.hand - self.drawer.handle, axis=1) < AT_BAR
        opened = opening > np.where(held, 0.14, OPEN)
        closed = opening < np.where(held, 0.006, CLOSED)
        done = np.where(closed, 3 + (self.pressed > 0), 2)
        return np.minimum(np.where(self._inside(), done, opened), self.stages)


def select(which: NDArray[np.intp], *values: Floats) -> Floats:
    """Of arrays (n, ...), each simulation's own."""
    return np.stack(values)[which, np.arange(len(which))]
