"""Write one shard: samples into a plain tar, then the index that commits it."""

from __future__ import annotations

import io
from typing import Any

import polars as pl
import xxhash

from . import index, storage
from .codec import encode_episode, tar_member
from .corpus import Corpus
from .episode import Episode

END_OF_TAR = b"\0" * 1024


class ShardWriter:
    """Collects a shard in memory (about 60 MB for 0.25 M steps) and stores it whole.

    `tarfile` writes one header at a time through `codec.tar_member`: webdataset's own writer
    sorts members by name, which would put the pixels in the middle, and importing it imports
    torch.
    """

    def __init__(self, corpus: Corpus, shard: int) -> None:
        self.corpus, self.shard = corpus, shard
        self.tar = io.BytesIO()
        self.rows: list[dict[str, Any]] = []
        self.moments = index.Moments()

    def add(self, episode: Episode) -> None:
        """Append a segment; RolloutError if it breaks the corpus's schema."""
        episode.validate(self.corpus.schema)
        members = encode_episode(episode)
        data = b"".join(tar_member(f"{episode.key}.{n}", m) for n, m in members.items())
        offset = self.tar.tell()
        self.tar.write(data)
        self.rows.append(
            index.row(episode, self.shard, offset, len(data), xxhash.xxh3_64_intdigest(data))
        )
        self.moments.add(episode.state)

    def finish(self) -> tuple[bytes, bytes]:
        """The whole tar and the whole index file."""
        data = self.tar.getvalue() + END_OF_TAR
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
