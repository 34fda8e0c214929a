"""Drawer: pull a drawer open by its handle, to a mark."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm, drawer, handle
from ..task import Floats, Ints, Score, Task

OPENING_LOW, OPENING_HIGH = 0.07, 0.14  # m, what is asked for; the drawer's travel is 0.15
HALFWAY = drawer.REACH + drawer.TRAVEL / 2  # m, from the chest's front to the handle half open
PLACE = (0.46, 0.0)  # m, of the handle half open, at level 1
PLACE_LOW, PLACE_HIGH = (0.41, -0.14), (0.46, 0.14)  # m, at levels 2 and 3
YAW = 0.8  # rad, to either side of straight ahead
NEIGHBOUR = 0.2  # m, between two chests' middles
FRAME = 0.2  # m to either side, the most that the camera sees of the other handle
STIFF_LOW, STIFF_HIGH = 2.0, 4.0  # factors on damping and friction at level 3
FIELD = 36  # degrees, the camera's
OTHER_COLOUR = (0.15, 0.35, 0.95, 1.0)


class Drawer(Task):
    """Level 1: a chest in one place. Level 2: in many, turned by up to 46° to either side.
    Level 3: stiffer, and beside it a second chest whose handle is blue.

    Each episode asks for another opening, and green posts stand where the handle should end, to
    1.5 cm.
    """

    name = "drawer"
    family = "arm"
    substeps = arm.SUBSTEPS
    action_size = arm.ACTIONS
    instruction = "pull the drawer's red handle to the green posts"

    def build(self) -> mujoco.MjSpec:
        spec = arm.build()
        spec.camera("main").fovy = FIELD
        drawer.add_drawer(spec, "drawer")
        handle.Mark.add(spec, drawer.BAR_HEIGHT, (-1, 1))
        if self.level == 3:
            drawer.add_drawer(spec, "other", OTHER_COLOUR)
        return spec

    def bind(self, batch: Batch) -> None:
        self.arm = arm.Arm(batch)
        self.mark = handle.Mark(batch)
        self.drawer = drawer.Drawer(batch, "drawer")
        self.other = drawer.Drawer(batch, "other") if self.level == 3 else None
        self.damping, self.friction = batch.expand("dof_damping"), batch.expand("dof_frictionloss")

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        self.arm.reset(ids, generators, spread=0.15)
        for sim, g in zip(ids, generators, strict=True):
            opening = g.uniform(OPENING_LOW, OPENING_HIGH)
            place, yaw = np.array(PLACE), 0.0
            if self.level > 1:
                place, yaw = g.uniform(PLACE_LOW, PLACE_HIGH), g.uniform(-YAW, YAW)
            way = np.array((np.cos(yaw), np.sin(yaw)))
            self.drawer.place(sim, place - HALFWAY * way, yaw)
            goal = place + (opening - drawer.TRAVEL / 2) * way
            self.mark.place(sim, (*goal, drawer.BAR_HEIGHT), yaw)
            if self.other is not None:
                aside = g.choice((-NEIGHBOUR, NEIGHBOUR)) * np.array((-way[1], way[0]))
                if abs(place[1] + aside[1]) > FRAME:
                    aside = -aside
                self.other.place(sim, place - HALFWAY * way + aside, yaw)
                stiffness = g.uniform(STIFF_LOW, STIFF_HIGH)
                self.damping[sim, self.drawer.dof] = stiffness * drawer.DAMPING
                self.friction[sim, self.drawer.dof] = stiffness * drawer.FRICTION

    @property
    def error(self) -> Floats:
        """(n,) m, how far the handle has still to go."""
        gap: Floats = self.mark.pos - self.drawer.handle
        return (gap[:, :2] * self.drawer.forward).sum(axis=1)

    def apply(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.arm.observe(slots)
        handle.observe(
            slots, self.arm.hand, self.drawer.handle, self.drawer.rotation, self.mark.pos,
            self.drawer.opening, self.error,
        )  # fmt: skip
        if self.other is not None:
            slots["object_2_position"][:] = self.other.handle
            slots["to_object_2"][:] = self.other.handle - self.arm.hand

    def score(self) -> Score:
        return handle.score(self.arm.hand, self.drawer.handle, self.error)

    def expert(self) -> NDArray[np.float32]:
        opening = self.drawer.opening + self.error
        return self.arm.move(*self.drawer.drag(self.arm.hand, opening))
