"""A corpus at a URL: its manifest, its shards' names, its index."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from . import index, storage
from .errors import CorpusError, DifferentCorpusError, NotACorpusError
from .index import Moments
from .schema import Schema

FORMAT = "palaestra-corpus"


@dataclass(frozen=True)
class Manifest:
    """corpus.json: written first, never changed."""

    schema: Schema
    recipe: dict[str, Any]
    """The resolved recipe, from which every shard follows."""
    seed: int
    shards: int
    versions: dict[str, str]
    """Of everything that decides bytes: packages, libc, CPU features."""
    dependencies: dict[str, str] = field(default_factory=dict)
    """URL → sha256 of every checkpoint and league file that played."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return {
            "format": FORMAT,
            "schema": self.schema.to_json(),
            "recipe": self.recipe,
            "seed": self.seed,
            "shards": self.shards,
            "versions": self.versions,
            "dependencies": self.dependencies,
        }

    @staticmethod
    def from_json(data: Any, where: str) -> Manifest:
        """Read a manifest; NotACorpusError, VersionError or CorpusError name `where`."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise NotACorpusError(f"{where}: expected format {FORMAT!r}, found something else")
        try:
            return Manifest(
                Schema.from_json(data["schema"], where),
                data["recipe"], int(data["seed"]), int(data["shards"]), data["versions"],
                data["dependencies"],
            )  # fmt: skip
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"{where}: damaged manifest ({error!r})") from error

    @property
    def fingerprint(self) -> str:
        """Hash of the whole manifest; every index carries it."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Corpus:
    """An opened corpus. Paths follow from the URL; the index is read on first use."""

    url: str
    manifest: Manifest

    @staticmethod
    def open(url: str) -> Corpus:
        """Open what is at `url`; NotACorpusError if that is no corpus."""
        where = storage.join(url, "corpus.json")
        if not storage.exists(where):
            found = ", ".join(storage.names(url)[:3]) if storage.exists(url) else None
            state = "nothing there" if found is None else f"found {found or 'an empty folder'}"
            raise NotACorpusError(f"{url}: no corpus here: expected corpus.json, {state}")
        return Corpus(url, Manifest.from_json(storage.read_json(where), where))

    @staticmethod
    def create(url: str, manifest: Manifest) -> Corpus:
        """Begin a corpus, or go on with the same one.

        Raises DifferentCorpusError if the destination holds anything else; nothing is written
        then.
        """
        where = storage.join(url, "corpus.json")
        if storage.exists(where):
            corpus = Corpus.open(url)
            _require_same(manifest, corpus.manifest, url)
            return corpus
        others = storage.names(url)
        if others:
            raise DifferentCorpusError(
                f"{url}: expected an empty destination or this corpus, "
                f"found {', '.join(others[:3])}"
            )
        storage.write_json(where, manifest.to_json())
        return Corpus(url, manifest)

    @property
    def schema(self) -> Schema:
        """Shapes and names of its samples."""
        return self.manifest.schema

    def tar_url(self, shard: int) -> str:
        """Where a shard's samples are."""
        return storage.join(self.url, "data", f"shard-{shard:06d}.tar")

    def index_url(self, shard: int) -> str:
        """Where a shard's index is; its presence means that the shard is complete."""
        return storage.join(self.url, "index", f"shard-{shard:06d}.parquet")

    def complete_shards(self) -> list[int]:
        """Shards that have an index, in order."""
        found = storage.names(storage.join(self.url, "index"))
        stems = [name.removeprefix("shard-").removesuffix(".parquet") for name in found]
        return [int(stem) for stem in stems if stem.isdigit()]

    def shard_info(self, shard: int) -> index.ShardInfo:
        """A complete shard's metadata; CorpusError if it belongs to another corpus."""
        where = self.index_url(shard)
        return self._check_info(index.parquet_info(storage.read_bytes(where), where), where)

    def _check_info(self, info: index.ShardInfo, where: str) -> index.ShardInfo:
        if info.fingerprint != self.manifest.fingerprint:
            raise CorpusError(
                f"{where}: stale index: expected fingerprint {self.manifest.fingerprint}, "
                f"found {info.fingerprint}"
            )
        return info

    @property
    def merged_url(self) -> str:
        """All indexes in one file, written when the corpus is complete."""
        return storage.join(self.url, "index.parquet")

    @cached_property
    def _index(self) -> tuple[pl.DataFrame, index.Moments]:
        merged = self.merged_url
        if storage.exists(merged):
            data = storage.read_bytes(merged)
            info = self._check_info(index.parquet_info(data, merged), merged)
            return index.from_parquet(data, merged), info.moments
        return self._read_shard_indexes()

    def _read_shard_indexes(self) -> tuple[pl.DataFrame, index.Moments]:
        shards = self.complete_shards()
        if not shards:
            raise CorpusError(f"{self.url}: no complete shard yet")
        urls = [self.index_url(shard) for shard in shards]
        with ThreadPoolExecutor(8) as pool:
            files = list(pool.map(storage.read_bytes, urls))
        moments = index.Moments()
        for data, url in zip(files, urls, strict=True):
            moments.merge(self._check_info(index.parquet_info(data, url), url).moments)
        frames = [index.from_parquet(d, u) for d, u in zip(files, urls, strict=True)]
        return pl.concat(frames), moments

    @property
    def index(self) -> pl.DataFrame:
        """One row per segment, in stored order."""
        return self._index[0]

    @property
    def moments(self) -> Moments:
        """Mean and deviation of the state, from the indexes."""
        return self._index[1]

    def write_merged(self) -> None:
        """Write index.parquet once every shard is there."""
        frame, moments = self._read_shard_indexes()
        info = index.ShardInfo(self.manifest.fingerprint, 0, 0, moments)
        storage.write_bytes(self.merged_url, index.to_parquet(frame, info))


def _require_same(wanted: Manifest, found: Manifest, url: str) -> None:
    """Raise DifferentCorpusError naming the first entry in which two manifests differ."""
    # through JSON, where a tuple and a list are the same
    mine, theirs = (json.loads(json.dumps(m.to_json())) for m in (wanted, found))
    for name, value in mine.items():
        if name == "recipe":
            for key, entry in value.items():
                if theirs[name].get(key) != entry:
                    raise DifferentCorpusError(
                        f"{url} holds a different corpus: its recipe has "
                        f"{key} = {_short(theirs[name].get(key))}, this one {_short(entry)}"
                    )
        if value != theirs[name]:
            raise DifferentCorpusError(
                f"{url} holds a different corpus: its {name} is {_short(theirs[name])}, "
                f"this one's {_short(value)}"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."

