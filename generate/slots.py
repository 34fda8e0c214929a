"""The state vector: named slots that all tasks share; a task fills those it has.

Relative vectors are slots of their own: without hand→goal a small network fell from 100 % to 9 %
on reaching.
"""

from __future__ import annotations

from ..shards.schema import Schema, Slot

SLOTS = (
    Slot("joint_position", 6),  # rad
    Slot("joint_velocity", 6),  # rad/s
    Slot("joint_target", 6),  # rad: what the velocity servos have integrated, minus position
    Slot("gripper", 2),  # m, m/s: opening and its rate
    Slot("hand_position", 3),  # m, world
    Slot("hand_rotation", 6),  # first two columns of the rotation matrix
    Slot("hand_velocity", 3),  # m/s
    Slot("object_1_position", 3),
    Slot("object_1_rotation", 6),
    Slot("object_1_velocity", 3),
    Slot("goal_position", 3),
    Slot("hand_to_object_1", 3),
    Slot("hand_to_goal", 3),
    Slot("object_1_to_goal", 3),
)
PROPRIOCEPTION = (
    "joint_position", "joint_velocity", "joint_target", "gripper",
    "hand_position", "hand_rotation", "hand_velocity",
)  # fmt: skip
ACTION_SIZE = 7  # six joints and the gripper


def make_schema(image_size: int, reward_range: tuple[float, float]) -> Schema:
    """Schema of everything this version of the suite writes."""
    return Schema(SLOTS, ACTION_SIZE, image_size, reward_range)
