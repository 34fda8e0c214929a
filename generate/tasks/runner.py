"""Runner: run in a plane at the speed asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import runner
from ..slots import ACTION_SIZE
from ..task import Floats, Ints, Score, Task

SPEED = (1.2, 2.0, 3.0)  # m/s, by level
SPREAD = 0.1  # of the speed, to either side
TOLERANCE = 0.12  # of the speed asked for
WINDOW = 20  # control steps that speed is measured over: 0.5 s, about a stride
STEP = runner.TIMESTEP * runner.SUBSTEPS  # s
START = 0.1  # rad, rad/s
BALL_COLOUR = (0.1, 0.85, 0.25, 1.0)
BALL_RADIUS, BALL_HEIGHT = 0.1, 1.2  # m
BALL_LEAD = 0.4  # s: the ball's place shows what is missing of the speed
UPRIGHT, FALLEN = 0.9, 0.0  # cosines of the tilt that success asks for and that end the run
DRIVE_LOW, DRIVE_HIGH = 0.3, 2.2  # keep the gait a gait, whatever the speed
JOINT_COUNT = len(runner.JOINTS)


class Gait(NamedTuple):
    """Joint targets = offset + amplitude · drive · sin(2π frequency t + shift) + pitch · θ."""

    frequency: Floats
    """() or (n,) Hz"""
    offset: Floats
    """(6,) or (n, 6), in actions, like amplitude"""
    amplitude: Floats
    shift: Floats
    """rad"""
    pitch: Floats
    """Actions per rad that the nose is down."""
    drive: Floats
    """(2,) or (n, 2): what the missing speed, and a target off the level's middle, add to 1."""


GAITS = (
    Gait(
        frequency=np.array(1.908),
        offset=np.array([-0.213, -0.091, 0.014, -0.38, 0.396, -0.155]),
        amplitude=np.array([0.715, 0.172, 0.02, 0.131, -0.076, 0.179]),
        shift=np.array([-3.213, -3.697, 4.527, -2.444, -0.555, 2.254]),
        pitch=np.array([0.313, 0.184, -0.012, 0.658, -0.092, 0.184]),
        drive=np.array([1.47, -0.239]),
    ),
    Gait(
        frequency=np.array(2.076),
        offset=np.array([-0.179, 0.135, -0.68, -0.221, 0.167, -0.083]),
        amplitude=np.array([0.671, 0.09, 0.172, 0.1, 0.129, 0.651]),
        shift=np.array([-1.501, -1.462, -1.923, 0.216, 3.049, 1.172]),
        pitch=np.array([-0.122, -0.022, 0.166, 0.736, 0.28, -0.182]),
        drive=np.array([1.63, 0.193]),
    ),
    Gait(
        frequency=np.array(2.381),
        offset=np.array([-0.063, -0.083, -0.187, -0.092, 0.197, -0.388]),
        amplitude=np.array([0.92, 0.028, 0.137, -0.058, 0.587, 0.917]),
        shift=np.array([0.616, 2.472, 4.892, -1.203, 2.387, 0.108]),
        pitch=np.array([-0.091, 0.134, 0.68, 1.102, -0.105, 0.405]),
        drive=np.array([1.842, -0.048]),
    ),
)


