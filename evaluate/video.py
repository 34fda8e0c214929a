"""Recorded runs, replayed and drawn as animated GIFs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..generate.replay import STORED_ONLY
from ..generate.slots import ACTION_SIZE
from ..generate.video import Clip, film, pace, shown_steps
from ..generate.view import Views
from ..generate.work import versions_apart
from ..generate.world import World
from ..shards.errors import RolloutError
from .entrants import Pair
from .episodes import runs_of

SIZE = 160  # pixels, a player's view
RUNS_ACROSS = 3
MAXIMUM_BYTES = 1_500_000
ENDINGS = {"win": "won", "loss": "lost", "draw": "drawn", None: "failed"}

Versions = Mapping[str, str] | None


def record(
    frame: pl.DataFrame, policy: str, pair: Pair, opponent: str = "",
    maximum_bytes: int = MAXIMUM_BYTES, versions: Versions = None,
) -> bytes:  # fmt: skip
    """An animated GIF of some of a cell's runs, of at most `maximum_bytes` where that can be.

    Raises RolloutError if one of them replays differently here; `versions` are those that made
    them, where they are known.
    """
    rows = runs_of(frame, policy, pair, opponent)
    assert len(rows), f"{policy} never played {pair} against {opponent!r}"
    clips, shown = [], []
    for run, label in choose_runs(rows):
        row = facts_of(rows.filter(pl.col("run") == run))
        sides = frame.filter(same_run(row)).sort("player")
        clips.append(replay(sides, row["player"], label, SIZE, versions))
        completed = row["completion_step"]
        shown.append(shown_steps(row["steps"], -1 if completed is None else completed))
    return film(clips, max(shown), RUNS_ACROSS, maximum_bytes)


def choose_runs(rows: pl.DataFrame) -> list[tuple[int, str]]:
    """(number, what it stands for) of up to RUNS_ACROSS runs of a cell.

    The median success by completion step, the best by return, the median failure by return, which
    its caption tells from the others, and the worst; none twice. Others fill up.
    """
    succeeded = rows.filter("success").sort("completion_step", "run")["run"].to_list()
    ranked = rows.sort("return", "run")
    failed = ranked.filter(~pl.col("success"))["run"].to_list()
    runs = ranked["run"].to_list()
    found: dict[int, str] = {}
    for among, place, label in (
        (succeeded, len(succeeded) // 2, "median"), (runs, -1, "best"),
        (failed, len(failed) // 2, ""), (runs, 0, "worst"),
    ):  # fmt: skip
        if among:
            found.setdefault(among[place], label)
    for run in runs:
        found.setdefault(run, "")
    return list(found.items())[:RUNS_ACROSS]


def facts_of(row: pl.DataFrame) -> dict[str, Any]:
    """A single row without its lists."""
    return row.drop("actions", "rewards", "values", strict=False).row(0, named=True)


def same_run(row: Mapping[str, Any]) -> pl.Expr:
    """Whether rows tell of the run that `row` tells of, in a match from either side."""
    policy, opponent = pl.col("policy"), pl.col("opponent")
    mine = (policy == row["policy"]) & (opponent == row["opponent"])
    theirs = (policy == row["opponent"]) & (opponent == row["policy"])
    number = [pl.col(name) == row[name] for name in ("task", "level", "run")]
    return pl.all_horizontal(mine | theirs, *number)


def replay(
    sides: pl.DataFrame, player: int, label: str = "", size: int = SIZE, versions: Versions = None
) -> Clip:  # fmt: skip
    """Play a run again, from its seed and actions, in a world of its own; as `player` fared.

    `sides` are its rows, by player. A diverged run is played up to the step that broke it.
    Raises RolloutError unless all rewards are what was recorded, to the last bit.
    """
    row = facts_of(sides.filter(pl.col("player") == player))
    world = World(row["task"], row["level"], 1, pixels=False)
    views, rate, steps = Views(world, size), pace(world), int(row["steps"])
    actions, rewards = _recorded(sides, world)
    again, success = np.full_like(rewards, np.nan), np.zeros(rewards.shape, bool)
    frames = []
    world.reset([row["seed"]])
    for t in range(steps):
        if t % rate.steps == 0:
            frames.append(views.draw()[0])
        if row["cause"] and t == steps - 1:
            again[t] = 0.0  # as World.step has it; the state is beyond what can be shown
        elif len(world.ids):
            step = world.step(actions[t])
            again[t], success[t] = step.reward, step.success > 0
    if again.tobytes() != rewards.tobytes():
        # as integers: a zero has a sign, and NaN is unlike itself
        differs = (again.view(np.uint32) != rewards.view(np.uint32)).any(axis=1)
        raise replays_differently(_name(row), versions, f" from step {differs.argmax()} on")
    held = success[:: rate.steps, player]
    return Clip(np.stack(frames), held, caption(row, label), bool(row["success"]), rate)


def caption(row: Mapping[str, Any], label: str = "") -> str:
    """How a run ended; with a label short, for 160 pixels hold some 27 letters."""
    name = f"run {row['run']}"
    if row["opponent"]:
        name += " (right)" if row["player"] else " (left)"  # whose side it is
    return f"{name}, {label}: {ending(row, bool(label))}" if label else f"{name}: {ending(row)}"


def ending(row: Mapping[str, Any], short: bool = False) -> str:
    """`completed at step 83`, `step 83` in short; `failed`, `won at step 83`, `lost`, `drawn`."""
    if row["cause"]:
        return str(row["cause"])
    if not row["success"]:
        return ENDINGS[row["outcome"]]
    step = f"step {row['completion_step']}"
    if row["outcome"]:
        return f"{ENDINGS[row['outcome']]} at {step}"
    return step if short else f"completed at {step}"


def _recorded(
    sides: pl.DataFrame, world: World
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Actions (steps, players, ACTION_SIZE) and rewards (steps, players), as they were played.

    Raises RolloutError where they are not as many as this version's task takes.
    """
    row, task = facts_of(sides), world.task
    steps, used = int(row["steps"]), task.action_size
    lists = zip(sides["actions"], sides["rewards"], strict=True)
    found = [(taken.to_numpy(), paid.to_numpy()) for taken, paid in lists]
    sizes = [(len(taken), len(paid)) for taken, paid in found]
    if sizes != [(steps * used, steps)] * task.players or not 0 < steps <= world.horizon:
        raise RolloutError(
            f"{_name(row)}: expected {used} actions and a reward of {task.players} player(s) in "
            f"each of {steps} steps, of at most {world.horizon}; found {sizes}"
        )
    actions = np.zeros((steps, task.players, ACTION_SIZE), np.float32)
    for player, (taken, _) in enumerate(found):
        actions[:, player, :used] = taken.reshape(steps, used)
    return actions, np.stack([paid for _, paid in found], axis=1)


def replays_differently(name: str, versions: Versions, since: str = "") -> RolloutError:
    """What is said of a run that does not repeat: its name, and from where on, if that is known."""
    apart = [] if versions is None else versions_apart(versions, but=STORED_ONLY)
    made = f": made with {', '.join(apart)}" if apart else ""
    return RolloutError(f"{name}: replays differently here{since}{made}")


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['task']} level {row['level']}, seed {row['seed']}"
