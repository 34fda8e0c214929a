"""The training loop: batches in, updates out, nothing lost."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import polars as pl
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ..shards import storage
from ..shards.batch import SegmentBatch
from ..shards.cache import RangeCache
from ..shards.console import Advance, no_progress, progress
from ..shards.corpus import Corpus
from ..shards.errors import CheckpointError
from ..shards.index import Moments
from ..shards.reader import Reader
from ..shards.segments import Source, parse_where, split_by_match
from . import checkpoint
from .config import TrainConfig
from .engine import Engine
from .loss import LossTerms, losses
from .model import PolicyValueNetwork
from .perception import augment
from .run import corpora_state, newest_marker
from .schedule import learning_rate

DEMONSTRATION = "expert"  # behaviour whose steps always count in full
VALIDATION_BATCHES = 4


@dataclass(frozen=True)
class Every:
    """How often something happens: by wall clock, by updates, or both."""

    seconds: float = math.inf
    updates: int = 0

    def due(self, update: int, since: float) -> bool:
        """Whether it is time, `since` seconds after the last one."""
        return since >= self.seconds or (self.updates > 0 and update % self.updates == 0)


class Trainer:
    """One run of one rank: the order of batches, the engine, metrics and checkpoints."""

    def __init__(
        self, config: TrainConfig, run: str, corpora: Sequence[Corpus],
        cache: RangeCache | None = None,
    ) -> None:  # fmt: skip
        self.config, self.run, self.corpora, self.cache = config, run, list(corpora), cache
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.schema = corpora[0].schema
        training, held = split_by_match(config.validation_share)
        self.reader = self._reader(training, rank, world_size)
        self.validation = self._reader(held, rank, world_size) if config.validation_share else None
        self.engine = Engine(self._build, config, self.reader.accumulation)
        moments = Moments()  # of all: an entry that is constant in one corpus may move in another
        for corpus in corpora:
            moments.merge(corpus.moments)
        mean, deviation = moments.mean_and_deviation()
        self.engine.model.normalise_by(torch.tensor(mean), torch.tensor(deviation))
        self.tasks = _tasks(corpora)
        self.digest, self.start = 0, 0
        self.stopping = False

    def _build(self) -> PolicyValueNetwork:
        return PolicyValueNetwork(
            self.config.model, checkpoint.shapes_of(self.schema), self.config.inputs.split("+"),
            self.config.recompute,
        )  # fmt: skip

    def _reader(self, part: pl.Expr, rank: int, world_size: int) -> Reader:
        where = part & parse_where(self.config.where) if self.config.where else part
        sources = [
            Source(corpus, weight, where)
            for corpus, weight in zip(self.corpora, self.config.weights, strict=True)
        ]
        return Reader(
            sources, batch_size=self.config.batch, micro_batch=self.config.micro_batch,
            seed=self.config.seed, rank=rank, world_size=world_size,
            pixels="pixels" in self.config.inputs, cache=self.cache,
        )  # fmt: skip

    def resume(self) -> None:
        """Go on from the newest complete checkpoint, if there is one; `check_run` approved it."""
        found = newest_marker(self.run)
        if found:
            _, marker = found
            checkpoint.restore(self.run, marker["update"], self.engine)
            self.start, self.digest = marker["update"], marker["digest"]

    def train(self, checkpoint_every: Every, validate_every: int) -> None:
        """Run to the last update; checkpoint on the way, at the end and when told to stop."""
        if self.start >= self.config.updates:
            return  # a finished run, given again
        chief = self.engine.rank == 0
        previous = [signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGUSR1)]
        log = _Log(self.run, self.start) if chief else None
        try:
            left = self.config.updates - self.start
            shown = progress("train", left, "updates") if chief else nullcontext(no_progress)
            with shown as advance:
                self._loop(checkpoint_every, validate_every, log, advance)
        finally:
            for number, handler in zip((signal.SIGTERM, signal.SIGUSR1), previous, strict=True):
                signal.signal(number, handler)
            if log:
                log.close()
            self.reader.close()
            if self.validation:
                self.validation.close()

    def _loop(
        self, checkpoint_every: Every, validate_every: int, log: _Log | None, advance: Advance
    ) -> None:
        config, saved = self.config, time.monotonic()
        stream = self.reader.stream(self.start, config.updates)
        for update in range(self.start, config.updates):
            began = time.monotonic()
            metrics = self._update(update, islice(stream, self.reader.accumulation))
            metrics["steps_per_s"] = metrics["steps"] / (time.monotonic() - began)
            metrics["storage_retries"] = float(storage.retries())  # of this rank, so far
            done = update + 1
            if validate_every and (done % validate_every == 0 or done == config.updates):
                metrics |= self._validate()
            if log:
                log.write(update, metrics)
            advance(1, f"loss {metrics['policy_loss']:.3f}, {metrics['steps_per_s']:,.0f} steps/s")
            due = checkpoint_every.due(done, time.monotonic() - saved)
            # asked once: a signal after the question must not stop a run that did not save
            stop = self._agree(self.stopping)
            if self._agree(due or stop or done == config.updates):
                self.save(done)
                saved = time.monotonic()
            if stop:
                break

    def save(self, update: int) -> None:
        """Write the checkpoint after `update` updates, on all ranks."""
        state = {
            "update": update, "digest": self.digest, "world_size": self.engine.world_size,
            "corpora": corpora_state(self.corpora),
        }  # fmt: skip
        metadata = checkpoint.export_metadata(self.config, self.schema, self.tasks)
        checkpoint.save(self.run, update, self.engine, state, metadata)

    def _stop(self, signum: int, frame: object) -> None:
        self.stopping = True

    def _agree(self, wish: bool) -> bool:
        """Whether any rank wishes it: all must save and stop at the same update."""
        if self.engine.world_size == 1:
            return wish
        votes = torch.tensor([float(wish)], device=self.engine.device)  # NCCL takes no other
        return bool(self.engine.sum_over_ranks(votes).item() > 0)

    def _update(self, update: int, micro_batches: Iterable[SegmentBatch]) -> dict[str, float]:
        """One global batch through the network and into the weights; metrics of all ranks."""
        config, engine = self.config, self.engine
        valid = self.reader.valid_steps(update)
        rate = learning_rate(
            update, peak=config.peak_rate, end=config.end_rate, warm_up=config.warm_up,
            updates=config.updates,
        )  # fmt: skip
        history, augmentation = self._draws(update)
        tally = _Tally(self.reader.behaviours)
        engine.engine.train()
        for part, batch in enumerate(micro_batches):
            slots = self.reader.part_slots(part)
            terms = self._forward(batch, history[slots], augmentation[slots])
            engine.backward(terms.total, valid)
            engine.step(rate)
            tally.add(terms, batch)
        self.digest = self.reader.digest(update, self.digest)
        metrics = tally.result(engine)
        metrics |= {"rate": rate, "gradient_norm": engine.gradient_norm()}
        judged = ("policy_loss", "value_loss", "gradient_norm")
        if not all(math.isfinite(metrics[name]) for name in judged):
            self._not_finite(update)
        return metrics

    def _draws(self, update: int) -> tuple[Tensor, Tensor]:
        """History kept (n,) bool and augmentation (n, 5) of every slot of a global batch.

        By slot, so that they do not depend on ranks and micro-batches.
        """
        seed = hash_seed(self.config.seed, update)
        slots = self.reader.padded_size
        history = torch.rand(slots, generator=torch.Generator().manual_seed(seed))
        augmentation = torch.rand(slots, 5, generator=torch.Generator().manual_seed(seed + 1))
        return history >= self.config.history_dropout, augmentation

    def _not_finite(self, update: int) -> None:
        keys = ", ".join(self.reader.keys(update)[:4])
        found = checkpoint.complete_checkpoints(self.run)
        last = checkpoint.checkpoint_url(self.run, found[-1]) if found else "none"
        raise CheckpointError(
            f"{self.run}: loss or gradient not finite at update {update} (batch {keys}, …); "
            f"last good checkpoint: {last}"
        )

    def _forward(
        self, batch: SegmentBatch, history: Tensor, augmentation: Tensor | None
    ) -> LossTerms:
        device = self.engine.device
        pixels = None
        if batch.pixels is not None:
            pixels = torch.from_numpy(batch.pixels)
            if augmentation is not None:
                pixels = augment(pixels, augmentation, self.config.shift, self.config.colour)
            pixels = pixels.to(device)
        action = torch.from_numpy(batch.action).to(device)
        previous = torch.cat((torch.zeros_like(action[:, :1]), action[:, :-1]), dim=1)
        policy, value = self.engine.forward(
            torch.from_numpy(batch.state).to(device), pixels,
            torch.from_numpy(batch.instruction).to(device), previous, history.to(device),
        )  # fmt: skip
        demonstration = torch.tensor(
            [self.reader.behaviours[b] == DEMONSTRATION for b in batch.behaviour], device=device
        )
        return losses(
            policy, value, action, torch.from_numpy(batch.reward).to(device),
            torch.from_numpy(batch.steps).to(device),
            torch.from_numpy(batch.terminated).to(device),
            demonstration, self.schema.reward_range, self.config.loss,
        )  # fmt: skip

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Losses on matches that training never sees."""
        if self.validation is None:
            return {}
        self.engine.engine.eval()
        tally = _Tally(self.validation.behaviours)
        for batch in self.validation.stream(0, VALIDATION_BATCHES):
            history = torch.ones(len(batch.steps), dtype=torch.bool)
            tally.add(self._forward(batch, history, None), batch)
        return {f"validation/{k}": v for k, v in tally.result(self.engine).items()}


