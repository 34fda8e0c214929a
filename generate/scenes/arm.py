"""A six-joint arm with a two-finger gripper over a floor: scene and batched control."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..slots import ACTION_SIZE
from ..task import Floats, Ints

TIMESTEP = 0.005  # s
SUBSTEPS = 5  # 40 Hz control
JOINTS = ("waist", "shoulder", "elbow", "forearm", "wrist", "flange")
FINGERS = ("left_finger", "right_finger")
ACTIONS = 7  # six joints and the gripper
JOINT_SPEED = 0.8  # rad/s at action 1
FINGER_SPEED = 0.1  # m/s at action 1
FINGER_TRAVEL = 0.035  # m, each finger
HOME = (0.0, 0.6255, 1.6286, 0.0, 0.8875, 0.0)  # rad: hand at (0.42, 0, 0.2) m, pointing down
SHOULDER, UPPER, LOWER, TOOL = 0.32, 0.32, 0.3, 0.19  # m: its height, the links, wrist to hand
HAND_SPEED = 0.35  # m/s, the fastest the scripts move
DAMPING = 0.05  # of the least-squares inverse; m/rad

ARM_COLOUR = (0.82, 0.83, 0.86, 1.0)
JOINT_COLOUR = (0.95, 0.45, 0.12, 1.0)
FINGER_COLOUR = (0.16, 0.17, 0.2, 1.0)
FLOOR_COLOUR = (0.45, 0.5, 0.56, 1.0)
WALL_COLOUR = (0.75, 0.62, 0.35, 1.0)
THINGS, WALLS = 1, 2  # collision bits: the arm's links touch walls and nothing else


def build() -> mujoco.MjSpec:
    """Floor, light camera and arm; tasks add their objects to `spec.worldbody`."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    world = spec.worldbody
    world.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.1], rgba=FLOOR_COLOUR
    )
    world.add_camera(
        name="main", pos=[1.15, 0.0, 0.75], xyaxes=[0, 1, 0, -0.68, 0, 0.73], fovy=42
    )
    _add_arm(spec)
    for joint in JOINTS:
        servo = spec.add_actuator(
            name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT,
            ctrllimited=True, ctrlrange=[-JOINT_SPEED, JOINT_SPEED],
        )  # fmt: skip
        servo.set_to_intvelocity(kp=400, dampratio=1, inheritrange=1)
    for finger in FINGERS:
        servo = spec.add_actuator(
            name=finger, target=finger, trntype=mujoco.mjtTrn.mjTRN_JOINT,
            ctrllimited=True, ctrlrange=[-FINGER_SPEED, FINGER_SPEED],
            forcelimited=True, forcerange=[-20, 20],
        )  # fmt: skip
        servo.set_to_intvelocity(kp=600, dampratio=1, inheritrange=1)
    return spec


def add_wall(
    body: mujoco.MjsBody, name: str, size: Sequence[float], pos: Sequence[float] = (0, 0, 0)
) -> mujoco.MjsGeom:
    """A box that everything collides with; its body may be a mocap body, to be placed at reset."""
    return body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=size, pos=pos, rgba=WALL_COLOUR,
        contype=THINGS | WALLS, conaffinity=THINGS,
    )  # fmt: skip


