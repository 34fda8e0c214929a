"""`evaluate RUN --watch`: score every new checkpoint of a run while it trains.

RUN/evaluations.jsonl gets a line per checkpoint, task and level, TensorBoard's folder of the run a
point: simulation never holds up the trainer. What stands there already is not played again.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..generate.registry import held_out
from ..shards import storage
from ..shards.console import console
from ..shards.errors import CheckpointError, PalaestraError
from ..train.log import EVALUATIONS, TENSORBOARD, read_lines
from ..train.places import MARKER, SETTINGS, checkpoint_url, complete_checkpoints
from .entrants import WAYS, Pair, find_entrants
from .evaluation import Evaluation, assemble, record, require_fitting
from .opponents import find_opponents
from .pairs import alone, matches
from .scores import CellScores, MatchScores
from .settings import Settings
from .table import print_table

POLL_S = 30.0  # between looks for a new checkpoint


def watched_pairs(chosen: Iterable[Pair]) -> tuple[Pair, ...]:
    """The held-out tasks, then the chosen ones; held-out matches only where a match is chosen."""
    chosen = tuple(chosen)
    hidden = held_out() if matches(chosen) else alone(held_out())
    return tuple(dict.fromkeys((*hidden, *chosen)))


def follow(run: str, settings: Settings, history: str, workers: int | None = None) -> None:
    """Score the run's complete checkpoints as they come, until that of its last update.

    `settings` say what is played; policies and opponents are filled in, by `history` as
    `find_entrants` takes it. Raises CheckpointError where no run is, SchemaMismatchError for
    checkpoints that do not fit this version's tasks.
    """
    last = _last_update(run)
    done = {_key(line) for line in read_lines(storage.join(run, EVALUATIONS))}
    while True:
        updates = complete_checkpoints(run)
        wanted = {update: _left(update, settings, WAYS[history], done) for update in updates}
        update = next((update for update in updates if wanted[update]), None)
        if update is not None:
            mine = dataclasses.replace(settings, tasks=wanted[update])
            done |= {_key(line) for line in _score(run, update, mine, history, workers)}
        elif updates and updates[-1] >= last:
            return
        else:
            time.sleep(POLL_S)


def _last_update(run: str) -> int:
    where = storage.join(run, SETTINGS)
    if not storage.exists(where):
        raise CheckpointError(f"{run}: no run to watch: expected {SETTINGS}")
    return int(storage.read_json(where)["updates"])


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    """What a line is the score of."""
    return tuple(line[name] for name in ("update", "task", "level", "runs", "history", "seed"))


def _left(
    update: int, settings: Settings, ways: Iterable[bool], done: set[tuple[Any, ...]]
) -> tuple[Pair, ...]:
    """The tasks and levels that lack a line for this checkpoint."""
    keys = {
        pair: [(update, *pair, settings.runs, way, settings.seed) for way in ways]
        for pair in settings.tasks
    }
    return tuple(pair for pair in settings.tasks if not done.issuperset(keys[pair]))


def _score(
    run: str, update: int, settings: Settings, history: str, workers: int | None
) -> list[dict[str, Any]]:
    """Play a checkpoint and write what came of it; nothing if it was deleted meanwhile."""
    url = checkpoint_url(run, update)
    try:
        found = find_entrants([url], history)
        require_fitting(found.entrants, found.schemas)
        opponents = find_opponents(None, found.entrants) if matches(settings.tasks) else ()
        mine = dataclasses.replace(settings, policies=found.entrants, opponents=opponents)
        evaluation = assemble(mine, record(mine, workers))
    except PalaestraError:
        if storage.exists(storage.join(url, MARKER)):
            raise
        return []  # a newer one is complete
    lines = list(_lines(update, evaluation))
    _plot(run, update, lines)
    _add(storage.join(run, EVALUATIONS), lines)
    console.print(f"update {update}:")
    print_table(evaluation)
    return lines


def _lines(update: int, evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """A line for each cell; for a policy's matches one against each opponent."""
    history = {policy.name: policy.history for policy in evaluation.settings.policies}

    def about(row: CellScores | MatchScores) -> dict[str, Any]:
        return {
            "update": update, "task": row.task, "level": row.level,
            "history": history[row.policy], "seed": evaluation.settings.seed,
        }  # fmt: skip

    yield from (about(cell) | _cell(cell) for cell in evaluation.cells)
    yield from (about(match) | _match(match) for match in evaluation.matches)


def _cell(cell: CellScores) -> dict[str, Any]:
    scores = dataclasses.asdict(cell.scores)
    return {"normalised": cell.normalised, "diverged": cell.diverged, **scores}


def _match(match: MatchScores) -> dict[str, Any]:
    return {
        "opponent": match.opponent, "runs": match.matches, "wins": match.wins,
        "draws": match.draws, "losses": match.losses, "diverged": match.diverged,
        "success": dataclasses.asdict(match.won),
        "mean_return": dataclasses.asdict(match.mean_return),
    }  # fmt: skip


def _add(url: str, lines: Sequence[dict[str, Any]]) -> None:
    """Write the file whole: a few hundred bytes a line, and none that a kill cuts off."""
    text = "".join(f"{json.dumps(line)}\n" for line in (*read_lines(url), *lines))
    storage.write_bytes(url, text.encode())


def _plot(run: str, update: int, lines: Sequence[dict[str, Any]]) -> None:
    """A small event file per checkpoint: it is whole when it goes to the run's URL."""
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory(prefix="palaestra-watch-") as folder:
        with SummaryWriter(folder) as board:
            for line in lines:
                for name, value in _points(line):
                    board.add_scalar(name, value, update)
        there = storage.join(run, TENSORBOARD, "evaluate")
        for path in Path(folder).iterdir():
            storage.write_bytes(storage.join(there, path.name), path.read_bytes())


def _points(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What TensorBoard shows of a line."""
    where = f"{line['task']}-{line['level']}" + ("" if line["history"] else "-no-history")
    if "opponent" in line:
        yield f"won/{where}-{line['opponent']}", line["success"]["value"]
        return
    yield f"success/{where}", line["success"]["value"]
    yield f"return/{where}", line["mean_return"]["value"]
    if line["normalised"] is not None:
        yield f"normalised/{where}", line["normalised"]
