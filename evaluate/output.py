"""An evaluation's files at a URL: results.json, episodes.parquet, report.html.

While it is played, DIR/parts holds the settings and a table for each cell that is complete, so that
the same command goes on. results.json is written last: it says that the others are there.
"""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import polars as pl

from ..shards import storage
from ..shards.errors import ConfigError
from .episodes import COLUMNS
from .evaluation import Evaluation
from .play import Recorded
from .settings import Settings

FORMAT = "palaestra-evaluation"
RESULTS, EPISODES, REPORT, PARTS = "results.json", "episodes.parquet", "report.html", "parts"
PART_SETTINGS = "settings.json"
GROUP_RUNS = 100  # in one of Parquet's row groups


def require_same_or_new(url: str, settings: Settings) -> bool:
    """Whether this evaluation is complete at `url`.

    Raises ConfigError if `url` holds an evaluation of other settings, or a stranger's report.
    Files of other names do not matter: a report may lie beside its run.
    """
    where = storage.join(url, RESULTS)
    if storage.exists(where):
        _require_same(url, _read_results(where).get("settings", {}), settings)
        return True
    strange = {EPISODES, REPORT} & set(storage.names(url))
    started = storage.join(url, PARTS, PART_SETTINGS)
    if storage.exists(started):
        _require_same(url, storage.read_json(started), settings)
    elif strange:
        raise ConfigError(
            f"{url}: {', '.join(sorted(strange))} is there without {RESULTS}: "
            "not this program's; choose another --output"
        )
    return False


def _require_same(url: str, found: dict[str, Any], settings: Settings) -> None:
    # through JSON, where a tuple and a list are the same
    mine = json.loads(json.dumps(settings.to_json()))
    for name, value in mine.items():
        theirs = found.get(name)
        if theirs != value:
            raise ConfigError(
                f"{url} holds an evaluation with {name} = {_short(theirs)}, this one has "
                f"{_short(value)}; choose another --output"
            )


def _read_results(where: str) -> dict[str, Any]:
    found = storage.read_json(where)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ConfigError(f"{where}: not an evaluation's results")
    return found


def read(url: str) -> tuple[Settings, Recorded]:
    """A complete evaluation; ConfigError if there is none, or one of another version."""
    settings, origin = read_settings(url)
    return settings, Recorded(_read_frame(storage.join(url, EPISODES)), **origin)


def read_settings(url: str) -> tuple[Settings, dict[str, dict[str, str]]]:
    """What was asked for, and the `versions` and `weights` that played; errors as `read`'s."""
    where = storage.join(url, RESULTS)
    if not storage.exists(where):
        raise ConfigError(f"{url}: expected an evaluation, found no {RESULTS}")
    found = _read_results(where)
    settings = Settings.from_json(found["settings"], where)
    return settings, {name: found[name] for name in ("versions", "weights")}


def _read_frame(url: str) -> pl.DataFrame:
    frame = pl.read_parquet(io.BytesIO(storage.read_bytes(url)))
    if frame.schema != pl.Schema(COLUMNS):
        raise ConfigError(f"{url}: not an evaluation's episodes: other columns")
    return frame


class Parts:
    """Cells that are complete, kept at a URL until the evaluation is."""

    def __init__(self, url: str, settings: Settings) -> None:
        """Nothing is written yet."""
        self.folder, self.settings = storage.join(url, PARTS), settings

    def begin(self) -> None:
        """Say whose the parts are, and the files that will lie beside them."""
        storage.write_json(storage.join(self.folder, PART_SETTINGS), self.settings.to_json())

    def read(self) -> dict[int, Recorded]:
        """What was kept before, by the number of the cell."""
        names = (name.removesuffix(".json") for name in storage.names(self.folder))
        return {int(name): self._read(name) for name in names if name.isdigit()}

    def _read(self, name: str) -> Recorded:
        origin = storage.read_json(storage.join(self.folder, f"{name}.json"))
        return Recorded(_read_frame(storage.join(self.folder, f"{name}.parquet")), **origin)

    def keep(self, cell: int, part: Recorded) -> None:
        """Write a cell, once begun."""
        _write_frame(storage.join(self.folder, f"{cell:05d}.parquet"), part.frame)
        origin = {"versions": part.versions, "weights": part.weights}
        storage.write_json(storage.join(self.folder, f"{cell:05d}.json"), origin)

    def remove(self) -> None:
        """The evaluation is complete without them."""
        storage.remove(self.folder)


def write(url: str, evaluation: Evaluation, report: str) -> str:
    """Write the three files, results last, and return the report's URL.

    Parts are begun before, so that files without results are known for whose they are.
    """
    _write_frame(storage.join(url, EPISODES), evaluation.recorded.frame)
    storage.write_bytes(storage.join(url, REPORT), report.encode())
    storage.write_json(storage.join(url, RESULTS), to_json(evaluation))
    Parts(url, evaluation.settings).remove()
    return storage.join(url, REPORT)


def _write_frame(url: str, frame: pl.DataFrame) -> None:
    buffer = io.BytesIO()
    # small groups: one run of 55 MB is found in 0.04 s instead of 0.6
    frame.write_parquet(buffer, compression="zstd", row_group_size=GROUP_RUNS)
    storage.write_bytes(url, buffer.getvalue())


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Settings, versions and all numbers; nothing that differs between two equal evaluations."""
    flat = [_flat(cell) for cell in evaluation.cells]
    return {
        "format": FORMAT,
        "settings": evaluation.settings.to_json(),
        "versions": evaluation.recorded.versions,
        "weights": evaluation.recorded.weights,
        "summary": [dataclasses.asdict(row) for row in evaluation.summary],
        "results": flat,
        "behaviours": [_flat(cell) for cell in evaluation.behaviours],
        "matches": [dataclasses.asdict(row) for row in evaluation.matches],
        "ratings": {
            name: [dataclasses.asdict(r) for r in ratings]
            for name, ratings in evaluation.ratings.items()
        },
    }


def _flat(cell: Any) -> dict[str, Any]:
    values: dict[str, Any] = dataclasses.asdict(cell)
    scores: dict[str, Any] = values.pop("scores")
    return values | scores


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
