"""A batch of simulations of one task: the world owns the loop, the task owns meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import mujoco
import numpy as np
import xxhash
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

from ..shards import seeds as episode_seeds
from ..shards.errors import RolloutError, UnknownNameError
from .raster import Rasterizer
from .registry import make_task
from .slots import ACTION_SIZE, make_schema
from .task import Ints
from .variation import Variation

# independent generators of one episode seed; 3 is train.agent's
STREAMS = {"world": 0, "policy": 1, "variation": 2}
RENDERERS = ("raster", "egl")
_POSITION = mujoco.mjtStage.mjSTAGE_VEL.value


class Renderer(Protocol):
    """Draws one camera's view of the simulations ids into their rows of (nsim, H, H, 3)."""

    def render(self, out: NDArray[np.uint8], ids: Ints | None = None) -> None: ...


@dataclass(frozen=True)
class Observation:
    """What the players of all lanes see; arrays are live and change with the next step."""

    state: NDArray[np.float32]
    """(nlane, state_size)"""
    pixels: NDArray[np.uint8] | None
    """(nlane, H, H, 3), or None in a world without pixels"""
    instruction: Sequence[str]
    """(nlane,)"""


class Step(NamedTuple):
    """Outcome of one control step, by lane; meaningless where the lane was not active."""

    reward: NDArray[np.float32]
    success: NDArray[np.uint8]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


def generators(seeds: Sequence[int], stream: str) -> list[np.random.Generator]:
    """One generator per episode seed, of one of STREAMS."""
    return episode_seeds.generators(seeds, STREAMS[stream])


