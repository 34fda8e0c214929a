"""Plain shards: tars of samples without a corpus around them, indexed when first used.

The index is a corpus of its own in a local folder, `$PALAESTRA_CACHE` or `~/.cache/palaestra`, that
points to the tars where they lie. A tar that changes (size, ETag or time) is indexed anew.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import xxhash
from braceexpand import braceexpand

from . import index, storage
from .codec import TAR_BLOCK, decode_episode
from .console import progress
from .corpus import Corpus, Manifest
from .episode import Episode
from .errors import ConfigError, CorpusError, CorruptionError, RolloutError
from .filesystem import info
from .schema import Schema, Slot
from .writer import END_OF_TAR

VARIABLE = "PALAESTRA_CACHE"
CHANGES = ("size", "ETag", "etag", "generation", "mtime", "LastModified")  # of what a store tells
TARS_AT_ONCE = 4  # each is in memory as a whole

Sample = tuple[str, int, int, dict[str, bytes]]  # key, first and past-last byte, members by suffix


def open_corpus(url: str) -> Corpus:
    """The corpus at `url`, or plain shards: `s3://bucket/data/shard-{000000..000999}.tar`.

    Raises what `Corpus.open` does, StorageError for a tar that cannot be read and CorruptionError
    for one that is damaged or holds other samples.
    """
    return open_plain(url) if url.endswith(".tar") else Corpus.open(url)


def open_plain(pattern: str) -> Corpus:
    """The corpus of the tars that a brace pattern names, in its order."""
    try:
        tars = tuple(braceexpand(pattern))
    except ValueError as error:
        raise ConfigError(f"{pattern}: {error}") from error
    with ThreadPoolExecutor(16) as pool:
        states = list(pool.map(_state, tars))
    name = xxhash.xxh3_128_hexdigest("\n".join((*tars, *states)).encode())
    folder = storage.join(str(cache_folder()), "indexes", name)
    if storage.exists(storage.join(folder, "corpus.json")):
        manifest = Corpus.open(folder).manifest  # without reading a tar for its schema again
    else:
        recipe = {"name": "plain shards", "tars": list(tars), "states": states}
        schema = _schema_beside(tars[0]) or _schema_within(tars[0])
        manifest = Corpus.create(folder, Manifest(schema, recipe, 0, len(tars), {})).manifest
    corpus = Corpus(folder, manifest, tars)
    if not storage.exists(corpus.merged_url):
        _index_all(corpus)
    return corpus


def cache_folder() -> Path:
    """Where indexes of plain shards are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palaestra"
    return Path(os.environ.get(VARIABLE) or default).absolute()


def _state(tar: str) -> str:
    found = info(tar)
    if found is None:
        raise CorpusError(f"{tar}: not found")
    return " ".join(f"{name}={found[name]}" for name in CHANGES if name in found)


def _schema_beside(tar: str) -> Schema | None:
    """The schema of the corpus that a tar lies in, if it does."""
    parent = tar.rsplit("/", 2)[0] if tar.count("/") > 1 else ".."
    where = storage.join(parent, "corpus.json")
    if not storage.exists(where):
        return None
    return Manifest.from_json(storage.read_json(where), where).schema


def _schema_within(tar: str) -> Schema:
    """What a tar's samples tell of their schema: one slot, `state`, and the range of rewards."""
    episodes = [decode_episode(members, f"{tar}: sample {key}")
                for key, _, _, members in samples(storage.read_bytes(tar), tar)]  # fmt: skip
    first = episodes[0]
    low = min(float(episode.reward.min()) for episode in episodes)
    shapes = first.state.shape[1:] + first.action.shape[1:]
    if len(shapes) != 2 or first.pixels.ndim != 4:
        raise CorruptionError(f"{tar}: sample {first.key}: state, action or pixels misshapen")
    return Schema(
        (Slot("state", shapes[0]),), shapes[1], first.pixels.shape[1],
        (-1.0 if low < 0 else 0.0, 1.0),
    )  # fmt: skip


def _index_all(corpus: Corpus) -> None:
    missing = sorted(set(range(corpus.manifest.shards)) - set(corpus.complete_shards()))
    with (
        progress(f"index {corpus.tars[0]} …", len(missing), "shards") as advance,
        ThreadPoolExecutor(TARS_AT_ONCE) as pool,
    ):
        for _ in pool.map(lambda shard: _index_tar(corpus, shard), missing):
            advance(1)
    corpus.write_merged()


def _index_tar(corpus: Corpus, shard: int) -> None:
    """Read a tar whole and write its index; CorruptionError for whatever is wrong with it."""
    where = corpus.tar_url(shard)
    data = storage.read_bytes(where)
    rows, moments = [], index.Moments()
    for key, start, stop, members in samples(data, where):
        episode = decode_episode(members, f"{where}: sample {key}")
        _check(episode, key, corpus.schema, where)
        digest = xxhash.xxh3_64_intdigest(memoryview(data)[start:stop])
        rows.append(index.row(episode, shard, start, stop - start, digest))
        moments.add(episode.state)
    about = index.ShardInfo(
        corpus.manifest.fingerprint, len(data), xxhash.xxh3_64_intdigest(data), moments
    )
    table = pl.DataFrame(rows, schema=index.COLUMNS)
    storage.write_bytes(corpus.index_url(shard), index.to_parquet([table], about))


def _check(episode: Episode, key: str, schema: Schema, where: str) -> None:
    if episode.key != key:
        raise CorruptionError(f"{where}: sample {key}: its json says {episode.key}")
    try:
        episode.validate(schema)
    except RolloutError as error:
        raise CorruptionError(f"{where}: sample {error}") from error


def samples(data: bytes, where: str) -> Iterator[Sample]:
    """A tar's samples, as webdataset groups them: neighbours with one name up to the first dot.

    Strict: `tarfile` stops in silence at a damaged header, so what follows the last member that it
    found has to be the end-of-archive mark. Raises CorruptionError naming the byte.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = [member for member in tar.getmembers() if member.isfile()]
            end = tar.offset  # where tarfile found no header
    except tarfile.TarError as error:
        raise CorruptionError(f"{where}: not a tar ({error})") from error
    if len(data) - end < len(END_OF_TAR) or data[end:].strip(b"\0"):
        raise CorruptionError(f"{where}: damaged or cut short at byte {end}")
    if not members:
        raise CorruptionError(f"{where}: holds no sample")
    yield from _grouped(members, data)


def _grouped(members: Sequence[tarfile.TarInfo], data: bytes) -> Iterator[Sample]:
    key, start, found = "", 0, dict[str, bytes]()
    for member in members:
        name, _, suffix = member.name.rpartition("/")[2].partition(".")
        if found and name != key:
            yield key, start, member.offset, found
            found = {}
        if not found:
            key, start = name, member.offset
        found[suffix] = data[member.offset_data : member.offset_data + member.size]
        stop = member.offset_data + member.size + (-member.size % TAR_BLOCK)
    yield key, start, stop, found
