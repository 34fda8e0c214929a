"""Which segments of the corpora a run reads, for training and for validation."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ..shards.corpus import Corpus
from ..shards.returns import best_episodes
from ..shards.segments import Source, parse_where, split_by_match
from .config import TrainConfig
from .loss import TOP_SHARE


def split_sources(
    config: TrainConfig, corpora: Sequence[Corpus]
) -> tuple[list[Source], list[Source]]:
    """Sources of training, and of the matches kept for validation.

    Of both, `top10` reads the best episodes only, and `top-half` marks them.
    """
    wanted = parse_where(config.where) if config.where else None
    loss, best = config.loss.policy, None
    if loss in TOP_SHARE:
        best = best_episodes(corpora, TOP_SHARE[loss], wanted)
    read, top = (best, None) if loss == "top10" else (None, best)
    conditions = [condition for condition in (wanted, read) if condition is not None]

    def sources(part: pl.Expr) -> list[Source]:
        where = pl.all_horizontal(part, *conditions)
        pairs = zip(corpora, config.weights, strict=True)
        return [Source(corpus, weight, where, top) for corpus, weight in pairs]

    training, held = split_by_match(config.validation_share)
    return sources(training), sources(held)
