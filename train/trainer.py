"""The training loop: batches in, updates out, nothing lost."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from ..shards import storage
from ..shards.batch import SegmentBatch
from ..shards.cache import RangeCache
from ..shards.console import no_progress
from ..shards.corpus import Corpus
from ..shards.errors import CheckpointError
from ..shards.reader import Reader
from ..shards.segments import Source
from . import checkpoint
from .cadence import Cadence
from .checkpoint import Place
from .config import TrainConfig
from .engine import lowest
from .execution import Execution
from .export import export_metadata
from .learner import Learner
from .log import Log
from .owner import Owner
from .places import ROLLING, Keep, Marker, checkpoints_url, complete_checkpoints, update_url
from .run import check_marker, corpora_state
from .show import Show, watch
from .sources import split_sources
from .stop import Stop
from .warm_start import read_start


class Trainer:
    """One run of one rank: the order of batches, metrics, validation and checkpoints."""

    def __init__(
        self, config: TrainConfig, execution: Execution, cadence: Cadence, run: str,
        corpora: Sequence[Corpus], heldout: Sequence[Corpus] = (),
        cache: RangeCache | None = None, owner: Owner | None = None, stop: Stop | None = None,
    ) -> None:  # fmt: skip
        """`stop` is asked after every update."""
        self.config, self.execution, self.cadence = config, execution, cadence
        self.run, self.corpora, self.cache, self.owner = run, list(corpora), cache, owner
        self.stop = stop or Stop()
        training, held = split_sources(config, corpora)
        self.reader = self._reader(training)
        self.places = self._places()
        self._found = self._newest()
        self.learner = Learner(config, execution, corpora, self.reader, self._weights())
        self.engine = self.learner.engine
        self.validation: dict[str, Reader] = {}
        if config.validation_share:
            self.validation["validation"] = self._reader(held)
        if heldout:
            self.validation["heldout"] = self._reader([Source(corpus) for corpus in heldout])
        self.metadata = export_metadata(config, corpora[0].schema, _tasks(corpora))
        self.digest, self.start = 0, 0

    def _reader(self, sources: Sequence[Source]) -> Reader:
        return Reader(
            sources, batch_size=self.config.batch, micro_batch=self.execution.micro_batch,
            seed=self.config.seed, rank=torch.distributed.get_rank(),
            world_size=self.execution.ranks, pixels="pixels" in self.config.inputs,
            cache=self.cache,
        )  # fmt: skip

    def _places(self) -> list[Place]:
        """Where checkpoints are: the run's, then the rolling one's."""
        first = torch.distributed.get_rank() == 0
        places = [Place(checkpoints_url(self.run), first)]
        folder, local = self.cadence.rolling_folder, storage.local_path(self.run)
        if folder is None and local is not None:
            return [*places, Place(storage.join(self.run, ROLLING), first)]
        name = hashlib.sha256(self.run.encode()).hexdigest()[:16]
        folder = folder or str(Path(tempfile.gettempdir()) / "palaestra-rolling")
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        return [*places, Place(storage.join(folder, name), first, shared=False)]

    def _newest(self) -> tuple[Place, int]:
        """The newest checkpoint that all ranks can read: where, and its update, -1 for none."""
        rank = torch.distributed.get_rank()
        updates = [lowest(place.newest(rank, self.execution.ranks)) for place in self.places]
        update = max(updates)
        return self.places[updates.index(update)], update  # the run's own, where both are as new

    def _weights(self) -> dict[str, Tensor] | None:
        """What the engine takes of a warm start; None for a run with a checkpoint, or drawn."""
        if not self.config.warm_start or self._found[1] >= 0:
            return None
        partitioned = self.execution.zero_stage == 3
        return {} if partitioned and torch.distributed.get_rank() else read_start(self.config)

    def resume(self, source: tuple[str, int] | None = None) -> str | None:
        """Go on from the newest checkpoint that all ranks can read; returns its URL.

        A run without any begins at `source`, folder and update of another's.
        """
        place, update = self._found
        if update < 0:
            if source is None:
                return None
            place, update = Place(source[0], chief=False), source[1]
        url = update_url(place.folder, update)
        marker = checkpoint.restore(place, update, self.engine)
        if source is None:
            check_marker(url, marker, self.corpora)
        if marker.statistics:
            self.learner.keep_statistics(torch.tensor(marker.statistics))
        self.start, self.digest = marker.update, marker.digest
        return url

    def train(self) -> bool:
        """Run to the last update, saving on the way, at the end and when told to stop.

        Returns whether the last update was made.
        """
        if self.start >= self.config.updates:
            return True  # a finished run, given again
        chief = self.engine.rank == 0
        log = Log(self.run, self.start) if chief else None
        try:
            quiet = nullcontext(Show(no_progress))
            shown = watch(self.config.updates, self.start) if chief else quiet
            with shown as show:
                return self._loop(log, show)
        finally:
            if log:
                log.close(upload=not (self.owner and self.owner.lost))
            self.reader.close()
            for reader in self.validation.values():
                reader.close()

    def _loop(self, log: Log | None, show: Show) -> bool:
        config, cadence = self.config, self.cadence
        saved = rolled = time.monotonic()
        stream = self.reader.stream(self.start, config.updates)
        for update in range(self.start, config.updates):
            metrics = self._update(update, stream)
            done = update + 1
            last = done == config.updates
            if cadence.validate and (done % cadence.validate == 0 or last):
                metrics |= self._validate()
            if self.owner and self.owner.lost:
                self.owner.check()
            if log:
                log.write(update, metrics)
            show(metrics)
            now = time.monotonic()
            # asked once: a signal after the question must not stop a run that did not save
            stop, due, rolling = self._agree(
                self.stop.wanted, cadence.checkpoint.due(done, now - saved),
                cadence.rolling.due(done, now - rolled),
            )  # fmt: skip
            if due or stop or last:
                self.save(done, log)
                show.saved()
                saved = rolled = time.monotonic()
            elif rolling:
                if log:
                    log.flush()
                self._save(self.places[1], done, Keep(last=1))
                rolled = time.monotonic()
            if stop and not last:
                return False
        if self.places[1].chief:
            storage.remove(self.places[1].folder)
        return True

    def _update(self, update: int, stream: Iterator[SegmentBatch]) -> dict[str, float]:
        try:
            metrics = self.learner.update(update, stream)
        except CheckpointError as error:
            found = complete_checkpoints(self.run)
            last = update_url(checkpoints_url(self.run), found[-1]) if found else "none"
            raise CheckpointError(f"{self.run}: {error}; last good checkpoint: {last}") from error
        self.digest = self.reader.digest(update, self.digest)
        epochs = (update + 1) * self.config.batch / sum(self.reader.counts)
        # retries are of this rank, so far
        return metrics | {"epoch": epochs, "storage_retries": float(storage.retries())}

    def _validate(self) -> dict[str, float]:
        """Metrics on matches, and on tasks, that training never sees."""
        metrics: dict[str, float] = {}
        for part, reader in self.validation.items():
            there = -(-sum(reader.counts) // self.config.batch)
            found = self.learner.validate(reader, min(self.cadence.validation_batches, there))
            metrics |= {f"{part}/{name}": value for name, value in found.items()}
        return metrics

    def save(self, update: int, log: Log | None = None) -> None:
        """Write the run's checkpoint after `update` updates, on all ranks."""
        if log:
            log.flush()  # what a resumed run keeps must be there
        self._save(self.places[0], update, self.cadence.keep, self.metadata)

    def _save(
        self, place: Place, update: int, keep: Keep, metadata: dict[str, object] | None = None
    ) -> None:
        corpora = corpora_state(self.corpora)
        marker = Marker(update, self.digest, self.execution.ranks, corpora, self.learner.statistics)
        approve = self.owner.check if self.owner else bool
        checkpoint.save(place, marker, self.engine, keep, metadata, approve)

    def _agree(self, *wishes: bool) -> list[bool]:
        """Whether any rank has each wish: all must save and stop at the same update."""
        if self.engine.world_size == 1:
            return list(wishes)
        votes = torch.tensor([float(wish) for wish in wishes], device=self.engine.device)
        return [count > 0 for count in self.engine.sum_over_ranks(votes).tolist()]


def _tasks(corpora: Sequence[Corpus]) -> tuple[tuple[str, int], ...]:
    pairs = (corpus.select("task", "level").unique().rows() for corpus in corpora)
    return tuple(sorted({pair for rows in pairs for pair in rows}))
