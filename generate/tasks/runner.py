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
TOLERANCE = 0.1  # of the speed asked for
WINDOW = 20  # control steps that speed is measured over: 0.5 s, about a stride
STEP = runner.TIMESTEP * runner.SUBSTEPS  # s
START = 0.1  # rad, rad/s
BALL_COLOUR = (0.1, 0.85, 0.25, 1.0)
BALL_RADIUS, BALL_HEIGHT = 0.1, 1.15  # m
BALL_LEAD = 0.4  # s: the ball's place shows what is missing of the speed
FALLEN = 0.0  # the torso's height over its length, below which it lies on its back
DRIVE_LOW, DRIVE_HIGH = 0.3, 1.6
JOINT_COUNT = len(runner.JOINTS)


class Gait(NamedTuple):
    """Joint targets = offset + amplitude · drive · sin(2π frequency t + shift) + level · pitch."""

    frequency: Floats
    """() or (n,) Hz"""
    offset: Floats
    """(6,) or (n, 6), in actions, like amplitude"""
    amplitude: Floats
    shift: Floats
    """rad"""
    level: Floats
    """Actions per rad of pitch."""
    drive: Floats
    """(2,) or (n, 2): what the missing speed, and a target off the level's middle, add to 1."""


GAITS = (
    Gait(
        frequency=np.array(2.086),
        offset=np.array([-0.212, -0.242, -0.008, -0.336, 0.248, 0.114]),
        amplitude=np.array([0.764, 0.068, 0.042, 0.061, 0.064, 0.164]),
        shift=np.array([-2.675, -3.873, 2.749, -1.711, 0.685, 1.699]),
        level=np.array([0.37, 0.055, 0.127, 0.736, -0.214, 0.009]),
        drive=np.array([0.63, 0.007]),
    ),
    Gait(
        frequency=np.array(1.84),
        offset=np.array([-0.034, -0.091, -0.265, -0.211, -0.044, -0.194]),
        amplitude=np.array([0.755, 0.099, 0.127, -0.028, 0.262, 0.57]),
        shift=np.array([-1.253, -1.678, -1.316, -0.559, 2.493, 1.389]),
        level=np.array([-0.081, 0.056, 0.146, 0.482, 0.266, -0.237]),
        drive=np.array([0.637, 0.154]),
    ),
    Gait(
        frequency=np.array(2.303),
        offset=np.array([-0.018, 0.005, -0.2, -0.103, 0.146, -0.306]),
        amplitude=np.array([0.851, -0.009, 0.083, 0.021, 0.546, 0.907]),
        shift=np.array([-0.183, 1.67, 4.723, 0.113, 2.235, 0.305]),
        level=np.array([-0.09, -0.03, 0.616, 0.965, -0.12, 0.335]),
        drive=np.array([0.709, 0.132]),
    ),
)


class Runner(Task):
    """Level 1: a walk of 1 m/s. Level 2: a trot of 2 m/s. Level 3: a gallop of 3 m/s."""

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
        fallen = up < FALLEN
        reward = np.maximum(1.0 - off, 0.0) * np.maximum(up, 0.0)
        return Score(reward, (off < TOLERANCE) & ~fallen, fallen)

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
            + gait.level * self.qpos[:, 2:3]
        )
        return action
