"""Draws MuJoCo's primitives as the cameras of a batch see them, on the CPU, with numba.

Per simulation: paint the sky; then per geom, find the pixels that its bounding box can touch,
intersect their rays with it, and keep the nearest hit with its colour. The `_hit_*` functions hold
all the geometry; they have no branches, so LLVM turns a sweep over a row into vector instructions.

Frames depend on nothing but their inputs, to the last bit, on any x86-64 CPU: the kernel uses
+ - * / sqrt and floor in IEEE single precision, in the order written. No fastmath flag is set,
because `contract` and `reassoc` round differently with FMA and with the vector width, and `arcp`
and `afn` allow estimate instructions, which differ between makers. Full fastmath draws 85 000
frames/s where this draws 69 000; the flags that keep the bits (`nnan`, `ninf`, `nsz`) gain nothing,
and would make the NaN of a diverged simulation undefined behaviour.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any, NamedTuple, TypeVar, cast

import mujoco
import mujoco.batch
import numba
import numpy as np
from numpy.typing import NDArray

from ..shards.errors import ConfigError

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Vec = tuple[float, float, float]
Window = tuple[int, int, int, int]  # first and past-last row, first and past-last column
F = TypeVar("F", bound=Callable[..., Any])

PLANE, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX = PRIMITIVES = (0, 2, 3, 4, 5, 6)  # mjtGeom
FIRST_HIDDEN_GROUP = 3  # MuJoCo shows groups 0 to 2 by default
UNSET_RGBA = (0.5, 0.5, 0.5, 1.0)  # MuJoCo's default: a geom so coloured shows its material

f32 = cast(Callable[[float], float], np.float32)  # a Python literal would make numba use doubles
ZERO, HALF, ONE = f32(0.0), f32(0.5), f32(1.0)
FAR = f32(1e9)  # depth of the sky
TINY = f32(1e-9)  # keeps divisors away from zero

SUN = (f32(0.36), f32(-0.48), f32(0.8))  # world direction towards the light, of length 1
AMBIENT, DIFFUSE = f32(0.64), f32(0.36)  # brightness is AMBIENT + DIFFUSE * cosine to the sun
TILES_PER_METRE = f32(4.0)
TILE_CONTRAST = f32(0.6)  # by how much the cosine of dark floor tiles is lowered
HORIZON = (f32(0.84), f32(0.90), f32(0.97))
ZENITH = (f32(0.32), f32(0.53), f32(0.82))


class UnsupportedGeomError(ConfigError):
    """The model shows a geom that is not one of MuJoCo's six primitives."""


class Scene(NamedTuple):
    """What is drawn: n simulations of g geoms."""

    kinds: Ints  # (g,) mjtGeom
    sizes: Floats  # (n, g, 3)
    colours: Floats  # (n, g, 4)
    offsets: Floats  # (n, g, 3) world vector from the camera to the geom
    rotations: Floats  # (n, g, 9) geom to world, by rows
    cameras: Floats  # (n, 9) camera to world, by rows; it looks along its -z
    grids: Floats  # (n, size) pixel centres on the image plane at distance 1


class Tile(NamedTuple):
    """One frame in progress; `paint` holds 0xBBGGRR, `owner` the geom's place in the scene."""

    depth: Floats
    paint: Ints
    owner: Ints


class Geom(NamedTuple):
    """One geom and, in its frame, the camera and the sun."""

    size: Vec
    eye: Vec
    right: Vec
    up: Vec
    back: Vec
    sun: Vec
    pixel: float  # width of a pixel at distance 1


def _jit(function: F) -> F:
    """Compile as part of the callers: only then are per-geom constants hoisted out of loops."""
    return cast(F, numba.njit(error_model="numpy", forceinline=True)(function))


@_jit
def _dot(a: Vec, b: Vec) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@_jit
def _along(a: Vec, t: float, b: Vec) -> Vec:
    return a[0] + t * b[0], a[1] + t * b[1], a[2] + t * b[2]


