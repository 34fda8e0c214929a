"""Handles that slide or turn a mechanism to a mark: what they show, score, and how to move them."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..task import Floats, Score
from . import arm
from .grasp import Command

TOLERANCE = 0.015  # m, from the handle to its mark
RADIUS = 0.013  # m, of a handle's bar
HANDLE_COLOUR, MARK_COLOUR = (0.9, 0.12, 0.12, 1.0), (0.1, 0.85, 0.25, 1.0)
POST, POST_SIDE = 0.015, 0.1  # m, half the thickness of a green post, and how far aside it stands
GRIP = 0.033  # m from the bar's centre line to the fingers': 9 mm of air between them
ALONG, ASIDE = 0.024, 0.04  # m, the fingers hold the bar while they are this close to their place
LOW, HIGH = 0.055, 0.15  # m above the floor, heights of the hand when moving a bar and travelling
GAIN, PULL = 10.0, 4.0  # 1/s, of the hand by its own distance and by the handle's
PULL_SPEED = 0.15  # m/s
DONE = 0.003  # m, the script stops moving the handle here


class Mark:
    """Green posts beside the place where a handle should end, as high as its bar."""

    def __init__(self, batch: Batch) -> None:
        mocap = batch.model.body("mark").mocapid[0]
        self.pos, self._quat = batch.mocap_pos[:, mocap], batch.mocap_quat[:, mocap]

    @staticmethod
    def add(spec: mujoco.MjSpec, height: float, sides: Sequence[int]) -> None:
        """Its mocap body is where the handle should be, `height` m above the floor.

        Posts stand to the left (1) or right (-1) of the way that the handle moves.
        """
        body = spec.worldbody.add_body(name="mark", mocap=True)
        for side in sides:
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX, size=[POST, POST, (height + RADIUS) / 2],
                pos=[0, side * POST_SIDE, (RADIUS - height) / 2], rgba=MARK_COLOUR,
                contype=0, conaffinity=0,
            )  # fmt: skip

    def place(self, sim: int, pos: Sequence[float], yaw: float) -> None:
        """Put that of one simulation, at a reset, for a handle that moves towards `yaw` rad."""
        self.pos[sim] = pos
        self._quat[sim] = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)


def observe(
    slots: dict[str, NDArray[np.float32]], hand: Floats, handle: Floats, rotation: Floats,
    goal: Floats, moved: Floats, error: Floats,
) -> None:  # fmt: skip
    """Fill the slots of a handle at (n, 3) m, of rotation matrices (n, 9), x the way it moves.

    `goal` (n, 3) m is where it should end; it has `moved` (n,) m and has `error` (n,) m to go.
    """
    slots["object_1_position"][:] = handle
    slots["object_1_rotation"][:] = arm.columns(rotation)
    slots["to_object_1"][:] = handle - hand
    slots["object_1_to_goal"][:] = goal - handle
    slots["goal_position"][:] = goal
    slots["to_goal"][:] = goal - hand
    slots["mechanism"][:, 0] = moved
    slots["mechanism_to_goal"][:, 0] = error


def score(hand: Floats, handle: Floats, error: Floats) -> Score:
    """The handle on its mark, and a little for a hand at the handle."""
    off = np.abs(error)
    near = np.linalg.norm(handle - hand, axis=1)
    reward = 0.75 * np.exp(-20.0 * off) + 0.25 * np.exp(-8.0 * near)
    return Score(reward, off < TOLERANCE, np.zeros(len(off), bool))


def drag(
    hand: Floats, handle: Floats, forward: Floats, error: Floats, side: Floats | float = 1.0
) -> Command:
    """How the hand moves a bar at `handle` (n, 3) m by `error` (n,) m along `forward` (n, 2).

    The closed fingers come down behind the bar, or before it where `side` (n,) is -1, and take
    it along. A script of the present state alone: thrown off, it rises and begins again.
    """
    place = handle[:, :2] - GRIP * np.reshape(side, (-1, 1)) * forward
    gap = place - hand[:, :2]
    height = hand[:, 2]
    along = (gap * forward).sum(axis=1)
    aside = gap[:, 1] * forward[:, 0] - gap[:, 0] * forward[:, 1]
    held = (np.abs(along) < ALONG) & (np.abs(aside) < ASIDE) & (height < LOW + 0.03)
    above = (np.abs(along) < 0.008) & (np.abs(aside) < 0.03)

    speed = np.where(
        held, np.clip(PULL * error, -PULL_SPEED, PULL_SPEED) * (np.abs(error) > DONE), GAIN * along
    )
    velocity = np.empty_like(handle)
    velocity[:, 0] = speed * forward[:, 0] - GAIN * aside * forward[:, 1]
    velocity[:, 1] = speed * forward[:, 1] + GAIN * aside * forward[:, 0]
    # low and not in place: rise first, else the hand would sweep the bar along
    velocity[:, :2] *= (held | above | (height > HIGH - 0.03))[:, None]
    velocity[:, 2] = GAIN * (np.where(held | above, LOW, HIGH) - height)
    heading = np.arctan2(forward[:, 1], forward[:, 0])
    return Command(arm.limit_speed(velocity), np.full(len(error), -1.0), heading)
