"""Generators from an episode's seed: all chance in an episode comes from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def generators(seeds: Sequence[int], stream: int) -> list[np.random.Generator]:
    """One Philox generator per episode seed (Salmon et al. 2011), apart by stream."""
    # as uint64: NumPy takes a list with a seed of 2^63 or more for floats, and all seeds collide
    keys = np.array([(seed, stream) for seed in seeds], np.uint64)
    return [np.random.Generator(np.random.Philox(key=pair)) for pair in keys]
