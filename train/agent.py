"""A trained network as a policy: `Agent.load(url)`, `reset`, `act`. No DeepSpeed, no pickle."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..shards.errors import ConfigError, RolloutError
from ..shards.schema import SEGMENT_STEPS, Schema
from ..shards.seeds import generators
from ..shards.segments import encode_instruction
from .export import Exported, build_network, read_weights
from .loss import mean_action, sample_action
from .model import Cache

STREAM = 3  # of an episode's seed; generate draws from streams 0 to 2


class Played(Protocol):
    """What an agent needs of a task."""

    @property
    def action_size(self) -> int: ...


class Lanes(Protocol):
    """What an agent needs of a world."""

    @property
    def nlane(self) -> int: ...

    @property
    def schema(self) -> Schema: ...

    @property
    def task(self) -> Played: ...


class Seen(Protocol):
    """What an agent needs of an observation."""

    @property
    def state(self) -> NDArray[np.float32]: ...

    @property
    def pixels(self) -> NDArray[np.uint8] | None: ...

    @property
    def instruction(self) -> Sequence[str]: ...


class Agent:
    """Plays n lanes at once with cached keys and values.

    The cache begins anew at every 256th step, exactly as in training. Actions are the policy's
    mean, or drawn at a temperature. With `history` off the agent does not see its own past actions.
    """

    def __init__(
        self, exported: Exported, where: str, history: bool = True, temperature: float = 0.0
    ) -> None:
        self.exported, self.where, self.history = exported, where, history
        self.temperature = temperature
        self.device = _device()
        self.network = build_network(exported, where).to(self.device)
        self.cache: Cache | None = None
        self.texts = torch.zeros(0)

    @staticmethod
    def load(url: str, history: bool = True, temperature: float = 0.0) -> Agent:
        """The agent of a run (its newest checkpoint), a checkpoint or a .safetensors file.

        Raises CheckpointError if there is no complete one, ConfigError for a bad temperature.
        """
        if not isinstance(temperature, int | float) or not 0 <= temperature < math.inf:
            raise ConfigError(f"{url}: temperature should be in [0, inf), is {temperature!r}")
        return Agent(read_weights(url), url, history, temperature)

    @property
    def schema(self) -> Schema:
        """What the agent was trained to see and do."""
        return self.exported.schema

    @property
    def needs_pixels(self) -> bool:
        """Whether observations must hold frames."""
        return "pixels" in self.network.inputs

    def dependencies(self) -> dict[str, str]:
        """URL → sha256 of the files that the agent was read from."""
        return {self.exported.url: self.exported.sha256}

    def versions(self) -> dict[str, str]:
        """What decides the agent's floats here, besides its weights and the number of lanes."""
        found = {"torch": torch.__version__, "device": self.device.type}
        if self.device.type == "cpu":
            return found | {"torch_threads": str(torch.get_num_threads())}
        return found | {"device": f"cuda {torch.cuda.get_device_name(self.device)}"}

    def reset(self, lanes: Lanes | int, seeds: Sequence[int] = ()) -> None:
        """Begin episodes in a world's lanes, or in a number of lanes.

        Only a temperature needs seeds, one for all players of an episode. Raises
        SchemaMismatchError for observations unlike those trained on, RolloutError without seeds.
        """
        if not isinstance(lanes, int):
            self.schema.require_equal(lanes.schema, self.where, but=("reward_range",))
        self.nlane = lanes if isinstance(lanes, int) else lanes.nlane
        self.previous = torch.zeros(self.nlane, 1, self.schema.action_size, device=self.device)
        self.seen = torch.full((self.nlane,), self.history, device=self.device)
        self.cache = None
        if self.temperature:
            size = self.schema.action_size
            self.used = size if isinstance(lanes, int) else lanes.task.action_size
            self.generators = self._generators(seeds)

    @torch.inference_mode()
    def act(self, observation: Seen) -> NDArray[np.float32]:
        """Actions (nlane, action_size) in [-1, 1] for the present observation."""
        if self.cache is None or self.cache.length == SEGMENT_STEPS:
            self.cache = self.network.new_cache(SEGMENT_STEPS)
            codes = np.stack([encode_instruction(text) for text in observation.instruction])
            self.texts = torch.from_numpy(codes).to(self.device)
            if self.temperature:
                self.uniforms = self._draw()
        pixels = None
        if self.needs_pixels:
            if observation.pixels is None:
                raise RolloutError(f"{self.where}: the agent needs pixels, the world has none")
            pixels = torch.from_numpy(np.ascontiguousarray(observation.pixels))[:, None]
            pixels = pixels.to(self.device)
        state = torch.from_numpy(np.ascontiguousarray(observation.state))[:, None].to(self.device)
        time = self.cache.length
        logits, _ = self.network(state, pixels, self.texts, self.previous, self.seen, self.cache)
        self.previous = self._decode(logits, time)
        action: NDArray[np.float32] = self.previous[:, 0].cpu().numpy()
        return np.clip(action, -1.0, 1.0)

    def _decode(self, logits: Tensor, time: int) -> Tensor:
        """(nlane, 1, action_size, bins) at a segment's step → (nlane, 1, action_size)."""
        if not self.temperature:
            return mean_action(logits)
        action = sample_action(logits, self.uniforms[:, time, None], self.temperature)
        # zero in training wherever a task has no such action; the mean learns that, a draw cannot
        action[..., self.used :] = 0.0
        return action

    def _generators(self, seeds: Sequence[int]) -> list[np.random.Generator]:
        if len(seeds) == 0 or self.nlane % len(seeds):
            found = f"{len(seeds)} seeds for {self.nlane} lanes"
            raise RolloutError(f"{self.where}: a temperature needs every episode's seed: {found}")
        return generators(seeds, STREAM)

    def _draw(self) -> Tensor:
        """(nlane, 256, action_size) in [0, 1) for a segment, each player's from its episode's."""
        # for 64 lanes, draws at every step cost 78 µs a step, a segment's at once 3 µs
        shape = (self.nlane // len(self.generators), SEGMENT_STEPS, self.schema.action_size)
        draws = np.stack([generator.random(shape, np.float32) for generator in self.generators])
        return torch.from_numpy(draws.reshape(self.nlane, *shape[1:])).to(self.device)


def _device() -> torch.device:
    """The CPU, or one of the GPUs: workers of a pool take them in turn."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    worker = sum(multiprocessing.current_process()._identity[-1:])  # from 1; 0 in no pool
    return torch.device("cuda", worker % torch.cuda.device_count())


load = Agent.load
"""For recipes: `policy = "palaestra.train.agent:load"`, `arguments = {url = "…"}`."""
