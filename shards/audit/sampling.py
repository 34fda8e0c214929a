"""Which segments a sample verifies, and what it says of those that it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.99


def choose(counts: Mapping[int, int], sample: int, seed: int) -> dict[int, NDArray[np.int64]]:
    """Row numbers of `sample` segments by shard, each equally likely; all if there are fewer.

    `counts` are the segments of every shard.
    """
    starts = np.cumsum([0, *counts.values()])
    rng = np.random.Generator(np.random.Philox(seed))
    total = int(starts[-1])
    rows = np.sort(rng.choice(total, min(sample, total), replace=False))
    edges = np.searchsorted(rows, starts)
    found = zip(counts, starts[:-1], edges[:-1], edges[1:], strict=True)
    return {shard: rows[low:high] - start for shard, start, low, high in found if low < high}


def upper_bound(bad: int, sample: int, confidence: float = CONFIDENCE) -> float:
    """The largest share of bad segments that a sample with `bad` of them leaves credible.

    Clopper and Pearson's (1934) one-sided bound: the share p at which so few bad ones would turn
    up with probability 1 − `confidence`; with none bad, 1 − (1 − confidence)^(1/sample). Exact for
    draws with replacement, on the safe side for the ones here, without.
    """
    if bad >= sample:
        return 1.0
    low, high = bad / sample, 1.0
    while high - low > 1e-12:
        share = (low + high) / 2
        if _at_most(bad, sample, share) > 1 - confidence:
            low = share
        else:
            high = share
    return high


def _at_most(bad: int, sample: int, share: float) -> float:
    """Probability of `bad` or fewer in a binomial sample."""
    log_all = math.lgamma(sample + 1)
    return math.fsum(
        math.exp(
            log_all - math.lgamma(k + 1) - math.lgamma(sample - k + 1)
            + k * math.log(share) + (sample - k) * math.log1p(-share)
        )
        for k in range(bad + 1)
    )  # fmt: skip
