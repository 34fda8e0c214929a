"""What is shown of a run while it trains: a live bar, or a plain line every ten seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..shards.console import Advance, duration, progress


class Show:
    """Shows every update's metrics."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._validated: float | None = None
        self._saved: float | None = None

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Show an update's metrics; the validation loss stays until there is a newer one."""
        self._validated = metrics.get("validation/policy_loss", self._validated)
        age = None if self._saved is None else time.monotonic() - self._saved
        self._advance(1, summary(metrics, self._validated, age))

    def saved(self) -> None:
        """A checkpoint is complete: its age is shown from now on."""
        self._saved = time.monotonic()


@contextmanager
def watch(total: int, start: int = 0) -> Iterator[Show]:
    """Show a run of `total` updates from `start` on, until the block ends."""
    with progress("train", total, "updates", start) as advance:
        yield Show(advance)


def summary(
    metrics: Mapping[str, float], validated: float | None, checkpoint_age_s: float | None
) -> str:
    """`loss 1.234, validation 1.302, 12,345 steps/s, MFU 41 %, data wait 0.3 %, saved 8 min ago`.

    What is not known is left out: MFU where no peak is known, say.
    """
    parts = [f"loss {metrics['policy_loss']:.3f}"]
    if validated is not None:
        parts.append(f"validation {validated:.3f}")
    parts.append(f"{metrics['steps_per_s']:,.0f} steps/s")
    if "mfu" in metrics:
        parts.append(f"MFU {100 * metrics['mfu']:.0f} %")
    if "data_wait" in metrics:
        parts.append(f"data wait {100 * metrics['data_wait']:.1f} %")
    if checkpoint_age_s is not None:
        parts.append(f"saved {duration(checkpoint_age_s)} ago")
    return ", ".join(parts)
