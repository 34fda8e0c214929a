"""Sumo: push the other rover out of the ring."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arena, rover
from ..slots import RANGES
from ..task import Ints, Score, Task

RADIUS_LOW, RADIUS_HIGH = 0.75, 1.05  # m, of the ring
START = 0.55  # of the radius, from the middle
SPREAD = 0.5  # rad, about the own side, of where a rover starts
HEADING = 1.2  # rad, and of where it faces
MASS_LOW, MASS_HIGH = 0.65, 1.55  # times a rover's own, from level 2
LOAD = (0.07, 0.09)  # m, half sides of the block on a rover's back that shows its mass
LOAD_HEIGHT = 0.04  # m, half, per unit of mass
BODY_LOW, BODY_HIGH = (0.17, 0.14, 0.03), (0.23, 0.18, 0.055)  # m, half sides, at level 3
CLEARANCE = 0.01 - rover.CHASSIS[2]  # m, of a chassis's bottom over the axle
LOAD_COLOUR = (0.2, 0.2, 0.22, 1.0)
REACH = 0.5  # m between the middles of rovers that may touch
REACTION = 0.3  # s, in which the script can stop
MARGIN = 0.1  # m, to the edge that it keeps
SHAPING = 0.01  # reward per step, of standing a radius nearer to the middle
_ANGLES = np.arange(RANGES) * (2 * np.pi / RANGES)
_COSINES, _SINES = np.cos(_ANGLES), np.sin(_ANGLES)


class Sumo(Task):
    """Level 1: the ring's radius varies. Level 2: and each rover's mass, which its load shows.
    Level 3: and each rover's length, width and height."""

    name = "sumo"
    family = "match"
    players = 2
    horizon = 512
    substeps = rover.SUBSTEPS
    action_size = rover.ACTIONS
    instruction = "push the red rover out of the ring"
    reward_range = (-1.0, 1.0)
    cameras = rover.CAMERAS
    rivals = rover.RIVALS

    def build(self) -> mujoco.MjSpec:
        spec = rover.build()
        arena.add_ring(spec, RADIUS_HIGH)
        for body in arena.add_players(spec):
            if self.level > 1:
                body.add_geom(
                    name=f"{body.name}_load", type=mujoco.mjtGeom.mjGEOM_BOX,
                    size=[*LOAD, LOAD_HEIGHT], mass=0, rgba=LOAD_COLOUR, contype=0, conaffinity=0,
                )  # fmt: skip
        rover.add_cameras(spec, 2.2, 1.5, 46, rover.CAMERAS)
        return spec

    def bind(self, batch: Batch) -> None:
        model = batch.model
        self.rovers = rover.Rover(batch, rover.NAMES)
        self.size, self.pos = batch.expand("geom_size"), batch.expand("geom_pos")
        self.mass, self.inertia = batch.expand("body_mass"), batch.expand("body_inertia")
        self.ring = [model.geom(name).id for name in arena.RING]
        self.bodies = [model.body(name).id for name in rover.NAMES]
        parts = ("chassis", "nose", "load") if self.level > 1 else ("chassis", "nose")
        self.parts = [[model.geom(f"{name}_{part}").id for name in rover.NAMES] for part in parts]
        self.radius = np.full(self.rovers.nlane, RADIUS_HIGH)

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        for sim, g in zip(ids, generators, strict=True):
            radius = g.uniform(RADIUS_LOW, RADIUS_HIGH)
            self.size[sim, self.ring, 0] = radius, radius - arena.RIM
            self.radius[2 * sim : 2 * sim + 2] = radius
            bearing = np.array((np.pi, 0.0)) + g.uniform(-SPREAD, SPREAD, 2)
            places = START * radius * np.stack((np.cos(bearing), np.sin(bearing)), axis=1)
            headings = bearing + np.pi + g.uniform(-HEADING, HEADING, 2)
            self.rovers.reset(sim, places, headings, arena.RING_HEIGHT)
            if self.level > 1:
                self._build_bodies(sim, g)

    def _build_bodies(self, sim: int, g: np.random.Generator) -> None:
        """Draw each rover's mass, and its body at level 3, and write what follows from them."""
        chassis, nose, load = self.parts
        weight = np.exp(g.uniform(np.log(MASS_LOW), np.log(MASS_HIGH), 2))
        half = np.tile(rover.CHASSIS, (2, 1))
        if self.level > 2:
            half = g.uniform(BODY_LOW, BODY_HIGH, (2, 3))
        squares = half**2
        ratio = (squares.sum(axis=1, keepdims=True) - squares) / (
            np.sum(np.square(rover.CHASSIS)) - np.square(rover.CHASSIS)
        )  # of a box's moments of inertia
        self.mass[sim, self.bodies] *= weight
        self.inertia[sim, self.bodies] *= weight[:, None] * ratio
        self.size[sim, chassis] = half
        self.size[sim, load, 2] = LOAD_HEIGHT * weight
        self.pos[sim, chassis, 2] = CLEARANCE + half[:, 2]
        top = CLEARANCE + 2 * half[:, 2]
        self.pos[sim, nose, 0], self.pos[sim, nose, 2] = half[:, 0] - 0.06, top
        self.pos[sim, load, 0] = 0.01 - half[:, 0] + LOAD[0]
        self.pos[sim, load, 2] = top + LOAD_HEIGHT * weight

    def apply(self, action: NDArray[np.float32]) -> None:
        self.rovers.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        """`ranges` are to the ring's edge and `to_goal` to its middle: to stay in is half of it."""
        self.rovers.observe(slots)
        position, forward = self.rovers.position, self.rovers.forward
        ahead = (position[:, :2] * forward).sum(axis=1)
        aside = forward[:, 0] * position[:, 1] - forward[:, 1] * position[:, 0]
        along = ahead[:, None] * _COSINES + aside[:, None] * _SINES
        left = self.radius**2 - ahead**2 - aside**2
        slots["ranges"][:] = np.sqrt(np.maximum(along**2 + left[:, None], 0)) - along
        slots["to_goal"][:, 0], slots["to_goal"][:, 1] = -ahead, -aside

    def score(self) -> Score:
        """Out is whose middle has passed the edge; both at once is a draw."""
        position = self.rovers.position
        distance = np.sqrt((position[:, :2] ** 2).sum(axis=1)) / self.radius
        out = (distance > 1) | (position[:, 2] < arena.RING_HEIGHT)
        theirs = self.rovers.swap(out)
        shaping = SHAPING * np.clip(self.rovers.swap(distance) - distance, -1, 1)
        ended = out | theirs
        reward = np.where(ended, theirs.astype(float) - out, shaping)
        return Score(reward, theirs & ~out, ended)

    def expert(self) -> NDArray[np.float32]:
        """Charge; but turn back for the middle when about to run over the edge past the rival."""
        position, velocity = self.rovers.position[:, :2], self.rovers.velocity[:, :2]
        gap = self.rovers.swap(position) - position
        far = np.sqrt((gap**2).sum(axis=1)) > REACH
        soon = position + REACTION * velocity
        leaving = np.sqrt((soon**2).sum(axis=1)) > self.radius - MARGIN
        target = np.where((far & leaving)[:, None], 0.0, position + gap)
        return self.rovers.drive_to(target, stop=False)
