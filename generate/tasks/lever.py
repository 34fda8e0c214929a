"""Lever: turn a lever about its upright axis, by its handle, to a mark."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm, handle
from ..task import Floats, Ints, Score, Task

RADIUS, HEIGHT = 0.15, 0.06  # m, from the axis to the middle of the handle; above the floor
BAR = 0.05  # m, half the handle's length
TURN = 1.4  # rad, from stop to stop
TURN_LOW, TURN_HIGH = 0.5, 1.2  # rad, what is asked for
AHEAD = 0.6  # rad, halfway: the handle is then at its PLACE, and moves the way it faces
PLACE = (0.45, 0.0)  # m, at level 1
PLACE_LOW, PLACE_HIGH = (0.4, -0.12), (0.48, 0.12)  # m, at levels 2 and 3
YAW = 0.8  # rad, to either side of straight ahead
DAMPING, FRICTION = 0.15, 0.03  # N m s/rad and N m: it stays where it is left
STIFF_LOW, STIFF_HIGH = 2.0, 4.0  # factors on both at level 3
FIELD = 36  # degrees, the camera's
BASE_COLOUR, LEVER_COLOUR = (0.36, 0.3, 0.52, 1.0), (0.85, 0.76, 0.6, 1.0)


class Lever(Task):
    """Level 1: a lever in one place. Level 2: in many, turned by up to 46° to either side.
    Level 3: with more damping and friction.

    Each episode asks for another angle, and a green post stands where the handle's end should
    come to lie, to 1.5 cm. Held out whole: what a policy knows of handles, it knows from drawers,
    so `mechanism` is the way along the arc in m.
    """

    name = "lever"
    family = "arm"
    substeps = arm.SUBSTEPS
    action_size = arm.ACTIONS
    instruction = "turn the lever's red handle to the green post"
    held_out = frozenset({1, 2, 3})

    def build(self) -> mujoco.MjSpec:
        spec = arm.build()
        spec.camera("main").fovy = FIELD
        base = spec.worldbody.add_body(name="base_of_lever", mocap=True)
        base.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.035, HEIGHT / 2, 0],
            pos=[0, 0, HEIGHT / 2], rgba=BASE_COLOUR,
        )  # fmt: skip
        lever = base.add_body(name="lever", pos=[0, 0, HEIGHT])
        lever.add_joint(
            name="lever", axis=[0, 0, 1], range=[0, TURN], limited=True, armature=0.002,
            damping=DAMPING, frictionloss=FRICTION,
        )  # fmt: skip
        # it points to its right, so that it moves along its own x axis
        for start, end, radius, colour in (
            (0.0, RADIUS - BAR, 0.8 * handle.RADIUS, LEVER_COLOUR),
            (RADIUS - BAR, RADIUS + BAR, handle.RADIUS, handle.HANDLE_COLOUR),
        ):
            lever.add_geom(
                type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=[0, -start, 0, 0, -end, 0],
                size=[radius, 0, 0], mass=0.1, rgba=colour,
            )  # fmt: skip
        lever.add_site(name="lever", pos=[0, -RADIUS, 0])
        handle.Mark.add(spec, HEIGHT, (-1,))
        return spec

    def bind(self, batch: Batch) -> None:
        model = batch.model
        self.arm = arm.Arm(batch)
        self.mark = handle.Mark(batch)
        self.joint, self.body = model.joint("lever"), model.body("lever").id
        base = model.body("base_of_lever").mocapid[0]
        self.base, self.base_quat = batch.mocap_pos[:, base], batch.mocap_quat[:, base]
        self.angle = batch.qpos[:, self.joint.qposadr[0]]
        self.site, self.site_xpos = model.site("lever").id, batch.bind("site_xpos")
        self.xmat = batch.bind("xmat")
        self.target = np.zeros(batch.nsim)
        self.damping, self.friction = batch.expand("dof_damping"), batch.expand("dof_frictionloss")

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        self.arm.reset(ids, generators, spread=0.15)
        for sim, g in zip(ids, generators, strict=True):
            self.target[sim] = turn = g.uniform(TURN_LOW, TURN_HIGH)
            place, yaw = np.array(PLACE), 0.0
            if self.level > 1:
                place, yaw = g.uniform(PLACE_LOW, PLACE_HIGH), g.uniform(-YAW, YAW)
            base = place - RADIUS * _outward(yaw)
            rest = yaw - AHEAD
            self.base[sim] = *base, 0.0
            self.base_quat[sim] = np.cos(rest / 2), 0.0, 0.0, np.sin(rest / 2)
            goal = base + RADIUS * _outward(rest + turn)
            self.mark.place(sim, (*goal, HEIGHT), rest + turn)
            stiffness = g.uniform(STIFF_LOW, STIFF_HIGH) if self.level == 3 else 1.0
            self.damping[sim, self.joint.dofadr[0]] = stiffness * DAMPING
            self.friction[sim, self.joint.dofadr[0]] = stiffness * FRICTION

    @property
    def handle(self) -> Floats:
        """(n, 3) m, its middle."""
        return self.site_xpos[:, self.site]

    @property
    def error(self) -> Floats:
        """(n,) m along the arc, how far the handle has still to go."""
        return RADIUS * (self.target - self.angle)

    def apply(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.arm.observe(slots)
        handle.observe(
            slots, self.arm.hand, self.handle, self.xmat[:, self.body], self.mark.pos,
            RADIUS * self.angle, self.error,
        )  # fmt: skip

    def score(self) -> Score:
        return handle.score(self.arm.hand, self.handle, self.error)

    def expert(self) -> NDArray[np.float32]:
        """Push it from behind; should it go too far, from before."""
        forward, error = self.xmat[:, self.body][:, [0, 3]], self.error
        side = np.where(error < 0.0, -1.0, 1.0)
        return self.arm.move(*handle.drag(self.arm.hand, self.handle, forward, error, side))


def _outward(yaw: float) -> Floats:
    """(2,), where the lever points when it moves towards yaw (rad)."""
    return np.array((np.sin(yaw), -np.cos(yaw)))