class Runner(Task):
    """Level 1: a walk of 1.2 m/s. Level 2: a trot of 2 m/s. Level 3: a gallop of 3 m/s."""

    name = "runner"
    family = "locomotion"
    substeps = runner.SUBSTEPS
    action_size = JOINT_COUNT
    instruction = "run just as fast as keeps the green ball above you"

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.gait = GAITS[level - 1]

    def build(self) -> mujoco.MjSpec:
        spec = runner.build()
        spec.nuserdata = WINDOW + 2
        ball = spec.worldbody.add_body(name="ball", mocap=True)
        ball.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[BALL_RADIUS, 0, 0], rgba=BALL_COLOUR,
            contype=0, conaffinity=0,
        )  # fmt: skip
        return spec

    def bind(self, batch: Batch) -> None:
        self.qpos, self.qvel, self.ctrl = batch.qpos, batch.qvel, batch.ctrl
        torso = batch.model.body("torso").id
        self.position = batch.bind("xpos")[:, torso]
        self.rotation = batch.bind("xmat")[:, torso]
        self.ball = batch.mocap_pos[:, 0]
        self.time, userdata = batch.bind("time"), batch.bind("userdata")
        # x of the last steps, a ring: all start at 0, where it is empty
        self.past, self.speed = userdata[:, :-1], userdata[:, -1]
        self.target = np.zeros(batch.nsim)
        self.sims = np.arange(batch.nsim)

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        for sim, g in zip(ids, generators, strict=True):
            self.target[sim] = SPEED[self.level - 1] * g.uniform(1 - SPREAD, 1 + SPREAD)
            self.qpos[sim, 2:] = g.uniform(-START, START, 1 + JOINT_COUNT)
            self.qvel[sim, 2:] = g.uniform(-START, START, 1 + JOINT_COUNT)
            self.ball[sim] = BALL_LEAD * self.target[sim], 0.0, BALL_HEIGHT

    def apply(self, action: NDArray[np.float32]) -> None:
        self.ctrl[:] = action[:, :JOINT_COUNT] * np.float32(runner.SWING)
        # where the ball has to be when the step is over
        self.ball[:, 0] = self.qpos[:, 0] + STEP * self.speed + BALL_LEAD * self.missing

    @property
    def missing(self) -> Floats:
        """(n,) m/s, how much faster it should run."""
        return self.target - self.speed

    @property
    def clock(self) -> Floats:
        """(n,) rad, the gait's."""
        return 2 * np.pi * self.gait.frequency * self.time

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        rotation, position = self.rotation, self.position
        slots["joint_position"][:, :JOINT_COUNT] = self.qpos[:, 3:]
        slots["joint_velocity"][:, :JOINT_COUNT] = self.qvel[:, 3:]
        slots["body_position"][:] = position
        slots["body_rotation"][:] = rotation[:, [0, 1, 3, 4, 6, 7]]
        slots["body_spin"][:, 1] = self.qvel[:, 2]
        frame = rotation.reshape(-1, 3, 3)[:, ::2]  # x and z of its axes
        slots["body_velocity"][:] = (self.qvel[:, :2, None] * frame).sum(axis=1)
        ball = np.stack((BALL_LEAD * self.missing, BALL_HEIGHT - position[:, 2]), axis=1)
        slots["to_goal"][:] = (ball[:, :, None] * frame).sum(axis=1)
        slots["target_speed"][:, 0] = self.target
        slots["phase"][:, 0], slots["phase"][:, 1] = np.sin(self.clock), np.cos(self.clock)

    def score(self) -> Score:
        """Reward falls with the missing speed, to nothing for standing still, and with a tilt."""
        now, x = np.rint(self.time / STEP).astype(np.int64), self.qpos[:, 0]
        self.past[self.sims, now % (WINDOW + 1)] = x
        earlier = self.past[self.sims, (now + 1) % (WINDOW + 1)]
        self.speed[:] = (x - earlier) / (WINDOW * STEP)
        off = np.abs(self.missing) / self.target
        up = self.rotation[:, 8]
        reward = np.maximum(1.0 - off, 0.0) * np.maximum(up, 0.0)
        return Score(reward, (off < TOLERANCE) & (up > UPRIGHT), up < FALLEN)

    def expert(self) -> NDArray[np.float32]:
        """A gait tuned for the level's speed; larger strides where speed is missing."""
        gait, middle = self.gait, SPEED[self.level - 1]
        terms = np.stack((self.missing, self.target - middle), axis=1) / middle
        drive = 1.0 + (gait.drive * terms).sum(axis=1, keepdims=True)
        drive = np.minimum(np.maximum(drive, DRIVE_LOW), DRIVE_HIGH)
        action = np.zeros((len(drive), ACTION_SIZE), np.float32)
        action[:, :JOINT_COUNT] = (
            gait.offset
            + gait.amplitude * drive * np.sin(self.clock[:, None] + gait.shift)
            + gait.pitch * self.qpos[:, 2:3]
        )
        return np.clip(action, -1.0, 1.0)
