"""Insert: put a square peg, held from the start, into a hole."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arm, grasp
from ..task import Floats, Ints, Score, Task

CLEARANCE = (0.006, 0.003, 0.0015)  # m, the hole is wider than the peg, by level
PEG, LENGTH = 0.018, 0.05  # m, half sides
HELD = 0.02  # m, middle of the peg below the hand
BLOCK, HEIGHT = 0.065, 0.06  # m, half a side and height of what the hole is in
DEPTH, BOTTOM = 0.035, 0.045  # m, of the tip in the hole: enough, and where the script stops
MARK = 0.007  # m, half the height of the green at the bottom of the hole; the tip stays above it
GOAL = np.array((0.0, 0.0, HEIGHT - BOTTOM))  # m, in the block
AREA_LOW, AREA_HIGH = (0.36, -0.12), (0.5, 0.12)  # m, of the hole
PEG_COLOUR, BLOCK_COLOUR = (0.95, 0.1, 0.1, 1.0), (0.95, 0.8, 0.2, 1.0)
MARK_COLOUR = (0.1, 0.8, 0.25, 1.0)
GAIN = 8.0  # 1/s
SLOPE = 3.0  # m of height per m off the hole's axis
LEVER = 0.03  # m; a peg turned by an angle is as far off as that times the angle
TRAVEL = 0.05  # m above the block
CAPTURE = 0.006  # m off the axis within which the tip touches the block
TOUCH = 0.001  # m below its top
ENTERED = 0.002  # m
DESCENT = 0.1  # m/s, into the hole


class Insert(Task):
    """Level 1: the hole is 6 mm wider than the peg. Level 2: 3 mm. Level 3: 1.5 mm."""

    name = "insert"
    family = "arm"
    substeps = arm.SUBSTEPS
    action_size = arm.ACTIONS
    instruction = "put the red peg into the hole"

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.clearance = CLEARANCE[level - 1]

    def build(self) -> mujoco.MjSpec:
        spec = arm.build()
        camera = spec.camera("main")
        camera.pos, camera.fovy = [0.72, 0.0, 0.58], 42
        camera.alt.xyaxes = [0, 1, 0, -0.87, 0, 0.49]
        self._add_block(spec)
        peg = spec.worldbody.add_body(name="peg")
        peg.add_freejoint(name="peg")
        peg.add_geom(
            name="peg", type=mujoco.mjtGeom.mjGEOM_BOX, size=[PEG, PEG, LENGTH], mass=0.1,
            rgba=PEG_COLOUR, friction=[2.0, 0.01, 0.0005],
        )  # fmt: skip
        return spec

    def _add_block(self, spec: mujoco.MjSpec) -> None:
        """Four boxes round a hole, and its bottom."""
        block = spec.worldbody.add_body(name="block", mocap=True)
        hole = PEG + self.clearance / 2
        side, middle = (BLOCK - hole) / 2, (BLOCK + hole) / 2
        for name, size, place in (
            ("left", (BLOCK, side), (0, middle)), ("right", (BLOCK, side), (0, -middle)),
            ("front", (side, hole), (middle, 0)), ("back", (side, hole), (-middle, 0)),
        ):  # fmt: skip
            wall = arm.add_wall(block, name, (*size, HEIGHT / 2), (*place, HEIGHT / 2))
            wall.rgba = BLOCK_COLOUR
            wall.friction, wall.priority = [0.2, 0.005, 0.0001], 1  # smooth, whatever the peg is
        block.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[hole, hole, MARK], pos=[0, 0, MARK],
            rgba=MARK_COLOUR, contype=0, conaffinity=0,
        )  # fmt: skip

    def bind(self, batch: Batch) -> None:
        self.arm = arm.Arm(batch)
        self.block, self.block_quat = batch.mocap_pos[:, 0], batch.mocap_quat[:, 0]
        model = batch.model
        start = model.joint("peg").qposadr[0]
        self.pose = batch.qpos[:, start : start + 7]
        self.peg, self.hole = model.body("peg").id, model.body("block").id
        self.xmat = batch.bind("xmat")
        self.model, self.data = model, mujoco.MjData(model)  # to find the hand at a reset

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        self.arm.reset(ids, generators, spread=0.1)
        for sim, g in zip(ids, generators, strict=True):
            self.arm.qpos[sim, self.arm.fingers] = PEG - 0.001  # closed on it, servos at 0
            self.data.qpos[:] = self.arm.qpos[sim]
            mujoco.mj_kinematics(self.model, self.data)
            hand = self.data.site("hand")
            mujoco.mju_mat2Quat(self.pose[sim, 3:], hand.xmat)
            self.pose[sim, :3] = hand.xpos + HELD * hand.xmat[2::3]
            yaw = g.uniform(-np.pi / 4, np.pi / 4)
            self.block[sim, :2], self.block[sim, 2] = g.uniform(AREA_LOW, AREA_HIGH), 0.0
            self.block_quat[sim] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)

    def apply(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(action)

    def _tip(self) -> Floats:
        """(n, 3) m, the middle of the peg's lower end."""
        return self.pose[:, :3] + LENGTH * self.xmat[:, self.peg, 2::3]

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.arm.observe(slots)
        peg, hole, hand = self.pose[:, :3], self.goal, self.arm.hand
        rotations = arm.columns(self.xmat[:, (self.peg, self.hole)])
        slots["object_1_position"][:] = peg
        slots["object_1_rotation"][:] = rotations[:, 0]
        slots["object_2_position"][:] = self.block
        slots["object_2_rotation"][:] = rotations[:, 1]
        slots["goal_position"][:] = hole
        slots["to_object_1"][:] = peg - hand
        slots["to_object_2"][:] = self.block - hand
        slots["to_goal"][:] = hole - hand
        slots["object_1_to_goal"][:] = hole - self._tip()

    @property
    def goal(self) -> Floats:
        """(n, 3) m, where the peg's tip belongs."""
        return self.block + GOAL

    def score(self) -> Score:
        gap = self._tip() - self.block
        inside = np.hypot(gap[:, 0], gap[:, 1]) < PEG
        depth = np.where(inside, np.clip((HEIGHT - gap[:, 2]) / DEPTH, 0.0, 1.0), 0.0)
        off = np.linalg.norm(gap - GOAL, axis=1)
        reward = 0.5 * np.exp(-8.0 * off) + 0.5 * depth
        return Score(reward, depth >= 1.0, np.zeros(len(reward), bool))

    def expert(self) -> NDArray[np.float32]:
        """Bring the tip over the hole, turn the peg to it, let it down as far as it fits."""
        tip, hand = self._tip(), self.arm.hand
        faces = grasp.face_heading(self.xmat[:, (self.peg, self.hole)])
        turn = grasp.nearest_heading(faces[:, 1], faces[:, 0]) - faces[:, 0]
        gap = self.block - tip
        off = np.hypot(gap[:, 0], gap[:, 1]) + LEVER * np.abs(turn)
        depth = gap[:, 2] + HEIGHT
        inside = (depth > ENTERED) & (off < CAPTURE)
        # above the hole the tip is steered, within it the hand: there a push on a peg that leans
        # moves its tip the other way
        planar = np.where(inside[:, None], self.block - hand, gap)[:, :2]
        fits = inside | (off < self.clearance / 3)
        over = np.clip(SLOPE * (off - CAPTURE), 0.0, TRAVEL) - TOUCH
        climb = np.where(fits, depth - BOTTOM, depth + over)
        lowered = np.maximum(GAIN * climb, -DESCENT)
        velocity = np.column_stack((GAIN * planar, np.where(off < CAPTURE, lowered, GAIN * climb)))
        return self.arm.move(arm.limit_speed(velocity), -1.0, self.arm.heading + turn)
