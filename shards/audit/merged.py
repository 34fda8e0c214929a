"""Compare the merged index with the shards' indexes, a few shards at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from .. import index, storage
from ..corpus import Corpus
from ..errors import CorpusError
from .report import Check, Tally, judge
from .survey import Part, ahead

NAME = "merged index"


class MergedIndex:
    """Reads index.parquet in step with the shards' parts, so that neither is in memory whole."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus, self.where = corpus, corpus.merged_url
        self.there = storage.exists(self.where)
        self.frames = ahead(self._read()) if self.there else iter(())
        self.waiting = pl.DataFrame(schema=index.COLUMNS)
        self.found, self.summed = index.Moments(), index.Moments()
        self.faults = Tally()

    def _read(self) -> Iterator[pl.DataFrame]:
        with storage.parquet_source(self.where, tuple(index.COLUMNS)) as source:
            file = index.open_parquet(source, self.where)
            info = index.parquet_info(file, self.where)
            self.found = info.moments
            if info.fingerprint != self.corpus.manifest.fingerprint:
                self.faults.add(f"{self.where}: stale index: fingerprint {info.fingerprint}")
            yield from index.read(file, self.where)

    def compare(self, part: Part) -> None:
        """Take in the next shards."""
        for info in part.infos.values():
            self.summed.merge(info.moments)
        rows = part.rows.drop("file")
        if self.there and not self.faults.count and not self._take(len(rows)).equals(rows):
            self._differs()

    def _take(self, count: int) -> pl.DataFrame:
        """The next `count` rows of the merged index, or all that are left."""
        try:
            while len(self.waiting) < count and (frame := next(self.frames, None)) is not None:
                self.waiting = pl.concat([self.waiting, frame])
        except CorpusError as error:
            self.faults.add(str(error))
        head, self.waiting = self.waiting.head(count), self.waiting.slice(count)
        return head

    def _differs(self) -> None:
        self.faults.add(f"{self.where}: differs from the shards' indexes")

    def check(self) -> Check:
        """The verdict, once all parts were compared."""
        if not self.there:
            return Check(NAME, True, "not written; the shards' indexes serve")
        same = moments_equal(self.found, self.summed)
        if not self.faults.count and (len(self._take(1)) or not same):
            self._differs()
        return judge(NAME, self.faults, "equals the shards' indexes")


def moments_equal(a: index.Moments, b: index.Moments) -> bool:
    """Whether two sums of the state agree to the last bit."""
    pairs = ((a.total, b.total), (a.squares, b.squares))
    return a.count == b.count and all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)