class World:
    """`nsim` simulations of a task in lockstep, each from its own seed.

    Lanes are players: lane = sim × players + player. Simulations that terminate leave `ids` and
    are not stepped again; at the horizon the rest are truncated. A diverging simulation ends
    with its cause in `causes` and touches no other.
    """

    def __init__(
        self, task: str, level: int, nsim: int, *, image_size: int = 64, pixels: bool = True,
        nthread: int = 1, renderer: str = "raster",
    ) -> None:  # fmt: skip
        """Frames come from the rasteriser or, with `renderer` "egl", from OpenGL.

        Raises ConfigError for an unknown task, level or renderer, and where EGL is missing.
        """
        if renderer not in RENDERERS:
            raise UnknownNameError("renderer", renderer, RENDERERS)
        _keep_mujoco_quiet()
        self.task = make_task(task, level)
        spec = self.task.build()
        make_renderer: Callable[..., Renderer] = Rasterizer
        if pixels and renderer == "egl":
            from . import opengl  # here, so that only those who ask for it load OpenGL

            opengl.dress(spec)
            make_renderer = opengl.GLRenderer
        model = spec.compile()
        # a diverged simulation would otherwise be reset in silence and go on
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        if model.ntree == 1:  # a lone island: looking for it takes 4 % of a step, changing no bit
            model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND
        # persistent: the stages after a step come free with the next one
        self.batch = Batch(model, nsim, nthread, persistent=True)
        self.nsim, self.nlane = nsim, nsim * self.task.players
        self.schema = make_schema(image_size, self.task.reward_range)
        # a task writes here: its slots are views that need not be made anew at every step
        self._state = np.zeros((self.nlane, self.schema.state_size), np.float32)
        self._slots = {
            name: self._state[:, place] for name, place in self.schema.slices().items()
        }
        self._variation = Variation(self.batch, self.task)
        self.task.bind(self.batch)
        self.pixels = pixels
        self._renderers = [
            make_renderer(self.batch, camera, image_size, self.task.rivals if player else ())
            for player, camera in enumerate(self.task.cameras) if pixels
        ]  # fmt: skip
        self.time = 0
        """Control steps since all simulations were reset together."""
        self.elapsed = np.zeros(nsim, np.int64)
        """(nsim,) control steps of each simulation's episode."""
        self.ids = np.arange(nsim, dtype=np.int32)
        self.causes = [""] * nsim
        self._failed = np.zeros(nsim, bool)
        self._diverged_xxh3: dict[int, int] = {}
        self.instruction = self.task.instructions() * nsim
        """(nlane,) what each lane's player is told."""

    @property
    def horizon(self) -> int:
        """Control steps to the time limit."""
        return self.task.horizon

    def reset(self, seeds: Sequence[int], ids: Ints | None = None) -> None:
        """Begin an episode of seeds[i] in the i-th of the simulations ids, by default in all."""
        everywhere = np.arange(self.nsim, dtype=np.int32)
        if ids is None:
            ids, self.time = everywhere, 0
        if len(seeds) != len(ids):
            raise RolloutError(f"{len(seeds)} seeds for {len(ids)} simulations")
        self.elapsed[ids] = 0
        self._failed[ids] = False
        for sim in ids:
            self.causes[sim] = ""
            self._diverged_xxh3.pop(int(sim), None)
        self.ids = everywhere[np.isin(everywhere, self.ids) | np.isin(everywhere, ids)]
        self.batch.warning[ids] = 0
        # writes before a reset are lost, and state written without one keeps stale warm starts
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self._variation.reset(ids, generators(seeds, "variation"))
        self.task.reset(ids, generators(seeds, "world"))
        self.batch.set_const(ids)  # else bodies would pass through a moved wall
        self.batch.forward(ids)

    def observe(
        self, state: NDArray[np.float32] | None = None, pixels: NDArray[np.uint8] | None = None
    ) -> Observation:
        """What every lane sees now, written into the given arrays where there are any."""
        self._state.fill(0)
        self.task.observe(self._slots)
        if state is None:
            state = self._state.copy()
        else:
            state[:] = self._state
        if self.pixels:
            if pixels is None:
                size = self.schema.image_size
                pixels = np.zeros((self.nlane, size, size, 3), np.uint8)
            for player, drawer in enumerate(self._renderers):
                drawer.render(pixels[player :: self.task.players], self.ids)
        return Observation(state, pixels if self.pixels else None, self.instruction)

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply actions (nlane, action_size) float32 in [-1, 1] for one control step.

        Raises RolloutError for a wrong shape, dtype, or a non-finite or out-of-range value.
        """
        self._check(action)
        self.task.apply(action)
        ids = None if len(self.ids) == self.nsim else self.ids  # a list is checked, at some cost
        try:
            self.batch.step(ids, nstep=self.task.substeps, stage=_POSITION)
        except SimulationError as error:
            for sim in error.ids:
                self._fail(int(sim), f"error: {self.batch.error(sim)}")
        self._find_diverged()
        reward, success, terminated = self.task.score()
        self.time += 1
        self.elapsed[self.ids] += 1
        players = self.task.players
        ended = terminated.reshape(self.nsim, players).any(axis=1) | self._failed
        if ended.any():
            self.ids = self.ids[~ended[self.ids]]
        if self._failed.any():
            failed = np.repeat(self._failed, players)
            reward, success = np.where(failed, 0.0, reward), success & ~failed
        over = ~ended & (self.elapsed >= self.horizon)
        return Step(
            reward.astype(np.float32), success.astype(np.uint8),
            np.repeat(ended, players), np.repeat(over, players),
        )  # fmt: skip

    def final_state_xxh3(self, sim: int) -> int:
        """Hash of the simulation's whole integration state; if it diverged, of that state."""
        if sim in self._diverged_xxh3:
            return self._diverged_xxh3[sim]
        return xxhash.xxh3_64_intdigest(self.batch.state[sim].tobytes())

    def _check(self, action: NDArray[np.float32]) -> None:
        expected = (self.nlane, ACTION_SIZE)
        if action.shape != expected or action.dtype != np.float32:
            raise RolloutError(
                f"{self.task.name}: action should be float32{expected}, "
                f"is {action.dtype}{action.shape}"
            )
        if not np.abs(action).max() <= 1.0:  # also catches NaN
            raise RolloutError(f"{self.task.name}: action outside [-1, 1] or not finite")

    def _fail(self, sim: int, cause: str) -> None:
        self._failed[sim] = True
        self.causes[sim] = self.causes[sim] or cause

    def _find_diverged(self) -> None:
        # of all simulations, gathering none: four times cheaper, and it is hardly ever more
        if not self.batch.warning[:, :, 1].any() and np.isfinite(self.batch.state).all():
            return
        ids = self.ids
        warned = self.batch.warning[ids, :, 1] > 0
        bad = warned.any(axis=1) | ~np.isfinite(self.batch.state[ids]).all(axis=1)
        if not bad.any():
            return
        for sim, kinds in zip(ids[bad], warned[bad], strict=True):
            found = [mujoco.mjtWarning(int(kind)).name for kind in kinds.nonzero()[0]]
            names = " ".join(name.removeprefix("mjWARN_") for name in found) or "not finite"
            self._diverged_xxh3[int(sim)] = self.final_state_xxh3(sim)
            self._fail(int(sim), f"diverged: {names}")
        # tasks and policies compute all lanes together: leave them no NaN to trip over
        self.batch.reset(ids[bad])


def _keep_mujoco_quiet() -> None:
    """A warning is an episode's cause; MuJoCo would also log it into the working directory."""
    config = mujoco.MjLogConfig.get()
    config.logto_console = config.logto_file = False
    config.set()