class _Tally:
    """Sums of a global batch's metrics."""

    def __init__(self, behaviours: list[str]) -> None:
        self.behaviours = behaviours
        self.sums = torch.zeros(5 + 2 * len(behaviours), dtype=torch.float64)

    def add(self, terms: LossTerms, batch: SegmentBatch) -> None:
        """Take in a micro-batch."""
        row = [float(batch.steps.sum())]
        row += [float(x) for x in (terms.policy, terms.value, terms.correct, terms.entropy)]
        kept = terms.kept.sum(dim=1).cpu()
        for code in range(len(self.behaviours)):
            chosen = torch.from_numpy(batch.behaviour == code)
            row += [float(kept[chosen].sum()), float(batch.steps[chosen.numpy()].sum())]
        self.sums += torch.tensor(row, dtype=torch.float64)

    def result(self, engine: Engine) -> dict[str, float]:
        """Means over all ranks' valid steps."""
        sums = engine.sum_over_ranks(self.sums.to(engine.device)).cpu().tolist()
        steps = max(sums[0], 1.0)
        names = ("policy_loss", "value_loss", "accuracy", "entropy")
        metrics = {"steps": sums[0]} | {n: s / steps for n, s in zip(names, sums[1:5], strict=True)}
        for code, name in enumerate(self.behaviours):
            kept, count = sums[5 + 2 * code : 7 + 2 * code]
            if count:
                metrics[f"kept/{name}"] = kept / count
        return metrics


