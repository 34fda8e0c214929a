"""Tag: one rover chases, the other runs away, within four walls."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import rover
from ..slots import OBSTACLES
from ..task import Floats, Ints, Score, Task

HALF = 2.2  # m, half of the field's side
CATCH = 0.45  # m between the middles: the two all but touch
SPEEDS = {1: (1.0, 1.0), 2: (1.0, 1.0), 3: (1.0, 1.18)}  # of TOP_SPEED, pursuer's and evader's
HELD = 10  # control steps: an evader that is free in the last ten has won
TENSION = 0.1  # the most that the evader gains and the pursuer loses in a step
RANGE = 3.0  # m, the farthest that the range finder sees
PILLARS = {1: 0, 2: len(OBSTACLES), 3: len(OBSTACLES)}
RADIUS_LOW, RADIUS_HIGH, HEIGHT = 0.2, 0.28, 0.12  # m, of pillars; the latter half
APART, JITTER, ASIDE = 1.3, 0.05, 0.6  # m, their places across and along; 0.6 m remain between
PILLAR_COLOUR = (0.95, 0.8, 0.15, 1.0)
CAMERA_HEIGHT, CAMERA_BACK, MARGIN = 6.0, 1.5, 0.45  # m

# the scripts
LEAD = 0.8  # s, the farthest ahead that the pursuer aims
ROUND = 0.28  # m, kept from a pillar's side
PUSH = 4.0  # how strongly it drives out of that
EDGE = 0.3  # m, and from the walls
BEARINGS = np.arange(16) * (2 * np.pi / 16)  # rad: the ways out that the evader considers
TICK, TICKS = 0.2, 10  # s, how finely and how long it plays each out
AIM = 1  # ticks ahead on the way that it takes, it drives to
RESPONSE = 0.6  # of the difference to the wanted velocity is gone after a tick


class Tag(Task):
    """Level 1: an open field, where a good pursuer always wins. Level 2: three pillars, round
    which a good evader now and then gets away. Level 3: and an evader that is faster."""

    name = "tag"
    family = "match"
    players = 2
    horizon = 512
    substeps = rover.SUBSTEPS
    action_size = rover.ACTIONS
    instruction = "catch the red rover"
    reward_range = (-1.0, 1.0)
    cameras = rover.CAMERAS
    rivals = rover.RIVALS

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.pillars = PILLARS[level]
        self.late = (self.horizon - HELD + 0.5) * self.substeps * rover.TIMESTEP  # s

    def instructions(self) -> tuple[str, ...]:
        return (self.instruction, "run away from the red rover")

    def build(self) -> mujoco.MjSpec:
        spec = rover.build()
        for name, colour in zip(rover.NAMES, (rover.BLUE, rover.RED), strict=True):
            rover.add_rover(spec, name, colour)
        rover.add_fence(spec, HALF, HALF)
        for k in range(self.pillars):
            spec.worldbody.add_geom(
                name=f"pillar_{k}", type=mujoco.mjtGeom.mjGEOM_CYLINDER, rgba=PILLAR_COLOUR,
                size=[RADIUS_HIGH, HEIGHT, 0], pos=[0, 0, HEIGHT],
            )  # fmt: skip
        fovy = 2 * np.degrees(np.arctan((HALF + MARGIN) / CAMERA_HEIGHT))
        rover.add_cameras(spec, CAMERA_HEIGHT, CAMERA_BACK, fovy, self.cameras)
        return spec

    def bind(self, batch: Batch) -> None:
        model = batch.model
        self.rover = rover.Rover(batch, rover.NAMES, SPEEDS[self.level])
        self.time = batch.bind("time")
        fence = [model.geom(name).id for name in ("north", "south", "west", "east")]
        self.fence = model.geom_pos[None, fence, :2], model.geom_size[None, fence, :2]
        first = model.geom("pillar_0").id if self.pillars else 0
        pillars = slice(first, first + self.pillars)
        self.place = batch.expand("geom_pos")[:, pillars]
        self.radius = batch.expand("geom_size")[:, pillars, 0]

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        for sim, g in zip(ids, generators, strict=True):
            x = HALF * g.uniform(0.6, 0.8, 2) * (-1, 1)
            y = HALF * g.uniform(-0.7, 0.7, 2)
            self.rover.reset(sim, np.stack((x, y), axis=1), g.uniform(-np.pi, np.pi, 2))
            for k in range(self.pillars):
                across = (k - 1) * APART + g.uniform(-JITTER, JITTER)
                self.place[sim, k, :2] = g.uniform(-ASIDE, ASIDE), across
                self.radius[sim, k] = g.uniform(RADIUS_LOW, RADIUS_HIGH)

    def apply(self, action: NDArray[np.float32]) -> None:
        self.rover.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.rover.observe(slots)
        slots["ranges"][:] = self.rover.ranges(*self.fence, RANGE)
        if not self.pillars:
            return
        place, radius = np.repeat(self.place, 2, axis=0), np.repeat(self.radius, 2, axis=0)
        around = self.rover.ranges_round(place[:, :, :2], radius, RANGE)
        np.minimum(slots["ranges"], around, out=slots["ranges"])
        for k, obstacle in zip(range(self.pillars), OBSTACLES, strict=True):
            slots[f"obstacle_{obstacle}_position"][:] = self.rover.own_side(place[:, k])
            slots[f"obstacle_{obstacle}_size"][:, :2] = radius[:, k, None]
            slots[f"obstacle_{obstacle}_size"][:, 2] = HEIGHT

    def score(self) -> Score:
        """While it lasts, a match costs the pursuer what it gives the evader, less when close."""
        place = self.rover.position.reshape(-1, 2, 3)[:, :, :2]
        distance = np.linalg.norm(place[:, 1] - place[:, 0], axis=1)
        caught = distance < CATCH
        pursuer = np.where(caught, 1.0, TENSION * (np.exp(-distance) - 1))
        free = ~caught & (self.time.reshape(-1) > self.late)
        return Score(
            np.stack((pursuer, -pursuer), axis=1).ravel(),
            np.stack((caught, free), axis=1).ravel(),
            np.repeat(caught, 2),
        )

    def expert(self) -> NDArray[np.float32]:
        place = self.rover.position.reshape(-1, 2, 3)[:, :, :2]
        velocity = self.rover.velocity.reshape(-1, 2, 3)[:, :, :2]
        forward = self.rover.forward.reshape(-1, 2, 2)
        target = np.stack((self._chase(place, velocity), self._flee(place, velocity, forward)), 1)
        return self.rover.drive_to(target.reshape(-1, 2), stop=False, reverse=True)

    def _chase(self, place: Floats, velocity: Floats) -> Floats:
        """Where the pursuer drives: to where the evader will be when it gets there, past the side
        of what pillar is between."""
        here = place[:, 0]
        distance = np.linalg.norm(place[:, 1] - here, axis=1, keepdims=True)
        lead = np.minimum(distance / rover.TOP_SPEED, LEAD)
        target: Floats = np.clip(place[:, 1] + lead * velocity[:, 1], EDGE - HALF, HALF - EDGE)
        for k in range(self.pillars):
            gap = target - here
            length = np.linalg.norm(gap, axis=1, keepdims=True)
            ahead = gap / np.maximum(length, 1e-6)
            pillar = self.place[:, k, :2]
            along = ((pillar - here) * ahead).sum(axis=1, keepdims=True)
            aside = here + along * ahead - pillar
            off = np.linalg.norm(aside, axis=1, keepdims=True)
            keep = self.radius[:, k, None] + ROUND
            blocked = (along > 0) & (along < length) & (off < keep)
            target = np.where(blocked, pillar + aside * (keep / np.maximum(off, 1e-6)), target)
            away = here - pillar  # touching it, a rover cannot turn
            near = 1 - np.linalg.norm(away, axis=1, keepdims=True) / keep
            target = target + PUSH * np.maximum(near, 0) * away
        return target

    def _flee(self, place: Floats, velocity: Floats, forward: Floats) -> Floats:
        """Where the evader drives: the way on which a pursuer that heads for it comes least near.

        Plays the ways out for TICK × TICKS s with both as points that slide along obstacles.
        """
        pursuit, flight = rover.TOP_SPEED * TICK * np.array(SPEEDS[self.level], np.float32)
        ways = np.stack((np.cos(BEARINGS), np.sin(BEARINGS)))[:, None].astype(np.float32)
        # (2, n, 2, ways): x and y, then the players
        start = place.transpose(2, 0, 1)[..., None].astype(np.float32)
        points: NDArray[np.float32] = np.repeat(start, len(BEARINGS), axis=3)
        pace = (TICK * velocity[:, 1].T[..., None]).astype(np.float32)
        obstacles, nearest = self._obstacles(), np.float32(np.inf)
        for tick in range(TICKS):
            gap = points[:, :, 1] - points[:, :, 0]
            distance = np.sqrt(gap[0] ** 2 + gap[1] ** 2)
            nearest = np.minimum(nearest, distance)
            pace = pace + RESPONSE * (flight * ways - pace)
            points[:, :, 0] += gap * (pursuit / np.maximum(distance, pursuit))
            points[:, :, 1] += pace
            slide(points, *obstacles)
            if tick == AIM:
                aims = points[:, :, 1].copy()
        # nose or tail first, and onwards rather than back, if much the same
        turn = np.abs((ways * forward[:, 1].T[..., None]).sum(axis=0))
        onwards = (ways * velocity[:, 1].T[..., None]).sum(axis=0)
        value = nearest + 0.5 * distance + 0.1 * turn + 0.05 * onwards
        best = value.argmax(axis=1)
        return aims[:, np.arange(len(best)), best].T.astype(np.float64)

    def _obstacles(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where points may not be: middles (2, n, 1, 1, k) and radii (n, 1, 1, k) m."""
        middles = self.place[:, :, :2].transpose(2, 0, 1)[:, :, None, None]
        radii = (self.radius + ROUND)[:, None, None]
        return middles.astype(np.float32), radii.astype(np.float32)


def slide(
    points: NDArray[np.float32], middles: NDArray[np.float32], radii: NDArray[np.float32]
) -> None:
    """Move points (2, n, …, …) out of the pillars and off the walls, in place."""
    if middles.size:
        offset = points[..., None] - middles
        distance = np.sqrt(offset[0] ** 2 + offset[1] ** 2)
        offset *= np.maximum(radii / np.maximum(distance, 1e-3) - 1, 0)
        for pillar in range(middles.shape[-1]):
            points += offset[..., pillar]
    np.clip(points, EDGE - HALF, HALF - EDGE, out=points)
