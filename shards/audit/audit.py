"""Is a corpus what it claims to be? Named checks over its index, and over its tars if asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from ..console import Advance, no_progress
from ..corpus import Corpus
from . import episodes, matches, rules, sampling, survey, verify
from .expect import Expectations, expectation_checks
from .merged import MergedIndex
from .mixture import mixture_checks
from .report import GROUP, Check, Report, Tally, Verified, judge
from .summary import summarise

# Share of frozen videos that a task and level may hold: two rovers that both come to stand still
# made 2 % of a round of tag; a dead renderer makes all.
FROZEN_SEGMENTS = 0.05


@dataclass
class IndexDigest:
    """What is kept of the shards' index files, which are read a few at a time."""

    tallies: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Faults of single files and segments, by check."""
    segments: dict[int, int] = field(default_factory=dict)
    """Of every shard whose index is usable."""
    tar_bytes: int = 0
    episodes: pl.DataFrame = field(default_factory=pl.DataFrame)
    """As `episodes.by_episode` makes them, without ENDINGS."""
    samples: pl.DataFrame = field(default_factory=pl.DataFrame)
    """`episodes.SAMPLE` and xxh3 of every segment."""
    stills: pl.DataFrame = field(default_factory=pl.DataFrame)
    """As `rules.stills` counts them, a few rows for each task and level."""


def audit(
    corpus: Corpus, deep: bool = False, *, sample: int = 0, seed: int = 0,
    expectations: Expectations | None = None, advance: Advance = no_progress,
) -> Report:  # fmt: skip
    """Check the index; `deep` also reads every tar, or `sample` so many segments drawn by `seed`.

    `advance` is told of each shard read. Raises CorpusError if the recipe in corpus.json cannot be
    understood and StorageError if the storage fails; everything else that is wrong is a check that
    fails.
    """
    listing, merged = survey.list_files(corpus), MergedIndex(corpus)
    found = read_index(corpus, listing.present, merged, advance)
    checks = list(file_checks(corpus, listing, found, merged.check()))
    complete = not listing.missing and not found.tallies["shards"].count
    checks += mixture_checks(corpus, found.episodes, complete)
    checks += content_checks(corpus, found)
    verified = Verified()
    if deep or sample:
        total = sum(found.segments.values())
        chosen: dict[int, verify.Rows] = dict.fromkeys(found.segments)
        if not deep:
            chosen = dict(sampling.choose(found.segments, sample, seed))
        read = verify.verify(corpus, chosen, advance)
        verified = verify.summary(read, "all" if deep else "sample", total)
        checks += verify.deep_checks(read, whole=deep)
    if expectations is not None:
        checks += expectation_checks(expectations, found.episodes)
    return Report(
        corpus.url, corpus.manifest.fingerprint, totals(found), tuple(checks),
        summarise(found.episodes, GROUP), found.episodes, verified,
    )  # fmt: skip


def read_index(
    corpus: Corpus, shards: list[int], merged: MergedIndex, advance: Advance
) -> IndexDigest:
    """Read the shards' index files and check all that single shards show."""
    found, rows = IndexDigest(), pl.DataFrame(schema=survey.ROWS)
    tables, samples = [], [rows.select(*episodes.SAMPLE, "xxh3")]
    stills = [rules.stills(rows)]
    tables.append(episodes.by_episode(rows).drop(episodes.ENDINGS))
    row_rules, segment_rules = [*rules.row_rules(corpus.schema)], [*rules.segment_rules()]
    match_rules, kept_rules = [*matches.match_rules()], [*matches.kept_rules(keep(corpus))]
    for part in survey.read_parts(corpus, shards):
        merged.compare(part)
        for fault in part.faults:
            found.tallies["shards"].add(fault)
        rules.apply(row_rules, part.rows, found.tallies)
        rules.apply(segment_rules, rules.in_order(part.rows), found.tallies)
        for fault in survey.uncovered(part):
            found.tallies["byte ranges"].add(fault)
        found.segments |= part.segments()
        found.tar_bytes += sum(info.tar_bytes for info in part.infos.values())
        table = episodes.by_episode(part.rows)
        rules.apply(kept_rules, table, found.tallies, matches.PLAYER)
        rules.apply(match_rules, matches.sides(table), found.tallies, matches.MATCH)
        tables.append(table.drop(episodes.ENDINGS))
        samples.append(part.rows.select(*episodes.SAMPLE, "xxh3"))
        stills.append(rules.stills(part.rows))
        advance(len(part.infos), f"{sum(t.count for t in found.tallies.values()):,} faults")
    found.episodes, found.samples = pl.concat(tables), pl.concat(samples)
    found.stills = pl.concat(stills)
    return found