@_jit
def _scaled(a: Vec, b: Vec) -> Vec:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


@_jit
def _inverse(x: float) -> float:
    return ONE / (x if abs(x) > TINY else (TINY if x >= ZERO else -TINY))


# Each _hit_ function takes a ray (from the geom's `eye` along d) and returns where it enters the
# geom, as a multiple of d (FAR if it misses, negative if behind), and the cosine to the sun there.


@_jit
def _hit_plane(geom: Geom, d: Vec) -> tuple[float, float]:
    slope = _inverse(d[2])
    t = -geom.eye[2] * slope
    x, y, _ = _along(geom.eye, t, d)
    in_x = (abs(x) <= geom.size[0]) | (geom.size[0] <= TINY)
    in_y = (abs(y) <= geom.size[1]) | (geom.size[1] <= TINY)
    tile = HALF * (np.floor(x * TILES_PER_METRE) + np.floor(y * TILES_PER_METRE))
    # tiles fade out as a pixel comes to cover one, lest they flicker
    fade = max(ONE + t * slope * geom.pixel * TILES_PER_METRE, ZERO)
    dark = HALF * TILE_CONTRAST * (ONE + (f32(4.0) * (tile - np.floor(tile)) - ONE) * fade)
    return (t if (d[2] < ZERO) & in_x & in_y else FAR), geom.sun[2] - dark


@_jit
def _hit_ball(eye: Vec, d: Vec, radius: float, sun: Vec) -> tuple[float, float]:
    # measured from the ray's point nearest to the centre, single precision suffices at any range
    shrink = ONE / _dot(d, d)
    middle = -_dot(eye, d) * shrink
    p = _along(eye, middle, d)
    inside = radius * radius - _dot(p, p)
    half = sqrt(max(inside, ZERO) * shrink)
    return (middle - half if inside >= ZERO else FAR), _dot(_along(p, -half, d), sun) / radius


@_jit
def _hit_ellipsoid(geom: Geom, d: Vec) -> tuple[float, float]:
    unit = (ONE / geom.size[0], ONE / geom.size[1], ONE / geom.size[2])
    eye, towards = _scaled(geom.eye, unit), _scaled(d, unit)
    t, _ = _hit_ball(eye, towards, ONE, geom.sun)
    normal = _scaled(_along(eye, t, towards), unit)
    return t, _dot(normal, geom.sun) / sqrt(_dot(normal, normal))


@_jit
def _hit_tube(geom: Geom, d: Vec) -> tuple[float, float, float]:
    """Enter and leave the endless cylinder; the last is negative for a miss."""
    shrink = ONE / max(d[0] * d[0] + d[1] * d[1], TINY)
    middle = -(geom.eye[0] * d[0] + geom.eye[1] * d[1]) * shrink
    x, y, _ = _along(geom.eye, middle, d)
    inside = geom.size[0] * geom.size[0] - (x * x + y * y)
    half = sqrt(max(inside, ZERO) * shrink)
    return middle - half, middle + half, inside


@_jit
def _hit_capsule(geom: Geom, d: Vec) -> tuple[float, float]:
    # the ball around the axis point level with the tube's entry touches the tube right there
    t, _, _ = _hit_tube(geom, d)
    level = min(max(geom.eye[2] + t * d[2], -geom.size[1]), geom.size[1])
    eye = (geom.eye[0], geom.eye[1], geom.eye[2] - level)
    return _hit_ball(eye, d, geom.size[0], geom.sun)


@_jit
def _hit_cylinder(geom: Geom, d: Vec) -> tuple[float, float]:
    side, leave, inside = _hit_tube(geom, d)
    slope = _inverse(d[2])
    middle, half = -geom.eye[2] * slope, geom.size[1] * abs(slope)
    t = max(side, middle - half)
    x, y, _ = _along(geom.eye, t, d)
    radial = (x * geom.sun[0] + y * geom.sun[1]) / geom.size[0]
    axial = -geom.sun[2] if d[2] > ZERO else geom.sun[2]
    hit = (inside >= ZERO) & (t <= leave) & (t <= middle + half)
    return (t if hit else FAR), (radial if t == side else axial)


