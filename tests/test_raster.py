"""The rasteriser against MuJoCo's own rays: same surfaces, same normals, every primitive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mujoco
import mujoco.batch
import numpy as np
import pytest
from numpy.typing import NDArray
from palaestra.generate.raster import AMBIENT, DIFFUSE, SUN, Rasterizer, UnsupportedGeomError
from palaestra.shards.errors import ConfigError

SIZE = 48
NSIM = 6
KINDS = ("sphere", "capsule", "ellipsoid", "cylinder", "box")
SCENE = """<mujoco><option><flag autoreset="disable"/></option><worldbody>{static}
<body name="eye" mocap="true"><camera name="eye" fovy="50"/></body>{bodies}</worldbody></mujoco>"""
FLOOR = '<geom name="floor" type="plane" size="0 0 1" rgba=".6 .5 .4 1"/>'
WALL = '<geom name="wall" type="plane" size=".7 .4 1" pos="0 1 .5" euler="70 20 0"/>'


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def movable(kind: str, rng: np.random.Generator, attributes: str = 'rgba="1 1 1 1"') -> str:
    size = " ".join(f"{x:.4f}" for x in rng.uniform(0.05, 0.35, 3))
    return f'<body><freejoint/><geom type="{kind}" size="{size}" {attributes}/></body>'


def make_batch(
    bodies: list[str], rng: np.random.Generator, static: str = FLOOR, nsim: int = NSIM
) -> mujoco.batch.Batch:
    """A batch of the bodies in random poses above the floor, watched from random sides."""
    xml = SCENE.format(static=static, bodies="".join(bodies))
    batch = mujoco.batch.Batch(mujoco.MjModel.from_xml_string(xml), nsim=nsim, nthread=1)
    poses = batch.bind("qpos").reshape(nsim, -1, 7)
    poses[..., :3] = rng.uniform((-0.8, -0.8, 0.3), (0.8, 0.8, 1.0), (*poses.shape[:2], 3))
    poses[..., 3:] = rng.normal(size=(*poses.shape[:2], 4))
    for n in range(nsim):
        angle = rng.uniform(0, 2 * np.pi)
        place_camera(batch, n, (3 * np.cos(angle), 3 * np.sin(angle), rng.uniform(0.6, 2.5)))
    return batch


def make_raster(batch: mujoco.batch.Batch) -> Rasterizer:
    raster = Rasterizer(batch, "eye", SIZE)
    batch.forward()
    return raster


def place_camera(batch: mujoco.batch.Batch, n: int, position: tuple[float, float, float]) -> None:
    """Put simulation n's camera there, looking at (0, 0, 0.4)."""
    back = np.array(position) - (0, 0, 0.4)
    back /= np.linalg.norm(back)
    right = np.cross((0, 0, 1), back)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(back, right), back], axis=1)
    batch.bind("mocap_pos")[n] = position
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    batch.bind("mocap_quat")[n] = quaternion


def cast_rays(
    batch: mujoco.batch.Batch, fovy: float = 50
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.float64]]:
    """Depth (inf where nothing is hit), geom and normal of every pixel, by MuJoCo."""
    plane = ((2 * np.arange(SIZE) + 1) / SIZE - 1) * np.tan(np.deg2rad(fovy / 2))
    x, y = np.meshgrid(plane, -plane)
    rays = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
    eyes, rotations = batch.bind("cam_xpos"), batch.bind("cam_xmat")
    batch.forward()
    rays = (rotations.reshape(-1, 1, 3, 3) @ rays[..., None])[..., 0]
    eyes = np.broadcast_to(eyes, rays.shape)
    depth, geom, normal = batch.ray(eyes, rays, normal=True)
    shape = (batch.nsim, SIZE, SIZE)
    depth = np.where(depth < 0, np.inf, depth)
    return depth.reshape(shape), geom.reshape(shape), normal.reshape(*shape, 3)


def assert_agrees(batch: mujoco.batch.Batch) -> None:
    depth, geom = make_raster(batch).depth_and_geom()
    expected_depth, expected_geom, _ = cast_rays(batch)
    assert np.mean(geom == expected_geom) >= 0.995
    assert np.mean(np.isclose(depth, expected_depth, rtol=1e-4)) >= 0.995
    assert len(np.unique(geom)) >= 3  # floor, sky and something else: the test sees something


