"""Steps and shares of every cell against the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from .. import index, storage
from ..corpus import Corpus
from ..errors import CorpusError
from .report import CELL, Check, Tally, judge

LONGEST_HORIZON = 1024  # steps; taken for a task of which no episode is there
SIDE = [*CELL, "opponent"]  # what the recipe gives a share to: one side of a match


def recipe_shares(corpus: Corpus) -> tuple[pl.DataFrame, int, int]:
    """Each side's planned share, steps and wave of the recipe; CorpusError if it is damaged.

    `parts` counts the behaviours that give it a share, those of two players as a half.
    """
    recipe = corpus.manifest.recipe
    schema: dict[str, Any] = {name: index.COLUMNS[name] for name in SIDE}
    schema |= {"parts": pl.Float64, "share": pl.Float64}
    try:
        total = sum(behaviour["weight"] for behaviour in recipe["behaviours"])
        rows = [
            (task, level, *side, part, b["weight"] / total / (len(b["tasks"]) * len(b["levels"])))
            for b in recipe["behaviours"] for task in b["tasks"] for level in b["levels"]
            for side, part in _sides(b)
        ]  # fmt: skip
        planned = pl.col("share") * pl.col("parts")
        sides = pl.DataFrame(rows, schema, orient="row").group_by(SIDE)
        shares = sides.agg(pl.col("parts").sum(), planned=planned.sum())
        return shares, int(recipe["steps"]), int(recipe["wave"])
    except (KeyError, TypeError, ValueError, ArithmeticError, pl.exceptions.PolarsError) as error:
        where = storage.join(corpus.url, "corpus.json")
        raise CorpusError(f"{where}: cannot read its recipe ({error!r})") from error


def _sides(behaviour: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], float]]:
    """Policy and opponent of its lanes, and their parts of its steps; see `_rival`."""
    noise, policy = behaviour["noise"], behaviour["policy"]
    own = f"{policy}+noise{noise:g}" if noise else policy
    rival = next(iter(behaviour["opponents"]), "self")
    if rival in ("self", own):
        yield (own, ""), 1.0
    else:
        yield (own, rival), 0.5
        yield (rival, own), 0.5


def _rival() -> pl.Expr:
    """The opponent, empty where there is none or a policy plays itself."""
    opponent = pl.col("opponent")
    return pl.when(opponent != pl.col("policy")).then(opponent).otherwise(pl.lit(""))


def mixture_checks(corpus: Corpus, episodes: pl.DataFrame, complete: bool) -> Iterator[Check]:
    """Steps and shares against the recipe, to one wave.

    Plans count whole episodes, so an episode that ended early counts here with its task's
    horizon. `generate.plan` keeps each cell within 0.9 of the largest wave (simulated for 3 000
    recipes), and a side of several cells within so much of each.
    """
    shares, asked, lanes = recipe_shares(corpus)
    if not complete:
        yield from (Check(name, None, "not judged: unfinished") for name in ("steps", "mixture"))
        return
    cells = _cells(episodes, shares, lanes, corpus.manifest.horizons)
    total, steps = int(cells["full"].sum()), int(episodes["steps"].sum())
    note = f", {total - steps:,} fewer by episodes that ended early" if total > steps else ""
    yield Check("steps", total >= asked, f"{steps:,} steps{note}, the recipe asks for {asked:,}")
    wave, faults, worst = int(cells["wave"].max() or 0), Tally(), 0.0  # type: ignore[arg-type]
    for cell in cells.sort(SIDE).iter_rows(named=True):
        planned, full = cell["planned"], cell["full"]
        off = abs(full - (planned or 0.0) * total)
        worst = max(worst, off)
        if planned is None or off > wave * cell["parts"]:
            rival = f" against {cell['opponent']}" if cell["opponent"] else ""
            faults.add(
                f"{cell['task']} level {cell['level']} {cell['policy']}{rival}: "
                f"{full / total:.1%} of the steps, {planned or 0.0:.1%} in the recipe"
            )
    told = f"within {worst:,.0f} steps of the recipe's shares; a wave is {wave:,}"
    yield judge("mixture", faults, told)


def _cells(
    episodes: pl.DataFrame, shares: pl.DataFrame, lanes: int, horizons: Mapping[str, int]
) -> pl.DataFrame:
    """Every side found or planned: its steps if no episode ended early, and a wave's steps."""
    tasks = episodes.group_by("task").agg(
        longest=pl.col("steps").max(), players=pl.col("player").max() + 1
    )
    kinds: dict[str, Any] = {"task": pl.String, "horizon": pl.Int64}
    known = pl.DataFrame(list(horizons.items()), kinds, orient="row")
    cells = episodes.group_by(*CELL, _rival()).agg(count=pl.len())
    cells = cells.join(shares, on=SIDE, how="full", coalesce=True)
    cells = cells.join(tasks, "task", "left").join(known, "task", "left")
    cells = cells.with_columns(
        pl.col("count").fill_null(0), pl.col("players").fill_null(1),
        horizon=pl.coalesce("horizon", "longest", pl.lit(LONGEST_HORIZON)),
    )  # fmt: skip
    wave = pl.max_horizontal(lanes // pl.col("players"), 1) * pl.col("players")
    return cells.with_columns(
        full=pl.col("count").cast(pl.Int64) * pl.col("horizon"), wave=wave * pl.col("horizon")
    )