class _Log:
    """metrics.jsonl at the run's URL, and TensorBoard where that is local."""

    def __init__(self, run: str, start: int) -> None:
        self.url = storage.join(run, "metrics.jsonl")
        if storage.exists(self.url):  # a killed run logged past its checkpoint
            lines = storage.read_bytes(self.url).decode().splitlines()
            kept = [line for line in lines if _update_of(line) < start]
            storage.write_bytes(self.url, "".join(f"{line}\n" for line in kept).encode())
        local = storage.local_path(storage.join(run, "tensorboard"))
        self.board = SummaryWriter(str(local), purge_step=start) if local else None

    def write(self, update: int, metrics: dict[str, float]) -> None:
        """One line and one point a metric."""
        storage.append_line(self.url, json.dumps({"update": update} | metrics))
        for name, value in metrics.items():
            if self.board:
                self.board.add_scalar(name, value, update)

    def close(self) -> None:
        """Flush."""
        if self.board:
            self.board.close()


def _update_of(line: str) -> float:
    try:
        return float(json.loads(line)["update"])
    except (ValueError, KeyError):
        return math.inf  # half a line of a killed run


def hash_seed(seed: int, update: int) -> int:
    """Seed of an update's own random draws, the same on every rank."""
    return (seed * 1_000_003 + update) * 2


def _tasks(corpora: Sequence[Corpus]) -> tuple[tuple[str, int], ...]:
    pairs = (corpus.select("task", "level").unique().rows() for corpus in corpora)
    return tuple(sorted({pair for rows in pairs for pair in rows}))
