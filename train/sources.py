"""Which segments of the corpora a run reads, for training and for validation."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ..shards.corpus import Corpus
from ..shards.returns import best_episodes
from ..shards.segments import Source, parse_where, split_by_match
from .config import TrainConfig
from .loss import is_top, top_share


def split_sources(
    config: TrainConfig, corpora: Sequence[Corpus]
) -> tuple[list[Source], list[Source]]:
    """Sources of training, and of the matches kept for validation, none if none are.

    Of either, `top10` and the like read the best episodes only, and `top-half` marks them.
    """
    training, held = split_by_match(config.validation_share)
    validation = _sources(config, corpora, held) if config.validation_share else []
    return _sources(config, corpora, training), validation


def _sources(config: TrainConfig, corpora: Sequence[Corpus], part: pl.Expr) -> list[Source]:
    where = part & parse_where(config.where) if config.where else part
    share, top = top_share(config.loss.policy), None
    if share is not None:
        # ranked among this part: of a few held-out matches none might be in the best tenth of all
        top = best_episodes(corpora, share, where)
        if is_top(config.loss.policy):
            where, top = where & top, None
    pairs = zip(corpora, config.weights, strict=True)
    return [Source(corpus, weight, where, top) for corpus, weight in pairs]
