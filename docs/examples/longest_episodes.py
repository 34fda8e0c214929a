"""The longest episodes of a corpus, and how they ended.

Run: python docs/examples/longest_episodes.py CORPUS
"""

from __future__ import annotations

import sys

import polars as pl


def longest_episodes(corpus: str, count: int = 10) -> pl.DataFrame:
    """The longest first. While a corpus is still being made, its shards' own indexes serve."""
    col = pl.col
    episodes = (
        pl.scan_parquet(f"{corpus}/index/*.parquet")
        .group_by("match", "player")
        .agg(
            col("steps").sum(), col("task", "level", "policy").first(),
            col("success", "terminated").any(),
        )
    )  # fmt: skip
    order = ["steps", "match", "player"]
    return episodes.sort(order, descending=[True, False, False]).head(count).collect()


if __name__ == "__main__":
    print(longest_episodes(sys.argv[1]))
