"""Frames of `push` on one core: our world, and a plain loop with MuJoCo's OpenGL renderer."""

from __future__ import annotations

import copy
from typing import Any

import mujoco
import numpy as np
from palaestra.generate import opengl, raster
from palaestra.generate.slots import ACTION_SIZE
from palaestra.generate.world import World
from serve import Run, serve
from stepping import stepping

SIZE = 64  # pixels
TABLE = 64  # steps of actions, played over and over
FLAGS = mujoco.mjtRndFlag
LEAN_OFF = [FLAGS.mjRND_SHADOW, FLAGS.mjRND_REFLECTION, FLAGS.mjRND_HAZE, FLAGS.mjRND_SKYBOX]
FAR = 20.0  # m: an endless plane is drawn as thousands of quads


def actions(width: int) -> Any:
    """(TABLE, width, ACTION_SIZE), uniform."""
    drawn = np.random.default_rng(0).uniform(-1, 1, (TABLE, width, ACTION_SIZE))
    return drawn.astype(np.float32)


def in_world(width: int, steps: int, renderer: str) -> Run:
    """Observe, with frames, and step."""
    world = World("push", 1, width, image_size=SIZE, renderer=renderer)
    return stepping(world, actions(width), steps, resets=True)


def plain_loop(steps: int, lean: bool) -> Run:
    """One simulation: step, state, reward, and a frame of `mujoco.Renderer`.

    State and reward are less than the task's, to the advantage of this loop.
    """
    world = World("push", 1, 1, pixels=False)
    world.reset([0])
    controls = []
    for action in actions(1):
        world.step(action)
        controls.append(world.batch.ctrl[0].copy())
    world.reset([0])
    model, substeps = copy.copy(world.batch.get_model(0)), world.task.substeps
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = world.batch.qpos[0], world.batch.qvel[0]
    if lean:
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        model.geom_size[model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE, :2] = FAR
    renderer, camera = mujoco.Renderer(model, SIZE, SIZE), world.task.cameras[0]
    if lean:
        for flag in LEAN_OFF:
            renderer.scene.flags[flag] = 0

    def run() -> int:
        earned = 0.0
        for t in range(steps):
            data.ctrl[:] = controls[t % TABLE]
            mujoco.mj_step(model, data, nstep=substeps)
            np.concatenate((data.qpos, data.qvel, data.xpos.ravel()), dtype=np.float32)
            earned -= float(np.linalg.norm(data.xpos[-1] - data.xpos[-2]))
            renderer.update_scene(data, camera)
            renderer.render()
        return steps

    return run


def driver() -> str:
    """What draws."""
    return opengl.driver()


if __name__ == "__main__":
    raster.compile()
    serve({"world": in_world, "loop": plain_loop}, driver=driver)
