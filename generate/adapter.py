"""A world as the adapters for other libraries see it: spaces, seeds, actions, what is told besides.

Apart from `spaces` there is nothing of Gymnasium here; `gym.py` shapes it for Gymnasium and
PettingZoo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..shards.errors import ConfigError, RolloutError
from ..shards.schema import EVALUATION_BIT
from .rollout import Completion
from .slots import ACTION_SIZE
from .task import Ints
from .view import Views, control_period, require_image_size
from .world import Step, World

Actions = NDArray[np.float32]
RENDER_MODES = ["rgb_array"]


class Adapter:
    """A world, and for each lane what the libraries ask of an environment."""

    def __init__(
        self, task: str, level: int, nsim: int, *, pixels: bool, image_size: int,
        render_mode: str | None, render_size: int, nthread: int = 1,
    ) -> None:  # fmt: skip
        """Raises ConfigError for a task, level, size or render mode that does not exist."""
        require_image_size(image_size, "image_size")
        require_image_size(render_size, "render_size")
        if render_mode not in (None, *RENDER_MODES):
            raise ConfigError(
                f"render_mode should be None or {RENDER_MODES[0]!r}, is {render_mode!r}"
            )
        self.name = env_id(task, level)
        self.world = World(task, level, nsim, image_size=image_size, pixels=pixels, nthread=nthread)
        self.metadata: dict[str, Any] = {
            "name": self.name, "render_modes": RENDER_MODES,
            "render_fps": round(1 / control_period(self.world)),
        }  # fmt: skip
        self._views = Views(self.world, render_size) if render_mode else None
        self._all = np.arange(nsim, dtype=np.int32)
        self._seeds = np.zeros(nsim, np.uint64)
        self._action = np.zeros((self.world.nlane, ACTION_SIZE), np.float32)
        self._success = np.zeros(self.world.nlane, bool)
        self._completion = Completion(self.world.nlane)

    def observation_space(self) -> spaces.Space[Any]:
        """What one player sees."""
        schema = self.world.schema
        state = spaces.Box(-np.inf, np.inf, (schema.state_size,), np.float32)
        if not self.world.pixels:
            return state
        shape = schema.image_size, schema.image_size, 3
        return spaces.Dict({"pixels": spaces.Box(0, 255, shape, np.uint8), "state": state})

    def action_space(self) -> spaces.Box:
        """What one player does."""
        return spaces.Box(-1.0, 1.0, (self.world.task.action_size,), np.float32)

    def reset(self, seeds: Sequence[int], ids: Ints | None = None) -> None:
        """Begin the episodes of 64-bit seeds in the simulations ids, by default in all."""
        for seed in seeds:
            if not 0 <= seed < 1 << 64:
                raise RolloutError(f"{self.name}: seed should be in [0, 2^64), is {seed}")
        self.world.reset(seeds, ids)
        ids, players = self._all if ids is None else ids, self.world.task.players
        lanes = (ids[:, None] * players + np.arange(players)).ravel()
        self._seeds[ids] = np.array(seeds, np.uint64)
        self._success[lanes] = False
        self._completion.held[lanes], self._completion.step[lanes] = 0, -1

    def check(self, action: object, shape: tuple[int, ...], whose: str = "action") -> Actions:
        """As float32 in [-1, 1]; RolloutError for another shape or a value that is not finite."""
        array = np.asarray(action, np.float32)
        if array.shape != shape:
            raise RolloutError(f"{self.name}: {whose} should be of shape {shape}, is {array.shape}")
        if not np.isfinite(array).all():
            raise RolloutError(f"{self.name}: {whose} is not finite")
        return np.clip(array, -1.0, 1.0)

    def step(self, action: Actions) -> Step:
        """Apply checked actions (nlane, task.action_size) to the simulations in world.ids."""
        self._action[:, : action.shape[1]] = action
        step = self.world.step(self._action)
        self._completion.update(step.success, step.terminated, self.world.time - 1)
        self._success = step.success > 0
        return step

    def observe(self) -> Any:
        """What each lane sees, in fresh arrays: (nlane, …), or a dict of such."""
        # what has just ended is no longer in world.ids, and its last frame would stay black
        playing, self.world.ids = self.world.ids, self._all
        observation = self.world.observe()
        self.world.ids = playing
        if observation.pixels is None:
            return observation.state
        return {"pixels": observation.pixels, "state": observation.state}

    def info(self) -> dict[str, NDArray[Any]]:
        """What each lane is told besides, in fresh arrays (nlane,)."""
        players = self.world.task.players
        causes = np.array(self.world.causes, object).repeat(players)
        return {
            "success": self._success.copy(),
            "is_success": (self._completion.step >= 0) & (causes == ""),
            "seed": self._seeds.repeat(players),
            "instruction": np.array(self.world.instruction, object),
            "cause": causes,
        }

    def render(self) -> NDArray[np.uint8] | None:
        """Frames (nsim, render_size, players × render_size, 3); None without a render mode."""
        return None if self._views is None else self._views.draw()


def env_id(task: str, level: int) -> str:
    """A level's name among Gymnasium's: `palaestra/PickPlace-2-v0`."""
    words = "".join(word.capitalize() for word in task.split("_"))
    return f"palaestra/{words}-{level}-v0"


def draw_seed(generator: np.random.Generator) -> int:
    """An episode's seed, without the bit that evaluation reserves."""
    return int(generator.integers(EVALUATION_BIT))
