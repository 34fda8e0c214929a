"""What an agent plays in and looks at: worlds, environments of Gymnasium, observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..shards.errors import RolloutError, SchemaMismatchError
from ..shards.schema import Schema
from .model import Shapes


class Played(Protocol):
    """What an agent needs of a task."""

    @property
    def action_size(self) -> int: ...


class Lanes(Protocol):
    """What an agent needs of a world."""

    @property
    def nlane(self) -> int: ...

    @property
    def schema(self) -> Schema: ...

    @property
    def task(self) -> Played: ...


@runtime_checkable
class Environment(Protocol):
    """What an agent needs of an environment of Gymnasium; one of several has `num_envs` too."""

    @property
    def action_space(self) -> Any: ...


class Seen(Protocol):
    """What an agent needs of a world's observation."""

    @property
    def state(self) -> NDArray[np.float32]: ...

    @property
    def pixels(self) -> NDArray[np.uint8] | None: ...

    @property
    def instruction(self) -> Sequence[str]: ...


Observed = Seen | Mapping[str, NDArray[Any]] | NDArray[np.float32]


def fit(
    lanes: Lanes | Environment | int, schema: Schema, where: str
) -> tuple[int, int, int]:
    """Lanes, entries of the actions that are returned, and of those that the task uses.

    Raises SchemaMismatchError for observations or actions unlike the schema's.
    """
    size = schema.action_size
    if isinstance(lanes, int | np.integer):
        return int(lanes), size, size
    if not isinstance(lanes, Environment):
        schema.require_equal(lanes.schema, where, but=("reward_range",))
        return lanes.nlane, size, lanes.task.action_size
    world = getattr(getattr(lanes, "unwrapped", lanes), "world", None)
    if isinstance(theirs := getattr(world, "schema", None), Schema):
        schema.require_equal(theirs, where, but=("reward_range", "image_size"))
    shape = getattr(lanes.action_space, "shape", None)
    if not shape or shape[-1] > size:
        raise SchemaMismatchError(
            f"{where}: action_space: expected at most {size} entries, found shape {shape}"
        )
    return getattr(lanes, "num_envs", 1), shape[-1], shape[-1]


def inputs(
    observation: Observed, nlane: int, shapes: Shapes, where: str, *, pixels: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, bool]:
    """State (nlane, state_size), `pixels` (nlane, H, H, 3), whether it had no axis of lanes.

    Raises RolloutError for another number of lanes or what is missing, SchemaMismatchError for
    other sizes.
    """
    state: Any = observation
    frames: Any = None
    if isinstance(observation, Mapping):
        state, frames = observation.get("state"), observation.get("pixels")
    elif not isinstance(observation, np.ndarray):
        state, frames = observation.state, observation.pixels
    alone = np.ndim(state) == 1
    state = _lanes(state, (nlane, shapes.state_size), np.float32, "state", where)
    if not pixels:
        return state, None, alone
    shape = (nlane, shapes.image_size, shapes.image_size, 3)
    return state, _lanes(frames, shape, np.uint8, "pixels", where), alone


def _lanes(
    values: Any, wanted: tuple[int, ...], dtype: type, name: str, where: str
) -> NDArray[Any]:
    """The values as (nlane, …); float64 will do for float32, nothing else for uint8."""
    if values is None:
        raise RolloutError(f"{where}: the agent needs {name}, the observation has none")
    values, shape = np.asarray(values), wanted[1:]
    if values.shape != wanted or values.dtype != dtype:  # as it never is in our worlds
        castable = np.can_cast(values.dtype, dtype, "same_kind")
        if values.shape[-len(shape) :] != shape or not castable:
            raise SchemaMismatchError(
                f"{where}: {name}: expected {np.dtype(dtype)}{shape} of each lane, "
                f"found {values.dtype}{values.shape}"
            )
        values = values[None] if values.ndim == len(shape) else values
        if values.shape != wanted:
            raise RolloutError(f"{where}: {name} should be of shape {wanted}, is {values.shape}")
    return np.ascontiguousarray(values, dtype)