def draw(batch: mujoco.batch.Batch, ids: list[int] | None = None) -> NDArray[np.uint8]:
    out = np.zeros((batch.nsim, SIZE, SIZE, 3), np.uint8)
    indices = None if ids is None else np.array(ids, np.int32)
    make_raster(batch).render(out, indices)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_primitive_agrees_with_rays(kind: str, seed: int) -> None:
    rng = generator(seed)
    assert_agrees(make_batch([movable(kind, rng) for _ in range(4)], rng))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bounded_and_tilted_planes_agree_with_rays(seed: int) -> None:
    rng = generator(seed)
    assert_agrees(make_batch([movable("box", rng)], rng, static=FLOOR + WALL, nsim=12))


def test_mixed_scene_agrees_with_rays() -> None:
    rng = generator(5)
    assert_agrees(make_batch([movable(k, rng) for k in 2 * KINDS], rng, static=FLOOR + WALL))


@pytest.mark.parametrize("kind", KINDS)
def test_brightness_follows_the_surface_normal(kind: str) -> None:
    rng = generator(3)
    batch = make_batch([movable(kind, rng) for _ in range(4)], rng)
    _, geom, normal = cast_rays(batch)
    expected = 255 * (AMBIENT + DIFFUSE * (normal @ np.array(SUN, np.float64)))
    red = draw(batch)[..., 0]
    assert np.mean(np.abs(red - expected)[geom > 0] <= 1.5) >= 0.99


def test_expanded_fields_are_read_per_simulation() -> None:
    rng = generator(7)
    batch = make_batch([movable("sphere", rng)], rng)
    size, bound, rgba = (batch.expand(f"geom_{x}") for x in ("size", "rbound", "rgba"))
    size[:, 1, 0] = bound[:, 1] = rng.uniform(0.1, 0.5, NSIM)
    rgba[:, 1, :3] = rng.uniform(0.2, 1.0, (NSIM, 3))
    rgba[0, 1, 3] = 0
    batch.set_const()
    assert_agrees(batch)

    out = draw(batch)
    _, geom = make_raster(batch).depth_and_geom()
    assert not (geom[0] == 1).any()
    for n in range(1, NSIM):
        colour = out[n][geom[n] == 1].max(0).astype(float)
        np.testing.assert_allclose(
            colour / colour.max(), rgba[n, 1, :3] / rgba[n, 1, :3].max(), atol=0.02
        )


def test_field_of_view_is_read_per_simulation() -> None:
    rng = generator(8)
    batch = make_batch([movable("box", rng)], rng, nsim=2)
    batch.expand("cam_fovy")[:] = [[50], [80]]
    batch.set_const()
    depth, _ = make_raster(batch).depth_and_geom()
    for n, fovy in enumerate((50, 80)):
        expected = cast_rays(batch, fovy)[0][n]
        assert np.mean(np.isclose(depth[n], expected, rtol=1e-4)) >= 0.995


