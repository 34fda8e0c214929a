"""dm_control's "cheetah run" as one of our tasks: its model, observation and reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray
from palaestra.generate.registry import task_classes
from palaestra.generate.task import Floats, Ints, Score, Task

RUN_SPEED = 10.0  # m/s from which the reward is 1
SETTLING_STEPS = 200  # physics steps before an episode
JOINT_COUNT = 8  # all but the first: the observation leaves the place along the track out


class Cheetah(Task):
    """Run to the right, up to 10 m/s; nothing varies but the initial pose."""

    name = "cheetah"
    family = "locomotion"
    levels = 1
    horizon = 1000
    substeps = 1
    action_size = 6
    instruction = "run"
    cameras = ("side",)
    mass_spread = friction_spread = 0.0
    model_file: Path
    """dm_control's `suite/cheetah.xml`."""

    def build(self) -> mujoco.MjSpec:
        spec = mujoco.MjSpec.from_file(str(self.model_file))
        for material in spec.materials:
            material.textures = [""] * len(material.textures)
        for texture in spec.textures:  # 12 MB, which a batch would hold for each simulation
            spec.delete(texture)
        return spec

    def bind(self, batch: Batch) -> None:
        self.batch = batch
        self.qpos, self.qvel, self.ctrl = batch.qpos, batch.qvel, batch.ctrl
        sensor = batch.model.sensor("torso_subtreelinvel")
        self.speed = batch.bind("sensordata")[:, sensor.adr[0]]
        self.limited = np.flatnonzero(batch.model.jnt_limited)
        self.range = batch.model.jnt_range[self.limited].T
        self.never = np.zeros(batch.nsim, bool)

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        for sim, g in zip(ids, generators, strict=True):
            self.qpos[sim, self.limited] = g.uniform(*self.range)
        self.batch.step(ids, nstep=SETTLING_STEPS)
        self.batch.bind("time")[ids] = 0.0

    def apply(self, action: NDArray[np.float32]) -> None:
        self.ctrl[:] = action[:, : self.action_size]

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        slots["joint_position"][:] = self.qpos[:, 1:]
        slots["joint_velocity"][:] = self.qvel[:, 1:]
        slots["body_velocity"][:, 0] = self.qvel[:, 0]

    def score(self) -> Score:
        """dm_control's linear tolerance: nothing for standing still."""
        missing: Floats = np.maximum((RUN_SPEED - self.speed) / RUN_SPEED, 0.0)
        return Score(np.maximum(1.0 - missing, 0.0), missing <= 0.0, self.never)

    def expert(self) -> NDArray[np.float32]:
        raise NotImplementedError("only random actions are played")


def register(model_file: Path) -> None:
    """Make it a task of this process, as a file in `generate/tasks` would be."""
    Cheetah.model_file = model_file
    task_classes()[Cheetah.name] = Cheetah
