"""Maze: drive a rover to a disc, round walls that every seed sets anew."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import ArrayLike, NDArray

from ..scenes import rover
from ..slots import OBSTACLES
from ..task import Floats, Ints, Score, Task

TOLERANCE = 0.25  # m
CELLS = {1: 6, 2: 4, 3: 6}  # along each side, by level
CELL = 0.75  # m
THICK, HEIGHT = 0.05, 0.08  # m, half of a wall's
BURIED = (0.0, 0.0, -1.0)  # m, where walls wait that a maze has no use for
JITTER = 0.1  # m, of start and goal about the middle of their cells
FAR = 0.6  # of the longest way to the goal: the shortest that an episode begins with
RANGE = 3.0  # m, the farthest that the range finder sees
CAMERA_HEIGHT, CAMERA_BACK, MARGIN = 6.0, 0.8, 0.45  # m
CENTRING = 4.0  # 1/m, how much more the script heads for the middle than along the passage
GOAL_COLOUR = (0.15, 0.95, 0.3, 1.0)

Cell = tuple[int, int]
Wall = tuple[Cell, Cell]  # between a cell and its neighbour to the right or above
WAYS: tuple[Cell, ...] = ((1, 0), (0, 1), (-1, 0), (0, -1))


class Maze(Task):
    """Level 1: a dead end, shaped like a U, between start and goal. Level 2: a maze of 4 × 4
    cells. Level 3: a maze of 6 × 6 cells."""

    name = "maze"
    family = "locomotion"
    horizon = 1024
    substeps = rover.SUBSTEPS
    action_size = rover.ACTIONS
    instruction = "drive to the green disc"
    held_out = frozenset({3})

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.cells = CELLS[level]
        self.half = self.cells * CELL / 2
        # a spanning tree leaves so many of the grid's 2 k (k - 1) walls, before any are merged
        self.walls = 3 if level == 1 else (self.cells - 1) ** 2

    def build(self) -> mujoco.MjSpec:
        spec = rover.build()
        rover.add_rover(spec, "rover")
        rover.add_fence(spec, self.half, self.half, HEIGHT)
        for wall in range(self.walls):
            rover.add_wall(spec, f"wall_{wall}", (THICK, THICK, HEIGHT), BURIED)
        goal = spec.worldbody.add_body(name="goal", mocap=True)
        goal.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[TOLERANCE, 0.005, 0], rgba=GOAL_COLOUR,
            contype=0, conaffinity=0,
        )  # fmt: skip
        fovy = 2 * np.degrees(np.arctan((self.half + MARGIN) / CAMERA_HEIGHT))
        rover.add_cameras(spec, CAMERA_HEIGHT, CAMERA_BACK, fovy)
        return spec

    def bind(self, batch: Batch) -> None:
        model, n = batch.model, self.cells
        self.rover = rover.Rover(batch)
        self.goal = batch.mocap_pos[:, 0]
        first = model.geom("wall_0").id
        self.place = batch.expand("geom_pos")[:, first : first + self.walls]
        self.size = batch.expand("geom_size")[:, first : first + self.walls]
        fence = [model.geom(name).id for name in ("north", "south", "west", "east")]
        shape = (batch.nsim, len(fence), 2)
        # all that the range finder sees
        self.centres = np.empty((batch.nsim, self.walls + len(fence), 2))
        self.halves = np.empty_like(self.centres)
        self.centres[:, self.walls :] = np.broadcast_to(model.geom_pos[fence, :2], shape)
        self.halves[:, self.walls :] = np.broadcast_to(model.geom_size[fence, :2], shape)
        self.flow = np.zeros((batch.nsim, n, n, 2))
        self.left = np.zeros((batch.nsim, n, n))
        self.sims = np.arange(batch.nsim)

    def reset(self, ids: Ints, generators: Sequence[np.random.Generator]) -> None:
        for sim, g in zip(ids, generators, strict=True):
            if self.level == 1:
                walls, start, goal = trap(self.cells, g)
            else:
                walls, goal = maze(self.cells, g), random_cell(self.cells, g)
                start = None
            came = ways_to(goal, self.cells, walls)
            distance = self._write_ways(sim, came)
            if start is None:
                start = g.choice(np.argwhere(distance >= FAR * distance.max()))
            self._write_walls(sim, walls)
            place = self._middle(goal) + g.uniform(-JITTER, JITTER, 2)
            self.goal[sim] = (*place, 0.005)
            place = self._middle(start) + g.uniform(-JITTER, JITTER, 2)
            self.rover.reset(sim, [place], [g.uniform(-np.pi, np.pi)])

    def apply(self, action: NDArray[np.float32]) -> None:
        self.rover.apply(action)

    def observe(self, slots: dict[str, NDArray[np.float32]]) -> None:
        self.rover.observe(slots)
        slots["goal_position"][:] = self.goal
        slots["to_goal"][:] = self.rover.own_frame(self.goal - self.rover.position)
        slots["ranges"][:] = self.rover.ranges(self.centres, self.halves, RANGE)
        if self.level == 1:
            for k, wall in zip(OBSTACLES, range(self.walls), strict=True):
                slots[f"obstacle_{k}_position"][:] = self.place[:, wall]
                slots[f"obstacle_{k}_size"][:] = self.size[:, wall]

    def score(self) -> Score:
        """The reward falls with the length of the way that is left, round the walls."""
        position = self.rover.position[:, :2]
        way, middle, left = self._here(position)
        nearing = left < 1.5  # cells: no other lies between
        following = np.where(nearing[:, None], self.goal[:, :2], middle + CELL * way)
        rest = np.where(nearing, 0.0, CELL * (left - 1))
        length = np.linalg.norm(following - position, axis=1) + rest
        near = np.linalg.norm(self.goal[:, :2] - position, axis=1) < TOLERANCE
        return Score(1 / (1 + length), near, np.zeros(len(near), bool))

    def expert(self) -> NDArray[np.float32]:
        """Follow the flow towards the goal that was planned for every cell, in mid-passage."""
        position = self.rover.position[:, :2]
        way, middle, left = self._here(position)
        offset = middle - position
        aside = offset - (offset * way).sum(axis=1, keepdims=True) * way
        target = np.where(left[:, None] < 0.5, self.goal[:, :2], position + way + CENTRING * aside)
        return self.rover.drive_to(target)

    def _here(self, position: Floats) -> tuple[Floats, Floats, Floats]:
        """Of the cells around points (n, 2): the way on (n, 2), middle (n, 2), cells left (n,)."""
        cell = np.clip((position + self.half) // CELL, 0, self.cells - 1)
        x, y = cell.astype(int).T
        return self.flow[self.sims, x, y], self._middle(cell), self.left[self.sims, x, y]

    def _middle(self, cell: ArrayLike) -> Floats:
        middle: Floats = (np.asarray(cell, np.float64) + 0.5) * CELL - self.half
        return middle

    def _write_ways(self, sim: np.int32, came: dict[Cell, Cell]) -> Floats:
        """Keep each cell's way on and number of cells left to the goal; returns the latter."""
        left = self.left[sim]
        for cell, following in came.items():
            self.flow[sim][cell] = np.subtract(following, cell)
            left[cell] = 0 if cell == following else left[following] + 1
        return left

    def _write_walls(self, sim: np.int32, walls: set[Wall]) -> None:
        place, size = self.place[sim], self.size[sim]
        place[:], size[:] = BURIED, (THICK, THICK, HEIGHT)
        for k, (first, last) in enumerate(merged(walls)):
            # from the lower end of the first wall to the upper end of the last
            low, high = self._middle(np.max(first, axis=0)), self._middle(np.max(last, axis=0))
            along = np.array(first[0]) == first[1]
            low, high = low - CELL / 2, high - CELL / 2 + CELL * along
            place[k] = (*(low + high) / 2, HEIGHT)
            size[k, :2] = (high - low) / 2 + THICK
        self.centres[sim, : self.walls] = place[:, :2]
        self.halves[sim, : self.walls] = size[:, :2]


