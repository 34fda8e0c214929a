"""A corpus in numbers: a row per cell, with the distributions of what came of its episodes."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from .report import CELL, GROUP

QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


def summarise(episodes: pl.DataFrame, by: Sequence[str] = GROUP) -> pl.DataFrame:
    """A row per group of episodes, sorted.

    `share` is of all steps; `return_*` and `length_*` are the mean and quantiles of an episode's
    return and steps, `completion_*` those of the step at which it was completed, null if none was;
    `saturation` is the share of action entries at -1 or 1, `frozen` the share of frames, up to
    completion, that equal the one before.
    """
    col = pl.col
    parts = {"return": "return", "length": "steps", "completion": "completion_step"}
    values = [
        pl.len().alias("episodes"), col("segments", "steps", "bytes").sum(),
        (col("bytes").sum() / col("steps").sum()).alias("bytes_per_step"),
        col("success").mean().alias("success_rate"),
        (col("saturated").sum() / col("steps").sum()).alias("saturation"),
        (col("repeated").sum() / col("moving").sum()).alias("frozen"),
    ]  # fmt: skip
    for name, column in parts.items():
        values.append(col(column).mean().alias(f"{name}_mean"))
        values += [
            col(column).quantile(q, "linear").alias(f"{name}_{label}")
            for label, q in QUANTILES.items()
        ]
    table = episodes.group_by(*by).agg(values).sort(*by) if by else episodes.select(values)
    return table.with_columns(share=col("steps") / col("steps").sum())


def finest(episodes: pl.DataFrame, most: int) -> tuple[pl.DataFrame, list[str]]:
    """The finest table of at most `most` rows, and what it is by.

    Opponent and round are left out where there is but one.
    """
    parts = [name for name in GROUP[len(CELL) :] if episodes[name].n_unique() > 1]
    for by in ([*CELL, *parts], [*CELL, *parts[1:]], CELL, CELL[:2]):
        if len(episodes.lazy().select(by).unique().collect()) <= most:
            return summarise(episodes, by), by
    return summarise(episodes, CELL[:1]), CELL[:1]
