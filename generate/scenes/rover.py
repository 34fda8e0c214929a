"""A small vehicle with two driven wheels on a floor: scene and batched control, for one or more.

A lane is one rover: sim × len(names) + its place among the names, as players of a match are
numbered. The last of two rovers sees the world turned by 180° about the vertical, so that one
policy plays both sides; what a rover sees in its own frame needs no turning.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..slots import ACTION_SIZE, RANGES
from ..task import Floats

TIMESTEP = 0.004  # s
SUBSTEPS = 10  # 25 Hz control
ACTIONS = 2  # forward speed and turn rate, counter-clockwise
TOP_SPEED = 1.2  # m/s at action 1
TURN_RATE = 4.0  # rad/s at action 1
CHASSIS = (0.18, 0.14, 0.04)  # m, half of each side
LENGTH = 2 * CHASSIS[0]
RADIUS = float(np.hypot(*CHASSIS[:2]))  # m, of the circle around the chassis
MASS = 3.0  # kg, chassis
WHEEL_RADIUS, WHEEL_MASS = 0.06, 0.3  # m, kg
WHEEL_SIDE = 0.115  # m from the middle: inside the chassis's outline, so walls meet flat sides
CASTER_RADIUS, CASTER_AHEAD = 0.03, 0.14  # m
CASTER_GAP = 0.002  # m over the floor: the wheels bear the weight, or they would not grip
SERVO, TORQUE = 0.15, 0.8  # N·m·s/rad, N·m: 0.05 s to follow, 27 N of thrust

NAMES = ("blue", "red")  # of the two players' rovers
RIVALS = (("blue_chassis", "red_chassis"),)
CAMERAS = ("main", "rival")
BLUE, RED = (0.1, 0.3, 0.95, 1.0), (0.95, 0.12, 0.1, 1.0)
NOSE_COLOUR = (1.0, 0.95, 0.75, 1.0)
WHEEL_COLOUR = (0.1, 0.1, 0.12, 1.0)
FLOOR_COLOUR = (0.45, 0.5, 0.56, 1.0)
WALL_COLOUR = (0.8, 0.66, 0.35, 1.0)
THINGS, GROUND = 1, 2  # collision bits: wheels and casters touch ground and nothing else

_ANGLES = np.arange(RANGES) * (2 * np.pi / RANGES)
_COSINES, _SINES = np.cos(_ANGLES), np.sin(_ANGLES)


def build() -> mujoco.MjSpec:
    """An endless floor; tasks add rovers, walls and cameras."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.worldbody.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.1], rgba=FLOOR_COLOUR,
        contype=THINGS | GROUND,
    )  # fmt: skip
    return spec


def add_cameras(
    spec: mujoco.MjSpec, height: float, back: float, fovy: float, names: Sequence[str] = ("main",)
) -> None:
    """Cameras that look at the origin from `height` m up and `back` m behind it, towards +x.

    The second, of the other player, is the first turned by 180° about the vertical.
    """
    distance = np.hypot(height, back)
    up, level = back / distance, height / distance
    for side, name in zip((1, -1), names, strict=False):
        spec.worldbody.add_camera(
            name=name, pos=[-back * side, 0, height], fovy=fovy,
            xyaxes=[0, -side, 0, level * side, 0, up],
        )  # fmt: skip


def add_wall(
    spec: mujoco.MjSpec, name: str, size: Sequence[float], pos: Sequence[float]
) -> mujoco.MjsGeom:
    """A box that stands still, half as long as `size` m to each side of `pos`."""
    return spec.worldbody.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=size, pos=pos, rgba=WALL_COLOUR
    )


def add_fence(spec: mujoco.MjSpec, length: float, width: float, height: float = 0.1) -> None:
    """Four walls around a field that reaches `length` m along x and `width` along y from 0."""
    thick = 0.05
    for side, name in ((1, "north"), (-1, "south")):
        add_wall(
            spec, name, (thick, width + 2 * thick, height), (side * (length + thick), 0, height)
        )
    for side, name in ((1, "west"), (-1, "east")):
        add_wall(spec, name, (length, thick, height), (0, side * (width + thick), height))


