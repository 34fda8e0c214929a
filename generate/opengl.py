"""Draws what a batch's cameras see with MuJoCo's OpenGL renderer, through EGL: without a display.

For nodes with a GPU, and for what the rasteriser does not draw, such as meshes. Floor, sky and
light are the rasteriser's: frames are alike to the eye, but to the bit they depend on the driver.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import mujoco
import numpy as np
from mujoco import MjrContext, MjrRect, MjvCamera, MjvOption
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..shards.errors import ConfigError
from .raster import AMBIENT, DIFFUSE, SUN, TILE_CONTRAST, TILES_PER_METRE, UNSET_RGBA, ZENITH, Ints

OBJECTS = mujoco.mjtCatBit.mjCAT_STATIC | mujoco.mjtCatBit.mjCAT_DYNAMIC  # no sites, no contacts
FAR = 1000.0  # m; by MuJoCo's default, floors end a pixel below the horizon


def dress(spec: mujoco.MjSpec) -> None:
    """Give a model the rasteriser's floor tiles and sky; planes still collide as endless ones."""
    sky = spec.add_texture(name="egl_sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    sky.builtin, sky.width, sky.height = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, 64, 64
    sky.rgb1, sky.rgb2 = ZENITH, [1] * 3
    tiles = spec.add_texture(name="egl_tiles", type=mujoco.mjtTexture.mjTEXTURE_2D)
    tiles.builtin, tiles.width, tiles.height = mujoco.mjtBuiltin.mjBUILTIN_CHECKER, 64, 64
    dark = 1 - DIFFUSE * TILE_CONTRAST / (AMBIENT + DIFFUSE * SUN[2])
    tiles.rgb1, tiles.rgb2 = [dark] * 3, [1] * 3
    material = spec.add_material(name="egl_tiles", rgba=UNSET_RGBA, texuniform=True)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = tiles.name
    material.texrepeat = [TILES_PER_METRE] * 2  # counted in 2 m; a texture is two tiles wide
    for geom in spec.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_PLANE and not geom.material:
            geom.material = material.name
            if not geom.size[:2].any():  # an endless plane is drawn as 40 000 quads: 3 times slower
                geom.size = [FAR] * 3
    spec.stat.extent, spec.visual.map.zfar = 1, FAR


class GLRenderer:
    """One camera of every simulation of a persistent batch; for one thread at a time.

    As in `Rasterizer`, fields are read per simulation at every call where the batch has expanded
    them, and groups from 3 on, sites, shadows and the model's own lights are left out.
    """

    def __init__(
        self, batch: Batch, camera: str, size: int = 64, exchanged: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Geoms paired in `exchanged` are drawn in each other's colours.

        Raises ConfigError where there is no EGL, and KeyError for an unknown camera or geom.
        """
        assert batch.persistent, "poses are read from each simulation's MjData"
        model = copy.copy(batch.model)
        self._batch, self._model, self._data = batch, model, mujoco.MjData(model)
        self._pairs = [[model.geom(name).id for name in pair] for pair in exchanged]
        self._scene, self._option, self._camera = _make_scene(model), MjvOption(), MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(camera).id
        self._frame, self._window = np.empty((size, size, 3), np.uint8), MjrRect(0, 0, size, size)
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0  # one sample a pixel
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        with _context().as_current():
            self._assets = MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        weakref.finalize(self, _context().as_current()(self._assets.free))  # needs the context

    def render(self, out: NDArray[np.uint8], ids: Ints | None = None) -> None:
        """Draw the simulations ids (default: all) into their rows of out, (nsim, size, size, 3)."""
        assert out.shape == (self._batch.nsim, *self._frame.shape), out.shape
        with _context().as_current():  # where another renderer's buffer may be bound
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._assets)
            for sim in range(self._batch.nsim) if ids is None else ids:
                self._update_scene(int(sim))
                mujoco.mjr_render(self._window, self._scene, self._assets)
                mujoco.mjr_readPixels(self._frame, None, self._window, self._assets)
                out[sim] = self._frame[::-1]  # OpenGL's first row is the lowest

    def _update_scene(self, sim: int) -> None:
        model, data = self._batch.get_model(sim, self._model), self._batch.get_data(sim, self._data)
        for pair in self._pairs:
            for field in (model.geom_rgba, model.geom_matid):
                field[pair] = field[pair[::-1]]
        model.vis.headlight.active, model.light_active[:] = 0, False
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, OBJECTS, self._scene)
        self._scene.nlight = 2  # those of _make_scene: with none active above, they are still there


def _make_scene(model: mujoco.MjModel) -> mujoco.MjvScene:
    """An empty scene in the rasteriser's light: AMBIENT + DIFFUSE × cosine, negative ones too."""
    scene = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nflex + model.nskin)
    scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = 0
    # the second takes light away where the cosine is negative, at which OpenGL's lights end
    for light, sign in zip(scene.lights, (1, -1), strict=False):
        light.type, light.headlight = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, 0
        light.dir, light.diffuse = -sign * np.array(SUN), [sign * DIFFUSE] * 3
        light.ambient, light.specular = [AMBIENT / 2] * 3, [0] * 3
    return scene


def driver() -> str:
    """What draws here, as OpenGL calls it: frames depend on it. ConfigError where there is none."""
    with _context().as_current():
        from OpenGL import GL

        words = (GL.glGetString(name) for name in (GL.GL_RENDERER, GL.GL_VERSION))
        return " ".join(bytes(word).decode() for word in words)


@cache
def _context() -> Any:
    """This process's OpenGL context, which all renderers share."""
    try:
        from mujoco.egl import GLContext  # loads libEGL

        return GLContext(1, 1)
    except Exception as error:  # of any type: PyOpenGL's own cannot be named before it has loaded
        raise ConfigError(
            "renderer 'egl' finds no EGL: install libegl1 with the GPU's driver, or Mesa's for the "
            f"CPU (libegl-mesa0), or use 'raster' ({' '.join(str(error).split())})"
        ) from error
