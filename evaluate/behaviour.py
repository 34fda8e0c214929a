"""How well the behaviour data itself did: scores of a corpus's own episodes, from its index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from ..generate.registry import task_class
from ..shards.corpus import Corpus
from .statistics import Scores, score


def episodes(corpus: Corpus) -> pl.DataFrame:
    """One row per ended episode: task, level, policy, return, completion_step (-1: never)."""
    per_episode = corpus.index.group_by("match", "player", maintain_order=True).agg(
        pl.col("task", "level", "policy").first(),
        pl.col("return").sum(),
        pl.col("completion_step").max().cast(pl.Int64).fill_null(-1),
        (pl.col("terminated") | pl.col("truncated")).any().alias("ended"),
    )
    return per_episode.filter("ended")


def score_corpus(
    corpus: Corpus, pairs: Sequence[tuple[str, int]], generator: np.random.Generator
) -> Iterator[tuple[tuple[str, int], str, Scores]]:
    """(pair, behaviour, scores) of each pair the corpus holds; behaviour "" is all together."""
    frame = episodes(corpus)
    for task, level in pairs:
        chosen = frame.filter((pl.col("task") == task) & (pl.col("level") == level))
        if chosen.is_empty():
            continue
        yield (task, level), "", _score(chosen, task, generator)
        for behaviour in sorted(chosen["policy"].unique().to_list()):
            rows = chosen.filter(pl.col("policy") == behaviour)
            yield (task, level), behaviour, _score(rows, task, generator)


def _score(rows: pl.DataFrame, task: str, generator: np.random.Generator) -> Scores:
    return score(
        rows["return"].to_numpy(), rows["completion_step"].to_numpy(), task_class(task).horizon,
        generator,
    )  # fmt: skip
