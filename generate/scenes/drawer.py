"""A chest with one drawer, on the floor: scene and live views."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch

from ..task import Floats
from . import handle
from .grasp import Command

TRAVEL = 0.15  # m
DEPTH, WIDTH, HEIGHT = 0.155, 0.18, 0.1  # m, of the chest outside
BOARD = 0.006  # m, half the thickness of every board
INSIDE = (0.063, 0.064)  # m, half the sides of the drawer's floor
RIM = 0.07  # m, top of the drawer's walls
REACH = 0.055  # m, from the drawer's front to the bar's centre line
BAR, BAR_HEIGHT = 0.055, 0.065  # m, half its length and height of its centre line
MASS = 0.05  # kg, each board of the drawer
DAMPING, FRICTION = 8.0, 1.0  # N s/m and N: it stays where it is left
CHEST_COLOUR, DRAWER_COLOUR = (0.36, 0.3, 0.52, 1.0), (0.85, 0.76, 0.6, 1.0)


def add_drawer(
    spec: mujoco.MjSpec, name: str, colour: Sequence[float] = handle.HANDLE_COLOUR
) -> None:
    """A mocap body `NAME_chest` and in it a body, a joint and a site `NAME`, at the bar's centre.

    The chest's origin is on the floor below the closed drawer's front, and the drawer opens along
    its x axis. It is an arch, without back or floor, and the drawer touches neither it nor the
    floor.
    """
    box = mujoco.mjtGeom.mjGEOM_BOX
    chest = spec.worldbody.add_body(name=f"{name}_chest", mocap=True)
    middle, flank = -DEPTH / 2, WIDTH / 2 - BOARD
    for size, pos in (
        ((DEPTH / 2, WIDTH / 2, BOARD), (middle, 0, HEIGHT - BOARD)),
        ((DEPTH / 2, BOARD, HEIGHT / 2 - BOARD), (middle, flank, HEIGHT / 2 - BOARD)),
        ((DEPTH / 2, BOARD, HEIGHT / 2 - BOARD), (middle, -flank, HEIGHT / 2 - BOARD)),
    ):
        chest.add_geom(type=box, size=size, pos=pos, rgba=CHEST_COLOUR)

    drawer = chest.add_body(name=name)
    drawer.add_joint(
        name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[1, 0, 0], range=[0, TRAVEL],
        limited=True, damping=DAMPING, frictionloss=FRICTION,
    )  # fmt: skip
    depth, width = INSIDE
    middle, flank, height = -depth - 2 * BOARD, width + BOARD, RIM / 2
    for size, pos in (
        ((depth, width, BOARD), (middle, 0, 2 * BOARD)),
        ((depth, BOARD, height), (middle, flank, height)),
        ((depth, BOARD, height), (middle, -flank, height)),
        ((BOARD, width + 2 * BOARD, height), (2 * middle + BOARD, 0, height)),
        ((BOARD, width + 2 * BOARD, height), (-BOARD, 0, height)),
    ):
        drawer.add_geom(type=box, size=size, pos=pos, mass=MASS, rgba=DRAWER_COLOUR)
    ends = ((REACH, -BAR, BAR_HEIGHT), (REACH, BAR, BAR_HEIGHT))
    for start, end in (ends, *(((0, y, z), (x, y, z)) for x, y, z in ends)):
        drawer.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=[*start, *end], rgba=colour, mass=0.02,
            size=[handle.RADIUS, 0, 0],
        )  # fmt: skip
    drawer.add_site(name=name, pos=[REACH, 0, BAR_HEIGHT])
    for other in ("world", f"{name}_chest"):
        spec.add_exclude(bodyname1=name, bodyname2=other)


class Drawer:
    """Live views of a drawer in every simulation."""

    def __init__(self, batch: Batch, name: str) -> None:
        model = batch.model
        joint = model.joint(name)
        self.dof = joint.dofadr[0]
        self.site, self.body = model.site(name).id, model.body(name).id
        mocap = model.body(f"{name}_chest").mocapid[0]
        self.pos, self.quat = batch.mocap_pos[:, mocap], batch.mocap_quat[:, mocap]
        self.opening = batch.qpos[:, joint.qposadr[0]]
        """(n,) m"""
        self._site_xpos, self._xmat = batch.bind("site_xpos"), batch.bind("xmat")

    def place(self, sim: int, place: Floats, yaw: float) -> None:
        """Put that of one simulation at (2,) m, at a reset, to open towards `yaw` rad."""
        self.pos[sim] = *place, 0.0
        self.quat[sim] = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)

    @property
    def handle(self) -> Floats:
        """(n, 3) m, the bar's centre."""
        return self._site_xpos[:, self.site]

    @property
    def rotation(self) -> Floats:
        """(n, 9) row by row; the first column is the way it opens."""
        return self._xmat[:, self.body]

    @property
    def forward(self) -> Floats:
        """(n, 2), the way it opens."""
        return self.rotation[:, [0, 3]]

    def drag(self, hand: Floats, opening: Floats | float) -> Command:
        """How the hand brings it to an opening, (n,) m: to 0 it closes it."""
        return handle.drag(hand, self.handle, self.forward, opening - self.opening)