def _add_arm(spec: mujoco.MjSpec) -> None:
    """Links as capsules, that collide with walls; the fingers collide with everything."""
    ghost = {"contype": 0, "conaffinity": WALLS}
    capsule, cylinder = mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER
    base = spec.worldbody.add_body(name="base")
    base.add_geom(
        type=cylinder, size=[0.08, 0.06, 0], pos=[0, 0, 0.06], rgba=FINGER_COLOUR,
        contype=0, conaffinity=0,
    )
    # name, joint axis, joint range, offset from parent, link end, radius, mass
    links = (
        ("waist", (0, 0, 1), (-2.6, 2.6), (0, 0, 0.12), (0, 0, 0.2), 0.055, 4.0),
        ("shoulder", (0, 1, 0), (-1.6, 2.2), (0, 0, 0.2), (0, 0, 0.32), 0.045, 3.0),
        ("elbow", (0, 1, 0), (0.1, 2.7), (0, 0, 0.32), (0, 0, 0.14), 0.04, 1.5),
        ("forearm", (0, 0, 1), (-2.6, 2.6), (0, 0, 0.14), (0, 0, 0.16), 0.035, 1.0),
        ("wrist", (0, 1, 0), (-2.0, 2.0), (0, 0, 0.16), (0, 0, 0.07), 0.032, 0.6),
        ("flange", (0, 0, 1), (-2.9, 2.9), (0, 0, 0.07), (0, 0, 0.02), 0.032, 0.4),
    )
    body = base
    for index, (name, axis, limits, offset, end, radius, mass) in enumerate(links):
        body = body.add_body(name=name, pos=offset, gravcomp=1)
        body.add_joint(name=name, axis=axis, range=limits, limited=True, armature=0.05, damping=1)
        body.add_geom(
            type=capsule, fromto=[0, 0, 0, *end], size=[radius, 0, 0], mass=mass,
            rgba=JOINT_COLOUR if index % 2 else ARM_COLOUR, **ghost,
        )  # fmt: skip
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02, 0.055, 0.012], pos=[0, 0, 0.05], mass=0.1,
        rgba=FINGER_COLOUR, **ghost,
    )  # fmt: skip
    body.add_site(name="hand", pos=[0, 0, 0.12])
    for finger, side in zip(FINGERS, (1, -1), strict=True):
        child = body.add_body(name=finger, pos=[0, side * 0.012, 0.06], gravcomp=1)
        child.add_joint(
            name=finger, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, side, 0],
            range=[0, FINGER_TRAVEL], limited=True, armature=0.1, damping=5,
        )  # fmt: skip
        child.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.011, 0.011, 0.035], pos=[0, 0, 0.032],
            mass=0.05, friction=[1.0, 0.01, 0.0005], rgba=FINGER_COLOUR,
        )  # fmt: skip


