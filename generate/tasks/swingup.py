"""Swingup: raise a hanging pole with the cart below it, and keep it up."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..slots import ACTION_SIZE
from ..task import Ints, Score, Task

TIMESTEP = 0.0025  # s
SUBSTEPS = 10  # 40 Hz control
GRAVITY = 9.81  # m/s²
RAIL = 0.8  # m to either side
RAIL_HEIGHT = 0.85  # m
POLE = 0.6  # m
CART_MASS = 1.0  # kg
TIP_RADIUS = 0.07  # m, drawn only: it has no mass
POLE_MASS = (0.2, 0.5, 0.2)  # kg, by level
FORCE = (11.0, 6.5, 11.0)  # N at action 1: accelerates cart and pole by 9, 4.3, 9 m/s²
POLE_RADIUS = (0.025, 0.05, 0.025)  # m
CART_COLOUR, RAIL_COLOUR = (0.15, 0.4, 0.9, 1.0), (0.85, 0.86, 0.9, 1.0)
POLE_COLOUR, TIP_COLOUR = (0.95, 0.75, 0.15, 1.0), (0.9, 0.15, 0.15, 1.0)
FLOOR_COLOUR = (0.45, 0.5, 0.56, 1.0)
START = (0.3, 0.5, 0.3, 0.6)  # m, rad, m/s, rad/s about hanging in the middle
TILT, SPIN, REACH = 0.2, 1.5, RAIL - 0.1  # rad, rad/s, m: what counts as balanced
PUSH_RATE = 0.15  # of level 3's control steps have a push
PUSH = (6.0, 0.6)  # N on the cart and N m on the pole, deviation
STIFFNESS = 9.81 * 1.5 / POLE  # 1/s², of a uniform pole that falls: θ̈ = STIFFNESS sin θ
RATE = STIFFNESS**0.5  # 1/s
PUMP, CENTRE, BRAKE = 6.0, 3.0, 2.0  # m/s per energy, 1/s², 1/s
POLES = 4.0  # 1/s, where the balanced system's four poles are placed: (s + POLES)⁴
PLACE_X = POLES**4 / STIFFNESS
PLACE_V = 4 * POLES**3 / STIFFNESS
PLACE_ANGLE = (6 * POLES**2 + STIFFNESS + PLACE_X) * GRAVITY / STIFFNESS
PLACE_SPIN = (4 * POLES + PLACE_V) * GRAVITY / STIFFNESS


class Swingup(Task):
    """Level 1: a light pole, up in a swing or two. Level 2: a heavy one and a weak motor, that
    needs many. Level 3: a light one that is pushed at random, and so is its cart.
    """

    name = "swingup"
    family = "locomotion"
    substeps = SUBSTEPS
    action_size = 1
    instruction = "swing the pole up and keep it upright"

    def build(self) -> mujoco.MjSpec:
        spec = mujoco.MjSpec()
        spec.compiler.degree = False
        spec.option.timestep = TIMESTEP
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
        box, capsule = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE
        world = spec.worldbody
        world.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.1], rgba=FLOOR_COLOUR)
        world.add_geom(
            type=box, size=[RAIL + 0.15, 0.03, 0.03], pos=[0, 0, RAIL_HEIGHT], rgba=RAIL_COLOUR
        )
        world.add_camera(
            name="main", pos=[0, -2.6, RAIL_HEIGHT + 0.4], xyaxes=[1, 0, 0, 0, 0.13, 1], fovy=45
        )
        cart = world.add_body(name="cart", pos=[0, 0, RAIL_HEIGHT])
        cart.add_joint(
            name="cart", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[1, 0, 0],
            limited=True, range=[-RAIL, RAIL],
        )  # fmt: skip
        cart.add_geom(type=box, size=[0.15, 0.08, 0.08], mass=CART_MASS, rgba=CART_COLOUR)
        pole = cart.add_body(name="pole", pos=[0, -0.12, 0])
        pole.add_joint(name="pole", axis=[0, 1, 0])
        pole.add_geom(
            type=capsule, fromto=[0, 0, 0, 0, 0, POLE], rgba=POLE_COLOUR,
            size=[POLE_RADIUS[self.level - 1], 0, 0], mass=POLE_MASS[self.level - 1],
        )  # fmt: skip
        pole.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[TIP_RADIUS, 0, 0], pos=[0, 0, POLE],
            mass=0, rgba=TIP_COLOUR,
        )  # fmt: skip
        motor = spec.add_actuator(
            name="cart", target="cart", trntype=mujoco.mjtTrn.mjTRN_JOINT,
            ctrllimited=True, ctrlrange=[-1, 1],
        )  # fmt: skip
        motor.gear[0] = FORCE[self.level - 1]
        return spec

    def bind(self, batch: Batch) -> None:
        self.qpos, self.qvel, self.ctrl = batch.qpos, batch.qvel, batch.ctrl
        pole = batch.model.body("pole").id
        self.rotation = batch.bind("xmat")[:, pole]
        self.time, self.force = batch.bind("time"), batch.bind("qfrc_applied")
        self.sims = np.arange(len(batch.qpos))
        self.pushes = np.zeros((len(batch.qpos), self.horizon, 2))

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        for sim, g in zip(ids, generators, strict=True):
            x, angle, speed, spin = g.uniform(-1, 1, 4) * START
            self.qpos[sim] = x, np.pi + angle
            self.qvel[sim] = speed, spin
            if self.level == 3:
                happens = g.random((self.horizon, 2)) < PUSH_RATE
                self.pushes[sim] = g.normal(0.0, PUSH, (self.horizon, 2)) * happens

    def apply(self, action: NDArray[np.float32]) -> None:
        self.ctrl[:] = action[:, :1]
        if self.level == 3:
            step = np.rint(self.time.reshape(-1) / (TIMESTEP * SUBSTEPS)).astype(np.int64)
            self.force[:] = self.pushes[self.sims, np.minimum(step, self.horizon - 1)]

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        rotation = self.rotation
        slots["joint_position"][:, 0] = self.qpos[:, 0]
        slots["joint_position"][:, 1] = np.arctan2(rotation[:, 2], rotation[:, 8])
        slots["joint_velocity"][:, :2] = self.qvel
        slots["body_rotation"][:] = rotation[:, [0, 1, 3, 4, 6, 7]]

    def score(self) -> Score:
        """Reward is for height, and at the top for rest in the middle of the rail as well."""
        height, x, spin = self.rotation[:, 8], self.qpos[:, 0], self.qvel[:, 1]
        middle = np.maximum(1.0 - (x / RAIL) ** 2, 0.0)
        reward = (0.5 + 0.5 * height) * (0.4 + 0.3 * middle + 0.3 / (1.0 + 0.25 * spin**2))
        success = (height > np.cos(TILT)) & (np.abs(spin) < SPIN) & (np.abs(x) < REACH)
        return Score(reward, success, np.zeros(len(reward), bool))

    def expert(self) -> NDArray[np.float32]:
        """Pump energy (Åström & Furuta 2000), balance once the cart is able to.

        Both choose the cart's acceleration a; θ̈ = STIFFNESS (sin θ − a/g cos θ). The motor holds
        the pole upright as long as its unstable mode, θ + θ̇/RATE, is below its own a/g.
        """
        sine, cosine = self.rotation[:, 2], self.rotation[:, 8]
        x, speed, spin = self.qpos[:, 0], self.qvel[:, 0], self.qvel[:, 1]
        mass, force = POLE_MASS[self.level - 1], FORCE[self.level - 1]
        most = force / (CART_MASS + mass)
        energy = 0.5 * spin**2 / STIFFNESS + cosine - 1.0  # 0 is enough to stand
        pump = PUMP * energy * spin * cosine - CENTRE * x - BRAKE * speed
        balance = PLACE_X * x + PLACE_V * speed + PLACE_ANGLE * sine + PLACE_SPIN * spin
        caught = (cosine > 0.8) & (np.abs(sine + spin / RATE) < 0.8 * most / GRAVITY)
        wish = np.where(caught, balance, np.minimum(np.maximum(pump, -most), most))
        # what the pole's own motion asks of the motor beside
        turn = STIFFNESS * (sine - wish / GRAVITY * cosine)
        pull = mass * POLE / 2 * (turn * cosine - spin**2 * sine)
        action = np.zeros((len(x), ACTION_SIZE), np.float32)
        action[:, 0] = ((CART_MASS + mass) * wish + pull) / force
        return np.clip(action, -1.0, 1.0)
