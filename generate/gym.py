"""The tasks as environments of Gymnasium, and the matches as PettingZoo's; needs `palaestra[gym]`.

Importing this module registers every level of every task for one player, pick_place's second as
`palaestra/PickPlace-2-v0`. `gymnasium.make("palaestra.generate.gym:palaestra/PickPlace-2-v0")`
imports it by itself; Gymnasium has had no plugins that would do so unasked since 1.0.

An observation is the state vector that all tasks share (`slots` says what is where; what a task
does not fill stays zero), or with `pixels` a dict of that and a frame. An action holds the entries
that the task uses; values beyond [-1, 1] are clipped. `info` has, at reset and at every step:

* `success`: whether it holds now; `is_success`: whether the episode has been completed as
  `evaluate` counts it, under the name that stable-baselines3 looks for;
* `seed`: of this episode, 64 bits; `reset(options={"seed": …})` plays it again, or a corpus's;
* `instruction`: what the player is told; `cause`: why the simulation broke down, else empty.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from ..shards.errors import ConfigError, RolloutError
from .adapter import RENDER_MODES, Adapter, draw_seed, env_id
from .registry import task_class, task_classes
from .task import Ints

RENDER_SIZE = 256  # pixels
METADATA: dict[str, Any] = {"render_modes": RENDER_MODES, "render_fps": 40}
Info = dict[str, Any]


class PalaestraEnv(gymnasium.Env[Any, Any]):
    """One player's task at one level; `world` is the world behind it."""

    metadata = METADATA

    def __init__(
        self, task: str, level: int = 1, *, pixels: bool = False, image_size: int = 64,
        render_mode: str | None = None, render_size: int = RENDER_SIZE,
    ) -> None:  # fmt: skip
        """Raises ConfigError for a task, level or size that does not exist, or for a match."""
        _require_one_player(task)
        self._adapter = Adapter(
            task, level, 1, pixels=pixels, image_size=image_size, render_mode=render_mode,
            render_size=render_size,
        )  # fmt: skip
        self.metadata, self.render_mode = self._adapter.metadata, render_mode
        self.world = self._adapter.world
        self.slots = self.world.schema.slices()
        self.observation_space = self._adapter.observation_space()
        self.action_space = self._adapter.action_space()
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Info]:
        """Begin an episode drawn from np_random, or that of `options["seed"]`."""
        super().reset(seed=seed)
        self._adapter.reset([_chosen_seed(self.np_random, options)])
        self._ended = False
        return _lane(self._adapter.observe(), 0), _lane_info(self._adapter.info(), 0)

    def step(self, action: object) -> tuple[Any, float, bool, bool, Info]:
        """One control step; ResetNeeded once the episode has ended."""
        if self._ended:
            raise ResetNeeded(f"{self._adapter.name}: no episode is running: call reset() first")
        checked = self._adapter.check(action, (self.world.task.action_size,))
        step = self._adapter.step(checked[None])
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        self._ended = terminated or truncated
        observation, info = _lane(self._adapter.observe(), 0), _lane_info(self._adapter.info(), 0)
        return observation, float(step.reward[0]), terminated, truncated, info

    def render(self) -> Any:
        """A frame (render_size, render_size, 3) uint8; None without a render mode."""
        frames = self._adapter.render()
        return None if frames is None else frames[0]


class PalaestraVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """`num_envs` simulations of one player's task in one world, stepped on C threads.

    Lane i plays what the i-th environment of a SyncVectorEnv plays, to the last bit: each has its
    own generator, seeded with seed + i. A lane that has ended begins its next episode at the next
    step, which ignores its action.
    """

    metadata = METADATA | {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self, task: str, level: int = 1, num_envs: int = 1, *, pixels: bool = False,
        image_size: int = 64, render_mode: str | None = None, render_size: int = RENDER_SIZE,
        nthread: int | None = None, max_episode_steps: int | None = None,
    ) -> None:  # fmt: skip
        """`nthread` is one per core by default; `max_episode_steps` may shorten the episodes."""
        _require_one_player(task)
        for name, number in (("num_envs", num_envs), ("nthread", nthread)):
            if number is not None and number < 1:
                raise ConfigError(f"{name} should be positive, is {number}")
        threads = nthread or min(num_envs, len(os.sched_getaffinity(0)))
        self._adapter = Adapter(
            task, level, num_envs, pixels=pixels, image_size=image_size, render_mode=render_mode,
            render_size=render_size, nthread=threads,
        )  # fmt: skip
        self.metadata, self.render_mode = self.metadata | self._adapter.metadata, render_mode
        self.num_envs, self.world = num_envs, self._adapter.world
        self.slots = self.world.schema.slices()
        self.single_observation_space = self._adapter.observation_space()
        self.single_action_space = self._adapter.action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._limit = self.world.horizon
        if max_episode_steps is not None and max_episode_steps != -1:  # as in `gymnasium.make`
            self._limit = min(self._limit, max_episode_steps)
        self._generators = [np.random.default_rng(0)] * num_envs
        self._seeded = False
        self._ended = np.ones(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, Info]:  # fmt: skip
        """Begin an episode in every lane, or in those of `options["reset_mask"]` (num_envs,) bool.

        An integer seeds lane i with seed + i; a sequence has one seed, or None, for each lane.
        """
        mask, numbers = self._mask(options), self._spread(seed)
        for lane in np.flatnonzero(mask).tolist():
            if numbers[lane] is not None or not self._seeded:
                self._generators[lane], _ = seeding.np_random(numbers[lane])
        self._seeded = True
        self._begin(mask)
        return self._adapter.observe(), self._infos(mask)

    def step(
        self, actions: object
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]:
        """One control step of the lanes whose episode is running; the others begin their next."""
        if not self._seeded:
            raise ResetNeeded(f"{self._adapter.name}: no episode is running: call reset() first")
        checked = self._adapter.check(actions, (self.num_envs, self.world.task.action_size))
        playing = ~self._ended
        self.world.ids = self.world.ids[playing[self.world.ids]]
        step = self._adapter.step(checked)
        terminated = step.terminated & playing
        truncated = (self.world.elapsed >= self._limit) & playing
        if not playing.all():
            self._begin(~playing)
        self._ended = terminated | truncated
        reward = np.where(playing, step.reward, 0.0).astype(np.float64)
        infos = self._infos(np.ones(self.num_envs, bool))
        return self._adapter.observe(), reward, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """Each lane's frame (render_size, render_size, 3) uint8; None without a render mode."""
        frames = self._adapter.render()
        return None if frames is None else tuple(frames)

    def _begin(self, mask: NDArray[np.bool_]) -> None:
        ids: Ints = np.flatnonzero(mask).astype(np.int32)
        self._adapter.reset([draw_seed(self._generators[lane]) for lane in ids], ids)
        self._ended[ids] = False

    def _mask(self, options: Mapping[str, Any] | None) -> NDArray[np.bool_]:
        everywhere = np.ones(self.num_envs, bool)
        mask = np.asarray((options or {}).get("reset_mask", everywhere))
        if mask.shape != everywhere.shape or mask.dtype != bool or not mask.any():
            raise RolloutError(
                f"{self._adapter.name}: reset_mask should be bool{everywhere.shape} "
                f"with some true, is {mask.dtype}{mask.shape}"
            )
        return mask if self._seeded else everywhere

    def _spread(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None or isinstance(seed, int):
            return [None if seed is None else seed + lane for lane in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise RolloutError(
                f"{self._adapter.name}: {len(seed)} seeds for {self.num_envs} environments"
            )
        return seed

    def _infos(self, mask: NDArray[np.bool_]) -> Info:
        """In Gymnasium's form: beside each array, `_NAME` says which lanes have an entry."""
        infos: Info = self._adapter.info()
        return infos | {f"_{name}": mask.copy() for name in infos}


class PalaestraParallelEnv(ParallelEnv[str, Any, Any]):  # type: ignore[misc]
    """A task for PettingZoo; the agents of a match are `player_0` and `player_1`."""

    def __init__(
        self, task: str, level: int = 1, *, pixels: bool = False, image_size: int = 64,
        render_mode: str | None = None, render_size: int = RENDER_SIZE,
    ) -> None:  # fmt: skip
        """Raises ConfigError for a task, level or size that does not exist."""
        self._adapter = Adapter(
            task, level, 1, pixels=pixels, image_size=image_size, render_mode=render_mode,
            render_size=render_size,
        )  # fmt: skip
        self.metadata, self.render_mode = self._adapter.metadata, render_mode
        self.metadata |= {"is_parallelizable": True}
        self.world = self._adapter.world
        self.slots = self.world.schema.slices()
        self.possible_agents = [f"player_{i}" for i in range(self.world.task.players)]
        self.agents: list[str] = []
        self.observation_spaces = {
            a: self._adapter.observation_space() for a in self.possible_agents
        }
        self.action_spaces = {a: self._adapter.action_space() for a in self.possible_agents}
        self.np_random, _ = seeding.np_random()

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        """The same object at every call, as PettingZoo wants it."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """The same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Info]]:
        """Begin a match; seeds as in `PalaestraEnv`."""
        if seed is not None:
            self.np_random, _ = seeding.np_random(seed)
        self._adapter.reset([_chosen_seed(self.np_random, options)])
        self.agents = list(self.possible_agents)
        return self._observations(), self._infos()

    def step(
        self, actions: Mapping[str, object]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Info]]:
        """One control step of both; a match ends for both, and leaves no agents."""
        if not self.agents:
            raise ResetNeeded(f"{self._adapter.name}: no match is running: call reset() first")
        if set(actions) != set(self.agents):
            raise RolloutError(
                f"{self._adapter.name}: actions should be of {', '.join(self.agents)}, "
                f"are of {', '.join(sorted(actions)) or 'nobody'}"
            )
        shape = (self.world.task.action_size,)
        checked = [self._adapter.check(actions[a], shape, f"action of {a}") for a in self.agents]
        step = self._adapter.step(np.stack(checked))
        reward, terminated, truncated = (
            dict(zip(self.agents, values.tolist(), strict=True))
            for values in (step.reward, step.terminated, step.truncated)
        )
        if (step.terminated | step.truncated).all():
            self.agents = []
        return self._observations(), reward, terminated, truncated, self._infos()

    def render(self) -> Any:
        """Both players' frames side by side, uint8; None without a render mode."""
        frames = self._adapter.render()
        return None if frames is None else frames[0]

    def _observations(self) -> dict[str, Any]:
        batch = self._adapter.observe()
        return {agent: _lane(batch, i) for i, agent in enumerate(self.possible_agents)}

    def _infos(self) -> dict[str, Info]:
        batch = self._adapter.info()
        return {agent: _lane_info(batch, i) for i, agent in enumerate(self.possible_agents)}