def add_rover(spec: mujoco.MjSpec, name: str, colour: Sequence[float] = BLUE) -> mujoco.MjsBody:
    """A rover whose model elements are called `name` and `name`_…; it faces +x."""
    box, ball = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_ELLIPSOID
    body = spec.worldbody.add_body(name=name, pos=[0, 0, WHEEL_RADIUS])
    body.add_freejoint(name=name)
    body.add_geom(
        name=f"{name}_chassis", type=box, size=CHASSIS, pos=[0, 0, 0.01], mass=MASS, rgba=colour,
        friction=[0.2, 0.005, 0.0001], priority=1,  # slides along walls instead of climbing them
    )  # fmt: skip
    body.add_geom(
        name=f"{name}_nose", type=box, size=[0.05, 0.1, 0.02], pos=[0.12, 0, 0.05],
        mass=0, rgba=NOSE_COLOUR, contype=0, conaffinity=0,
    )  # fmt: skip
    rolling = {"contype": 0, "conaffinity": GROUND}
    for ahead in (CASTER_AHEAD, -CASTER_AHEAD):
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[CASTER_RADIUS, 0, 0],
            pos=[ahead, 0, CASTER_RADIUS + CASTER_GAP - WHEEL_RADIUS],
            mass=0, group=3, condim=1, priority=1, **rolling,
        )  # fmt: skip
    for wheel, side in ((f"{name}_left", 1), (f"{name}_right", -1)):
        child = body.add_body(name=wheel, pos=[0, side * WHEEL_SIDE, 0])
        child.add_joint(name=wheel, axis=[0, 1, 0], armature=0.001, damping=0.001)
        child.add_geom(
            name=wheel, type=ball, size=[WHEEL_RADIUS, 0.024, WHEEL_RADIUS], mass=WHEEL_MASS,
            rgba=WHEEL_COLOUR, friction=[1.0, 0.005, 0.0001], priority=1, **rolling,
        )  # fmt: skip
        servo = spec.add_actuator(
            name=wheel, target=wheel, trntype=mujoco.mjtTrn.mjTRN_JOINT,
            forcelimited=True, forcerange=[-TORQUE, TORQUE],
        )  # fmt: skip
        servo.set_to_velocity(kv=SERVO)
    return body


