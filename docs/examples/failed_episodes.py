"""Find the episodes that failed and look into the worst: from the index to the arrays.

Run: python docs/examples/failed_episodes.py CORPUS [TASK]
"""

from __future__ import annotations

import sys
from typing import Any

import polars as pl
from numpy.typing import NDArray
from palaestra.shards.codec import decode_array, split_members
from palaestra.shards.storage import join, read_range


def failed_episodes(corpus: str, task: str | None = None) -> pl.DataFrame:
    """The last segment of each failed episode, the lowest return first.

    A long episode has several segments, and only the last knows whether it failed.
    """
    col, key = pl.col, ["match", "player"]
    failed = ~col("success").any().over(key) & (col("segment") == col("segment").max().over(key))
    return (
        pl.scan_parquet(f"{corpus}/index.parquet")
        .filter(True if task is None else col("task") == task)
        .with_columns(col("return").sum().over(key))
        .filter(failed)
        .select("key", "task", "level", "policy", "return", "shard", "offset", "bytes")
        .sort("return", "key")
        .collect()
    )


def open_sample(corpus: str, row: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of one index row's sample; of the tar no other bytes are read."""
    url = join(corpus, "data", f"shard-{row['shard']:06d}.tar")
    data = read_range(url, row["offset"], row["offset"] + row["bytes"])
    members = {name.partition(".")[2]: m for name, m in split_members(memoryview(data), url)}
    return {
        suffix.removesuffix(".npy.zst"): decode_array(member, f"{url}: {row['key']}.{suffix}")
        for suffix, member in members.items()
        if suffix.endswith(".npy.zst")
    }


if __name__ == "__main__":
    failed = failed_episodes(*sys.argv[1:])
    print(failed)
    if len(failed):
        worst = failed.row(0, named=True)
        print(f"\n{worst['key']}, {worst['task']} level {worst['level']} by {worst['policy']}:")
        for name, array in open_sample(sys.argv[1], worst).items():
            print(f"  {name:8} {array.dtype}{array.shape}, {array.min():.3g} to {array.max():.3g}")
