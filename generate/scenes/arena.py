"""Where two rovers meet: a raised ring to be pushed out of, and a walled pitch with two goals."""

from __future__ import annotations

import mujoco
import numpy as np

from ..task import Floats
from .rover import BLUE, GROUND, NAMES, RED, THINGS, add_rover, add_wall

GRIP = 0.7  # friction of the wheels: they slip before the motors stall, so no shove is a stalemate
RING_HEIGHT = 0.12  # m
RIM = 0.07  # m, width of the ring's white edge
RING = ("ring", "mat")  # the ring's geoms: all of it, and what its rim leaves of the top
MAT_COLOUR, RIM_COLOUR = (0.3, 0.22, 0.2, 1.0), (0.97, 0.97, 0.93, 1.0)

LENGTH, WIDTH = 1.3, 0.9  # m, half of the pitch: goals lie at both ends of x
DEPTH, HEIGHT, THICK = 0.12, 0.06, 0.05  # m, half of a goal, and of the walls
CORNER = 0.5  # m, cut off: along the walls a ball comes to the goal, and stays in no corner
BALL_RADIUS, BALL_MASS = 0.1, 0.3  # m, kg
BALL_COLOUR = (1.0, 0.85, 0.1, 1.0)
TURF_COLOUR = (0.3, 0.55, 0.3, 1.0)
POSTS = tuple(f"post_{end}_{side}" for end in ("far", "near") for side in ("left", "right"))
GOAL_RIVALS = (("blue_goal", "red_goal"), ("blue_net", "red_net"))


def add_players(spec: mujoco.MjSpec) -> tuple[mujoco.MjsBody, ...]:
    """The two rovers, on wheels that slip; their bodies."""
    bodies = tuple(
        add_rover(spec, name, colour) for name, colour in zip(NAMES, (BLUE, RED), strict=True)
    )
    for name in NAMES:
        for wheel in (f"{name}_left", f"{name}_right"):
            spec.geom(wheel).friction[0] = GRIP
    return bodies


def add_ring(spec: mujoco.MjSpec, radius: float) -> None:
    """A disc RING_HEIGHT m high around the origin; `RING` geoms may be resized at reset."""
    shapes = (
        (RING_HEIGHT, radius, RIM_COLOUR, THINGS | GROUND),
        (RING_HEIGHT + 0.004, radius - RIM, MAT_COLOUR, 0),
    )
    for name, (height, reach, colour, collides) in zip(RING, shapes, strict=True):
        spec.worldbody.add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[reach, height / 2, 0],
            pos=[0, 0, height / 2], rgba=colour, contype=collides, conaffinity=0,
        )  # fmt: skip


def add_pitch(spec: mujoco.MjSpec) -> None:
    """A walled field with a goal at each end, the blue rover's at -x; `posts` says how wide."""
    spec.geom("floor").rgba = TURF_COLOUR
    for side, name in ((1, "west"), (-1, "east")):
        add_wall(spec, name, (LENGTH, THICK, HEIGHT), (0, side * (WIDTH + THICK), HEIGHT))
    for post in POSTS:
        add_wall(spec, post, (DEPTH, WIDTH / 4, HEIGHT), (0, 0, HEIGHT))
    offset = CORNER / 2 - THICK / np.sqrt(2)
    for x in (1, -1):
        for y in (1, -1):
            corner = add_wall(
                spec, f"corner_{x}_{y}", (CORNER / np.sqrt(2) + THICK, THICK, HEIGHT),
                (x * (LENGTH - offset), y * (WIDTH - offset), HEIGHT),
            )  # fmt: skip
            corner.quat = [np.cos(np.pi / 8), 0, 0, -x * y * np.sin(np.pi / 8)]
    for end, colour, name in ((-1, BLUE, "blue"), (1, RED, "red")):
        middle = end * (LENGTH + DEPTH)
        mat = add_wall(spec, f"{name}_goal", (DEPTH, WIDTH, 0.002), (middle, 0, 0.002))
        mat.contype = mat.conaffinity = 0
        net = add_wall(
            spec, f"{name}_net", (THICK, WIDTH + 2 * THICK, 2 * HEIGHT),
            (middle + end * (DEPTH + THICK), 0, 2 * HEIGHT),
        )  # fmt: skip
        mat.rgba = net.rgba = colour


def posts(half: float) -> tuple[Floats, Floats]:
    """Positions and sizes of the POSTS (4, 3) m, that leave goals `half` m wide to each side."""
    x, y = LENGTH + DEPTH, (WIDTH + half) / 2
    places = np.array([(end * x, side * y, HEIGHT) for end in (1, -1) for side in (1, -1)])
    return places, np.tile((DEPTH, (WIDTH - half) / 2, HEIGHT), (len(POSTS), 1))


def add_ball(spec: mujoco.MjSpec, rolling: float) -> None:
    """A ball that rolling friction of `rolling` m stops."""
    body = spec.worldbody.add_body(name="ball", pos=[0, 0, BALL_RADIUS])
    body.add_freejoint(name="ball")
    body.add_geom(
        name="ball", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[BALL_RADIUS, 0, 0], mass=BALL_MASS,
        rgba=BALL_COLOUR, condim=6, friction=[0.5, 0.005, rolling], solref=[0.02, 0.3],
    )  # fmt: skip


def corner_gap(points: Floats) -> Floats:
    """How far (n,) m points (n, 2) on the pitch are from the nearest cut corner."""
    gap: Floats = (LENGTH + WIDTH - CORNER - np.abs(points).sum(axis=1)) / np.sqrt(2)
    return gap


def inside(points: Floats, room: float) -> Floats:
    """Points (n, 2) moved to the nearest that are at least `room` m from the pitch's walls."""
    limits = np.array((LENGTH, WIDTH)) - room
    kept = np.clip(points, -limits, limits)
    beyond = np.maximum(room - corner_gap(kept), 0) / np.sqrt(2)
    moved: Floats = kept - beyond[:, None] * np.sign(kept)
    return moved