class Rover:
    """Live views of the named rovers in every simulation, all of them by lane, and control."""

    def __init__(
        self, batch: Batch, names: Sequence[str] = ("rover",), speeds: Sequence[float] | None = None
    ) -> None:
        """`speeds` scales each rover's forward speed at action 1."""
        model = batch.model
        joints = [model.joint(name) for name in names]
        self.nsim, self.players = batch.nsim, len(names)
        self.nlane = self.nsim * self.players
        self._qadr = np.array([np.arange(7) + joint.qposadr[0] for joint in joints])
        self._dadr = np.array([np.arange(6) + joint.dofadr[0] for joint in joints])
        self._body = np.array([model.body(name).id for name in names])
        self._servos = np.array(
            [[model.actuator(f"{name}_{side}").id for side in ("left", "right")] for name in names]
        )
        self._qpos, self._qvel, self._ctrl = batch.qpos, batch.qvel, batch.ctrl
        self._xmat = batch.bind("xmat")
        top = TOP_SPEED * np.ones(self.players) if speeds is None else TOP_SPEED * np.array(speeds)
        self._top = np.tile(top, self.nsim)
        self.side = np.tile((1.0, -1.0)[: self.players], self.nsim)[:, None]
        """(nlane, 1): times x and y of the world, what the lane's player sees them as."""

    @property
    def position(self) -> Floats:
        """(nlane, 3) m, world: the middle of the axle."""
        return self._qpos[:, self._qadr[:, :3]].reshape(self.nlane, 3)

    @property
    def rotation(self) -> Floats:
        """(nlane, 3, 3), own frame to world."""
        return self._xmat[:, self._body].reshape(self.nlane, 3, 3)

    @property
    def forward(self) -> Floats:
        """(nlane, 2) world direction of the nose; of length 1 while the rover stands level."""
        return self.rotation[:, :2, 0]

    @property
    def velocity(self) -> Floats:
        """(nlane, 3) m/s, world."""
        return self._qvel[:, self._dadr[:, :3]].reshape(self.nlane, 3)

    @property
    def spin(self) -> Floats:
        """(nlane, 3) rad/s, own frame."""
        return self._qvel[:, self._dadr[:, 3:]].reshape(self.nlane, 3)

    def swap(self, values: Floats) -> Floats:
        """(nlane, …) of the other player instead of one's own."""
        shape = values.shape
        return values.reshape(self.nsim, self.players, *shape[1:])[:, ::-1].reshape(shape)

    def own_frame(self, vectors: Floats) -> Floats:
        """World vectors (nlane, 3) in the rovers' frames."""
        local: Floats = np.matmul(vectors[:, None], self.rotation)[:, 0]
        return local

    def own_side(self, points: Floats) -> Floats:
        """World points (nlane, 3) as the lanes' players see them: turned for the second."""
        seen = points.copy()
        seen[:, :2] *= self.side
        return seen

    def reset(
        self, sim: int, places: Sequence[Sequence[float] | Floats] | Floats,
        headings: Sequence[float] | Floats,
        ground: float = 0.0,
    ) -> None:  # fmt: skip
        """Put one simulation's rovers at rest at (x, y) m, facing so many rad from +x."""
        for qadr, (x, y), heading in zip(self._qadr, places, headings, strict=True):
            turn = np.cos(heading / 2), 0.0, 0.0, np.sin(heading / 2)
            self._qpos[sim, qadr] = (x, y, ground + WHEEL_RADIUS, *turn)

    def apply(self, action: NDArray[np.float32]) -> None:
        """Forward speed and turn rate, each in [-1, 1], as targets of the wheels' speeds."""
        forward = action[:, 0] * self._top
        turn = action[:, 1] * (TURN_RATE * WHEEL_SIDE)
        wheels = np.stack((forward - turn, forward + turn), axis=1) / WHEEL_RADIUS
        self._ctrl[:, self._servos] = wheels.reshape(self.nsim, self.players, 2)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        """Fill the body's slots and, with two players, the opponent's: from the own side, and
        velocities and `to_opponent` in the own frame."""
        position, rotation = self.position, self.rotation
        seen, turned = self.own_side(position), rotation.copy()
        turned[:, :2] *= self.side[:, :, None]
        pose = turned[:, :, :2].reshape(-1, 6)
        velocity = self.velocity
        slots["body_position"][:] = seen
        slots["body_rotation"][:] = pose
        slots["body_velocity"][:] = np.matmul(velocity[:, None], rotation)[:, 0]
        slots["body_spin"][:] = self.spin
        if self.players == 2:
            slots["opponent_position"][:] = self.swap(seen) * (-1, -1, 1)
            slots["opponent_rotation"][:] = self.swap(pose) * (-1, -1, -1, -1, 1, 1)
            slots["opponent_velocity"][:] = self.own_frame(self.swap(velocity))
            slots["to_opponent"][:] = self.own_frame(self.swap(position) - position)

    def drive_to(
        self, target: Floats, speed: Floats | float = 1.0, *, stop: bool = True,
        reverse: bool = False,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Actions (nlane, ACTION_SIZE) that drive to world points (nlane, 2), turning on the way.

        `speed` (a number or (nlane,)) is the forward action on a straight course; it falls near
        the target if `stop`. With `reverse` a target behind is driven to backwards.
        """
        gap = target - self.position[:, :2]
        forward = self.forward
        ahead = (gap * forward).sum(axis=1)
        aside = forward[:, 0] * gap[:, 1] - forward[:, 1] * gap[:, 0]
        distance = np.sqrt(ahead**2 + aside**2)
        cosine = ahead / np.maximum(distance, 1e-6)
        sine = aside / np.maximum(distance, 1e-6)
        way = np.where(cosine < 0, -1.0, 1.0) if reverse else 1.0
        cosine, sine = cosine * way, sine * way
        # a target behind is turned to at full rate; ahead, the sine is the angle well enough
        turn = np.where(cosine > 0, np.clip(2.5 * sine, -1, 1), np.where(sine < 0, -1.0, 1.0))
        pace = np.maximum(cosine, 0.0) ** 3 * speed * way
        if stop:
            near = np.minimum(distance / 0.3, 1.0)
            pace, turn = pace * near, turn * near
        action = np.zeros((self.nlane, ACTION_SIZE), np.float32)
        action[:, 0], action[:, 1] = pace, turn
        return action

    def ranges(self, centres: Floats, halves: Floats, most: float) -> Floats:
        """Distances (nlane, RANGES) m from the axle to upright boxes, `most` where none is nearer.

        Counter-clockwise from straight ahead. The boxes stand along the axes: centres and half
        sides (nlane, k, 2) m, or (1, k, 2) if the same for all.

        By slabs (Kay & Kajiya 1986): a ray is in a box while it is between both pairs of sides.
        """
        rays = self._rays()
        inverse = 1 / np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays)
        middle = self._gaps(centres) * inverse
        reach = np.moveaxis(halves.astype(np.float32), 2, 0)[:, :, None] * np.abs(inverse)
        enter, leave = (middle - reach).max(axis=0), (middle + reach).min(axis=0)
        return _nearest(enter, (enter < leave) & (leave > 0), most)

    def ranges_round(self, centres: Floats, radii: Floats, most: float) -> Floats:
        """As `ranges`, to upright pillars: centres (nlane, k, 2) m and radii (nlane, k) m."""
        rays, gaps = self._rays(), self._gaps(centres)
        along = (rays * gaps).sum(axis=0)
        inside = radii.astype(np.float32)[:, None] ** 2 - ((gaps - along * rays) ** 2).sum(axis=0)
        enter = along - np.sqrt(np.maximum(inside, 0))
        return _nearest(enter, (inside > 0) & (along > 0), most)

    def _rays(self) -> NDArray[np.float32]:
        """(2, nlane, RANGES, 1) world directions of the range finder."""
        cosine, sine = self.forward.T[:, :, None]
        rays = np.stack((cosine * _COSINES - sine * _SINES, sine * _COSINES + cosine * _SINES))
        return rays.astype(np.float32)[..., None]

    def _gaps(self, points: Floats) -> NDArray[np.float32]:
        """(2, nlane, 1, k) from the axle to points (nlane, k, 2), or (1, k, 2)."""
        gaps = points - self.position[:, None, :2]
        return np.moveaxis(gaps.astype(np.float32), 2, 0)[:, :, None]


def _nearest(distance: NDArray[np.float32], hit: NDArray[np.bool_], most: float) -> Floats:
    """(nlane, RANGES) least of the distances (nlane, RANGES, k) of what is hit."""
    found: Floats = np.where(hit, np.maximum(distance, 0), np.float32(most)).min(axis=2)
    return np.minimum(found, most)
