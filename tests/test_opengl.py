"""OpenGL against the rasteriser: same things in the same places, in the same light."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np
import pytest
from mujoco.batch import Batch
from numpy.typing import NDArray
from palaestra.generate.opengl import GLRenderer, dress
from palaestra.generate.world import World
from palaestra.shards.errors import ConfigError, UnknownNameError

SIZE, NSIM = 64, 4
SEEDS = range(20, 20 + NSIM)
TASKS = ("push", "drawer", "quadruped", "swingup", "maze", "sumo", "ball")
SCENE = """<mujoco><asset><mesh name="wedge" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset><worldbody>
<camera name="eye" pos="0 0 4"/>
<geom name="left" type="{kind}" {size} pos="-.7 0 0" rgba="{left} 1"/>
<geom name="right" type="sphere" size=".5" pos=".7 0 0" rgba="{right} 1"/>
</worldbody></mujoco>"""
RED, BLUE = "1 0 0", "0 0 1"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own; mujoco.egl, loaded in this one, has set a variable."""
    command = [sys.executable, "-W", "error", "-c", code]
    variables = {name: x for name, x in os.environ.items() if name != "PYOPENGL_PLATFORM"}
    return subprocess.run(
        command, env=variables | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def egl() -> None:
    """Skips where MuJoCo itself, without our code, gets no context."""
    done = python("from mujoco.egl import GLContext; GLContext(1, 1)")
    if done.returncode:
        pytest.skip(f"no EGL here (libEGL or a driver is missing): {done.stderr.splitlines()[-1]}")


def played(task: str, renderer: str, steps: int = 20, size: int = SIZE) -> World:
    """A world in the midst of its experts' episodes."""
    world = World(task, 1, NSIM, image_size=size, renderer=renderer)
    world.reset(SEEDS)
    for _ in range(steps):
        world.step(np.clip(world.task.expert(), -1, 1))
    return world


def frames(world: World) -> NDArray[np.uint8]:
    pixels = world.observe().pixels
    assert pixels is not None
    return pixels


def make_batch(
    left: str = RED, right: str = BLUE, kind: str = "sphere", size: str = 'size=".5"'
) -> Batch:
    xml = SCENE.format(left=left, right=right, kind=kind, size=size)
    return Batch(mujoco.MjModel.from_xml_string(xml), 3, 1, persistent=True)


def draw(
    batch: Batch, exchanged: Sequence[tuple[str, str]] = (), ids: Sequence[int] | None = None
) -> NDArray[np.uint8]:
    out = np.full((batch.nsim, SIZE, SIZE, 3), 77, np.uint8)
    renderer = GLRenderer(batch, "eye", SIZE, exchanged)
    batch.forward()
    renderer.render(out, None if ids is None else np.array(ids, np.int32))
    return out


def alike(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """The lowest correlation of two frames of a lane."""
    pairs = zip(first.reshape(len(first), -1), second.reshape(len(second), -1), strict=True)
    return min(np.corrcoef(a, b)[0, 1] for a, b in pairs)


@pytest.mark.usefixtures("egl")
@pytest.mark.parametrize("task", TASKS)
def test_frames_show_what_the_rasterisers_do(task: str) -> None:
    """With each lane's own poses, colours, sizes and camera, and each player's view."""
    worlds = [played(task, renderer) for renderer in ("egl", "raster")]
    found, expected = (frames(world) for world in worlds)
    assert found.shape == expected.shape and found.dtype == np.uint8
    # over all 48 task levels: likeness at least 0.95, differences at most 4.8 of 255 on average
    likeness = alike(found, expected)
    difference = np.abs(found.astype(int) - expected)
    assert likeness > 0.93 and difference.mean() < 8
    assert (difference.max(axis=-1) <= 40).mean() > 0.98  # but for some pixels at edges
    for wrong in (
        found[:, ::-1], found[:, :, ::-1], found[..., ::-1],  # upside down, mirrored, BGR
        np.roll(found, 1, axis=0), np.roll(found, worlds[0].task.players, axis=0),
    ):  # fmt: skip
        assert alike(wrong, expected) < likeness - 0.05


@pytest.mark.usefixtures("egl")
@pytest.mark.parametrize("task", ["reach", "sumo"])
def test_an_episode_is_the_same_but_for_its_frames(task: str) -> None:
    """The dressed model moves to the bit as the plain one; what has ended is not drawn."""
    world, plain = World(task, 1, 2, image_size=16, renderer="egl"), World(task, 1, 2, pixels=False)
    for each in (world, plain):
        each.reset(SEEDS[:2])
    pixels = np.zeros((world.nlane, world.horizon, 16, 16, 3), np.uint8)
    lengths = np.zeros(2, int)
    while len(world.ids) and world.time < world.horizon:
        lengths[world.ids] += 1
        state = world.observe(pixels=pixels[:, world.time]).state
        np.testing.assert_array_equal(state, plain.observe().state)
        for each in (world, plain):
            each.step(np.clip(each.task.expert(), -1, 1))
    assert [world.final_state_xxh3(sim) for sim in (0, 1)] == [
        plain.final_state_xxh3(sim) for sim in (0, 1)
    ]
    for lane, length in enumerate(lengths.repeat(world.task.players)):
        assert pixels[lane, :length].any(axis=(1, 2, 3)).all()
        assert not pixels[lane, length:].any()
        assert len({frame.tobytes() for frame in pixels[lane, :length]}) > 10


@pytest.mark.usefixtures("egl")
def test_worlds_share_the_process() -> None:
    first = played("push", "egl")
    expected = frames(first)
    second = played("sumo", "egl", size=31)  # rows whose bytes are no multiple of four
    other = frames(second)
    np.testing.assert_array_equal(frames(first), expected)
    np.testing.assert_array_equal(frames(second), other)
    assert alike(other, frames(played("sumo", "raster", size=31))) > 0.85
    del second
    np.testing.assert_array_equal(frames(first), expected)


@pytest.mark.usefixtures("egl")
def test_fields_are_read_per_simulation() -> None:
    batch = make_batch()
    before = draw(batch)
    batch.expand("geom_rgba")[0, 0] = (0, 1, 0, 1)
    batch.expand("geom_size")[1, 1] = 0.2
    batch.set_const()
    after = draw(batch)
    assert (before[0] == before[1]).all() and (before[0] == before[2]).all()
    np.testing.assert_array_equal(after[2], before[2])
    left, right = after[:, :, : SIZE // 2], after[:, :, SIZE // 2 :]
    assert left[0, ..., 1].max() > 200 and not left[0, ..., 0].any() and not left[1, ..., 1].any()
    area = (right[..., 2] > 0).sum(axis=(1, 2))
    assert 0.04 < area[1] / area[0] < 0.25 and area[0] == area[2]


@pytest.mark.usefixtures("egl")
def test_exchanged_geoms_wear_each_others_colours() -> None:
    plain, exchanged = draw(make_batch(RED, BLUE)), draw(make_batch(), [("left", "right")])
    np.testing.assert_array_equal(exchanged, draw(make_batch(BLUE, RED)))
    assert not np.array_equal(exchanged, plain)
    with pytest.raises(KeyError):
        draw(make_batch(), [("left", "nobody")])


@pytest.mark.usefixtures("egl")
def test_meshes_are_drawn_and_other_rows_left_alone() -> None:
    out = draw(make_batch(kind="mesh", size='mesh="wedge"'), ids=[2])
    assert (out[:2] == 77).all()
    assert out[2, :, : SIZE // 2, 0].max() > 100 and not out[2, :, : SIZE // 2, 2].any()


def test_dressing_leaves_a_models_own_materials() -> None:
    spec = mujoco.MjSpec()
    spec.add_material(name="own")
    for size, material in (([0, 0, 1], ""), ([3, 2, 1], ""), ([0, 0, 1], "own")):
        geom = spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=size)
        geom.material = material
    dress(spec)
    model = spec.compile()
    names = [model.material(material).name for material in model.geom_matid]
    assert names == ["egl_tiles", "egl_tiles", "own"]
    assert model.geom_size[1:].tolist() == [[3, 2, 1], [0, 0, 1]]


def test_an_unknown_renderer_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown renderer 'elg'; did you mean 'egl'"):
        World("reach", 1, 1, renderer="elg")
    with pytest.raises(ConfigError, match="unknown renderer 'osmesa'; known: egl, raster"):
        World("reach", 1, 1, pixels=False, renderer="osmesa")


REFUSED = """
from palaestra.generate.world import World
from palaestra.shards.errors import ConfigError
World("reach", 1, 1, pixels=False, renderer="egl")
try:
    World("reach", 1, 1, renderer="egl")
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["device", "driver", "library"])
def test_where_there_is_no_egl_one_line_says_so(missing: str, tmp_path: Path) -> None:
    for number in ("", *(f".{n}" for n in range(10))):  # the names under which it is looked for
        (tmp_path / f"libEGL.so{number}").touch()
    environment = {
        "device": {"MUJOCO_EGL_DEVICE_ID": "99"},
        "driver": {"__EGL_VENDOR_LIBRARY_FILENAMES": str(tmp_path / "none.json")},
        "library": {"LD_LIBRARY_PATH": str(tmp_path)},
    }[missing]
    done = python(REFUSED, **environment)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("renderer 'egl' finds no EGL: install libegl1 ")


LOADED = """
import os, sys
from palaestra.generate.world import World
world = World("reach", 1, 1, renderer="{renderer}")
world.reset([1])
world.observe()
names = "OpenGL", "mujoco.egl", "palaestra.generate.opengl"
print(*(name for name in names if name in sys.modules))
print(*(name for name in os.environ if name == "PYOPENGL_PLATFORM"))
"""


def test_the_rasteriser_does_not_load_opengl() -> None:
    done = python(LOADED.format(renderer="raster"))
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", [])


@pytest.mark.usefixtures("egl")
def test_a_process_that_drew_ends_in_peace() -> None:
    done = python(LOADED.format(renderer="egl"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[:3] == ["OpenGL", "mujoco.egl", "palaestra.generate.opengl"]
