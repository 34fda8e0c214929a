"""EnvPool's CheetahRun-v1 on one thread, with random actions drawn beforehand."""

from __future__ import annotations

from collections import deque
from typing import Any

import envpool
import numpy as np
from serve import Run, serve

TABLE = 50  # steps of actions, played over and over
EPISODE = 1000  # control steps; one call more resets


def actions(width: int) -> Any:
    """(TABLE, width, 6), uniform."""
    return np.random.default_rng(0).uniform(-1, 1, (TABLE, width, 6))


def synchronous(num_envs: int, steps: int, kind: str = "gymnasium", **more: Any) -> Run:
    """`step` for all environments; a run of whole episodes includes their resets."""
    env = envpool.make("CheetahRun-v1", env_type=kind, num_envs=num_envs, num_threads=1, **more)
    env.reset()
    table = actions(num_envs)

    def run() -> int:
        for t in range(steps + steps // EPISODE):
            env.step(table[t % TABLE])
        return steps * num_envs

    return run


def asynchronous(num_envs: int, batch_size: int, steps: int) -> Run:
    """`send` to those that are ready, `steps` times for each environment, and await all of them.

    What a run leaves in the queue would be done off the clock, as all episodes end at the same time
    the resets with their 200 steps of settling.
    """
    env = envpool.make(
        "CheetahRun-v1", env_type="gymnasium", num_envs=num_envs, batch_size=batch_size,
        num_threads=1,
    )  # fmt: skip
    env.async_reset()
    table, batches = actions(batch_size), num_envs // batch_size
    ready = deque(env.recv()[-1]["env_id"] for _ in range(batches))

    def run() -> int:
        for t in range((steps + steps // EPISODE) * batches):
            env.send(table[t % TABLE], ready.popleft() if ready else env.recv()[-1]["env_id"])
        ready.extend(env.recv()[-1]["env_id"] for _ in range(batches))
        return steps * num_envs

    return run


def pixels(num_envs: int, steps: int) -> Run:
    """Frames by EnvPool's own OpenGL renderer, instead of the state."""
    size = {"render_width": 64, "render_height": 64}
    return synchronous(num_envs, steps, from_pixels=True, **size)


def record(path: str, steps: int) -> None:
    """Write an episode's first steps: actions, and what was seen and earned."""
    env = envpool.make("CheetahRun-v1", env_type="gymnasium", num_envs=1, num_threads=1)
    seen, _ = env.reset()
    played = actions(1).astype(np.float32)[:steps]
    seens, rewards = [seen], []
    for action in played:
        seen, reward, *_ = env.step(action.astype(np.float64))
        seens.append(seen)
        rewards.append(reward)
    observations = [np.concatenate((s["position"], s["velocity"]), axis=1)[0] for s in seens]
    np.savez(path, action=played[:, 0], observation=observations, reward=np.ravel(rewards))


if __name__ == "__main__":
    makers = {"synchronous": synchronous, "asynchronous": asynchronous, "pixels": pixels}
    serve(makers, record=record)
