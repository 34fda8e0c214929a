"""The one record type: a segment of one player's episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RolloutError
from .schema import INSTRUCTION_BYTES, SEGMENT_STEPS, Schema

ARRAYS = ("action", "reward", "success", "state", "pixels")  # stored order: pixels last
ADDED: dict[str, Any] = {"sampling": "", "sampling_probability": None}
"""Fields that older corpora lack, and what is taken for them there."""


def sample_key(match: int, player: int, segment: int) -> str:
    """MATCH-PLAYER-SEGMENT: no dot, sorts in order."""
    return f"{match:012d}-{player}-{segment:02d}"


@dataclass(frozen=True)
class Episode:
    """At most 256 consecutive steps of one player's episode; T is their number.

    At step t the player sees pixels[t] and state[t], then does action[t] and receives reward[t];
    success[t] is the task's condition after that action. A long episode is several records with
    the same match and player and segments 0, 1, … in order.
    """

    task: str
    level: int
    instruction: str
    match: int
    """Unique in the corpus; both players of a match share it."""
    player: int
    segment: int
    policy: str
    opponent: str
    """Empty for one player."""
    rating: float | None
    opponent_rating: float | None
    sampling: str
    """How the opponent was chosen: `listed` in the recipe, or of a league `pfsp`, `self_play` or
    `past`; empty for one player."""
    sampling_probability: float | None
    """Of this opponent by that rule, among the matches of the behaviour on this task."""
    round: int
    outcome: str | None
    """Of a match, for this player: `win`, `draw` or `loss`; None for one player, and as long as it
    is not known: what is written knows it in every segment."""
    seed: int
    """64 bits from which the whole episode follows, given its actions."""
    terminated: bool
    """The last step here ended the episode for good: no future reward."""
    truncated: bool
    """The last step here is the time limit: the future was cut, not ended."""
    cause: str
    """Why the episode terminated; empty otherwise."""
    completion_step: int | None
    """First step of the episode from which success held for ten, once known."""
    final_state_xxh3: int | None
    """Hash of the physics state after the episode's last step; None before that."""
    pixels: NDArray[np.uint8]
    """(T, H, H, 3)"""
    state: NDArray[np.float32]
    """(T, state_size)"""
    action: NDArray[np.float32]
    """(T, action_size), as it acted."""
    reward: NDArray[np.float32]
    """(T,)"""
    success: NDArray[np.uint8]
    """(T,) 0 or 1"""

    @property
    def key(self) -> str:
        """The sample's name in its tar."""
        return sample_key(self.match, self.player, self.segment)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.reward)

    def validate(self, schema: Schema) -> None:
        """Raise RolloutError naming the key and field that break the schema."""
        steps, size = self.steps, schema.image_size
        expected = {
            "pixels": ((steps, size, size, 3), np.uint8),
            "state": ((steps, schema.state_size), np.float32),
            "action": ((steps, schema.action_size), np.float32),
            "reward": ((steps,), np.float32),
            "success": ((steps,), np.uint8),
        }
        for name, (shape, dtype) in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise RolloutError(
                    f"{self.key}: {name} should be {np.dtype(dtype)}{shape}, "
                    f"is {array.dtype}{array.shape}"
                )
        if not 1 <= steps <= SEGMENT_STEPS:
            raise RolloutError(f"{self.key}: {steps} steps, expected 1 to {SEGMENT_STEPS}")
        if len(self.instruction.encode()) > INSTRUCTION_BYTES:
            raise RolloutError(f"{self.key}: instruction over {INSTRUCTION_BYTES} bytes")
        if self.terminated and self.truncated:
            raise RolloutError(f"{self.key}: both terminated and truncated")
