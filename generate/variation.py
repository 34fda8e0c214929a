"""What differs from episode to episode in every task alike: looks, masses, friction."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch

from .task import Ints, Task

COLOUR_SPREAD = 0.07  # added to each channel of each geom
CAMERA_SPREAD = 0.02  # m, along each axis
CAMERA_TILT = 0.015  # rad, about each axis


class Variation:
    """Per-simulation model fields, drawn afresh for each episode."""

    def __init__(self, batch: Batch, task: Task) -> None:
        model = batch.model
        self._base = {
            name: getattr(model, name).copy()
            for name in (
                "geom_rgba", "geom_friction", "body_mass", "body_inertia", "cam_pos", "cam_quat"
            )
        }  # fmt: skip
        self._live = {name: batch.expand(name) for name in self._base}
        self._moving = np.flatnonzero(model.body_dofnum[model.body_weldid] > 0)
        self._task = task

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        """Write the fields of the simulations in ids."""
        for sim, g in zip(ids, generators, strict=True):
            values = {name: base.copy() for name, base in self._base.items()}
            colours = values["geom_rgba"][:, :3]
            colours += g.uniform(-COLOUR_SPREAD, COLOUR_SPREAD, colours.shape)
            np.clip(colours, 0.0, 1.0, out=colours)
            friction, masses = self._task.friction_spread, self._task.mass_spread
            values["geom_friction"][:, 0] *= g.uniform(1 - friction, 1 + friction, len(colours))
            scale = g.uniform(1 - masses, 1 + masses, len(self._moving))
            values["body_mass"][self._moving] *= scale
            values["body_inertia"][self._moving] *= scale[:, None]
            cameras = values["cam_pos"]
            cameras += g.uniform(-CAMERA_SPREAD, CAMERA_SPREAD, cameras.shape)
            for quaternion in values["cam_quat"]:
                _tilt(quaternion, g.uniform(-CAMERA_TILT, CAMERA_TILT, 3))
            for name, value in values.items():
                self._live[name][sim] = value


def _tilt(quaternion: np.ndarray[tuple[int], np.dtype[np.float64]], angles: object) -> None:
    """Turn a unit quaternion, in place, by small angles (rad) about its own axes."""
    mujoco.mju_quatIntegrate(quaternion, angles, 1.0)
