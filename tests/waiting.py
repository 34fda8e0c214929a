"""Waiting for what happens by itself: no time limit, but a hang fails instead of blocking."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 120


def wait_for(
    condition: Callable[[], object], meanwhile: Callable[[], object] = bool, *,
    patience_s: float = PATIENCE_S, every_s: float = 0.01,
) -> None:  # fmt: skip
    """Look until it holds; `meanwhile` is called between looks."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        meanwhile()
        time.sleep(every_s)
