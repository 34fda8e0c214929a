"""A Palaestra corpus as it is, read by `Reader` with one thread and all checks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from palaestra.shards.codec import JSON_FIELDS
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from palaestra.shards.reader import Reader
from palaestra.shards.segments import Source
from palaestra.shards.writer import ShardWriter

from .segments import BATCH, READ, Batch, Segments


class Ours:
    """Reads the corpus at a URL, or the first segments of it, if there are fewer.

    What it writes, to be timed, are the same shards.
    """

    ahead = True

    def __init__(self, folder: Path, segments: Segments, corpus: str) -> None:
        self._folder, self._segments = folder, segments
        self._corpus = Corpus.open(corpus)
        self._rows = self._corpus.index.head(len(segments))

    def write(self) -> None:
        """Every shard, with its index, in the folder."""
        shards = self._rows["shard"].to_numpy()
        for shard in np.unique(shards).tolist():
            writer = ShardWriter(self._corpus, shard)
            for number in np.flatnonzero(shards == shard).tolist():
                writer.add(self._episode(number))
            tar, rows = writer.finish()
            (self._folder / f"{shard}.tar").write_bytes(tar)
            (self._folder / f"{shard}.parquet").write_bytes(rows)

    def _episode(self, number: int) -> Episode:
        fields = json.loads(self._segments.words[number])
        if fields["final_state_xxh3"] is not None:
            fields["final_state_xxh3"] = int(fields["final_state_xxh3"], 16)
        named = {name: fields[name] for name in JSON_FIELDS}
        return Episode(**named, **self._segments.arrays_of(number))

    def epoch(self, seed: int) -> Iterator[Batch]:
        """The order is one of single segments; its last batch takes a few of the next epoch."""
        shard, offset = self._rows.select("shard", "offset").row(-1)
        last = (pl.col("shard") == shard) & (pl.col("offset") <= offset)
        source = Source(self._corpus, where=(pl.col("shard") < shard) | last)
        reader = Reader([source], batch_size=BATCH, micro_batch=BATCH, seed=seed, threads=1)
        return self._batches(reader)

    def _batches(self, reader: Reader) -> Iterator[Batch]:
        stop = -(-len(self._segments) // BATCH)
        for number, (batch,) in enumerate(reader.batches(0, stop)):
            arrays = {name: getattr(batch, name) for name in READ}
            yield Batch(reader.global_batch(number)[1].tolist(), arrays, batch.steps)
        reader.close()