@_jit
def _hit_box(geom: Geom, d: Vec) -> tuple[float, float]:
    slope = (_inverse(d[0]), _inverse(d[1]), _inverse(d[2]))
    middle = _scaled(geom.eye, slope)
    half = _scaled(geom.size, (abs(slope[0]), abs(slope[1]), abs(slope[2])))
    x, y, z = -middle[0] - half[0], -middle[1] - half[1], -middle[2] - half[2]
    t = max(max(x, y), z)
    leave = min(min(half[0] - middle[0], half[1] - middle[1]), half[2] - middle[2])
    facing = slope[0] if x == t else (slope[1] if y == t else slope[2])
    normal = geom.sun[0] if x == t else (geom.sun[1] if y == t else geom.sun[2])
    return (t if t <= leave else FAR), (-normal if facing > ZERO else normal)


@_jit
def _pack(colour: Vec, brightness: float) -> np.int32:
    scale = f32(255.0) * brightness
    red = np.int32(colour[0] * scale + HALF)
    green = np.int32(colour[1] * scale + HALF)
    blue = np.int32(colour[2] * scale + HALF)
    return np.int32(red | (green << 8) | (blue << 16))


@_jit
def _sweep(
    kind: int, geom: Geom, g: int, colour: Vec, window: Window, grid: Floats, tile: Tile
) -> None:
    """Draw the part of the scene's g-th geom that lies in the window."""
    top, bottom, left, right = window
    columns = grid[left:right]
    for i in range(top, bottom):
        depth, paint = tile.depth[i, left:right], tile.paint[i, left:right]
        owner = tile.owner[i, left:right]
        start = _along((-geom.back[0], -geom.back[1], -geom.back[2]), -grid[i], geom.up)
        for j in range(right - left):
            d = _along(start, columns[j], geom.right)
            if kind == PLANE:
                t, cosine = _hit_plane(geom, d)
            elif kind == SPHERE:
                t, cosine = _hit_ball(geom.eye, d, geom.size[0], geom.sun)
            elif kind == CAPSULE:
                t, cosine = _hit_capsule(geom, d)
            elif kind == ELLIPSOID:
                t, cosine = _hit_ellipsoid(geom, d)
            elif kind == CYLINDER:
                t, cosine = _hit_cylinder(geom, d)
            else:
                t, cosine = _hit_box(geom, d)
            nearer = (t > ZERO) & (t < depth[j])
            depth[j] = t if nearer else depth[j]
            paint[j] = _pack(colour, AMBIENT + DIFFUSE * cosine) if nearer else paint[j]
            owner[j] = np.int32(g) if nearer else owner[j]


@_jit
def _half_width(kind: int, size: Vec, axis: Vec) -> float:
    """Half the width of a geom along a unit vector in its frame."""
    x, y, z = abs(axis[0]), abs(axis[1]), abs(axis[2])
    if kind == SPHERE:
        return size[0]
    if kind == CAPSULE:
        return size[0] + z * size[1]
    if kind == CYLINDER:
        return sqrt(x * x + y * y) * size[0] + z * size[1]
    x, y, z = _scaled((x, y, z), size)
    return x + y + z if kind == BOX else sqrt(x * x + y * y + z * z)


@_jit
def _span(centre: float, half: float, near: float, far: float, grid: Floats) -> tuple[int, int]:
    """First and past-last pixel that can see [centre - half, centre + half] from near to far."""
    low, high = centre - half, centre + half
    low = low / (near if low < ZERO else far)
    high = high / (near if high > ZERO else far)
    n, first, per_unit = len(grid), grid[0], ONE / (grid[1] - grid[0])
    start = min(max((low - first) * per_unit, ZERO), f32(n))
    stop = min(max((high - first) * per_unit + ONE, ZERO), f32(n))
    return int(start), int(stop)


