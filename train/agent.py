"""A trained network as a policy: `Agent.load(url)`, `reset`, `act`. No DeepSpeed, no pickle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..shards.errors import RolloutError
from ..shards.schema import SEGMENT_STEPS, Schema
from ..shards.segments import encode_instruction
from .checkpoint import Exported, build_network, read_weights
from .loss import mean_action
from .model import Cache


class Lanes(Protocol):
    """What an agent needs of a world."""

    @property
    def nlane(self) -> int: ...

    @property
    def schema(self) -> Schema: ...


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
    mean. With `history` off the agent does not see its own past actions.
    """

    def __init__(self, exported: Exported, where: str, history: bool = True) -> None:
        self.exported, self.where, self.history = exported, where, history
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = build_network(exported, where).to(device)
        self.device = torch.device(device)
        self.cache: Cache | None = None
        self.texts = torch.zeros(0)

    @staticmethod
    def load(url: str, history: bool = True) -> Agent:
        """The agent of a run (its newest checkpoint), a checkpoint or a .safetensors file.

        Raises CheckpointError if there is no complete one.
        """
        return Agent(read_weights(url), url, history)

    @property
    def schema(self) -> Schema:
        """What the agent was trained to see and do."""
        return self.exported.schema

    @property
    def needs_pixels(self) -> bool:
        """Whether observations must hold frames."""
        return "pixels" in self.network.inputs

    def reset(self, lanes: Lanes | int, seeds: Sequence[int] = ()) -> None:
        """Begin episodes in a world's lanes, or in a number of lanes.

        Raises SchemaMismatchError if the world's observations are not what the agent was
        trained on.
        """
        if not isinstance(lanes, int):
            self.schema.require_equal(lanes.schema, self.where, but=("reward_range",))
        self.nlane = lanes if isinstance(lanes, int) else lanes.nlane
        self.previous = torch.zeros(self.nlane, 1, self.schema.action_size, device=self.device)
        self.seen = torch.full((self.nlane,), self.history, device=self.device)
        self.cache = None

    @torch.inference_mode()
    def act(self, observation: Seen) -> NDArray[np.float32]:
        """Actions (nlane, action_size) in [-1, 1] for the present observation."""
        if self.cache is None or self.cache.length == SEGMENT_STEPS:
            self.cache = self.network.new_cache(SEGMENT_STEPS)
            codes = np.stack([encode_instruction(text) for text in observation.instruction])
            self.texts = torch.from_numpy(codes).to(self.device)
        pixels = None
        if self.needs_pixels:
            if observation.pixels is None:
                raise RolloutError(f"{self.where}: the agent needs pixels, the world has none")
            pixels = torch.from_numpy(np.ascontiguousarray(observation.pixels))[:, None]
            pixels = pixels.to(self.device)
        state = torch.from_numpy(np.ascontiguousarray(observation.state))[:, None].to(self.device)
        logits, _ = self.network(state, pixels, self.texts, self.previous, self.seen, self.cache)
        self.previous = mean_action(logits)
        action: NDArray[np.float32] = self.previous[:, 0].cpu().numpy()
        return np.clip(action, -1.0, 1.0)


def load(url: str, history: bool = True) -> Agent:
    """For recipes: `policy = "palaestra.train.agent:load"`, `arguments = {url = "…"}`."""
    return Agent.load(url, history)