class Arm:
    """Live views of the arm in every simulation, its actions, and resolved-rate control."""

    def __init__(self, batch: Batch) -> None:
        model = batch.model
        joints = [model.joint(name) for name in JOINTS]
        self.qadr = np.array([joint.qposadr[0] for joint in joints])
        self.ids = np.array([joint.id for joint in joints])
        self.fingers = np.array([model.joint(name).qposadr[0] for name in FINGERS])
        self.servos = np.array([model.actuator(name).id for name in JOINTS])
        self.finger_servos = np.array([model.actuator(name).id for name in FINGERS])
        self.site = model.site("hand").id
        self.low, self.high = model.jnt_range[self.ids].T
        self.qpos, self.act = batch.qpos, batch.act
        self.ctrl = batch.ctrl
        self.xanchor, self.xaxis = batch.bind("xanchor"), batch.bind("xaxis")
        self.site_xpos, self.site_xmat = batch.bind("site_xpos"), batch.bind("site_xmat")

    @property
    def hand(self) -> Floats:
        """(n, 3) m, the point between the fingertips."""
        return self.site_xpos[:, self.site]

    @property
    def opening(self) -> Floats:
        """(n,) m, how far the gripper is open: 2 mm less than between its pads."""
        return self.qpos[:, self.fingers[0]] + self.qpos[:, self.fingers[1]]

    @property
    def heading(self) -> Floats:
        """(n,) rad, of the line between the fingers about the vertical, as `move` takes it."""
        matrix = self.site_xmat[:, self.site]
        return np.arctan2(-matrix[:, 1], matrix[:, 4])

    def reset(
        self, ids: Ints, generators: Sequence[np.random.Generator], spread: float
    ) -> None:
        """Write a pose around HOME, joints uniform within ± spread rad, gripper closed."""
        for sim, g in zip(ids, generators, strict=True):
            self.place(sim, HOME + g.uniform(-spread, spread, len(JOINTS)))

    def place(self, sim: int, pose: Floats) -> None:
        """Write the joints (6,) rad of one simulation at a reset, within their ranges."""
        pose = np.clip(pose, self.low, self.high)
        self.qpos[sim, self.qadr] = pose
        self.act[sim, self.servos] = pose  # servos rest where the joints are

    def apply(self, action: NDArray[np.float32]) -> None:
        """Six joint velocity targets and the gripper's, each in [-1, 1]."""
        self.ctrl[:, self.servos] = action[:, :6] * JOINT_SPEED
        self.ctrl[:, self.finger_servos] = action[:, 6:7] * FINGER_SPEED

    def jacobian(self) -> Floats:
        """(n, 6, 6) translational then rotational Jacobian of the hand by joint.

        From the joints' world axes and anchors, which the step has already computed: `Batch.jac`
        would run the kinematics again.
        """
        axes = self.xaxis[:, self.ids]
        arms = self.hand[:, None] - self.xanchor[:, self.ids]
        return np.concatenate((np.cross(axes, arms), axes), axis=2).swapaxes(1, 2)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        """Fill the arm's own slots."""
        slots["joint_position"][:, : len(JOINTS)] = self.qpos[:, self.qadr]
        slots["gripper"][:, 0] = self.qpos[:, self.fingers].sum(axis=1)
        slots["hand_position"][:] = self.hand
        slots["hand_rotation"][:] = columns(self.site_xmat[:, self.site])

    def move(
        self, velocity: Floats, grip: Floats | float = -1.0, heading: Floats | float = 0.0
    ) -> NDArray[np.float32]:
        """Actions that move the hand at `velocity` (n, 3) m/s, pointing down.

        `grip` (n,) is the gripper's action, -1 to close and 1 to open; `heading` (n,) rad turns
        the line between the fingers about the vertical, 0 along the world's y.

        Damped least squares (Nakamura & Hanafusa 1986): q̇ = Jᵀ(JJᵀ + λ²I)⁻¹ v; a velocity that
        would saturate a joint is slowed as a whole, so that the direction is kept.
        """
        rotation = self.site_xmat[:, self.site].reshape(-1, 3, 3)
        across = np.zeros((len(velocity), 3))
        across[:, 0], across[:, 1] = -np.sin(heading), np.cos(heading)
        tilt = np.cross(rotation[:, :, 2], (0.0, 0.0, -1.0))  # turns the tool axis downwards
        turn = np.cross(rotation[:, :, 1], across)  # and its fingers to the heading
        twist = np.concatenate((velocity, 4.0 * tilt + 2.0 * turn * (0, 0, 1)), axis=1)
        jacobian = self.jacobian()
        square = np.matmul(jacobian, jacobian.swapaxes(1, 2))
        square += DAMPING**2 * np.eye(6)
        speed = np.matmul(jacobian.swapaxes(1, 2), np.linalg.solve(square, twist[..., None]))
        speed = speed[..., 0] / JOINT_SPEED
        speed /= np.maximum(1.0, np.abs(speed).max(axis=1, keepdims=True))
        action = np.zeros((len(velocity), ACTION_SIZE), np.float32)
        action[:, :6] = speed
        action[:, 6] = grip
        return action


def reaching(position: Sequence[float]) -> Floats:
    """(6,) rad, the joints that bring the hand to a position (3,) m, pointing down.

    It reaches 0.6 m outwards near the floor and 0.58 m at a height of 0.3 m.
    """
    x, y, z = position
    out, up = np.hypot(x, y), z + TOOL - SHOULDER
    elbow = np.arccos((out**2 + up**2 - UPPER**2 - LOWER**2) / (2 * UPPER * LOWER))
    lean = np.arctan2(LOWER * np.sin(elbow), UPPER + LOWER * np.cos(elbow))
    shoulder = np.arctan2(out, up) - lean
    return np.array((np.arctan2(y, x), shoulder, elbow, 0.0, np.pi - shoulder - elbow, 0.0))


def limit_speed(velocity: Floats, most: Floats | float = HAND_SPEED) -> Floats:
    """The same directions, (n, 3) m/s, no faster than `most`."""
    speed = np.linalg.norm(velocity, axis=1, keepdims=True)
    return velocity * (most / np.maximum(speed, most))


def columns(matrix: Floats) -> Floats:
    """First two columns of rotation matrices (..., 9), row by row, (..., 6): a rotation slot."""
    return matrix.reshape(-1, 3, 3)[:, :, :2].reshape(*matrix.shape[:-1], 6)
