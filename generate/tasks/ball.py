"""Ball: push the ball into the other rover's goal."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ..scenes import arena, rover
from ..task import Floats, Ints, Score, Task

GOAL_LOW, GOAL_HIGH = 0.28, 0.4  # m, half of the goals' width
BALL_SPREAD = 0.15  # m, of the ball about the middle
START_LOW, START_HIGH = (0.9, -0.3), (1.05, 0.3)  # m, of a rover: towards its own goal, aside
HEADING = 1.0  # rad, about straight ahead
ROLLING = 0.003  # m, of rolling friction: 0.2 m/s² of braking
ROLLING_LOW, ROLLING_HIGH = 0.001, 0.015  # m, from level 2
MASS_LOW, MASS_HIGH = 0.6, 3.0  # times the ball's own, from level 2
WALLS = ("wall_near", "wall_far")  # as the first player sees them: each is the other turned
WALL_LOW, WALL_HIGH = (0.3, 0.3, 0.1), (0.45, 0.45, 0.2)  # m: ahead, aside, half as long
WALL_THICK, WALL_HEIGHT = 0.06, 0.09  # m, half
WALL_COLOUR = (0.95, 0.95, 1.0, 1.0)
SHAPING = 0.01  # reward per step, of the ball at the goal
NEARNESS = 0.002  # and per metre nearer to it than the rival
LEAD = 0.15  # s, that the script looks ahead
BEHIND = 0.36  # m from the ball's middle to where a push starts
HOME = (0.2, 0.0)  # m further back, on the way there
AISLE = 0.14  # m to either side of the line of a push
ROOM = 0.24  # m from the walls to the middle of a rover that turns there
SIGHT = 0.8  # m, within which it turns past what stands in the way
RIVAL_SIZE = 0.17  # m, half
SLOW, STALL, RETREAT = 0.05, 20, 15  # m/s, steps: after so long at rest the script backs off
BACK = (-0.8, 0.25)  # its actions then
CORNERED = 0.12  # m between ball and wall


class Ball(Task):
    """Level 1: the goals' width varies. Level 2: and the ball's mass and drag. Level 3: and
    there are walls on the pitch."""

    name = "ball"
    family = "match"
    players = 2
    horizon = 512
    substeps = rover.SUBSTEPS
    action_size = rover.ACTIONS
    instruction = "push the ball into the red goal"
    held_out = frozenset({1, 2, 3})
    reward_range = (-1.0, 1.0)
    cameras = rover.CAMERAS
    rivals = rover.RIVALS + arena.GOAL_RIVALS

    def build(self) -> mujoco.MjSpec:
        spec = rover.build()
        spec.nuserdata = self.players
        arena.add_pitch(spec)
        arena.add_players(spec)
        arena.add_ball(spec, ROLLING)
        if self.level > 2:
            for name in WALLS:
                size = WALL_HIGH[2], WALL_THICK, WALL_HEIGHT
                wall = rover.add_wall(spec, name, size, (0, 0, 0))
                wall.rgba = WALL_COLOUR
        rover.add_cameras(spec, 3.0, 1.3, 52, rover.CAMERAS)
        return spec

    def bind(self, batch: Batch) -> None:
        model = batch.model
        self.rovers = rover.Rover(batch, rover.NAMES)
        self.stall = batch.bind("userdata")
        joint = model.joint("ball")
        self.ball = batch.qpos[:, joint.qposadr[0] :][:, :3]
        self.ball_velocity = batch.qvel[:, joint.dofadr[0] :][:, :2]
        self.body, self.geom = model.body("ball").id, model.geom("ball").id
        self.mass, self.inertia = batch.expand("body_mass"), batch.expand("body_inertia")
        self.friction = batch.expand("geom_friction")
        self.pos, self.size = batch.expand("geom_pos"), batch.expand("geom_size")
        self.posts = [model.geom(name).id for name in arena.POSTS]
        self.walls = [model.geom(name).id for name in WALLS] if self.level > 2 else []
        self.goal = np.full(self.rovers.nlane, GOAL_LOW)
        self.net = np.array((arena.LENGTH, 0.0, 0.0)) * self.rovers.side

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        for sim, g in zip(ids, generators, strict=True):
            goal = g.uniform(GOAL_LOW, GOAL_HIGH)
            self.goal[2 * sim : 2 * sim + 2] = goal
            self.pos[sim, self.posts], self.size[sim, self.posts] = arena.posts(goal)
            self.ball[sim, :2] = g.uniform(-BALL_SPREAD, BALL_SPREAD, 2)
            own = g.uniform(START_LOW, START_HIGH, (2, 2))
            headings = np.array((0.0, np.pi)) + g.uniform(-HEADING, HEADING, 2)
            self.rovers.reset(sim, own * ((-1, -1), (1, 1)), headings)
            if self.level > 1:
                self._change_ball(sim, g)
            if self.level > 2:
                x, y, half = g.uniform(WALL_LOW, WALL_HIGH)
                y *= g.choice((-1, 1))
                self.pos[sim, self.walls] = (-x, -y, WALL_HEIGHT), (x, y, WALL_HEIGHT)
                self.size[sim, self.walls, 0] = half

    def _change_ball(self, sim: int, g: np.random.Generator) -> None:
        weight = np.exp(g.uniform(np.log(MASS_LOW), np.log(MASS_HIGH)))
        self.mass[sim, self.body] *= weight
        self.inertia[sim, self.body] *= weight
        drag = np.exp(g.uniform(np.log(ROLLING_LOW), np.log(ROLLING_HIGH)))
        self.friction[sim, self.geom, 2] = drag

    def apply(self, action: NDArray[np.float32]) -> None:
        self.rovers.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        """The walls look the same from both sides."""
        rovers, ball = self.rovers, np.repeat(self.ball, 2, axis=0)
        rovers.observe(slots)
        position = rovers.position
        slots["object_1_position"][:] = rovers.own_side(ball)
        slots["to_object_1"][:] = rovers.own_frame(ball - position)
        slots["goal_position"][:] = (arena.LENGTH, 0.0, 0.0)
        slots["to_goal"][:] = rovers.own_frame(self.net - position)
        slots["object_1_to_goal"][:] = rovers.own_side(self.net - ball)
        for k, wall in enumerate(self.walls, 1):
            slots[f"obstacle_{k}_position"][:] = np.repeat(self.pos[:, wall], 2, axis=0)
            slots[f"obstacle_{k}_size"][:] = np.repeat(self.size[:, wall], 2, axis=0)

    def score(self) -> Score:
        """A goal counts once the ball's middle is over the line."""
        rovers, ball = self.rovers, np.repeat(self.ball[:, :2], 2, axis=0)
        ahead = ball[:, 0] * rovers.side[:, 0]
        distance = np.sqrt(((ball - rovers.position[:, :2]) ** 2).sum(axis=1))
        nearer = rovers.swap(distance) - distance
        shaping = SHAPING * np.clip(ahead / arena.LENGTH, -1, 1) + NEARNESS * nearer
        won, lost = ahead > arena.LENGTH, ahead < -arena.LENGTH
        ended = won | lost
        self._watch_stalls(ended)
        return Score(np.where(ended, won.astype(float) - lost, shaping), won, ended)

    def _watch_stalls(self, ended: NDArray[np.bool_]) -> None:
        """Count steps at rest, for the script; at STALL they turn to those left of a retreat."""
        stall = self.stall.reshape(-1)
        slow = (self.rovers.velocity[:, :2] ** 2).sum(axis=1) < SLOW**2
        counted = np.where(stall < 0, stall + 1, np.maximum(stall + np.where(slow, 1, -1), 0))
        counted = np.where(counted < STALL, counted, -RETREAT)
        self.stall[:] = np.where(ended, stall, counted).reshape(self.stall.shape)

    def expert(self) -> NDArray[np.float32]:
        """Get behind the ball, which is also before the own goal, and drive through it.

        In the own side's coordinates: the goal to be made lies at +x.
        """
        side = self.rovers.side
        position = self.rovers.position[:, :2] * side
        rival = -self.rovers.swap(position)
        ball = np.repeat(self.ball[:, :2] + LEAD * self.ball_velocity, 2, axis=0) * side
        walls, halves = self._walls()
        things = np.concatenate((rival[:, None], walls), axis=1)
        sizes = np.concatenate((np.full((len(rival), 1, 2), RIVAL_SIZE), halves), axis=1)
        way = swerve(ball, self._way(ball), things, sizes, arena.BALL_RADIUS + 0.04)
        relative = position - ball
        along = (relative * way).sum(axis=1)
        left = turned(way)
        aside = (relative * left).sum(axis=1)
        start = ball - BEHIND * way
        # from in front of the ball, go round it on the nearer side, and home: a touch from ahead
        # drives it to the own goal
        around = ball + (np.where(aside < 0, -1, 1) * BEHIND)[:, None] * left - 0.15 * way - HOME
        through = ball + 0.3 * way - (2 * aside)[:, None] * left
        pushing = (along < 0) & (np.abs(aside) < AISLE)
        target = np.where((along > -0.15)[:, None], around, start)
        target = np.where(pushing[:, None], through, arena.inside(target, ROOM))
        if self.walls:
            target = position + swerve(position, target - position, walls, halves, ROOM - 0.05)
        action = self.rovers.drive_to(target * side, stop=False)
        action[self.stall.reshape(-1) < 0, :2] = BACK
        return action

    def _walls(self) -> tuple[Floats, Floats]:
        """Middles and half sides (nlane, k, 2) m of the walls on the pitch."""
        halves = np.repeat(self.size[:, self.walls, :2], 2, axis=0)
        return np.repeat(self.pos[:, self.walls, :2], 2, axis=0), halves

    def _way(self, ball: Floats) -> Floats:
        """Directions (nlane, 2) in which to push balls (nlane, 2), on the own side."""
        mouth = np.clip(ball[:, 1], 0.15 - self.goal, self.goal - 0.15)
        gap = np.stack((arena.LENGTH + 0.15 - ball[:, 0], mouth - ball[:, 1]), axis=1)
        # near the own goal, along the cut corner and away
        away = np.stack((np.ones(len(ball)), np.where(ball[:, 1] < 0, -1.0, 1.0)), axis=1)
        cornered = arena.corner_gap(ball) < arena.BALL_RADIUS + CORNERED
        gap = np.where((cornered & (ball[:, 0] < 0))[:, None], away, gap)
        direction: Floats = gap / np.sqrt((gap**2).sum(axis=1, keepdims=True))
        return direction


