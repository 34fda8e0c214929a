"""Make missing and damaged shards again from the recipe, where their bytes can be vouched for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl
import xxhash

from ..shards import index, storage
from ..shards.audit.merged import MergedIndex
from ..shards.audit.survey import read_parts
from ..shards.card import write_card
from ..shards.console import Advance, console, no_progress
from ..shards.corpus import Corpus
from ..shards.errors import CorpusError, CorruptionError
from . import raster
from .damage import Damage
from .plan import plan
from .players import inspect_players, players_of
from .pool import in_processes
from .recipe import Recipe
from .recipe_file import stored_recipe
from .work import manifest_of, play_shard, versions_apart


@dataclass(frozen=True)
class Repair:
    """A damaged shard, and what was done about it."""

    shard: int
    fault: str
    written: tuple[str, ...] = ()
    """URLs."""
    refused: CorruptionError | None = None
    """Why nothing was written."""


@dataclass(frozen=True)
class Repairs:
    """What was wrong with a corpus, and what was done about it."""

    url: str
    shards: int
    repairs: tuple[Repair, ...]
    rebuilt: tuple[str, ...]
    """Files beside the shards that were written: the merged index, the card."""

    @property
    def refused(self) -> list[Repair]:
        """Shards that are as damaged as before."""
        return [repair for repair in self.repairs if repair.refused]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        shards = [
            {"shard": repair.shard, "fault": repair.fault, "written": list(repair.written),
             "refused": str(repair.refused) if repair.refused else None}
            for repair in self.repairs
        ]  # fmt: skip
        return {
            "url": self.url, "passed": not self.refused, "shards": self.shards, "damaged": shards,
            "rebuilt": list(self.rebuilt),
        }  # fmt: skip


def recipe_of(corpus: Corpus, allow_code: bool = False) -> Recipe:
    """The recipe of a corpus, if this program still makes a corpus of its shape from it.

    Raises ConfigError or UnknownNameError for what it cannot do, CorpusError or
    SchemaMismatchError where it would make another.
    """
    where = storage.join(corpus.url, "corpus.json")
    recipe = stored_recipe(corpus.manifest.recipe, where, allow_code)
    ours = manifest_of(recipe)
    inspect_players(recipe, ours.schema)
    ours.schema.require_equal(corpus.schema, where)
    if ours.shards != corpus.manifest.shards:
        raise CorpusError(
            f"{where}: its recipe makes {ours.shards} shards here, it has {corpus.manifest.shards}"
        )
    return recipe


def repair(
    corpus: Corpus, damages: list[Damage], allow_code: bool = False, workers: int | None = None,
    advance: Advance = no_progress,
) -> Repairs:  # fmt: skip
    """Make again what `find_damage` found, and the merged index and card where they are lost.

    A shard that cannot be what it was is refused and left alone. `advance` is told of shards.
    Killed at any moment, the same call goes on. Raises as `recipe_of`.
    """
    repairs: list[Repair] = []
    if damages:
        recipe = recipe_of(corpus, allow_code)
        one = partial(repair_shard, replace(corpus), recipe)
        alone = len(damages) == 1 or workers == 1
        if not alone:
            raster.compile()  # once, before the workers start
        for found in map(one, damages) if alone else in_processes(one, damages, workers):
            repairs.append(found)
            advance(1, "refused" if found.refused else "")
    repairs.sort(key=lambda found: found.shard)
    rebuilt = [] if any(found.refused for found in repairs) else rebuild(corpus)
    return Repairs(corpus.url, corpus.manifest.shards, tuple(repairs), tuple(rebuilt))


def repair_shard(corpus: Corpus, recipe: Recipe, damage: Damage) -> Repair:
    """Make one shard again; written only if it is vouched for.

    By the checksum in its index, else by its rows in the merged index, else by the tar that is
    there; where nothing is left to compare with, by equal versions and scripted policies alone.
    """
    shard, doubts = damage.shard, doubts_about(corpus, recipe, damage.shard)
    where = corpus.tar_url(shard)
    there = storage.read_bytes(where) if storage.exists(where) else None
    witness = _witness(damage, there)
    if doubts and not witness:
        return _refuse(damage, f"{where}: nothing is left to check it against, and {doubts}")
    writer = play_shard(corpus, recipe, shard)
    tar, rows = writer.finish()
    same = there is not None and tar == memoryview(there)
    if not same and not _agrees(damage, tar, pl.DataFrame(writer.rows, index.COLUMNS), doubts):
        why = doubts or "the code of its tasks has changed"
        return _refuse(damage, f"{where}: made again, it differs from {witness}: {why}")
    written = []
    if not same:  # first the tar: a shard without an index does not count
        storage.write_bytes(where, tar)
        written.append(where)
    if damage.tar_xxh3 is None or same:
        storage.write_bytes(corpus.index_url(shard), rows)
        written.append(corpus.index_url(shard))
    return Repair(shard, damage.fault, tuple(written))


def doubts_about(corpus: Corpus, recipe: Recipe, shard: int) -> str:
    """Why a shard may not be made again byte for byte, if there is a reason."""
    apart = versions_apart(corpus.manifest.versions)
    players = {
        player.policy: player for wave in plan(recipe)[shard] for player in players_of(recipe, wave)
    }
    learned = [policy for policy, player in players.items() if not player.scripted]
    reasons = [f"it was made with {', '.join(apart)}"] if apart else []
    reasons += [f"policy {policy!r} need not act the same twice" for policy in sorted(learned)]
    if recipe.renderer != "raster":
        reasons.append(f"renderer {recipe.renderer!r} need not draw the same elsewhere")
    return " and ".join(reasons)


def _witness(damage: Damage, there: bytes | None) -> str:
    if damage.tar_xxh3 is not None:
        return "its index"
    if damage.rows is not None:
        return "its rows in index.parquet"
    return "the tar that is there" if there is not None else ""


def _agrees(damage: Damage, tar: memoryview, rows: pl.DataFrame, doubts: str) -> bool:
    if damage.tar_xxh3 is not None:
        return xxhash.xxh3_64_intdigest(tar) == damage.tar_xxh3
    return rows.equals(damage.rows) if damage.rows is not None else not doubts


def _refuse(damage: Damage, why: str) -> Repair:
    return Repair(damage.shard, damage.fault, refused=CorruptionError(f"{why}; left as it is"))


def rebuild(corpus: Corpus) -> list[str]:
    """Write the merged index unless it equals the shards' indexes, and the card if it is not there.

    All shards must be whole. Returns the URLs of what was written.
    """
    written, merged = [], MergedIndex(corpus)
    for part in read_parts(corpus, list(range(corpus.manifest.shards))):
        merged.compare(part)
    if not merged.there or not merged.check().passed:
        corpus.write_merged()
        written.append(corpus.merged_url)
    card = storage.join(corpus.url, "README.md")
    if not storage.exists(card):
        write_card(replace(corpus))  # which has not read the old index
        written.append(card)
    return written


def print_repairs(found: Repairs) -> None:
    """A line for every damage and file, and the verdict."""
    many, bad = len(found.repairs), len(found.refused)
    console.print(f"{found.url}: {found.shards:,} shards, {many:,} damaged", markup=False)
    for repair in found.repairs:
        console.print(f"shard {repair.shard}: {repair.fault}", markup=False)
        done = repair.refused or f"made again: {', '.join(repair.written)}"
        console.print(f"  {done}", markup=False)
    for url in found.rebuilt:
        console.print(f"written: {url}", markup=False)
    verdict = f"{bad:,} of {many:,} cannot be repaired" if bad else "every shard is whole"
    console.print(verdict, style="bold red" if bad else "green")
