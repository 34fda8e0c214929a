"""A corpus at a URL: its manifest, its shards' names, its index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl
import xxhash

from . import index, storage
from .errors import CorpusError, DifferentCorpusError, NotACorpusError
from .index import Moments
from .schema import Schema

FORMAT = "palaestra-corpus"
SHARDS_AT_ONCE = 64  # whose whole indexes are in memory: 25 MB at 0.25 M steps a shard


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
    held_out: tuple[tuple[str, int], ...] = ()
    """(task, level) of everything that the suite holds out of training."""
    horizons: dict[str, int] = field(default_factory=dict)
    """Steps of each task's longest episode: those that ended early count in full for the recipe."""

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
            "held_out": [list(pair) for pair in self.held_out],
            "horizons": self.horizons,
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
                tuple((str(task), int(level)) for task, level in data["held_out"]),
                {str(task): int(steps) for task, steps in data["horizons"].items()},
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
    tars: tuple[str, ...] = ()
    """URLs of tars that lie elsewhere; by default they are in `data`."""

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
        # listed before it is looked for: other tasks of a job array begin it at the same moment
        others = [name for name in storage.names(url) if not name.startswith(".corpus.json.")]
        if storage.exists(where):
            corpus = Corpus.open(url)
            _require_same(manifest, corpus.manifest, url)
            return corpus
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
        if self.tars:
            return self.tars[shard]
        return storage.join(self.url, "data", f"shard-{shard:06d}.tar")

    def index_url(self, shard: int) -> str:
        """Where a shard's index is; its presence means that the shard is complete."""
        return storage.join(self.url, "index", f"shard-{shard:06d}.parquet")

    def complete_shards(self) -> list[int]:
        """Shards that have an index, in order."""
        found = storage.names(storage.join(self.url, "index"))
        stems = [name.removeprefix("shard-").removesuffix(".parquet") for name in found]
        return [int(stem) for stem in stems if stem.isdigit()]

    def read_index(self, shard: int) -> tuple[index.ShardInfo, pl.DataFrame]:
        """A complete shard's metadata and rows; CorpusError if they belong to another corpus."""
        where = self.index_url(shard)
        info, rows = index.from_parquet(storage.read_bytes(where), where)
        return self._check(info, where), rows

    def _check(self, info: index.ShardInfo, where: str) -> index.ShardInfo:
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
    def _index_urls(self) -> list[str]:
        """The merged index alone, or every complete shard's."""
        if storage.exists(self.merged_url):
            return [self.merged_url]
        if not (shards := self.complete_shards()):
            raise CorpusError(f"{self.url}: no complete shard yet")
        return [self.index_url(shard) for shard in shards]

    def select(self, *what: str | pl.Expr, where: pl.Expr | None = None) -> pl.DataFrame:
        """Columns of the index, or expressions over single rows, for the rows where `where` holds.

        In stored order; only the columns that are named are read.
        """
        return pl.concat(self.frames(*what, where=where))

    def frames(self, *what: str | pl.Expr, where: pl.Expr | None = None) -> Iterator[pl.DataFrame]:
        """The same in pieces, of which few are in memory at a time."""
        chosen = [pl.col(item) if isinstance(item, str) else item for item in what]
        filters = [] if where is None else [where]
        roots = (name for item in (*chosen, *filters) for name in item.meta.root_names())
        columns = tuple(dict.fromkeys(roots))

        def read(url: str) -> Iterator[pl.DataFrame]:
            with storage.parquet_source(url, columns) as source:
                file = index.open_parquet(source, url)
                self._check(index.parquet_info(file, url), url)
                for frame in index.read(file, url, columns):
                    yield frame.filter(*filters).select(chosen)

        urls = self._index_urls
        if len(urls) == 1:
            yield from read(urls[0])
            return
        with ThreadPoolExecutor(8) as pool:
            for frames in pool.map(lambda url: list(read(url)), urls):
                yield from frames

    @cached_property
    def index(self) -> pl.DataFrame:
        """One whole row per segment, in stored order."""
        return self.select(*index.COLUMNS)

    @cached_property
    def contents(self) -> int:
        """Hash of every segment's checksum, in stored order: another corpus has another."""
        return xxhash.xxh3_64_intdigest(self.select("xxh3")["xxh3"].to_numpy().tobytes())

    @cached_property
    def moments(self) -> Moments:
        """Mean and deviation of the state, from the indexes' metadata."""

        def read(url: str) -> Moments:
            with storage.parquet_source(url, ("steps",)) as source:
                info = index.parquet_info(index.open_parquet(source, url), url)
                return self._check(info, url).moments

        moments = Moments()
        with ThreadPoolExecutor(8) as pool:
            for part in pool.map(read, self._index_urls):
                moments.merge(part)
        return moments

    def write_merged(self) -> None:
        """Write index.parquet once every shard is there."""
        shards, moments = self.complete_shards(), Moments()
        if not shards:
            raise CorpusError(f"{self.url}: no complete shard yet")

        def frames() -> Iterator[pl.DataFrame]:
            with ThreadPoolExecutor(8) as pool:
                for start in range(0, len(shards), SHARDS_AT_ONCE):
                    some = shards[start : start + SHARDS_AT_ONCE]
                    for info, rows in pool.map(self.read_index, some):
                        moments.merge(info.moments)
                        yield rows

        info = index.ShardInfo(self.manifest.fingerprint, 0, 0, moments)
        storage.write_bytes(self.merged_url, index.to_parquet(index.regrouped(frames()), info))


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

