"""What checkpoints need of an engine: keeps DeepSpeed out of everything that only reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


class CheckpointEngine(Protocol):
    """See `engine.Engine`."""

    rank: int

    def save(self, folder: Path, state: dict[str, Any]) -> None: ...

    def load(self, folder: Path) -> dict[str, Any]: ...

    def weights(self) -> dict[str, Tensor]: ...

    def barrier(self) -> None: ...
