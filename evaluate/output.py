"""An evaluation's files at a URL: results.json, episodes.parquet, report.html."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import polars as pl

from ..shards import storage
from ..shards.errors import ConfigError
from .evaluation import Cell, Evaluation, Settings

FORMAT = "palaestra-evaluation"
RESULTS, EPISODES, REPORT = "results.json", "episodes.parquet", "report.html"
COLUMNS = {
    "policy": pl.String, "task": pl.String, "level": pl.Int32, "seed": pl.UInt64,
    "return": pl.Float64, "success": pl.Boolean, "completion_step": pl.Int32, "steps": pl.Int32,
    "cause": pl.String,
}  # fmt: skip


def require_same_or_new(url: str, settings: Settings) -> None:
    """Raise ConfigError if `url` holds an evaluation of other settings, or a stranger's report.

    Files of other names do not matter: a report may lie beside its run.
    """
    where = storage.join(url, RESULTS)
    if not storage.exists(where):
        strange = {EPISODES, REPORT} & set(storage.names(url))
        if strange:
            raise ConfigError(
                f"{url}: {', '.join(sorted(strange))} is there without {RESULTS}: "
                "not this program's; choose another --output"
            )
        return
    found = storage.read_json(where)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ConfigError(f"{where}: not an evaluation's results; choose another --output")
    # through JSON, where a tuple and a list are the same
    mine = json.loads(json.dumps(settings.to_json()))
    for name, value in mine.items():
        theirs = found.get("settings", {}).get(name)
        if theirs != value:
            raise ConfigError(
                f"{url} holds an evaluation with {name} = {_short(theirs)}, this one has "
                f"{_short(value)}; choose another --output"
            )


def write(url: str, evaluation: Evaluation, report: str) -> str:
    """Write the three files, results first, and return the report's URL.

    The results say whose the other two are, also when only some of them came to be written.
    """
    storage.write_json(storage.join(url, RESULTS), to_json(evaluation))
    storage.write_bytes(storage.join(url, REPORT), report.encode())
    buffer = io.BytesIO()
    episodes_frame(evaluation).write_parquet(buffer)
    storage.write_bytes(storage.join(url, EPISODES), buffer.getvalue())
    return storage.join(url, REPORT)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Settings, versions and all numbers; nothing that differs between two equal evaluations."""
    return {
        "format": FORMAT,
        "settings": evaluation.settings.to_json(),
        "versions": evaluation.versions,
        "results": [_cell_json(cell) for cell in evaluation.cells],
        "behaviours": [_cell_json(cell) for cell in evaluation.behaviours],
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    values: dict[str, Any] = dataclasses.asdict(cell)
    scores: dict[str, Any] = values.pop("scores")
    return values | scores


def episodes_frame(evaluation: Evaluation) -> pl.DataFrame:
    """One row per run."""
    rows = [
        (
            policy, task, level, runs.seeds[i], float(runs.returns[i]), bool(runs.success[i]),
            int(runs.completion_step[i]) if runs.success[i] else None, int(runs.steps[i]),
            runs.causes[i],
        )
        for (policy, (task, level)), runs in evaluation.runs.items()
        for i in range(len(runs.seeds))
    ]  # fmt: skip
    return pl.DataFrame(rows, COLUMNS, orient="row")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