def random_cell(n: int, g: np.random.Generator) -> Cell:
    """Any cell of an n × n grid."""
    x, y = g.integers(n, size=2).tolist()
    return x, y


def neighbours(cell: Cell, n: int) -> list[Cell]:
    """The up to four cells beside a cell of an n × n grid."""
    x, y = cell
    return [(x + i, y + j) for i, j in WAYS if 0 <= x + i < n and 0 <= y + j < n]


def wall_between(a: Cell, b: Cell) -> Wall:
    """The one name of the wall between two neighbours."""
    return (a, b) if a < b else (b, a)


def maze(n: int, g: np.random.Generator) -> set[Wall]:
    """Walls that leave one way between any two cells: a random depth-first tree's."""
    cells = [(x, y) for x in range(n) for y in range(n)]
    walls = {wall_between(a, b) for a in cells for b in neighbours(a, n)}
    path = [random_cell(n, g)]
    seen = set(path)
    while path:
        fresh = [cell for cell in neighbours(path[-1], n) if cell not in seen]
        if fresh:
            cell = fresh[g.integers(len(fresh))]
            walls.remove(wall_between(path[-1], cell))
            seen.add(cell)
            path.append(cell)
        else:
            path.pop()
    return walls


def trap(n: int, g: np.random.Generator) -> tuple[set[Wall], Cell, Cell]:
    """A U of walls with the start before or in its mouth and the goal behind its back."""
    left = int(g.integers(1, n - 3))  # of the three columns inside the U
    back = n - 2  # the goal's first row
    walls = {((x, back - 1), (x, back)) for x in range(left, left + 3)}
    for y in range(back - int(g.integers(1, 3)), back):
        walls |= {((left - 1, y), (left, y)), ((left + 2, y), (left + 3, y))}
    start = (left + int(g.integers(3)), int(g.integers(1, back)))
    goal = (left + int(g.integers(3)), int(g.integers(back, n)))
    turns = int(g.integers(4))

    def turned(cell: Cell) -> Cell:
        for _ in range(turns):
            cell = n - 1 - cell[1], cell[0]
        return cell

    return {wall_between(turned(a), turned(b)) for a, b in walls}, turned(start), turned(goal)


def ways_to(goal: Cell, n: int, walls: set[Wall]) -> dict[Cell, Cell]:
    """For every cell the next one on a shortest way to the goal, nearest cells first."""
    came = {goal: goal}
    queue = [goal]
    for cell in queue:
        for other in neighbours(cell, n):
            if other not in came and wall_between(cell, other) not in walls:
                came[other] = cell
                queue.append(other)
    return came


def merged(walls: set[Wall]) -> list[tuple[Wall, Wall]]:
    """First and last wall of each straight run."""
    runs = []
    for wall in sorted(walls):
        step = (0, 1) if wall[0][1] == wall[1][1] else (1, 0)
        if shifted(wall, step, -1) not in walls:
            last = wall
            while shifted(last, step, 1) in walls:
                last = shifted(last, step, 1)
            runs.append((wall, last))
    return runs


def shifted(wall: Wall, step: Cell, times: int) -> Wall:
    """The wall beside a wall."""
    a, b = ((x + times * step[0], y + times * step[1]) for x, y in wall)
    return a, b