@_jit
def _window(kind: int, geom: Geom, grid: Floats) -> Window:
    """The pixels that can see a geom; none if it is behind the camera or not finite."""
    n = len(grid)
    if kind == PLANE:
        return (0, n, 0, n) if geom.eye[2] > ZERO else (0, 0, 0, 0)
    distance, half = _dot(geom.eye, geom.back), _half_width(kind, geom.size, geom.back)
    near, far = distance - half, distance + half
    if not ZERO < far < FAR:
        return 0, 0, 0, 0
    if near <= TINY:
        return 0, n, 0, n
    half = _half_width(kind, geom.size, geom.up)
    top, bottom = _span(_dot(geom.eye, geom.up), half, near, far, grid)
    half = _half_width(kind, geom.size, geom.right)
    left, right = _span(-_dot(geom.eye, geom.right), half, near, far, grid)
    return top, bottom, left, right


@_jit
def _turned(rotation: Floats, x: float, y: float, z: float) -> Vec:
    """A world vector in the rotation's frame."""
    return (
        rotation[0] * x + rotation[3] * y + rotation[6] * z,
        rotation[1] * x + rotation[4] * y + rotation[7] * z,
        rotation[2] * x + rotation[5] * y + rotation[8] * z,
    )


@_jit
def _draw_sky(camera: Floats, grid: Floats, tile: Tile) -> None:
    span = _along(ZENITH, -ONE, HORIZON)
    for i in range(len(grid)):
        depth, paint = tile.depth[i], tile.paint[i]
        for j in range(len(grid)):
            rise = camera[6] * grid[j] - camera[7] * grid[i] - camera[8] + f32(0.2)
            depth[j] = FAR
            paint[j] = _pack(_along(HORIZON, min(max(rise, ZERO), ONE), span), ONE)


@_jit
def _draw(scene: Scene, k: int, tile: Tile) -> None:
    """Draw the scene's k-th simulation."""
    camera, grid = scene.cameras[k], scene.grids[k]
    _draw_sky(camera, grid, tile)
    for g in range(len(scene.kinds)):
        kind, rotation, offset = scene.kinds[g], scene.rotations[k, g], scene.offsets[k, g]
        size, rgba = scene.sizes[k, g], scene.colours[k, g]
        geom = Geom(
            size=(max(size[0], TINY), max(size[1], TINY), max(size[2], TINY)),
            eye=_turned(rotation, -offset[0], -offset[1], -offset[2]),
            right=_turned(rotation, camera[0], camera[3], camera[6]),
            up=_turned(rotation, camera[1], camera[4], camera[7]),
            back=_turned(rotation, camera[2], camera[5], camera[8]),
            sun=_turned(rotation, SUN[0], SUN[1], SUN[2]),
            pixel=grid[1] - grid[0],
        )
        window = _window(kind, geom, grid)
        if rgba[3] == ZERO or window[0] >= window[1] or window[2] >= window[3]:
            continue
        colour = (rgba[0], rgba[1], rgba[2])
        # each literal kind makes a sweep of its own, without a choice per pixel
        if kind == PLANE:
            _sweep(PLANE, geom, g, colour, window, grid, tile)
        elif kind == SPHERE:
            _sweep(SPHERE, geom, g, colour, window, grid, tile)
        elif kind == CAPSULE:
            _sweep(CAPSULE, geom, g, colour, window, grid, tile)
        elif kind == ELLIPSOID:
            _sweep(ELLIPSOID, geom, g, colour, window, grid, tile)
        elif kind == CYLINDER:
            _sweep(CYLINDER, geom, g, colour, window, grid, tile)
        elif kind == BOX:
            _sweep(BOX, geom, g, colour, window, grid, tile)