parallel_env = PalaestraParallelEnv


def register_all() -> None:
    """Tell Gymnasium of every level of every task for one player."""
    for name, task in task_classes().items():
        for level in range(1, task.levels + 1) if task.players == 1 else ():
            gymnasium.register(
                env_id(name, level),
                entry_point=f"{__name__}:PalaestraEnv",
                vector_entry_point=f"{__name__}:PalaestraVectorEnv",
                max_episode_steps=task.horizon,  # the world's own limit, told to who asks the spec
                kwargs={"task": name, "level": level},
            )


def _require_one_player(task: str) -> None:
    if task_class(task).players > 1:
        raise ConfigError(f"{task} is a match: play it through {__name__}.parallel_env({task!r})")


def _chosen_seed(generator: np.random.Generator, options: Mapping[str, Any] | None) -> int:
    drawn = draw_seed(generator)  # in any case, so that what follows does not depend on options
    return int((options or {}).get("seed", drawn))


def _lane(batch: Any, lane: int) -> Any:
    if isinstance(batch, dict):
        return {name: values[lane] for name, values in batch.items()}
    return batch[lane]


def _lane_info(infos: Mapping[str, NDArray[Any]], lane: int) -> Info:
    return {name: values.tolist()[lane] for name, values in infos.items()}


register_all()