def keep(corpus: Corpus) -> str:
    """Which episodes its recipe keeps."""
    return str(corpus.manifest.recipe.get("keep", "all"))


def totals(found: IndexDigest) -> dict[str, float]:
    """The corpus in seven numbers."""
    steps = int(found.episodes["steps"].sum())
    return {
        "shards": len(found.segments), "matches": found.episodes["match"].n_unique(),
        "episodes": len(found.episodes), "segments": sum(found.segments.values()),
        "steps": steps, "bytes": found.tar_bytes, "bytes_per_step": found.tar_bytes / max(steps, 1),
    }  # fmt: skip


def file_checks(
    corpus: Corpus, listing: survey.Listing, found: IndexDigest, merged: Check
) -> Iterator[Check]:
    """Shards there, strays, sizes, the merged index, byte ranges."""
    total, missing, strays = corpus.manifest.shards, listing.missing, Tally()
    yield Check(
        "complete", not missing, f"{total - len(missing)} of {total} shards have an index"
        + (f": unfinished, next is shard {missing[0]}" if missing else ""),
    )  # fmt: skip
    good = "each index belongs here, each tar has its size"
    yield judge("shards", found.tallies["shards"], good)
    for name in listing.strays:
        strays.add(f"{name} belongs to no complete shard")
    yield judge("strays", strays, "no file without an index")
    yield merged
    good = "the rows cover each tar without gap or overlap"
    yield judge("byte ranges", found.tallies["byte ranges"], good)


def content_checks(corpus: Corpus, found: IndexDigest) -> Iterator[Check]:
    """Keys, numbers, frames, episodes, matches, seeds, copies, held-out tasks."""
    by_match, tallies = episodes.by_match(found.episodes), found.tallies
    low, high = corpus.schema.reward_range
    count = len(found.samples)
    spread = episodes.spread(by_match)
    tallies["keys"].add(spread.first, spread.count)
    good = {
        "keys": "unique and well-formed, no match in two shards",
        "finite": "no NaN, no infinity",
        "actions": "within [-1, 1]",
        "rewards": f"in [{low:g}, {high:g}]",
    }
    yield from (judge(name, tallies[name], text, f"{count:,}") for name, text in good.items())
    yield frozen_check(found.stills, tallies["frozen videos"])
    yield judge("segments", tallies["segments"], "contiguous, the last of each episode ends it")
    yield judge("matches", tallies["matches"], "both players tell the same of each")
    yield episodes.seed_check(by_match)
    yield episodes.duplicate_check(by_match, found.samples)
    if keep(corpus) == "success":
        all_good = "every episode succeeded, every match was won by somebody"
        yield judge("kept", tallies["kept"], all_good)
    yield episodes.held_out_check(corpus, found.episodes)


def frozen_check(stills: pl.DataFrame, frozen: Tally) -> Check:
    """Whether no task and level has many: of a corpus of many, one that is dead is a small part."""
    share = pl.col("frozen") / pl.col("segments")
    by_task = stills.group_by("task", "level").sum().with_columns(share=share)
    worst = by_task.sort("share", "task", "level").tail(1).to_dicts()
    finding = (
        f"{frozen.count:,} of {by_task['segments'].sum():,} segments repeat over "
        f"{rules.FROZEN_FRAMES:.0%} of the frames before completion"
    )
    if frozen.count:
        row = worst[0]
        where = f"{row['task']} {row['level']} has {row['share']:.1%} of its own"
        finding += f"; {frozen.first}; {where}"
    return Check("frozen videos", all(row["share"] <= FROZEN_SEGMENTS for row in worst), finding)
