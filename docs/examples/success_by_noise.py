"""How much noise an expert bears: success and return by task, level and noise on its actions.

Run: python docs/examples/success_by_noise.py CORPUS
"""

from __future__ import annotations

import sys

import polars as pl


def success_by_noise(corpus: str) -> pl.DataFrame:
    """One row per task, level and noise of the experts' episodes.

    The index has a row per segment; an episode's segments share match and player. `scan_parquet`
    also opens s3:// and gs://, and reads no more columns than are named.
    """
    noise = pl.col("policy").str.extract(r"\+noise(.+)$").cast(pl.Float64).fill_null(0.0)
    episodes = (
        pl.scan_parquet(f"{corpus}/index.parquet")
        .filter(pl.col("policy").str.starts_with("expert"))
        .group_by("task", "level", noise.alias("noise"), "match", "player")
        .agg(pl.col("return").sum(), pl.col("success").any())
    )
    return (
        episodes.group_by("task", "level", "noise")
        .agg(episodes=pl.len(), success=pl.col("success").mean(), mean=pl.col("return").mean())
        .sort("task", "level", "noise")
        .collect(engine="streaming")
    )


if __name__ == "__main__":
    print(success_by_noise(sys.argv[1]))
