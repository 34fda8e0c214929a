"""A four-legged robot of eight servos: body, actions, senses, and legs moved by foot positions."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..slots import ACTION_SIZE
from ..task import Floats

TIMESTEP = 0.004  # s
SUBSTEPS = 6  # 41.7 Hz control
LEGS = ("front_left", "front_right", "rear_left", "rear_right")
JOINTS = tuple(f"{leg}_{part}" for part in ("hip", "knee") for leg in LEGS)
FORWARD = np.array((1.0, 1.0, -1.0, -1.0))  # where each leg stands: ahead of the middle or behind
LEFT = np.array((1.0, -1.0, 1.0, -1.0))
HIP = (0.17, 0.15)  # m from the torso's middle, forward and aside
LINK = 0.16  # m, thigh and shank alike
FOOT = 0.03  # m, radius
HEIGHT = 0.24  # m from foot to hip when standing
STAND = (np.arccos(HEIGHT / 2 / LINK), -2 * np.arccos(HEIGHT / 2 / LINK))  # rad, hip and knee
REACH = (0.7, 0.8)  # rad from STAND at action 1
SHORTEST, LONGEST = 0.14, 0.315  # m from foot to hip
# soft and damped, 0.1 s to follow: gaits tuned under action noise of 0.4 completed 99 % of their
# tuning episodes on flat ground, and 36 % with 60 and 2 (last four generations, all gaits drawn)
STIFFNESS, DAMPING, TORQUE = 40.0, 4.0, 25.0  # N m/rad, N m s/rad, N m
START_SPREAD = 0.05  # rad, of the joints at reset

BODY_COLOUR, HEAD_COLOUR = (0.2, 0.35, 0.9, 1.0), (0.98, 0.9, 0.25, 1.0)
THIGH_COLOUR, SHANK_COLOUR = (0.93, 0.93, 0.95, 1.0), (0.98, 0.45, 0.1, 1.0)
FLOOR_COLOUR = (0.45, 0.5, 0.56, 1.0)
GROUND = 1  # collision bit: the robot touches the ground and not itself


def build() -> mujoco.MjSpec:
    """Robot at the origin, facing x; tasks add the ground, of contype GROUND."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    box, sphere = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE
    touches = {"contype": 0, "conaffinity": GROUND}
    torso = spec.worldbody.add_body(name="torso", pos=[0, 0, HEIGHT + FOOT])
    torso.add_freejoint(name="torso")
    torso.add_geom(type=box, size=[0.2, 0.1, 0.045], mass=4.0, rgba=BODY_COLOUR, **touches)
    torso.add_geom(
        type=sphere, size=[0.085, 0, 0], pos=[0.22, 0, 0.06], mass=0.3, rgba=HEAD_COLOUR, **touches
    )
    for leg, forward, left in zip(LEGS, FORWARD, LEFT, strict=True):
        hip = [forward * HIP[0], left * HIP[1], 0]
        thigh = _add_link(spec, torso, f"{leg}_hip", hip, 0.4, THIGH_COLOUR)
        _add_link(spec, thigh, f"{leg}_knee", [0, 0, -LINK], 0.25, SHANK_COLOUR)
    return spec


def _add_link(
    spec: mujoco.MjSpec, parent: mujoco.MjsBody, name: str, pos: Sequence[float], mass: float,
    colour: Sequence[float],
) -> mujoco.MjsBody:  # fmt: skip
    body = parent.add_body(name=name, pos=pos)
    part = name.endswith("knee")
    body.add_joint(
        name=name, axis=[0, 1, 0], armature=0.01, limited=True,
        range=[STAND[part] - REACH[part] - 0.3, min(STAND[part] + REACH[part] + 0.3, 1.7)],
    )  # fmt: skip
    body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=[0, 0, 0, 0, 0, -LINK],
        size=[FOOT, 0, 0], mass=mass, rgba=colour, contype=0, conaffinity=GROUND,
        priority=1,  # the foot's friction counts, not the larger of foot and ground
    )  # fmt: skip
    servo = spec.add_actuator(
        name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT,
        forcelimited=True, forcerange=[-TORQUE, TORQUE],
    )  # fmt: skip
    servo.set_to_position(kp=STIFFNESS, kv=DAMPING)
    return body


class Quadruped:
    """Live views of the robot in every simulation; its actions, and the way back from feet to them.

    An action is eight joint targets, hips before knees, each by legs as in LEGS, from -1 to 1
    about standing.
    """

    def __init__(self, batch: Batch) -> None:
        model = batch.model
        self.torso = model.body("torso").id
        self.joints = np.array([model.joint(name).qposadr[0] for name in JOINTS])
        self.speeds = np.array([model.joint(name).dofadr[0] for name in JOINTS])
        self.servos = np.array([model.actuator(name).id for name in JOINTS])
        self.stand, self.reach = np.repeat(STAND, len(LEGS)), np.repeat(REACH, len(LEGS))
        self.qpos, self.qvel, self.ctrl = batch.qpos, batch.qvel, batch.ctrl
        self.xmat, self.clock = batch.bind("xmat"), batch.bind("time")

    @property
    def position(self) -> Floats:
        """(n, 3) m, the torso's middle."""
        return self.qpos[:, :3]

    @property
    def rotation(self) -> Floats:
        """(n, 3, 3) torso to world."""
        return self.xmat[:, self.torso].reshape(-1, 3, 3)

    def inward(self, vector: Floats) -> Floats:
        """World vectors (n, 3) in the torso's frame."""
        return (self.rotation * vector[:, :, None]).sum(axis=1)

    def reset(self, sim: int, g: np.random.Generator, yaw: float) -> None:
        """Let a simulation's robot stand at the origin, its joints slightly off."""
        self.qpos[sim, :7] = 0, 0, HEIGHT + FOOT, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        spread = g.uniform(-START_SPREAD, START_SPREAD, len(JOINTS))
        self.qpos[sim, self.joints] = self.stand + spread

    def apply(self, action: NDArray[np.float32]) -> None:
        self.ctrl[:, self.servos] = self.stand + self.reach * action

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        """Fill the robot's own slots."""
        rotation = self.rotation
        slots["joint_position"][:] = self.qpos[:, self.joints]
        slots["joint_velocity"][:] = self.qvel[:, self.speeds]
        slots["body_position"][:] = self.position
        slots["body_rotation"][:] = rotation[:, :, :2].reshape(-1, 6)
        slots["body_velocity"][:] = self.inward(self.qvel[:, :3])
        slots["body_spin"][:] = self.qvel[:, 3:6]  # a free joint's spin is in its own frame

    def phase(self, frequency: float | Floats) -> Floats:
        """(n, 1) rad, of a gait of so many Hz that began with the episode."""
        return 2 * np.pi * frequency * self.clock.reshape(-1, 1)

    def step_to(self, forward: Floats, length: Floats) -> NDArray[np.float32]:
        """Actions that bring each foot (n, 4) `forward` m of its hip and `length` m from it.

        Two equal links: the knee bends by the triangle's angle, behind the line from hip to foot.
        """
        length = np.minimum(np.maximum(length, SHORTEST), LONGEST)
        bend = np.arccos(length / (2 * LINK))
        hip = bend - np.arcsin(np.minimum(np.maximum(forward / length, -0.9), 0.9))
        action = np.zeros((len(length), ACTION_SIZE), np.float32)
        action[:] = (np.concatenate((hip, -2 * bend), axis=1) - self.stand) / self.reach
        return action
