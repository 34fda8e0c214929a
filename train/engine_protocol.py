"""What checkpoints need of an engine: keeps DeepSpeed out of everything that only reads them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .fragments import Fragment


class CheckpointEngine(Protocol):
    """See `engine.Engine`."""

    rank: int

    def fragments(self, updates: int | None = None) -> list[Fragment]: ...

    def publish(self) -> None: ...

    def weights(self) -> dict[str, Tensor]: ...

    def barrier(self) -> None: ...
