"""What every sample of a corpus looks like; travels in corpus.json and in checkpoints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .errors import CorpusError, SchemaMismatchError, VersionError

FORMAT_VERSION = 1
SEGMENT_STEPS = 256  # steps of the longest sample
EVALUATION_BIT = 1 << 63  # seeds with it are for evaluation, never in a corpus
INSTRUCTION_BYTES = 64  # UTF-8 bytes a model reads; longer instructions are refused
PROPRIOCEPTION = (
    "joint_position", "joint_velocity", "gripper", "hand_position", "hand_rotation",
    "body_rotation", "body_velocity", "body_spin", "phase",
)  # fmt: skip
"""Slots that tell of the player's own body: of the state, all that eyes alone come with."""


@dataclass(frozen=True)
class Slot:
    """A named stretch of the state vector, shared by every task that fills it."""

    name: str
    size: int


@dataclass(frozen=True)
class Schema:
    """Shapes, names and ranges of one corpus.

    Samples hold T ≤ 256 steps of pixels (T, image_size, image_size, 3) uint8, state
    (T, state_size) float32, action (T, action_size) float32 in [-1, 1], reward (T,) float32 in
    reward_range and success (T,) uint8.
    """

    slots: tuple[Slot, ...]
    action_size: int
    image_size: int
    reward_range: tuple[float, float]
    version: int = FORMAT_VERSION

    @property
    def state_size(self) -> int:
        """Floats in a state vector: the slots, one after another."""
        return sum(slot.size for slot in self.slots)

    def slices(self) -> dict[str, slice]:
        """Each slot's place in the state vector, by name."""
        places, start = {}, 0
        for slot in self.slots:
            places[slot.name] = slice(start, start + slot.size)
            start += slot.size
        return places

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any], where: str) -> Schema:
        """Read a schema.

        Raises VersionError for a newer format, CorpusError for anything unreadable; both name
        `where`.
        """
        version = data.get("version")
        if not isinstance(version, int):
            raise CorpusError(f"{where}: expected a schema with a version, found {version!r}")
        if version > FORMAT_VERSION:
            raise VersionError(
                f"{where}: format version {version} is newer than this program's {FORMAT_VERSION}"
            )
        try:
            low, high = data["reward_range"]
            return Schema(
                slots=tuple(Slot(str(s["name"]), int(s["size"])) for s in data["slots"]),
                action_size=int(data["action_size"]),
                image_size=int(data["image_size"]),
                reward_range=(float(low), float(high)),
                version=version,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"{where}: damaged schema ({error!r})") from error

    def require_equal(self, other: Schema, where: str, but: tuple[str, ...] = ()) -> None:
        """Raise SchemaMismatchError naming the first field (but for `but`) that differs."""
        mine, theirs = self.to_json(), other.to_json()
        for field, expected in mine.items():
            if field not in but and theirs[field] != expected:
                raise SchemaMismatchError(
                    f"{where}: schema differs in {field}: "
                    f"expected {_brief(expected)}, found {_brief(theirs[field])}"
                )


def _brief(value: Any) -> str:
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return "[" + " ".join(f"{slot['name']}:{slot['size']}" for slot in value) + "]"
    return repr(value)
