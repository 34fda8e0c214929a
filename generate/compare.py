"""How a replayed segment differs from the stored one, bit by bit and within a tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..shards.episode import Episode
from ..shards.schema import SEGMENT_STEPS, Schema

# Other versions or another CPU may round otherwise, by one unit in the last place. The like was
# played: all 48 task levels, 8 matches of noisy experts and 8 of random play each, positions and
# velocities disturbed by 4e-16 to 1e-15 of their value after every step. What touches nothing stays
# as it was; contacts make it chaos, and the earliest state to leave the tolerance did so at step 56
# (tag), the next at 70 (sumo).
EARLY_STEPS = 32  # steps of an episode that must stay within the tolerance
TOLERANCE = {"state": 1e-3, "reward": 1e-3}  # mm, mrad and the like; float32 alone rounds by 1e-7
PIXEL_LEVELS = 8  # by which a colour must differ, of 256, to be another; shading moves by 1 or 2
PIXEL_SHARE = 0.01  # of a frame's pixels; 0.0024 change at edges while the state is within 1e-3

AS_THEY_COME = ("state", "pixels", "action", "reward", "success")  # the order within a step
FIELDS = ("task", "level", "instruction", "player", "segment", "seed")
ENDING = ("terminated", "truncated", "cause", "completion_step", "final_state_xxh3")


@dataclass(frozen=True)
class Difference:
    """Between two plays of an episode, in one array or field."""

    what: str
    """Name of the array or field."""
    key: str
    """Of the first segment that has it."""
    step: int
    """Of the episode: the first at which bits differ."""
    told: str
    """What is stored there and what was replayed."""
    departs: int | None
    """First step outside the tolerance; None where there is none, or where bits alone count."""
    largest: float = 0.0
    """Of an array's entries, at any step."""
    early: float = 0.0
    """The same within the first EARLY_STEPS."""

    def merged(self, later: Difference) -> Difference:
        """With what a later segment has of it."""
        departs = later.departs if self.departs is None else self.departs
        largest, early = max(self.largest, later.largest), max(self.early, later.early)
        return replace(self, departs=departs, largest=largest, early=early)


def compare(stored: Episode, played: Episode, schema: Schema) -> Iterator[Difference]:
    """Every array and field in which the segments differ; the match and who played aside."""
    start = stored.segment * SEGMENT_STEPS
    last = start + min(stored.steps, played.steps) - 1
    for name in FIELDS:
        yield from _field(name, stored, played, start, start)
    for name in AS_THEY_COME:
        yield from _array(name, stored, played, schema)
    yield from _field("steps", stored, played, last, last)
    for name in ENDING:
        yield from _field(name, stored, played, last, None)
    if played.terminated or played.truncated:  # stored ones know it before their last segment
        yield from _field("outcome", stored, played, last, None)


def _field(
    name: str, stored: Episode, played: Episode, step: int, departs: int | None
) -> Iterator[Difference]:
    a, b = getattr(stored, name), getattr(played, name)
    if a != b:
        a, b = (f"{x:016x}" if name.endswith("_xxh3") and x is not None else x for x in (a, b))
        yield Difference(name, stored.key, step, _told(name, a, b), departs)


def _array(name: str, stored: Episode, played: Episode, schema: Schema) -> Iterator[Difference]:
    steps, start = min(stored.steps, played.steps), stored.segment * SEGMENT_STEPS
    a, b = getattr(stored, name)[:steps], getattr(played, name)[:steps]
    other = differing_steps(a, b)
    if not other.any():
        return
    step = int(other.argmax())
    sizes = _sizes(a, b)
    outside = _outside(name, a, b, sizes) & other
    yield Difference(
        name, stored.key, start + step, _told_entry(name, a[step], b[step], schema),
        start + int(outside.argmax()) if outside.any() else None, float(sizes.max()),
        float(sizes[: max(EARLY_STEPS - start, 0)].max(initial=0.0)),
    )  # fmt: skip


def differing_steps(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """(T,) whether any bit differs: -0 is not 0, and one NaN is another's equal."""
    rows = [np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1) for x in (a, b)]
    return (rows[0] != rows[1]).any(axis=1)


def _sizes(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """(T,) each step's largest difference; infinite where only one is a number."""
    with np.errstate(invalid="ignore"):
        gaps = np.where(a == b, 0.0, np.abs(a.astype(np.float64) - b))
    return np.where(np.isnan(gaps), np.inf, gaps).reshape(len(a), -1).max(axis=1)


def _outside(
    name: str, a: NDArray[Any], b: NDArray[Any], sizes: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(T,) which steps leave the tolerance."""
    if name == "pixels":
        other = np.abs(a.astype(np.int16) - b) > PIXEL_LEVELS
        return other.any(axis=-1).mean(axis=(1, 2)) > PIXEL_SHARE
    if name == "success":  # a threshold of the state, which may be crossed a step apart
        return np.zeros(len(a), bool)
    return sizes > TOLERANCE.get(name, 0.0)


def _told_entry(name: str, a: NDArray[Any], b: NDArray[Any], schema: Schema) -> str:
    """The first differing entry of a step's arrays, by its name."""
    flat = [np.atleast_1d(x).reshape(-1) for x in (a, b)]
    entry = int(differing_steps(*flat).argmax())
    places = ", ".join(str(i) for i in np.unravel_index(entry, np.shape(a))) if np.ndim(a) else ""
    if name == "state":
        slot, place = next((s, p) for s, p in schema.slices().items() if entry < p.stop)
        name, places = f"state {slot}", str(entry - place.start)
    return _told(name + (f"[{places}]" if places else ""), *(x[entry] for x in flat))


def _told(name: str, stored: Any, played: Any) -> str:
    # str, not repr: NumPy's scalars as plain numbers, float32 in as few digits as tell it apart
    a, b = (repr(x) if isinstance(x, str) else str(x) for x in (stored, played))
    return f"{name} is {a} in the corpus, {b} replayed"
