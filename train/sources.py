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
    """Sources of training, and of the matches kept for validation, none if none are.

    Of either, `top10` reads the best episodes only, and `top-half` marks them.
    """
    training, held = split_by_match(config.validation_share)
    validation = _sources(config, corpora, held) if config.validation_share else []
    return _sources(config, corpora, training), validation


def _sources(config: TrainConfig, corpora: Sequence[Corpus], part: pl.Expr) -> list[Source]:
    where = part & parse_where(config.where) if config.where else part
    loss, top = config.loss.policy, None
    if loss in TOP_SHARE:
        # ranked among this part: of a few held-out matches none might be in the best tenth of all
        top = best_episodes(corpora, TOP_SHARE[loss], where)
    if loss == "top10" and top is not None:
        where, top = where & top, None
    pairs = zip(corpora, config.weights, strict=True)
    return [Source(corpus, weight, where, top) for corpus, weight in pairs]
