"""A trained network as a policy: `Agent.load(url)`, `reset`, `act`. No DeepSpeed, no pickle.

It plays our worlds and, by `act(observation, info)`, environments of Gymnasium.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..shards.errors import ConfigError, RolloutError
from ..shards.schema import INSTRUCTION_BYTES, SEGMENT_STEPS, Schema
from ..shards.seeds import generators
from ..shards.segments import encode_instruction
from .export import PRECISIONS, Exported, build_network, read_weights
from .loss import expected_value, mean_action, sample_action
from .model import Cache
from .observed import Environment, Lanes, Observed, fit, inputs

STREAM = 3  # of an episode's seed; generate draws from streams 0 to 2


@dataclass
class Segment:
    """Lanes whose segments began at the same step, and so share a cache."""

    lanes: NDArray[np.intp]
    rows: slice | NDArray[np.intp]
    """The lanes among all; a slice, which copies nothing, where they are all."""
    cache: Cache
    texts: Tensor
    uniforms: Tensor | None
    """(lanes, 256, action_size), what decides draws."""


class Agent:
    """Plays n lanes at once with cached keys and values.

    The cache begins anew at every 256th step of a lane's episode, exactly as in training; lanes
    that begin at different steps are computed apart. Actions are the policy's mean, or drawn at a
    temperature. With `history` off the agent does not see its own past actions.
    """

    observes_only = True
    """It needs of a world no more than `Lanes` has: it can play some of them."""

    def __init__(
        self, exported: Exported, where: str, history: bool = True, temperature: float = 0.0,
        precision: str | None = None,
    ) -> None:  # fmt: skip
        self.where, self.history, self.temperature = where, history, temperature
        self.device = _device()
        self.precision = precision or _precision(exported.config.precision, self.device)
        self.network = build_network(exported, where, self.precision, self.device)
        self.exported = replace(exported, weights={})  # the network has them
        self.nlane = 0
        self.critic: Tensor | None = None  # value logits of the last step

    @staticmethod
    def load(
        url: str, history: bool = True, temperature: float = 0.0, precision: str | None = None
    ) -> Agent:
        """The agent of a run (its newest checkpoint), a checkpoint or a .safetensors file.

        It computes in `precision`, `fp32` or `bf16`: by default fp32 on a CPU, and on a GPU what
        it was trained in. Raises CheckpointError if there is no complete checkpoint, ConfigError
        for a bad temperature or precision.
        """
        if not isinstance(temperature, int | float) or not 0 <= temperature < math.inf:
            raise ConfigError(f"{url}: temperature should be in [0, inf), is {temperature!r}")
        if precision not in (None, *PRECISIONS):
            words = " or ".join(PRECISIONS)
            raise ConfigError(f"{url}: precision should be {words}, is {precision!r}")
        return Agent(read_weights(url), url, history, temperature, precision)

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
        if self.precision != "fp32":
            found["precision"] = self.precision
        if self.device.type == "cpu":
            return found | {"torch_threads": str(torch.get_num_threads())}
        return found | {"device": f"cuda {torch.cuda.get_device_name(self.device)}"}

    def reset(self, lanes: Lanes | Environment | int, seeds: Sequence[int] = ()) -> None:
        """Begin episodes in the lanes of a world or an environment, or in a number of lanes.

        Call it whenever those are reset. Only a temperature needs seeds, one for all players of an
        episode; an environment tells them itself. Raises SchemaMismatchError for observations or
        actions unlike those trained on, RolloutError without seeds.
        """
        nlane, self.width, self.used = fit(lanes, self.schema, self.where)
        self.generators: list[np.random.Generator] = []
        if self.temperature and not (isinstance(lanes, Environment) and len(seeds) == 0):
            if len(seeds) == 0 or nlane % len(seeds):
                raise self._unseeded(f"{len(seeds)} seeds for {nlane} lanes")
            self.generators = generators(seeds, STREAM)
        self.nlane = nlane
        self.previous = torch.zeros(nlane, 1, self.schema.action_size, device=self.device)
        self.seen = torch.full((nlane,), self.history, device=self.device)
        self.critic = None
        self.segments: list[Segment] = []
        self.due = np.ones(nlane, bool)  # lanes whose next step is a segment's first
        self.codes = np.zeros((nlane, INSTRUCTION_BYTES), np.uint8)
        self.instructed = np.zeros(nlane, bool)
        self.episodes: NDArray[Any] | None = None

    @torch.inference_mode()
    def act(
        self, observation: Observed, info: Mapping[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """Actions (nlane, action_size) in [-1, 1] for the present observation.

        An environment's observation is its state or a dict of `state` and `pixels`; where that has
        no axis of lanes, the actions have none. They hold the entries of its action_space. Of its
        `info` count `instruction`, read where a segment begins, and `seed`: a lane that has another
        than before has begun its next episode.

        Raises RolloutError before a reset, for another number of lanes, without pixels or an
        instruction; SchemaMismatchError for sizes unlike those trained on.
        """
        if self.nlane == 0:
            raise RolloutError(f"{self.where}: act before reset")
        shapes = self.network.shapes  # a schema would add up its slots at every step
        state, pixels, alone = inputs(
            observation, self.nlane, shapes, self.where, pixels=self.needs_pixels
        )
        if info is not None:
            self._follow(info)
        for segment in self.segments:
            if segment.cache.length == SEGMENT_STEPS:
                self.due[segment.lanes] = True
        if self.due.any():
            told = getattr(observation, "instruction", None)
            self._begin(told if info is None else info.get("instruction"))
        self._think(state, pixels)
        played: NDArray[np.float32] = self.previous[:, 0].cpu().numpy()
        action = np.clip(played, -1.0, 1.0)[:, : self.width]
        return action[0] if alone else action

    @property
    def value(self) -> NDArray[np.float32]:
        """(nlane,) the critic's estimates at the last step, in units of (1 − γ) · return."""
        if self.critic is None:
            raise RolloutError(f"{self.where}: there is no value before the first act")
        value = expected_value(self.critic[:, 0], *self.schema.reward_range)
        estimates: NDArray[np.float32] = value.cpu().numpy()
        return estimates

    def _follow(self, info: Mapping[str, Any]) -> None:
        """Note which lanes have begun an episode, by the seeds in an environment's info."""
        if info.get("seed") is None:
            return
        seeds = np.asarray(info["seed"]).reshape(-1)
        if len(seeds) != self.nlane:
            raise RolloutError(f"{self.where}: {len(seeds)} seeds for {self.nlane} lanes")
        before = np.zeros_like(seeds) if self.episodes is None else self.episodes
        begun = (seeds != before) | (self.episodes is None)
        begun &= info.get("_seed", True)  # where others were reset, a lane may have no entry
        if not begun.any():
            return
        self.episodes = np.where(begun, seeds, before)
        self.due |= begun
        self.instructed &= ~begun
        if self.temperature:
            fresh = generators(self.episodes.tolist(), STREAM)
            pairs = zip(fresh, begun, self.generators or fresh, strict=True)
            self.generators = [new if anew else old for new, anew, old in pairs]

    def _begin(self, told: str | Sequence[str] | None) -> None:
        """A segment for the lanes that are due; those they leave go on without them."""
        lanes = np.flatnonzero(self.due)
        self._listen(told, lanes)
        uniforms = self._draw(lanes) if self.temperature else None
        rows = slice(None) if len(lanes) == self.nlane else lanes
        texts = torch.from_numpy(self.codes[lanes]).to(self.device)
        cache = self.network.new_cache(SEGMENT_STEPS)
        self.segments = [s for s in map(self._without_due, self.segments) if len(s.lanes)]
        self.segments.append(Segment(lanes, rows, cache, texts, uniforms))
        self.due[:] = False

    def _without_due(self, segment: Segment) -> Segment:
        stay = ~self.due[segment.lanes]
        if stay.all() or not stay.any():
            return replace(segment, lanes=segment.lanes[stay])
        lanes, among = segment.lanes[stay], torch.from_numpy(np.flatnonzero(stay)).to(self.device)
        cache = segment.cache
        for layer in (*cache.encoder, *cache.decoder):
            assert layer.keys is not None and layer.values is not None
            # (lanes × tokens, …): the encoder's tokens each have their own past
            layer.keys, layer.values = (
                x.view(len(stay), -1, *x.shape[1:])[among].flatten(0, 1)
                for x in (layer.keys, layer.values)
            )
        assert cache.instruction is not None
        cache.instruction = cache.instruction[among]
        uniforms = None if segment.uniforms is None else segment.uniforms[among]
        return Segment(lanes, lanes, cache, segment.texts[among], uniforms)

    def _listen(self, told: str | Sequence[str] | None, lanes: NDArray[np.intp]) -> None:
        """Take in what these lanes are told; without an entry, what they were told still holds."""
        texts = [told] * self.nlane if told is None or isinstance(told, str) else told
        if len(texts) != self.nlane:
            raise RolloutError(f"{self.where}: {len(texts)} instructions for {self.nlane} lanes")
        for lane in lanes.tolist():
            text = texts[lane]
            if isinstance(text, str):
                self.codes[lane], self.instructed[lane] = encode_instruction(text), True
            elif not self.instructed[lane]:
                raise RolloutError(
                    f"{self.where}: lane {lane} has no instruction: act needs the environment's "
                    "info, or {'instruction': …}"
                )

    def _think(self, state: NDArray[np.float32], pixels: NDArray[np.uint8] | None) -> None:
        """Each segment's next step: `previous` and `critic` of all lanes."""
        found = [self._step(segment, state, pixels) for segment in self.segments]
        if len(found) == 1:
            self.previous, self.critic = found[0]
            return
        lanes = np.concatenate([segment.lanes for segment in self.segments])
        order = torch.from_numpy(np.argsort(lanes)).to(self.device)
        self.previous, self.critic = (torch.cat(x)[order] for x in zip(*found, strict=True))

    def _step(
        self, segment: Segment, state: NDArray[np.float32], pixels: NDArray[np.uint8] | None
    ) -> tuple[Tensor, Tensor]:
        """Actions (lanes, 1, action_size) and value logits (lanes, 1, bins) of a segment."""
        rows, time = segment.rows, segment.cache.length
        seen = [
            None if x is None else torch.from_numpy(x[rows])[:, None].to(self.device)
            for x in (state, pixels)
        ]
        logits, value = self.network(
            *seen, segment.texts, self.previous[rows], self.seen[rows], segment.cache
        )
        if segment.uniforms is None:
            action = mean_action(logits)
        else:
            action = sample_action(logits, segment.uniforms[:, time, None], self.temperature)
        # zero in training wherever a task has no such action, which the policy does not learn
        action[..., self.used :] = 0.0
        return action, value

    def _draw(self, lanes: NDArray[np.intp]) -> Tensor:
        """(lanes, 256, action_size) in [0, 1) for a segment, each player's from its episode's."""
        if not self.generators:
            raise self._unseeded("the environment's info has no seed")
        # for 64 lanes, draws at every step cost 78 µs a step, a segment's at once 3 µs
        players = self.nlane // len(self.generators)  # who all begin together
        shape = (players, SEGMENT_STEPS, self.schema.action_size)
        episodes = (lanes[::players] // players).tolist()
        draws = np.stack([self.generators[e].random(shape, np.float32) for e in episodes])
        return torch.from_numpy(draws.reshape(len(lanes), *shape[1:])).to(self.device)

    def _unseeded(self, found: str) -> RolloutError:
        return RolloutError(f"{self.where}: a temperature needs every episode's seed: {found}")


def _precision(trained: str, device: torch.device) -> str:
    """What a network computes in where nobody says: a CPU without AVX512-BF16 is slower in bf16."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return trained if fast else "fp32"


def _device() -> torch.device:
    """The CPU, or one of the GPUs: workers of a pool take them in turn."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    worker = sum(multiprocessing.current_process()._identity[-1:])  # from 1; 0 in no pool
    return torch.device("cuda", worker % torch.cuda.device_count())


load = Agent.load
"""For recipes: `policy = "palaestra.train.agent:load"`, `arguments = {url = "…"}`."""
