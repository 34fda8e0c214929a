"""Push-buttons on springs: scene, live views, and how the hand presses one."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..task import Floats
from . import arm
from .grasp import Command

RADIUS = 0.032  # m
TRAVEL = 0.02  # m, down to the stop
PRESSED = 0.012  # m, from this depth on a button counts as pressed
STIFFNESS, PRELOAD = 120.0, 0.01  # N/m, and m by which a released spring is still compressed
WAITING, LIT, DONE = (0.72, 0.74, 0.84, 1.0), (1.0, 0.87, 0.1, 1.0), (0.1, 0.5, 0.2, 1.0)

FINGERTIP = 0.007  # m from the hand down to the fingers' ends
CLEARANCE = 0.035  # m between fingertips and buttons when travelling
AIM = 0.003  # m beyond PRESSED that the script goes
ABOVE, OVER = 0.012, 0.025  # m aside: a press begins within the first, is given up past the second
ROOM = 0.02  # m below that height at which the hand may begin to travel
GAIN = 10.0  # 1/s


def add_button(spec: mujoco.MjSpec, name: str, top: float) -> None:
    """A cylinder on a vertical spring, from the floor, into which it sinks, up to `top` m.

    Body, joint and geom are called `name`; the body is at the released top face.
    """
    body = spec.worldbody.add_body(name=name, pos=[0, 0, top], gravcomp=1)
    body.add_joint(
        name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 0, -1], range=[0, TRAVEL],
        limited=True, stiffness=STIFFNESS, springref=-PRELOAD, damping=3, armature=0.02,
    )  # fmt: skip
    body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[RADIUS, top / 2, 0],
        pos=[0, 0, -top / 2], mass=0.05, rgba=WAITING, contype=0, conaffinity=arm.THINGS,
    )  # fmt: skip
    spec.add_exclude(bodyname1="world", bodyname2=name)


class Buttons:
    """Live views of a scene's buttons in every simulation, and their colours."""

    def __init__(self, batch: Batch, names: Sequence[str]) -> None:
        model = batch.model
        self._bodies = np.array([model.body(name).id for name in names])
        self._geoms = np.array([model.geom(name).id for name in names])
        self._qadr = np.array([model.joint(name).qposadr[0] for name in names])
        self._places = batch.expand("body_pos")
        self._colours = batch.expand("geom_rgba")
        self._qpos = batch.qpos
        self._sims = np.arange(batch.nsim)
        self._palette = np.array((WAITING, LIT, DONE))

    def place(self, sim: int, planar: Floats) -> None:
        """Move one simulation's buttons to (k, 2) m."""
        self._places[sim, self._bodies, :2] = planar

    @property
    def depth(self) -> Floats:
        """(n, k) m, how far each is pressed in."""
        return self._qpos[:, self._qadr]

    def tops(self, which: NDArray[np.intp] | int) -> Floats:
        """(n, 3) m, centre of the released top face of one button per simulation."""
        return self._places[self._sims, self._bodies[which]]

    def paint(self, looks: NDArray[np.intp]) -> None:
        """Show each (n, k) as waiting (0), lit (1) or done (2)."""
        self._colours[:, self._geoms] = self._palette[looks]


def press(
    hand: Floats, top: Floats, wanted: NDArray[np.bool_], clearance: float = CLEARANCE
) -> Command:
    """How the hand travels to `top` (n, 3) m and presses the button there.

    It travels with its fingertips `clearance` m above the top, and where the button is not
    `wanted` (n,) it stays so.
    """
    gap = top[:, :2] - hand[:, :2]
    aside = np.hypot(gap[:, 0], gap[:, 1])
    tip = hand[:, 2] - FINGERTIP - top[:, 2]
    high = tip > clearance - ROOM
    pressing = wanted & (aside < np.where(high, ABOVE, OVER))
    velocity = np.empty_like(hand)
    velocity[:, :2] = GAIN * gap * (high | pressing)[:, None]  # rise before leaving
    velocity[:, 2] = GAIN * (np.where(pressing, -PRESSED - AIM, clearance) - tip)
    still = np.zeros(len(hand))
    return Command(arm.limit_speed(velocity), still - 1.0, still)