def test_materials_hidden_groups_and_alpha() -> None:
    asset = '<asset><material name="red" rgba="1 0 0 1"/></asset>'
    geoms = (
        '<geom type="sphere" size=".5" material="red"/>',
        '<geom type="sphere" size=".5" material="red" rgba="0 1 0 1"/>',
        '<geom type="sphere" size=".5" group="3"/>',
        '<geom type="sphere" size=".5" rgba="1 1 1 0"/>',
    )
    centres = []
    for geom in geoms:
        xml = (
            f'<mujoco>{asset}<worldbody>{geom}<camera name="eye" pos="0 0 2"/></worldbody></mujoco>'
        )
        batch = mujoco.batch.Batch(mujoco.MjModel.from_xml_string(xml), nsim=1, nthread=1)
        centres.append(draw(batch)[0, SIZE // 2, SIZE // 2])
    red, green, hidden, clear = (pixel.astype(int) for pixel in centres)
    assert red[0] > 100 and red[1] == red[2] == 0
    assert green[1] > 100 and green[0] == green[2] == 0
    assert (hidden == clear).all() and hidden[2] > hidden[0]  # the sky


@pytest.mark.parametrize("kind", KINDS)
def test_a_camera_inside_a_geom_looks_out_of_it(kind: str) -> None:
    rng = generator(9)
    batch = make_batch([movable(kind, rng)], rng)
    for n, offset in enumerate((0.0, 1e-12, 1e-9, 1e-6, 1e-3, 0.02)):
        batch.bind("qpos")[n, :3] = batch.bind("mocap_pos")[n] + (offset, 0, 0)
    _, geom = make_raster(batch).depth_and_geom()
    assert set(np.unique(geom)) == {-1, 0}


def test_a_simulation_that_is_not_finite_draws_only_itself_badly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warnings there
    rng = generator(10)
    batch = make_batch([movable(k, rng) for k in KINDS], rng)
    before = draw(batch)
    batch.bind("qpos")[1] = np.nan
    batch.bind("qpos")[2, ::7] = np.inf
    batch.bind("qpos")[3, ::7] = 1e30
    after = draw(batch)
    assert (after[[0, 4, 5]] == before[[0, 4, 5]]).all()


def test_ids_draw_only_their_rows() -> None:
    rng = generator(11)
    batch = make_batch([movable(k, rng) for k in KINDS], rng)
    everything, some = draw(batch), draw(batch, [4, 1])
    assert (some[[1, 4]] == everything[[1, 4]]).all()
    assert not some[[0, 2, 3, 5]].any()
    raster = make_raster(batch)
    for few, full in zip(
        raster.depth_and_geom(np.array([4, 1])), raster.depth_and_geom(), strict=True
    ):
        assert (few == full[[4, 1]]).all()
    assert not draw(batch, []).any()
    with pytest.raises(IndexError):
        draw(batch, [NSIM])


def test_strided_output() -> None:
    rng = generator(12)
    batch = make_batch([movable(k, rng) for k in KINDS], rng)
    frames = np.zeros((NSIM, 3, SIZE, SIZE, 3), np.uint8)
    raster = make_raster(batch)
    raster.render(frames[:, 1])
    assert (frames[:, 1] == draw(batch)).all()
    assert not frames[:, ::2].any()
    with pytest.raises(AssertionError):
        raster.render(frames[:, 1, :, ::-1])


@pytest.mark.parametrize("nsim", [1, 3, 17])
def test_frames_do_not_depend_on_the_batch_width(nsim: int) -> None:
    rng = generator(13)
    bodies = [movable(k, rng) for k in KINDS]
    batch = make_batch(bodies, generator(14), nsim=17)
    narrow = make_batch(bodies, generator(14), nsim=nsim)
    for name in ("qpos", "mocap_pos", "mocap_quat"):
        narrow.bind(name)[:] = batch.bind(name)[-nsim:]
    assert (draw(narrow) == draw(batch)[-nsim:]).all()


def test_frames_do_not_depend_on_the_instruction_set() -> None:
    """Plain SSE2 code, without FMA and half as wide, draws the same bits as this CPU's best."""
    script = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_raster import KINDS, WALL, FLOOR, draw, generator, make_batch, movable
rng = generator(15)
batch = make_batch([movable(k, rng) for k in KINDS], rng, static=FLOOR + WALL, nsim=64)
print(hashlib.sha256(draw(batch).tobytes()).hexdigest())
"""
    hashes = set()
    for cpu in ({}, {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}):
        command = [sys.executable, "-c", script, str(Path(__file__).parent)]
        done = subprocess.run(
            command, env={**os.environ, **cpu}, capture_output=True, text=True, check=True
        )
        hashes.add(done.stdout)
    assert len(hashes) == 1


def test_what_cannot_be_drawn_is_refused() -> None:
    asset = '<asset><mesh name="m" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset>'
    xml = (
        f'<mujoco>{asset}<worldbody><camera name="eye" {{camera}}/>'
        '<geom name="rock" type="mesh" mesh="m" group="{group}"/></worldbody></mujoco>'
    )

    def build(**fields: str) -> Rasterizer:
        model = mujoco.MjModel.from_xml_string(xml.format(**fields))
        return Rasterizer(mujoco.batch.Batch(model, nsim=1, nthread=1), "eye", SIZE)

    with pytest.raises(UnsupportedGeomError, match="'rock' is a mesh"):
        build(camera="", group="0")
    build(camera="", group="3")
    with pytest.raises(ConfigError, match="'eye' is orthographic"):
        build(camera='projection="orthographic"', group="3")


def test_exchanged_geoms_wear_each_others_colours() -> None:
    bodies = [
        f'<body pos="{x} 0 .4"><freejoint/><geom name="{name}" type="sphere" size=".3" '
        f'rgba="{rgba}"/></body>'
        for x, name, rgba in ((-0.4, "mine", "1 0 0 1"), (0.4, "yours", "0 0 1 1"))
    ]
    swapped = [b.replace("1 0 0 1", "x").replace("0 0 1 1", "1 0 0 1") for b in bodies]
    swapped = [b.replace('"x"', '"0 0 1 1"') for b in swapped]
    frames = []
    for content, pairs in ((bodies, [("mine", "yours")]), (swapped, []), (bodies, [])):
        batch = make_batch(content, generator(5), nsim=2)
        raster = Rasterizer(batch, "eye", SIZE, pairs)
        batch.forward()
        frames.append(np.zeros((2, SIZE, SIZE, 3), np.uint8))
        raster.render(frames[-1])
    np.testing.assert_array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])
    with pytest.raises(KeyError):
        Rasterizer(batch, "eye", SIZE, [("mine", "nobody")])
