"""Write one shard: samples into a plain tar, then the index that commits it."""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Any

import polars as pl
import xxhash

from . import index, storage
from .codec import encode_arrays, encode_fields, fields_of, tar_member
from .corpus import Corpus
from .episode import Episode

END_OF_TAR = b"\0" * 1024


class ShardWriter:
    """Collects a shard in memory (about 100 MB for 0.25 M steps) and stores it whole.

    What is added waits, compressed, for `end_wave`: until its matches are over, nobody knows who
    won them, or whether they are to be kept. `tarfile` writes one header at a time through
    `codec.tar_member`: webdataset's own writer sorts members by name, which would put the pixels
    in the middle, and importing it imports torch.
    """

    def __init__(self, corpus: Corpus, shard: int) -> None:
        self.corpus, self.shard = corpus, shard
        self.tar = io.BytesIO()
        self.rows: list[dict[str, Any]] = []
        self.moments = index.Moments()
        self._waiting: list[tuple[dict[str, Any], dict[str, bytes], dict[str, Any], index.Moments]]
        self._waiting = []

    def add(self, episode: Episode) -> None:
        """Take in a segment; RolloutError if it breaks the corpus's schema."""
        episode.validate(self.corpus.schema)
        moments = index.Moments()
        moments.add(episode.state)
        row = index.row(episode, self.shard, 0, 0, 0)
        self._waiting.append((fields_of(episode), encode_arrays(episode), row, moments))

    def end_wave(self, keep: Collection[int] | None = None) -> None:
        """Append what waits: all of it, or the matches to keep. Their outcomes are known now."""
        outcomes = {
            (row["match"], row["player"]): row["outcome"]
            for _, _, row, _ in self._waiting if row["terminated"] or row["truncated"]
        }  # fmt: skip
        for fields, arrays, row, moments in self._waiting:
            if keep is not None and row["match"] not in keep:
                continue
            outcome = outcomes.get((row["match"], row["player"]))
            members = {"json": encode_fields(fields | {"outcome": outcome})} | arrays
            data = b"".join(tar_member(f"{row['key']}.{n}", m) for n, m in members.items())
            place = {"offset": self.tar.tell(), "bytes": len(data)}
            checksum = xxhash.xxh3_64_intdigest(data)
            self.rows.append(row | place | {"outcome": outcome, "xxh3": checksum})
            self.tar.write(data)
            self.moments.merge(moments)
        self._waiting.clear()

    def finish(self) -> tuple[memoryview, bytes]:
        """The whole tar and the whole index file; what still waits is kept."""
        self.end_wave()
        size = self.tar.tell()
        self.tar.write(END_OF_TAR)
        self.tar.seek(size)  # what is added later goes there
        data = self.tar.getbuffer()
        info = index.ShardInfo(
            self.corpus.manifest.fingerprint, len(data), xxhash.xxh3_64_intdigest(data),
            self.moments,
        )  # fmt: skip
        return data, index.to_parquet([pl.DataFrame(self.rows, schema=index.COLUMNS)], info)

    def commit(self) -> None:
        """Store the tar, then its index: a shard without an index does not count."""
        tar, rows = self.finish()
        storage.write_bytes(self.corpus.tar_url(self.shard), tar)
        storage.write_bytes(self.corpus.index_url(self.shard), rows)
