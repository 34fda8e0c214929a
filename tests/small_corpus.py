"""A real corpus that takes two seconds to simulate, and ways to alter a copy of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from palaestra.generate import work
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.shards import storage
from palaestra.shards.card import write_card
from palaestra.shards.codec import decode_sample
from palaestra.shards.corpus import Corpus, Manifest
from palaestra.shards.episode import Episode
from palaestra.shards.writer import ShardWriter

RECIPE = Recipe(
    "small", 8192,
    (
        Behaviour(("reach",), "expert", noise=0.2),
        Behaviour(("sumo",), "expert", noise=0.2),  # ends early
        Behaviour(("tag",), "random"),  # two segments
    ),
    seed=11, shard_steps=3072, wave=4, image_size=32,
)  # fmt: skip

Change = Callable[[Episode], Episode]


def build(url: str, recipe: Recipe = RECIPE) -> Corpus:
    """The recipe's corpus, complete."""
    manifest = work.manifest_of(recipe)
    corpus = Corpus.create(url, manifest)
    for shard in range(manifest.shards):
        work.write_shard(corpus, recipe, shard)
    return finish(corpus)


def finish(corpus: Corpus) -> Corpus:
    """Write what comes last."""
    write_card(corpus)
    corpus.write_merged()
    return Corpus.open(corpus.url)


def rewritten(
    corpus: Corpus, url: str, change: Change = lambda episode: episode,
    manifest: Manifest | None = None,
) -> Corpus:  # fmt: skip
    """A copy whose every checksum is right, of episodes that `change` may have altered."""
    copy = Corpus.create(url, manifest or corpus.manifest)
    for shard in range(corpus.manifest.shards):
        writer = ShardWriter(copy, shard)
        _, rows = corpus.read_index(shard)
        data = memoryview(storage.read_bytes(corpus.tar_url(shard)))
        for key, offset, size in rows.select("key", "offset", "bytes").iter_rows():
            writer.add(change(decode_sample(data[offset : offset + size], key, key)))
        writer.commit()
    return finish(copy)


def made_elsewhere(corpus: Corpus) -> Manifest:
    """Its manifest, had it been made with other versions."""
    versions = corpus.manifest.versions | {"mujoco": "3.9.9", "libc": "glibc 2.17"}
    return dataclasses.replace(corpus.manifest, versions=versions)


def contents(url: str) -> dict[str, bytes]:
    """Every file of a local corpus."""
    files = (path for path in Path(url).rglob("*") if path.is_file())
    return {str(path.relative_to(url)): path.read_bytes() for path in files}