def turned(vectors: Floats) -> Floats:
    """Vectors (…, 2) a quarter turn to the left."""
    return np.stack((-vectors[..., 1], vectors[..., 0]), axis=-1)


def swerve(origin: Floats, way: Floats, things: Floats, halves: Floats, room: float) -> Floats:
    """Ways (n, 2) from origins (n, 2), turned past the first of k boxes that stand in them.

    The boxes' middles and half sides are (n, k, 2) m; they are passed at `room` m.
    """
    length = np.sqrt((way**2).sum(axis=1, keepdims=True))
    ahead = way / np.maximum(length, 1e-6)
    left = turned(ahead)
    gap = things - origin[:, None]
    along = (gap * ahead[:, None]).sum(axis=2)
    aside = (gap * left[:, None]).sum(axis=2)
    reach = (halves * np.abs(left)[:, None]).sum(axis=2) + room
    blocks = (along > 0) & (along < SIGHT) & (np.abs(aside) < reach)
    first = np.where(blocks, along, SIGHT).argmin(axis=1)[:, None]
    blocks, along, aside, reach = (
        np.take_along_axis(values, first, 1) for values in (blocks, along, aside, reach)
    )
    past = along * ahead + (aside - np.where(aside < 0, -reach, reach)) * left
    past *= length / np.maximum(np.sqrt((past**2).sum(axis=1, keepdims=True)), 1e-6)
    return np.where(blocks, past, way)
