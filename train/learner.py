"""What a run computes: global batches into updates, and held-out batches into metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..shards.batch import SegmentBatch
from ..shards.corpus import Corpus
from ..shards.errors import CheckpointError
from ..shards.index import Moments
from ..shards.reader import Reader
from ..shards.schema import PROPRIOCEPTION, Schema
from .config import TrainConfig
from .engine import Engine
from .execution import Execution
from .export import shapes_of
from .layers import record_entropy
from .loss import LossTerms, losses
from .metrics import Tally
from .model import PolicyValueNetwork
from .perception import augment
from .plan.flops import train_flops
from .schedule import learning_rate

DEMONSTRATION = "expert"  # behaviour whose steps always count in full
JUDGED = ("policy_loss", "value_loss", "gradient_norm")


class Learner:
    """The engine with its network, loss and metrics; the same numbers for any number of ranks."""

    def __init__(
        self, config: TrainConfig, execution: Execution, corpora: Sequence[Corpus], reader: Reader,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """`weights` to begin with, where the engine wants them; their statistics are kept."""
        self.config, self.execution, self.reader = config, execution, reader
        self.schema = corpora[0].schema
        self.engine = Engine(self._build, config, execution, weights)
        moments = Moments()  # of all: an entry that is constant in one corpus may move in another
        for corpus in corpora:
            moments.merge(corpus.moments)
        mean, deviation = moments.mean_and_deviation()
        self.engine.model.normalise_by(
            torch.tensor(mean), torch.tensor(deviation), hidden_state(self.schema, config.inputs)
        )
        self.statistics: tuple[tuple[float, ...], ...] = ()
        """Mean and scale of every state entry if another run's are kept; empty for the corpora's"""
        if weights is not None:
            found = torch.zeros(2, self.schema.state_size)
            if weights:
                found = torch.stack((weights["state.mean"], weights["state.scale"])).float()
            self.keep_statistics(self.engine.as_first(found.to(self.engine.device)))
        self._flops = config.batch * train_flops(
            config.model, shapes_of(self.schema), config.inputs.split("+")
        )
        self._peak = _peak_flops(self.engine.device)

    def _build(self) -> PolicyValueNetwork:
        return PolicyValueNetwork(
            self.config.model, shapes_of(self.schema), self.config.inputs.split("+"),
            self.execution.recompute,
        )  # fmt: skip

    def keep_statistics(self, found: Tensor) -> None:
        """Normalise by another run's mean and scale (2, state_size), of what varied in that run."""
        mean, scale = found.to(self.engine.device)
        self.engine.model.keep_statistics(mean, scale)
        state = self.engine.model.state
        self.statistics = (tuple(state.mean.tolist()), tuple(state.scale.tolist()))

    def update(self, update: int, stream: Iterator[SegmentBatch]) -> dict[str, float]:
        """One global batch through the network and into the weights; metrics of all ranks.

        Raises CheckpointError when loss or gradient are not finite.
        """
        config, engine = self.config, self.engine
        began, waited = time.monotonic(), 0.0
        valid = self.reader.valid_steps(update)
        rate = learning_rate(
            update, peak=config.peak_rate, end=config.end_rate, warm_up=config.warm_up,
            updates=config.updates,
        )  # fmt: skip
        history, augmentation = self._draws(update)
        tally = Tally(self.reader.behaviours, engine.device)
        engine.engine.train()
        for part in range(self.execution.accumulation):
            asked = time.monotonic()
            batch = next(stream)
            waited += time.monotonic() - asked
            slots = self.reader.part_slots(part)
            terms = self._forward(batch, self.reader, history[slots], augmentation[slots])
            engine.backward(terms.total, valid)
            engine.step(rate)
            tally.add(terms, torch.from_numpy(batch.steps), torch.from_numpy(batch.behaviour))
        metrics = tally.result(engine.sum_over_ranks)
        metrics |= {"rate": rate, "gradient_norm": engine.gradient_norm()}
        if not all(math.isfinite(metrics[name]) for name in JUDGED):
            keys = ", ".join(self.reader.keys(update)[:4])
            found = f"loss or gradient not finite at update {update}"
            raise CheckpointError(f"{found} (batch {keys}, …)")
        seconds = time.monotonic() - began
        metrics |= {"steps_per_s": metrics["steps"] / seconds, "data_wait": waited / seconds}
        if self._peak:
            metrics["mfu"] = self._flops / seconds / (self._peak * engine.world_size)
        return metrics

    @torch.no_grad()
    def validate(self, reader: Reader, batches: int) -> dict[str, float]:
        """Metrics of a reader's first global batches; attention entropies of this rank's first."""
        self.engine.engine.eval()
        tally = Tally(reader.behaviours, self.engine.device)
        entropies: dict[str, float] = {}
        for number, batch in enumerate(reader.stream(0, batches)):
            history = torch.ones(len(batch.steps), dtype=torch.bool)
            valid = torch.from_numpy(batch.valid).to(self.engine.device)
            recorded: AbstractContextManager[dict[str, float]] = nullcontext({})
            if number == 0:
                recorded = record_entropy(self.engine.model, valid)
            with recorded as found:
                terms = self._forward(batch, reader, history, None)
            entropies |= found
            tally.add(terms, torch.from_numpy(batch.steps), torch.from_numpy(batch.behaviour))
        return tally.result(self.engine.sum_over_ranks) | entropies

    def _draws(self, update: int) -> tuple[Tensor, Tensor]:
        """History kept (n,) bool and augmentation (n, 5) of every slot of a global batch.

        By slot, so that they do not depend on ranks and micro-batches.
        """
        seed = hash_seed(self.config.seed, update)
        slots = self.reader.padded_size
        history = torch.rand(slots, generator=torch.Generator().manual_seed(seed))
        augmentation = torch.rand(slots, 5, generator=torch.Generator().manual_seed(seed + 1))
        return history >= self.config.history_dropout, augmentation

    def _forward(
        self, batch: SegmentBatch, reader: Reader, history: Tensor, augmentation: Tensor | None
    ) -> LossTerms:
        device = self.engine.device
        pixels = None
        if batch.pixels is not None:
            pixels = torch.from_numpy(batch.pixels).to(device)
            if augmentation is not None:
                pixels = augment(pixels, augmentation, self.config.shift, self.config.colour)
        action = torch.from_numpy(batch.action).to(device)
        previous = torch.cat((torch.zeros_like(action[:, :1]), action[:, :-1]), dim=1)
        policy, value = self.engine.forward(
            torch.from_numpy(batch.state).to(device), pixels,
            torch.from_numpy(batch.instruction).to(device), previous, history.to(device),
        )  # fmt: skip
        demonstration = torch.tensor(
            [reader.behaviours[b] == DEMONSTRATION for b in batch.behaviour], device=device
        )
        return losses(
            policy, value, action, torch.from_numpy(batch.reward).to(device),
            torch.from_numpy(batch.steps).to(device),
            torch.from_numpy(batch.terminated).to(device),
            demonstration, self.schema.reward_range, self.config.loss,
            torch.from_numpy(batch.top).to(device),
        )  # fmt: skip


def _peak_flops(device: torch.device) -> float | None:
    """Of the device in bf16, per second, where it is known."""
    if device.type != "cuda":
        return None
    from .plan.hardware import peak_flops

    return peak_flops(torch.cuda.get_device_name(device))


def hidden_state(schema: Schema, inputs: str) -> Tensor:
    """(state_size,) bool: with `pixels` alone, all but what a player feels of its own body."""
    hidden = torch.zeros(schema.state_size, dtype=torch.bool)
    if inputs == "pixels":
        for name, place in schema.slices().items():
            hidden[place] = name not in PROPRIOCEPTION
    return hidden


def hash_seed(seed: int, update: int) -> int:
    """Seed of an update's own random draws, the same on every rank."""
    return (seed * 1_000_003 + update) * 2
