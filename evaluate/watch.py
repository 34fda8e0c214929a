"""`evaluate RUN --watch`: score every new checkpoint of a run while it trains.

RUN/evaluations.jsonl gets a line per checkpoint, task and level, TensorBoard's folder of the run a
point: simulation never holds up the trainer. What stands there already is not played again.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..generate.registry import held_out, task_class
from ..shards import storage
from ..shards.console import console
from ..shards.errors import CheckpointError, PalaestraError
from ..train.log import EVALUATIONS, TENSORBOARD, read_lines
from ..train.places import MARKER, SETTINGS, checkpoint_url, complete_checkpoints
from .baselines import load_baselines
from .evaluation import Cell, Evaluation, Pair, Settings, evaluate, require_fitting
from .players import load_players
from .statistics import normalised
from .table import print_table

POLL_S = 30.0  # between looks for a new checkpoint


def watched_pairs(chosen: Iterable[Pair]) -> tuple[Pair, ...]:
    """The held-out tasks of one player, then the chosen ones."""
    alone = (pair for pair in held_out() if task_class(pair[0]).players == 1)
    return tuple(dict.fromkeys((*alone, *chosen)))


def follow(run: str, settings: Settings) -> None:
    """Score the run's complete checkpoints as they come, until that of its last update.

    `settings` say what is played; its policies are filled in. Raises CheckpointError where no run
    is, SchemaMismatchError for a task that the checkpoints do not fit.
    """
    last = _last_update(run)
    done = {_key(line) for line in read_lines(storage.join(run, EVALUATIONS))}
    while True:
        updates = complete_checkpoints(run)
        wanted = {update: _left(update, settings, done) for update in updates}
        update = next((update for update in updates if wanted[update]), None)
        if update is not None:
            mine = dataclasses.replace(settings, tasks=wanted[update])
            done |= {_key(line) for line in _score(run, update, mine)}
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


def _left(update: int, settings: Settings, done: set[tuple[Any, ...]]) -> tuple[Pair, ...]:
    """The tasks and levels that no line has for this checkpoint."""
    how = (settings.runs, settings.history, settings.seed)
    return tuple(pair for pair in settings.tasks if (update, *pair, *how) not in done)


def _score(run: str, update: int, settings: Settings) -> list[dict[str, Any]]:
    """Play a checkpoint and write what came of it; nothing if it was deleted meanwhile."""
    url = checkpoint_url(run, update)
    try:
        players = load_players([url], settings.history)
    except PalaestraError:
        if storage.exists(storage.join(url, MARKER)):
            raise
        return []  # a newer one is complete
    import torch  # after the player, which says how its threads wait

    torch.set_num_threads(settings.threads)
    require_fitting(players, settings.tasks)
    policies = tuple({"name": p.name, "source": p.source, "update": p.update} for p in players)
    found = evaluate(dataclasses.replace(settings, policies=policies), players, None)
    lines = [_line(update, settings, cell) for cell in found.cells]
    _plot(run, update, lines)
    _add(storage.join(run, EVALUATIONS), lines)
    _tell(update, found)
    return lines


def _line(update: int, settings: Settings, cell: Cell) -> dict[str, Any]:
    """A cell as in results.json, normalised between the baselines that come with the code."""
    low, high = _baseline(cell, "random"), _baseline(cell, "expert")
    return {
        "update": update, "task": cell.task, "level": cell.level,
        "history": settings.history, "seed": settings.seed,
        "normalised": normalised(cell.scores.mean_return.value, low, high),
        "diverged": cell.diverged, **dataclasses.asdict(cell.scores),
    }  # fmt: skip


def _baseline(cell: Cell, script: str) -> float | None:
    row = load_baselines().find(cell.task, cell.level, script)
    return None if row is None else row.mean_return


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
                where = f"{line['task']}-{line['level']}"
                board.add_scalar(f"success/{where}", line["success"]["value"], update)
                board.add_scalar(f"return/{where}", line["mean_return"]["value"], update)
                if line["normalised"] is not None:
                    board.add_scalar(f"normalised/{where}", line["normalised"], update)
        there = storage.join(run, TENSORBOARD, "evaluate")
        for path in Path(folder).iterdir():
            storage.write_bytes(storage.join(there, path.name), path.read_bytes())


def _tell(update: int, found: Evaluation) -> None:
    mean = sum(cell.scores.success.value for cell in found.cells) / len(found.cells)
    console.print(f"update {update}: {mean:.0%} of the runs completed")
    print_table(found)
