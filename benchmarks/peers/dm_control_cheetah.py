"""dm_control's cheetah run in a plain loop, alone and as an environment of Gymnasium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import shimmy  # registers dm_control/cheetah-run-v0
from dm_control import suite
from serve import Run, serve

EPISODE = 1000  # control steps
SIZE = 64  # pixels


def actions() -> Any:
    """(EPISODE, 6), uniform."""
    return np.random.default_rng(0).uniform(-1, 1, (EPISODE, 6))


def load() -> Any:
    """The environment."""
    return suite.load("cheetah", "run", task_kwargs={"random": 0})


def alone(steps: int) -> Run:
    """Reset and step."""
    return episodes(load(), steps)


def in_gymnasium(steps: int) -> Run:
    """The same through Shimmy, as Gymnasium's documentation has it."""
    assert shimmy
    return episodes(gymnasium.make("dm_control/cheetah-run-v0"), steps)


def episodes(env: Any, steps: int) -> Run:
    """Episodes of random actions, the last one cut off."""
    table = actions()

    def run() -> int:
        for t in range(steps):
            if t % EPISODE == 0:
                env.reset()
            env.step(table[t % EPISODE])
        return steps

    return run


def pixels(steps: int) -> Run:
    """A frame of the side camera at every step, with dm_control's settings."""
    env, table = load(), actions()
    env.reset()

    def run() -> int:
        for t in range(steps):
            env.step(table[t])
            env.physics.render(SIZE, SIZE, camera_id="side")
        return steps

    return run


def record(path: str, steps: int) -> None:
    """Write an episode's first steps: its initial state, actions, what was seen and earned."""
    env = load()
    stamps = [env.reset()]
    model, data = env.physics.model.ptr, env.physics.data.ptr
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    played = actions().astype(np.float32)[:steps]
    stamps += [env.step(action.astype(np.float64)) for action in played]
    seen = [np.concatenate(list(stamp.observation.values())) for stamp in stamps]
    rewards = [stamp.reward for stamp in stamps[1:]]
    np.savez(path, state=state, action=played, observation=seen, reward=rewards)


def model_file() -> str:
    """Where the model is."""
    return str(Path(suite.__file__).parent / "cheetah.xml")


if __name__ == "__main__":
    makers = {"alone": alone, "gymnasium": in_gymnasium, "pixels": pixels}
    serve(makers, record=record, model_file=model_file)
