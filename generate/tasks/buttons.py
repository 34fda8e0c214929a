"""Buttons: press the lit one, again and again, until all are done."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm, button
from ..task import Floats, Ints, Score, Task

COUNTS = (3, 6, 9)
LOW, HIGH = (0.3, -0.26), (0.55, 0.26)  # m, where buttons may be: the arm reaches 0.61 m
GAP = 0.079  # m between their centres: a closed gripper on one is clear of the next
TOP = 0.06  # m, height of a released button's top
BOARD = (0.425, 0.0, 0.015)  # m, centre
BOARD_SIZE = (0.175, 0.31, 0.015)  # m, half of each side
BOARD_COLOUR = (0.2, 0.22, 0.3, 1.0)


class Buttons(Task):
    """Level 1: three buttons. Level 2: six. Level 3: nine.

    The next one is lit, those done are green; pressing one before its turn undoes all.
    """

    name = "buttons"
    family = "arm"
    horizon = 1024
    substeps = arm.SUBSTEPS
    action_size = arm.ACTIONS
    instruction = "press the yellow button until all are green"

    def build(self) -> mujoco.MjSpec:
        self.count = COUNTS[self.level - 1]
        self.names = [f"button_{k}" for k in range(self.count)]
        spec = arm.build()
        spec.nuserdata = 1  # how many have been pressed
        camera = spec.camera("main")  # steeper than usual, so that the hand hides fewer buttons
        camera.pos, camera.alt.xyaxes = (0.98, 0, 0.9), (0, 1, 0, -0.83, 0, 0.55)
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=BOARD_SIZE, pos=BOARD, rgba=BOARD_COLOUR
        )
        for name in self.names:
            button.add_button(spec, name, TOP)
        return spec

    def bind(self, batch: Batch) -> None:
        self.arm = arm.Arm(batch)
        self.buttons = button.Buttons(batch, self.names)
        self.done = batch.bind("userdata")
        self.order = np.arange(self.count)

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        self.arm.reset(ids, generators, spread=0.15)
        for sim, g in zip(ids, generators, strict=True):
            self.buttons.place(sim, scatter(g, self.count))

    def apply(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.arm.observe(slots)
        self.buttons.paint(np.sign(self.done - self.order).astype(np.intp) + 1)
        top, depth = self._next()
        slots["object_1_position"][:] = top
        slots["to_object_1"][:] = top - self.arm.hand
        slots["mechanism"][:, 0] = depth
        slots["mechanism_to_goal"][:, 0] = button.PRESSED - depth
        slots["progress"][:] = self.done / self.count

    def score(self) -> Score:
        pressed = self.buttons.depth > button.PRESSED
        early = (pressed & (self.order > self.done)).any(axis=1, keepdims=True)
        due = (pressed & (self.order == self.done)).any(axis=1, keepdims=True)
        self.done[:] = np.where(early, 0.0, self.done + due)

        top, depth = self._next()
        distance = np.linalg.norm(top - self.arm.hand, axis=1)
        nearer = 0.5 * np.exp(-6.0 * distance) + 0.4 * np.clip(depth / button.PRESSED, 0.0, 1.0)
        done = self.done[:, 0]
        success = done == self.count
        reward = np.where(success, 1.0, (done + nearer) / self.count)
        return Score(reward, success, np.zeros(len(reward), bool))

    def expert(self) -> NDArray[np.float32]:
        """Press the next; at the end rise from the last and stay above it."""
        wanted = self.done[:, 0] < self.count
        return self.arm.move(*button.press(self.arm.hand, self._next()[0], wanted))

    def _next(self) -> tuple[Floats, Floats]:
        """Top (n, 3) and depth (n,) of the next button, m; of the last when all are done."""
        which = np.minimum(self.done[:, 0], self.count - 1).astype(np.intp)
        depth = np.take_along_axis(self.buttons.depth, which[:, None], axis=1)
        return self.buttons.tops(which), depth[:, 0]


def scatter(g: np.random.Generator, count: int) -> Floats:
    """Uniform places (count, 2) m, at least GAP apart."""
    places = np.empty((0, 2))
    while len(places) < count:  # ends: eight discs of radius GAP cannot cover 0.13 m²
        place = g.uniform(LOW, HIGH)
        if (np.linalg.norm(places - place, axis=1) >= GAP).all():
            places = np.vstack((places, place))
    return places
