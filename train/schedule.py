"""Learning rate by update: a linear warm-up, then a quadratic decay."""

from __future__ import annotations


def learning_rate(update: int, *, peak: float, end: float, warm_up: int, updates: int) -> float:
    """Rate of update 0 … updates − 1: end + (peak − end)(1 − t/T)² after `warm_up` updates."""
    if update < warm_up:
        return peak * (update + 1) / warm_up
    t = (update - warm_up) / max(1, updates - warm_up)
    return end + (peak - end) * (1 - min(t, 1.0)) ** 2