@numba.njit(error_model="numpy", nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _render(scene: Scene, ids: Ints, out: NDArray[np.uint8], depth: Floats, owner: Ints) -> None:
    """Draw into the rows ids of out, (nsim, 3 size²), and into depth and owner (1 or n, size²)."""
    n = scene.grids.shape[1]
    paint = np.empty((n, n), np.int32)
    pixels = paint.reshape(n * n)
    for k in range(len(ids)):
        _draw(scene, k, Tile(depth[k % len(depth)], paint, owner[k % len(depth)]))
        row = out[ids[k]]
        for p in range(n * n):
            row[3 * p] = np.uint8(pixels[p])
            row[3 * p + 1] = np.uint8(pixels[p] >> 8)
            row[3 * p + 2] = np.uint8(pixels[p] >> 16)


@functools.cache
def compile() -> None:
    """Compile, or load what an earlier process compiled: call it before workers start.

    It takes 5 s, or 0.1 s when cached: beside this file or, if that is read-only, in the user's
    cache directory; the variable NUMBA_CACHE_DIR names another.
    """
    floats = numba.float32
    scene = [numba.int32[::1], *[floats[:, :, ::1]] * 4, *[floats[:, ::1]] * 2]
    planes = floats[:, :, ::1], numba.int32[:, :, ::1]
    scene_type = numba.types.NamedTuple(scene, Scene)
    # the only signature, lest an out of another layout start a compilation in mid-rollout
    _render.compile((scene_type, numba.int32[::1], numba.uint8[:, :], *planes))
    _render.disable_compile()


class Rasterizer:
    """Draws the geoms of groups 0 to 2 as one camera of every simulation of a batch sees them.

    Poses come from the batch's bound fields, so call `forward`, or `step` with stage=mjSTAGE_VEL,
    between constructing this and drawing: a field bound after that call reads zero. Sizes, colours
    and the field of view are read at every call, per simulation where the batch has expanded them.
    A geom shows its material's colour unless its own is set, as in MuJoCo; textures, lights and
    translucency are ignored, and alpha 0 is not drawn. Surfaces are seen from outside only, also as
    in MuJoCo's renderer (but not in `mj_ray`): a camera inside a geom looks out of it.
    """

    def __init__(
        self, batch: mujoco.batch.Batch, camera: str, size: int = 64,
        exchanged: Sequence[tuple[str, str]] = (),
    ) -> None:  # fmt: skip
        """Geoms paired in `exchanged` are drawn in each other's colours.

        Raises UnsupportedGeomError or ConfigError, and KeyError for an unknown camera or geom.
        """
        assert batch.models is None, "models given by set_models are not read"
        model = batch.model
        self._batch, self._size = batch, size
        self._camera = model.camera(camera).id
        self._geoms = np.flatnonzero(model.geom_group < FIRST_HIDDEN_GROUP).astype(np.int32)
        self._kinds = model.geom_type[self._geoms].astype(np.int32)
        self._dressed = self._geoms.copy()  # whose colour each geom wears
        for first, second in exchanged:
            pair = [model.geom(first).id, model.geom(second).id]
            self._dressed[np.searchsorted(self._geoms, pair)] = pair[::-1]
        self._materials = model.geom_matid[self._dressed]
        self._grid = (2 * np.arange(size) + 1) / size - 1
        self._scratch = np.empty((1, size, size), np.float32), np.empty((1, size, size), np.int32)
        self._check(model)
        self._geom_xpos, self._geom_xmat = batch.bind("geom_xpos"), batch.bind("geom_xmat")
        self._cam_xpos, self._cam_xmat = batch.bind("cam_xpos"), batch.bind("cam_xmat")
        compile()

    def render(self, out: NDArray[np.uint8], ids: Ints | None = None) -> None:
        """Draw the simulations ids (default: all) into their rows of out.

        out: (nsim, size, size, 3), each row contiguous, e.g. frames[:, t].
        """
        assert out.shape == (self._batch.nsim, self._size, self._size, 3), out.shape
        assert out.dtype == np.uint8 and out[0].flags.c_contiguous, "rows are not contiguous"
        ids = self._ids(ids)
        _render(self._scene(ids), ids, out.reshape(len(out), -1), *self._scratch)

    def depth_and_geom(self, ids: Ints | None = None) -> tuple[Floats, Ints]:
        """Depth along the camera's axis (m; inf: nothing hit) and geom id (-1), (n, size, size).

        The depth is that of MuJoCo's renderer, and what `mj_ray` returns for rays whose component
        along the axis is 1.
        """
        ids = self._ids(ids)
        depth = np.empty((len(ids), self._size, self._size), np.float32)
        owner = np.full(depth.shape, -1, np.int32)
        out = np.empty((self._batch.nsim, 3 * self._size**2), np.uint8)
        _render(self._scene(ids), ids, out, depth, owner)
        geom = np.append(self._geoms, np.int32(-1))[owner]
        return np.where(geom < 0, np.float32(np.inf), depth), geom

    def _check(self, model: mujoco.MjModel) -> None:
        for geom, kind in zip(self._geoms, self._kinds, strict=True):
            if kind not in PRIMITIVES:
                found = mujoco.mjtGeom(kind).name.removeprefix("mjGEOM_").lower()
                name = model.geom(geom).name or f"number {geom}"
                raise UnsupportedGeomError(
                    f"geom {name!r} is a {found}; the rasteriser draws planes, spheres, capsules, "
                    "ellipsoids, cylinders and boxes (hide it in group 3, or render with EGL)"
                )
        orthographic = model.cam_projection[self._camera] != mujoco.mjtProjection.mjPROJ_PERSPECTIVE
        if orthographic or model.cam_sensorsize[self._camera].any():
            raise ConfigError(
                f"camera {model.camera(self._camera).name!r} is orthographic or has a sensor size; "
                "the rasteriser draws perspective cameras given by their fovy"
            )

    def _ids(self, ids: Ints | None) -> Ints:
        if ids is None:
            return np.arange(self._batch.nsim, dtype=np.int32)
        return np.ascontiguousarray(ids, np.int32)

    def _values(self, name: str, ids: Ints) -> NDArray[np.floating[Any]]:
        """A model field's values for ids, (n, ...)."""
        own = self._batch.expanded(name)
        if own is None:
            shared = getattr(self._batch.model, name)
            return np.broadcast_to(shared, (len(ids), *shared.shape))
        return cast(NDArray[np.floating[Any]], own[ids])

    def _colours(self, ids: Ints) -> NDArray[np.floating[Any]]:
        rgba = self._values("geom_rgba", ids)[:, self._dressed]
        if (self._materials < 0).all():
            return rgba
        shows = (self._materials >= 0) & (rgba == np.array(UNSET_RGBA)).all(-1)
        material = self._values("mat_rgba", ids)[:, self._materials]
        return np.where(shows[..., None], material, rgba)

    def _scene(self, ids: Ints) -> Scene:
        """Gather the kernel's inputs by exact operations only: NumPy's sums may use FMA.

        (The tangent is not exact, but rounding to single precision drops the bits in doubt.)
        """
        eye = self._cam_xpos[ids, self._camera]
        tangent = np.tan(np.deg2rad(self._values("cam_fovy", ids)[:, self._camera] / 2))
        fields = (
            self._values("geom_size", ids)[:, self._geoms],
            np.clip(self._colours(ids), 0, 1),
            self._geom_xpos[ids][:, self._geoms] - eye[:, None],
            self._geom_xmat[ids][:, self._geoms],
            self._cam_xmat[ids, self._camera],
            self._grid * tangent[:, None],
        )
        return Scene(self._kinds, *(np.ascontiguousarray(field, np.float32) for field in fields))
