"""Which episodes did best: a condition on index rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .corpus import Corpus

EPISODE = ("match", "player")
# an index row has its segment's return; pieces of an index hold whole shards, shards whole episodes
RETURN = pl.col("return").sum().over(EPISODE)
# returns compare within these: in a match the side and the opponent decide what can be had
KIND = pl.concat_str("task", "level", "player", "opponent", separator="\t")


def best_episodes(
    corpora: Sequence[Corpus], share: float, where: pl.Expr | None = None
) -> pl.Expr:
    """Whether a row's episode is among the `share` of its kind with the highest returns.

    A kind is a task and level and, of a match, a side and an opponent; episodes are ranked over
    all corpora together, those of which `where` leaves a segment, each by the return of all its
    segments. Equals of the last one chosen are chosen too. The condition holds for pieces of an
    index as `Corpus.frames` reads them, before any filter.
    """
    found: dict[str, list[NDArray[np.float64]]] = {}
    wanted = pl.lit(True) if where is None else where
    columns = (KIND.alias("kind"), RETURN.alias("return"), wanted.alias("wanted"))
    for corpus in corpora:
        for frame in corpus.frames(*EPISODE, *columns):
            episodes = frame.filter("wanted").unique(EPISODE)
            for kind, returns in episodes.group_by("kind").agg("return").iter_rows():
                found.setdefault(kind, []).append(np.array(returns))
    lowest = {kind: _lowest(np.concatenate(parts), share) for kind, parts in found.items()}
    needed = KIND.replace_strict(
        list(lowest), list(lowest.values()), default=np.inf, return_dtype=pl.Float64
    )
    return needed <= RETURN


def _lowest(returns: NDArray[np.float64], share: float) -> float:
    """The lowest of the best `share` of returns, of one at least."""
    count = max(1, round(share * len(returns)))
    return float(np.partition(returns, -count)[-count])
