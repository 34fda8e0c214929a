"""A batch of simulations of one task: the world owns the loop, the task owns meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np
import xxhash
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

from ..shards.errors import RolloutError
from .raster import Rasterizer
from .registry import make_task
from .slots import ACTION_SIZE, SLOTS, make_schema

STREAMS = {"world": 0, "policy": 1}  # independent generators of one episode seed
_POSITION = mujoco.mjtStage.mjSTAGE_VEL.value


@dataclass(frozen=True)
class Observation:
    """What the players of all lanes see; arrays are live and change with the next step."""

    state: NDArray[np.float32]
    """(nlane, state_size)"""
    pixels: NDArray[np.uint8] | None
    """(nlane, H, H, 3), or None in a world without pixels"""
    instruction: Sequence[str]


class Step(NamedTuple):
    """Outcome of one control step, by lane; meaningless where the lane was not active."""

    reward: NDArray[np.float32]
    success: NDArray[np.uint8]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


def generators(seeds: Sequence[int], stream: str) -> list[np.random.Generator]:
    """One Philox generator per episode seed (Salmon et al. 2011), apart by stream."""
    key = STREAMS[stream]
    # as uint64: NumPy takes a list with a seed of 2^63 or more for floats, and all seeds collide
    keys = np.array([(seed, key) for seed in seeds], np.uint64)
    return [np.random.Generator(np.random.Philox(key=pair)) for pair in keys]


class World:
    """`nsim` simulations of a task in lockstep, each from its own seed.

    Lanes are players: lane = sim × players + player. Simulations that terminate leave `ids` and
    are not stepped again; at the horizon the rest are truncated. A diverging simulation ends
    with its cause in `causes` and touches no other.
    """

    def __init__(
        self, task: str, level: int, nsim: int, *, image_size: int = 64, pixels: bool = True,
        nthread: int = 1,
    ) -> None:  # fmt: skip
        _keep_mujoco_quiet()
        self.task = make_task(task, level)
        model = self.task.build().compile()
        # a diverged simulation would otherwise be reset in silence and go on
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        # persistent: the stages after a step come free with the next one
        self.batch = Batch(model, nsim, nthread, persistent=True)
        self.nsim, self.nlane = nsim, nsim * self.task.players
        self.schema = make_schema(image_size, self.task.reward_range)
        self.task.bind(self.batch)
        self.pixels = pixels
        self.rasterizer = Rasterizer(self.batch, self.task.camera, image_size) if pixels else None
        self.time = 0
        self.ids = np.arange(nsim, dtype=np.int32)
        self.causes = [""] * nsim
        self._diverged_xxh3: dict[int, int] = {}
        self._instruction = [self.task.instruction] * self.nlane

    @property
    def horizon(self) -> int:
        """Control steps to the time limit."""
        return self.task.horizon

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin a wave: simulation i plays the episode of seeds[i]."""
        if len(seeds) != self.nsim:
            raise RolloutError(f"{len(seeds)} seeds for {self.nsim} simulations")
        self.time = 0
        self.ids = np.arange(self.nsim, dtype=np.int32)
        self.causes = [""] * self.nsim
        self._diverged_xxh3 = {}
        self.batch.warning[:] = 0
        # writes before a reset are lost, and state written without one keeps stale warm starts
        self.batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.task.reset(generators(seeds, "world"))
        self.batch.forward()

    def observe(
        self, state: NDArray[np.float32] | None = None, pixels: NDArray[np.uint8] | None = None
    ) -> Observation:
        """What every lane sees now, written into the given arrays where there are any."""
        if state is None:
            state = np.empty((self.nlane, self.schema.state_size), np.float32)
        state[:] = 0
        places = self.schema.slices()
        self.task.observe({slot.name: state[:, places[slot.name]] for slot in SLOTS})
        if self.rasterizer is not None:
            if pixels is None:
                size = self.schema.image_size
                pixels = np.zeros((self.nlane, size, size, 3), np.uint8)
            self.rasterizer.render(pixels, self.ids)
        return Observation(state, pixels, self._instruction)

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply actions (nlane, action_size) float32 in [-1, 1] for one control step.

        Raises RolloutError for a wrong shape, dtype, or a non-finite or out-of-range value.
        """
        self._check(action)
        self.task.apply(action)
        try:
            self.batch.step(self.ids, nstep=self.task.substeps, stage=_POSITION)
        except SimulationError as error:
            for sim in error.ids:
                self.causes[sim] = f"error: {self.batch.error(sim)}"
        self._find_diverged()
        reward, success, terminated = self.task.score()
        self.time += 1
        failed = np.array([bool(cause) for cause in self.causes])
        failed = np.repeat(failed, self.task.players)
        terminated = terminated | failed
        truncated = ~terminated & (self.time >= self.horizon)
        ended = terminated.reshape(self.nsim, -1).any(axis=1)
        self.ids = self.ids[~ended[self.ids]]
        return Step(
            np.where(failed, 0.0, reward).astype(np.float32),
            (success & ~failed).astype(np.uint8),
            terminated,
            truncated,
        )

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

    def _find_diverged(self) -> None:
        ids = self.ids
        warned = self.batch.warning[ids, :, 1] > 0
        bad = warned.any(axis=1) | ~np.isfinite(self.batch.state[ids]).all(axis=1)
        if not bad.any():
            return
        for sim, kinds in zip(ids[bad], warned[bad], strict=True):
            found = [mujoco.mjtWarning(int(kind)).name for kind in kinds.nonzero()[0]]
            names = " ".join(name.removeprefix("mjWARN_") for name in found) or "not finite"
            self.causes[sim] = self.causes[sim] or f"diverged: {names}"
            self._diverged_xxh3[int(sim)] = self.final_state_xxh3(sim)
        # tasks and policies compute all lanes together: leave them no NaN to trip over
        self.batch.reset(ids[bad])


def _keep_mujoco_quiet() -> None:
    """A warning is an episode's cause; MuJoCo would also log it into the working directory."""
    config = mujoco.MjLogConfig.get()
    config.logto_console = config.logto_file = False
    config.set()
