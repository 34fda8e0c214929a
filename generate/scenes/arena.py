"""Where two rovers meet: a raised ring to be pushed out of, and a walled pitch with two goals."""

from __future__ import annotations

import mujoco

from .rover import GROUND, THINGS

RING_HEIGHT = 0.12  # m
RIM = 0.07  # m, width of the ring's white edge
RING = ("ring", "mat")  # the ring's geoms: all of it, and what its rim leaves of the top
MAT_COLOUR, RIM_COLOUR = (0.3, 0.22, 0.2, 1.0), (0.97, 0.97, 0.93, 1.0)


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
