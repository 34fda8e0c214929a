"""Cubes, and the script that takes one from above, carries it and sets it down."""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from ..task import Floats
from .arm import Arm, limit_speed

Flags = NDArray[np.bool_]

HALF = 0.024  # m, half a cube's side; the pads of the open gripper are 72 mm apart
MASS = 0.1  # kg

GAIN = 8.0  # 1/s, hand speed per distance
FUNNEL, SLOPE = 4.0, 1.5  # m of height per m off the line of descent, of hand and load
LEVER = 0.05  # m; fingers turned by an angle are as far off as that times the angle
NEAR = 0.006  # m off that line within which hand or load is let down
ROOM = 0.03  # m below the height of travel at which the hand may begin to travel
BETWEEN = 0.012  # m off the middle, along the line between the fingers: the thing is between them
GRASP = 0.02  # m, along the pads and in height: within reach of them
TIP = 0.007  # m, the fingers reach so far below the hand
BESIDE = 0.03  # m off a thing, sideways: moving would take it along
FIRM = 0.003  # m wider than the thing: closed on it
WIDE = 0.012  # m wider than the thing: free of it
CLOSING = 0.018  # m wider than the thing: no longer open
LET_GO, LEFT = 0.018, 0.02  # m off the target, sideways, where a load is let go, then left alone
REST = 0.008  # m, and in height


class Command(NamedTuple):
    """What `Arm.move` takes."""

    velocity: Floats
    """(n, 3) m/s, of the hand"""
    grip: Floats
    """(n,) 1 to open, -1 to close"""
    heading: Floats
    """(n,) rad"""


def add_cube(
    spec: mujoco.MjSpec, name: str, rgba: tuple[float, ...], half: float = HALF
) -> mujoco.MjsBody:
    """A free cube, body, joint and geom all called `name`."""
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=[half] * 3, mass=MASS, rgba=rgba,
        friction=[1.0, 0.01, 0.0005],
    )  # fmt: skip
    return body


def face_heading(matrix: Floats) -> Floats:
    """(...) rad, heading of two faces of a box with rotation (..., 9), on whichever side it lies.

    Headings a quarter turn apart are equivalent.
    """
    level = np.abs(matrix[..., 6]) < 0.7  # else its x axis stands up, and its y axis lies
    return np.arctan2(
        np.where(level, matrix[..., 3], matrix[..., 4]),
        np.where(level, matrix[..., 0], matrix[..., 1]),
    )


def nearest_heading(heading: Floats, current: Floats) -> Floats:
    """Of the headings equivalent to `heading` for a cube, the one nearest to `current`."""
    quarter = np.pi / 2
    return heading - quarter * np.round((heading - current) / quarter)


class Hold(NamedTuple):
    """How the gripper is placed about a thing; all (n,)."""

    off: Floats
    """m, from the hand to the thing, sideways"""
    spare: Floats
    """m, how much wider the gripper is open than the thing"""
    around: Flags
    """the pads would close on it"""
    straddling: Flags
    """the fingertips have passed its top, on both sides"""
    held: Flags
    """the pads are closed on it"""


def find_hold(arm: Arm, thing: Floats, half: Floats | float) -> Hold:
    """The gripper about things of width 2 × `half` (m) at `thing` (n, 3)."""
    gap, heading = thing - arm.hand, arm.heading
    sine, cosine = np.sin(heading), np.cos(heading)
    in_line = (np.abs(cosine * gap[:, 1] - sine * gap[:, 0]) < BETWEEN) & (
        np.abs(cosine * gap[:, 0] + sine * gap[:, 1]) < GRASP
    )
    around = in_line & (np.abs(gap[:, 2]) < GRASP)
    straddling = in_line & (gap[:, 2] > -TIP - half)
    spare = arm.opening - 2.0 * half
    return Hold(_across(gap), spare, around, straddling, around & (spare < FIRM))


def carry(
    arm: Arm, thing: Floats, faces: Floats, half: Floats | float, target: Floats,
    ceiling: Floats | float, turned: Floats | None = None,
) -> Command:  # fmt: skip
    """Bring things of width 2 × `half` (m) at `thing` (n, 3) to `target` (n, 3) and let go.

    `faces` (n,) is the heading of their sides, `ceiling` (n,) m the height above which hand and
    load travel, `turned` (n,) the heading to set them down with, by default as they come. A
    function of geometry alone: whatever has happened, it goes on from there. What rests at its
    target and is not held is left alone, and the hand rises.
    """
    off, spare, around, straddling, held = find_hold(arm, thing, half)
    gap, way, current = thing - arm.hand, target - thing, arm.heading
    astray, level = _across(way), np.abs(way[:, 2]) < REST
    resting = (astray < LEFT) & level & ~held
    turned = current if turned is None else turned
    heading = nearest_heading(np.where(held, turned, faces), current)

    # while held, the load is steered; else the hand, which comes down once its fingers fit
    planar = np.where(held[:, None], way[:, :2], gap[:, :2])
    mover, goal = np.where(held, (thing[:, 2], target[:, 2]), (arm.hand[:, 2], thing[:, 2]))
    fit = FUNNEL * (off + LEVER * np.abs(heading - current) - NEAR) * ~straddling
    rise = np.where(held, SLOPE * (astray - NEAR), fit)
    height = goal + np.clip(rise, 0.0, np.maximum(0.0, ceiling - goal))
    climb = np.where(resting, ceiling, height) - mover
    travel = np.clip(1.0 - climb / ROOM, 0.0, 1.0)
    velocity = GAIN * np.column_stack((planar * travel[:, None], climb))

    centred = (off < BETWEEN) & (np.abs(gap[:, 2]) < BETWEEN)
    closing = around & (centred | (spare < CLOSING))  # once begun it goes on
    keep = held & ~((astray < LET_GO) & level)
    grip = np.where(keep | (closing & ~held & ~resting), -1.0, 1.0)
    # let go of, stay: a finger that leaves early takes the thing along
    velocity *= (held | (grip < 0) | (spare > WIDE) | (off > BESIDE))[:, None]
    return Command(limit_speed(velocity), grip, heading)


def _across(vector: Floats) -> Floats:
    """Horizontal length of vectors (n, 3)."""
    return np.hypot(vector[:, 0], vector[:, 1])
