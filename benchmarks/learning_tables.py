"""The tables of `learning.py`, from the rows that it keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from palaestra.evaluate.scores import normalised_returns
from palaestra.evaluate.statistics import Estimate, resample
from timing import print_table

DATA = "data"  # what the corpus's own episodes are called
BASE = "bc"
MAIN = "top10"  # the default loss
Cells = list[NDArray[np.float64]]  # one (seeds, runs) for each pair of task and level


def with_scores(rows: pl.DataFrame) -> pl.DataFrame:
    """With `score`, random play at 0 and the expert at 1 by the suite's baselines; `success`."""
    parts = []
    for pair, frame in rows.group_by("task", "level", maintain_order=True):
        scores = normalised_returns(frame["return"].to_numpy(), pair)
        assert scores is not None, f"{pair} lacks a baseline"
        parts.append(frame.with_columns(score=pl.Series(scores, dtype=pl.Float64)))
    success = (pl.col("completion_step") >= 0).cast(pl.Float64)
    return pl.concat(parts).with_columns(success=success)


def cells(rows: pl.DataFrame, column: str, seeds: Sequence[int]) -> Cells:
    """Values by pair, of one learner's networks."""
    chosen = rows.filter(pl.col("seed").is_in(list(seeds))).sort("task", "level", "seed", "run")
    return [
        frame[column].to_numpy().reshape(len(seeds), -1)
        for frame in chosen.partition_by("task", "level", maintain_order=True)
    ]


def estimate(values: Cells) -> Estimate:
    """The mean over pairs, runs and networks, with its interval."""
    return resample(values, np.random.default_rng(0)).estimate(np.mean)


def shown(found: Estimate) -> str:
    """In percent."""
    return f"{found.value * 100:.1f} [{found.low * 100:.1f}, {found.high * 100:.1f}]"


def difference(a: pl.DataFrame, b: pl.DataFrame) -> str:
    """Of returns, paired by training seed and run, over the seeds that both have."""
    seeds = sorted(set(a["seed"].unique()) & set(b["seed"].unique()))
    pairs = zip(cells(a, "score", seeds), cells(b, "score", seeds), strict=True)
    return shown(estimate([one - other for one, other in pairs]))


def print_tables(rows: pl.DataFrame) -> None:
    """For each mixture how the learners do over all pairs, then on each."""
    scored = with_scores(rows).sort("mixture", "learner")
    for mixture in scored["mixture"].unique(maintain_order=True):
        here = scored.filter(mixture=mixture)
        learners = {
            name: here.filter(learner=name)
            for name in here["learner"].unique(maintain_order=True) if name != DATA
        }  # fmt: skip
        average = _means(here.filter(learner=DATA))
        over = [np.mean([x[name] for x in average.values()]) for name in ("score", "success")]
        lines = [[DATA, "", "", *(f"{mean * 100:.1f}" for mean in over), "", ""]]
        lines += [_line(name, frame, learners) for name, frame in learners.items()]
        header = (
            "learner", "seeds", "CPU min", "return", "success", f"return - {BASE}",
            f"{MAIN} - return",
        )  # fmt: skip
        print_table(f"{mixture}: percent [95 % interval]", header, lines)
        _print_pairs(average, learners)


def _line(name: str, frame: pl.DataFrame, learners: dict[str, pl.DataFrame]) -> list[str]:
    seeds = sorted(frame["seed"].unique())
    abouts = [json.loads(text) for text in frame["about"].unique()]
    minutes = float(np.mean([about["cpu_s"] for about in abouts])) / 60
    values = [shown(estimate(cells(frame, column, seeds))) for column in ("score", "success")]
    less = difference(frame, learners[BASE]) if BASE in learners and name != BASE else ""
    more = difference(learners[MAIN], frame) if MAIN in learners and name != MAIN else ""
    return [name, str(len(seeds)), f"{minutes:.1f}", *values, less, more]


def _means(frame: pl.DataFrame) -> dict[tuple[str, int], dict[str, float]]:
    means = frame.group_by("task", "level").agg(pl.col("score", "success").mean())
    return {
        (task, level): {"score": score, "success": success}
        for task, level, score, success in means.sort("task", "level").iter_rows()
    }


def _print_pairs(
    average: dict[tuple[str, int], dict[str, float]], learners: dict[str, pl.DataFrame]
) -> None:
    columns = {DATA: average} | {name: _means(frame) for name, frame in learners.items()}
    lines = [
        [f"{task} {level}", *(f"{means[task, level]['score'] * 100:.0f}" for means in
                              columns.values())]
        for task, level in average
    ]  # fmt: skip
    print_table("return by task and level, percent", ("", *columns), lines)
