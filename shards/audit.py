"""Is a corpus what it claims to be? Named checks over its index, and over its bytes if deep."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import polars as pl

from . import index, storage
from .console import Advance
from .corpus import Corpus
from .episode import ARRAYS
from .errors import CorpusError
from .report import CELL, Check, Report, judge
from .schema import EVALUATION_BIT, SEGMENT_STEPS, Schema
from .verify import deep_checks, moments_equal
from .writer import END_OF_TAR

# Share of repeated frames above which a video counts as frozen. Frames after completion are left
# out: an expert that has arrived stands still (60 % of a reach). A random arm jammed against the
# table repeats up to 73 %; a dead renderer all.
FROZEN_FRAMES = 0.9
FROZEN_SEGMENTS = 0.01  # share of such segments that a corpus may hold
LONGEST_HORIZON = 1024  # steps; taken for a task of which no episode is there
EPISODE = ["match", "player"]


@dataclass(frozen=True)
class Inventory:
    """What lies at a corpus's URL: readable indexes, and what is wrong with the files."""

    infos: dict[int, index.ShardInfo]
    rows: pl.DataFrame
    """Of all readable indexes, in stored order; `file` is the shard each was read from."""
    missing: list[int]
    strays: list[str]
    faults: list[str]


def _no_progress(amount: float, note: str = "") -> None:
    pass


def audit(corpus: Corpus, deep: bool = False, advance: Advance = _no_progress) -> Report:
    """Check the index; `deep` also reads every tar. `advance` is told of each shard read.

    Raises CorpusError if the recipe in corpus.json cannot be understood and StorageError if the
    storage fails; everything else that is wrong is a check that fails.
    """
    found = take_inventory(corpus)
    rows, complete = found.rows, not found.missing and not found.faults
    episodes = by_episode(rows)
    checks = [*file_checks(corpus, found), *mixture_checks(corpus, episodes, complete)]
    checks += [*row_checks(rows, corpus.schema), *episode_checks(rows)]
    if deep:
        checks += deep_checks(corpus, rows, found.infos, advance)
    steps, size = int(rows["steps"].sum()), sum(info.tar_bytes for info in found.infos.values())
    totals = {
        "shards": len(found.infos), "episodes": len(episodes), "segments": len(rows),
        "steps": steps, "bytes": size, "bytes_per_step": size / max(steps, 1),
    }  # fmt: skip
    return Report(corpus.url, deep, totals, tuple(checks), summarise(episodes))


def take_inventory(corpus: Corpus) -> Inventory:
    """Read every shard's index and list what else is there."""
    present = corpus.complete_shards()
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda shard: _read_shard(corpus, shard), present))
    infos = {shard: r[0] for shard, r in zip(present, read, strict=True) if not isinstance(r, str)}
    frames = [r[1] for r in read if not isinstance(r, str)]
    faults = [r if isinstance(r, str) else r[2] for r in read]
    rows = pl.concat(frames) if frames else pl.DataFrame(schema=index.COLUMNS | {"file": pl.Int32})
    ours = [shard for shard in present if shard < corpus.manifest.shards]
    urls = [url for shard in ours for url in (corpus.tar_url(shard), corpus.index_url(shard))]
    known = {url.rpartition("/")[2] for url in urls}
    strays = [
        f"{folder}/{name}"
        for folder in ("data", "index")
        for name in storage.names(storage.join(corpus.url, folder))
        if name not in known and not name.startswith(".")  # dot: cut-off writes, which no one reads
    ]
    missing = sorted(set(range(corpus.manifest.shards)) - set(ours))
    return Inventory(infos, rows, missing, strays, [fault for fault in faults if fault])


def _read_shard(corpus: Corpus, shard: int) -> tuple[index.ShardInfo, pl.DataFrame, str] | str:
    """Metadata, rows and what is wrong with the tar; only the latter if the index is unusable."""
    where, tar = corpus.index_url(shard), corpus.tar_url(shard)
    try:
        info = corpus.shard_info(shard)
        rows = index.from_parquet(storage.read_bytes(where), where)
    except CorpusError as error:
        return str(error)
    size = storage.size(tar)
    fault = "" if size == info.tar_bytes else (
        f"{tar}: expected {info.tar_bytes} bytes, found {'no file' if size is None else size}"
    )  # fmt: skip
    return info, rows.with_columns(file=pl.lit(shard, pl.Int32)), fault


