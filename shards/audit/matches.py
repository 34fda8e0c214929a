"""What must hold of whole episodes: a match is told alike by both players, and what was kept."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from .rules import Rule

MATCH, PLAYER = pl.format("match {}", "match"), pl.format("match {}, player {}", "match", "player")
SHARED = (
    "task", "level", "sampling", "sampling_probability", "round", "steps", "final_state_xxh3",
)  # fmt: skip
EXCHANGED = {
    "policy": "opponent", "opponent": "policy",
    "rating": "opponent_rating", "opponent_rating": "rating",
}  # fmt: skip
MIRRORED = {"win": "loss", "loss": "win", "draw": "draw"}


def sides(episodes: pl.DataFrame) -> pl.DataFrame:
    """The episodes of matches, both sides of one next to each other; others have no opponent."""
    col = pl.col
    told = (col("opponent") != "") | (col("player") > 0) | col("outcome").is_not_null()
    return episodes.filter(told).sort("file", "match", "player")


def match_rules() -> Iterator[Rule]:
    """Rules for `sides`, counted by match; seeds have a check of their own."""
    col = pl.col
    same = (col("match") == col("match").shift(1)) & (col("file") == col("file").shift(1))
    second = same.fill_null(False)
    first, alone = ~second, ~second.shift(-1, fill_value=False)
    bad = (col("player") != second.cast(pl.Int32)) | (first & alone)
    yield Rule("matches", bad, "has not one episode each of players 0 and 1")
    bad = second & pl.any_horizontal(col(name).ne_missing(col(name).shift(1)) for name in SHARED)
    yield Rule("matches", bad, f"has players who differ in {', '.join(SHARED[:-1])} or final state")
    bad = second & pl.any_horizontal(
        col(name).ne_missing(col(other).shift(1)) for name, other in EXCHANGED.items()
    )
    yield Rule("matches", bad, "has players who are not each other's opponent, ratings included")
    chance = col("sampling_probability")
    yield Rule("matches", (chance <= 0) | (chance > 1), "was not drawn with a chance in (0, 1]")
    mirrored = col("outcome").replace_strict(MIRRORED, default=None) == col("outcome").shift(1)
    bad = second & ~mirrored.fill_null(False)
    yield Rule("matches", bad, "did not end in a win and a loss, or in a draw for both")


def kept_rules(keep: str) -> Iterator[Rule]:
    """Rules for all episodes of a corpus whose recipe keeps only some."""
    if keep == "success":
        col = pl.col
        decided = col("outcome").is_in(["win", "loss"])
        good = pl.when(col("opponent") == "").then("success").otherwise(decided)
        yield Rule("kept", ~good.fill_null(False), "did not succeed, or was won by nobody")