def by_episode(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per player's episode, its segments added up."""
    return rows.group_by(EPISODE, maintain_order=True).agg(
        pl.col(CELL).first(), pl.col("steps", "return").sum(), pl.col("success").any(),
        pl.col("completion_step").max(),
        saturation=(pl.col("saturation") * pl.col("steps")).sum(),
    )  # fmt: skip


def summarise(episodes: pl.DataFrame) -> pl.DataFrame:
    """The report's table, by task × level × policy."""
    table = episodes.group_by(CELL).agg(
        episodes=pl.len(), steps=pl.col("steps").sum(), mean_return=pl.col("return").mean(),
        success_rate=pl.col("success").mean(),
        median_completion_step=pl.col("completion_step").median(),
        saturation=pl.col("saturation").sum() / pl.col("steps").sum(),
    )  # fmt: skip
    share = pl.col("steps") / pl.col("steps").sum()
    return table.with_columns(share=share).sort(CELL)


def file_checks(corpus: Corpus, found: Inventory) -> Iterator[Check]:
    """Shards, strays, the merged index, byte ranges."""
    total = corpus.manifest.shards
    yield Check(
        "complete", not found.missing,
        f"{total - len(found.missing)} of {total} shards have an index"
        + (f": unfinished, next is shard {found.missing[0]}" if found.missing else ""),
    )  # fmt: skip
    yield judge("shards", found.faults, "each index belongs here, each tar has its size")
    strays = [f"{name} belongs to no complete shard" for name in found.strays]
    yield judge("strays", strays, "no file without an index")
    yield _merged_check(corpus, found)
    rows = found.rows.with_columns(end=pl.col("offset") + pl.col("bytes"))
    before = pl.col("end").shift(1).over("file").fill_null(0)
    off = rows.filter((pl.col("offset") != before) | (pl.col("shard") != pl.col("file")))
    faults = [f"sample {key} does not begin where the one before ends" for key in off["key"]]
    ends = dict(rows.group_by("file").agg(pl.col("end").max()).iter_rows())
    for shard, info in found.infos.items():
        end = ends.get(shard, 0)
        if end + len(END_OF_TAR) != info.tar_bytes:
            faults.append(f"shard {shard}: the rows cover {end} of {info.tar_bytes} bytes")
    yield judge("byte ranges", faults, "the rows cover each tar without gap or overlap")


def _merged_check(corpus: Corpus, found: Inventory) -> Check:
    name, where = "merged index", corpus.merged_url
    if not storage.exists(where):
        return Check(name, True, "not written; the shards' indexes serve")
    data, moments = storage.read_bytes(where), index.Moments()
    for info in found.infos.values():
        moments.merge(info.moments)
    try:
        merged = index.parquet_info(data, where)
        same = index.from_parquet(data, where).equals(found.rows.drop("file"))
    except CorpusError as error:
        return Check(name, False, str(error))
    faults = []
    if merged.fingerprint != corpus.manifest.fingerprint:
        faults.append(f"{where}: stale index: fingerprint {merged.fingerprint}")
    if not same or not moments_equal(merged.moments, moments):
        faults.append(f"{where}: differs from the shards' indexes")
    return judge(name, faults, "equals the shards' indexes")


def recipe_shares(corpus: Corpus) -> tuple[pl.DataFrame, int, int]:
    """Each cell's planned share, steps and wave of the recipe; CorpusError if it is damaged."""
    recipe = corpus.manifest.recipe
    schema: dict[str, Any] = {name: index.COLUMNS[name] for name in CELL} | {"planned": pl.Float64}
    try:
        total = sum(behaviour["weight"] for behaviour in recipe["behaviours"])
        rows = [
            (task, level, f"{b['policy']}+noise{b['noise']:g}" if b["noise"] else b["policy"],
             b["weight"] / total / (len(b["tasks"]) * len(b["levels"])))
            for b in recipe["behaviours"] for task in b["tasks"] for level in b["levels"]
        ]  # fmt: skip
        shares = pl.DataFrame(rows, schema, orient="row").group_by(CELL).agg(pl.sum("planned"))
        return shares, int(recipe["steps"]), int(recipe["wave"])
    except (KeyError, TypeError, ValueError, ArithmeticError, pl.exceptions.PolarsError) as error:
        where = storage.join(corpus.url, "corpus.json")
        raise CorpusError(f"{where}: cannot read its recipe ({error!r})") from error


def mixture_checks(corpus: Corpus, episodes: pl.DataFrame, complete: bool) -> Iterator[Check]:
    """Steps and shares against the recipe, to one wave.

    Plans count whole episodes, so an episode that ended early counts here with its task's
    horizon: the longest of that task. `generate.plan` stays within 0.9 of the largest wave
    (simulated for 3 000 recipes).
    """
    shares, asked, lanes = recipe_shares(corpus)
    if not complete:
        yield from (Check(name, None, "not judged: unfinished") for name in ("steps", "mixture"))
        return
    cells = _cells(episodes, shares, lanes)
    total, steps = int(cells["full"].sum()), int(episodes["steps"].sum())
    note = f", {total - steps:,} fewer by episodes that ended early" if total > steps else ""
    yield Check("steps", total >= asked, f"{steps:,} steps{note}, the recipe asks for {asked:,}")
    wave, faults, worst = int(cells["wave"].max() or 0), [], 0.0  # type: ignore[arg-type]
    for cell in cells.sort(CELL).iter_rows(named=True):
        planned, full = cell["planned"], cell["full"]
        off = abs(full - (planned or 0.0) * total)
        worst = max(worst, off)
        if off > wave or planned is None:
            faults.append(
                f"{cell['task']} level {cell['level']} {cell['policy']}: {full / total:.1%} "
                f"of the steps, {planned or 0.0:.1%} in the recipe"
            )
    told = f"within {worst:,.0f} steps of the recipe's shares; a wave is {wave:,}"
    yield judge("mixture", faults, told)


def _cells(episodes: pl.DataFrame, shares: pl.DataFrame, lanes: int) -> pl.DataFrame:
    """Every cell found or planned: its steps if no episode ended early, and a wave's steps."""
    tasks = episodes.group_by("task").agg(
        horizon=pl.col("steps").max(), players=pl.col("player").max() + 1
    )
    cells = episodes.group_by(CELL).agg(count=pl.len())
    cells = cells.join(shares, on=CELL, how="full", coalesce=True).join(tasks, "task", "left")
    cells = cells.with_columns(
        pl.col("count").fill_null(0), pl.col("horizon").fill_null(LONGEST_HORIZON),
        pl.col("players").fill_null(1),
    )  # fmt: skip
    wave = pl.max_horizontal(lanes // pl.col("players"), 1) * pl.col("players")
    return cells.with_columns(
        full=pl.col("count").cast(pl.Int64) * pl.col("horizon"), wave=wave * pl.col("horizon")
    )


def _row_check(name: str, rows: pl.DataFrame, bad: pl.Expr, wrong: str, good: str) -> Check:
    keys = rows.filter(bad)["key"]
    return judge(name, [f"sample {key} {wrong}" for key in keys], good, f"{len(rows):,}")


def row_checks(rows: pl.DataFrame, schema: Schema) -> Iterator[Check]:
    """Keys, NaN, ranges, frozen videos."""
    col, (low, high) = pl.col, schema.reward_range
    name = pl.format(
        "{}-{}-{}", col("match").cast(pl.String).str.zfill(12), "player",
        col("segment").cast(pl.String).str.zfill(2),
    )  # fmt: skip
    bad = col("key").is_duplicated() | (col("key") != name)
    yield _row_check("keys", rows, bad, "is there twice or misnamed", "unique and well-formed")
    extremes = col([f"{array}_{kind}" for array in ARRAYS for kind in ("min", "max")])
    bad = pl.any_horizontal(~extremes.is_finite().fill_null(False)) | pl.any_horizontal(
        col([f"{array}_nan" for array in ARRAYS]) > 0
    )
    yield _row_check("finite", rows, bad, "holds NaN or infinity", "no NaN, no infinity")
    bad = (col("action_min") < -1) | (col("action_max") > 1)
    yield _row_check("actions", rows, bad, "leaves [-1, 1]", "within [-1, 1]")
    bad = (col("reward_min") < low) | (col("reward_max") > high)
    yield _row_check("rewards", rows, bad, f"leaves [{low:g}, {high:g}]", f"in [{low:g}, {high:g}]")
    yield _frozen_check(rows)


def _frozen_check(rows: pl.DataFrame) -> Check:
    steps = pl.col("steps")
    before = pl.col("completion_step") - pl.col("segment") * SEGMENT_STEPS
    moving = before.clip(0, steps).fill_null(steps)
    repeated = pl.col("frozen_frames") - (steps - moving)
    frozen = rows.filter(repeated > FROZEN_FRAMES * moving)["key"]
    first = f", first {frozen[0]}" if len(frozen) else ""
    return Check(
        "frozen videos", len(frozen) <= FROZEN_SEGMENTS * len(rows),
        f"{len(frozen):,} of {len(rows):,} segments repeat over {FROZEN_FRAMES:.0%} of the frames "
        f"before completion{first}",
    )  # fmt: skip


def episode_checks(rows: pl.DataFrame) -> Iterator[Check]:
    """Contiguous segments and proper ends; seeds."""
    col = pl.col
    ended = col("terminated") | col("truncated")
    last = col("segment") == col("segment").max().over(EPISODE)
    short = col("steps") != SEGMENT_STEPS
    number = col("segment").rank("ordinal").over(EPISODE) - 1
    wrong = {
        "does not follow the segment before it": col("segment") != number,
        "is both terminated and truncated": col("terminated") & col("truncated"),
        "is the last of its episode, yet does not end it": last & ~ended,
        "ends its episode, yet is not the last": ~last & ended,
        "has no final state hash": last & col("final_state_xxh3").is_null(),
        f"is not the last, yet has not {SEGMENT_STEPS} steps": ~last & short,
    }
    faults = [f"sample {k} {what}" for what, bad in wrong.items() for k in rows.filter(bad)["key"]]
    yield judge("segments", faults, "contiguous, the last of each episode ends it")
    seeds = rows.group_by("match", maintain_order=True).agg(
        seed=col("seed").first(), several=col("seed").n_unique() > 1
    )
    bad = {
        "has the evaluation bit": col("seed") >= pl.lit(EVALUATION_BIT, pl.UInt64),
        "differs within the match": col("several"),
        "is another match's too": col("seed").is_duplicated(),
    }
    faults = [f"match {m}: seed {w}" for w, b in bad.items() for m in seeds.filter(b)["match"]]
    yield judge("seeds", faults, "one per match, none with the evaluation bit")
