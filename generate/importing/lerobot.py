"""Demonstrations as LeRobot stores them, versions 2 and 3: Parquet rows, and videos beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...shards import storage
from ...shards.errors import CorpusError
from .images import Images
from .mapping import SourceTable
from .source import files_of
from .tables import TableEpisode, by_episode
from .video import Videos

NUMBER = "task_index"
TASK = "task"  # the column that we add where there is none: that number in words
ROWS = 1024  # read at once: they may hold images


class LeRobotSource:
    """`meta/info.json`, `data/**/*.parquet`, `videos/**/*.mp4`."""

    packages = ("pyarrow", "av")

    def __init__(self, table: SourceTable, path: Path) -> None:
        """CorpusError for a folder that is not as `meta/info.json` says."""
        self.table, self.path, self.images = table, path, Images(path)
        where = storage.join(table.url, "meta/info.json")
        if not (path / "meta" / "info.json").is_file():
            raise CorpusError(f"{where}: expected a LeRobot dataset, found no such file")
        self.info = storage.read_json(str(path / "meta" / "info.json"))
        try:
            version = str(self.info["codebase_version"]).removeprefix("v")
            features = dict(self.info["features"])
            self.fps, self.total = float(self.info["fps"]), int(self.info["total_episodes"])
            self.video_path = str(self.info.get("video_path"))
            kinds = {name: feature["dtype"] for name, feature in features.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"{where}: not as LeRobot writes it ({error!r})") from error
        if not 0 < self.fps < math.inf:
            raise CorpusError(f"{where}: fps should be positive, is {self.fps:g}")
        if version.partition(".")[0] not in ("2", "3"):
            raise CorpusError(f"{where}: expected version 2 or 3, found {version}")
        self.videos = {name for name, kind in kinds.items() if kind == "video"}
        self.tasks = read_tasks(path, where)
        self.places = read_places(path) if version.startswith("3") else {}
        self.stored = frozenset(kinds) - self.videos
        added = {TASK} if self.tasks and NUMBER in self.stored else frozenset()
        self.columns = frozenset(kinds) | added

    def episodes(self) -> Iterator[LeRobotEpisode]:
        """All of them, in order; CorpusError if there are not as many as the source says."""
        videos, count = Videos(), 0
        for rows in by_episode(self._tables(), self.table, self.images):
            count += 1
            yield LeRobotEpisode(
                rows.url, rows.number, rows.first_row, rows.table, self.images, self, videos
            )
        if count != self.total:
            raise CorpusError(
                f"{self.table.url}: meta/info.json tells of {self.total} episodes, data holds "
                f"{count}"
            )

    def _tables(self) -> Iterator[pa.Table]:
        for file in files_of(self.path / "data"):
            where = storage.join(self.table.url, file.relative_to(self.path).as_posix())
            try:
                data = pq.ParquetFile(file)
                if missing := sorted(self.stored - set(data.schema_arrow.names)):
                    raise CorpusError(f"{where}: column {missing[0]!r} is missing")
                for batch in data.iter_batches(ROWS, columns=sorted(self.stored)):
                    yield pa.Table.from_batches([batch])
            except (pa.ArrowException, OSError) as error:
                raise CorpusError(f"{where}: not Parquet ({error})") from error


@dataclass(frozen=True)
class LeRobotEpisode(TableEpisode):
    """Its rows, with the videos that belong to them."""

    source: LeRobotSource
    decoder: Videos

    def values(self, column: str) -> NDArray[Any]:
        """As a table's; `task` in words."""
        if column != TASK or TASK in self.source.stored:
            return super().values(column)
        numbers = super().values(NUMBER).ravel().tolist()
        for step, number in enumerate(numbers):
            if number not in self.source.tasks:
                place = self.place(step)
                raise CorpusError(f"{place}: task_index {number} is not among the tasks of meta")
        return np.array([self.source.tasks[number] for number in numbers], object)

    def frames(self, column: str) -> Iterator[NDArray[np.uint8]]:
        """Its part of a video, or images among its rows."""
        if column not in self.source.videos:
            yield from super().frames(column)
            return
        place = self.source.places.get(self.number, {})
        name, start, whole = self._video(column, place)
        where = f"{self.where}: column {column!r}"
        try:
            path = self.images.file(name)
        except FileNotFoundError as error:
            raise CorpusError(f"{where}: {error}") from error
        yield from self.decoder.read(path, start, self.steps, where, whole)

    def _video(self, column: str, place: dict[str, Any]) -> tuple[str, int, bool]:
        """The file, the first frame in it, and whether it is this episode's alone."""
        source = self.source
        try:
            chunk = self.number // int(source.info.get("chunks_size", 1000))
            names = {"video_key": column, "episode_index": self.number, "episode_chunk": chunk}
            start = 0
            if place:
                key = f"videos/{column}/"
                names |= {n: int(place[key + n]) for n in ("chunk_index", "file_index")}
                start = round(float(place[key + "from_timestamp"]) * source.fps)
            return source.video_path.format(**names), start, not place
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CorpusError(
                f"{self.where}: column {column!r}: meta does not tell where its video is "
                f"({error!r})"
            ) from error


def read_tasks(path: Path, where: str) -> dict[int, str]:
    """Tasks in words by number; none if the source has none."""
    table, lines = path / "meta" / "tasks.parquet", path / "meta" / "tasks.jsonl"
    try:
        if table.is_file():
            rows = pq.read_table(table).to_pylist()
            # written by pandas, whose index holds the words
            return {
                int(row[NUMBER]): next(v for k, v in row.items() if k != NUMBER) for row in rows
            }
        if lines.is_file():
            text = storage.read_bytes(str(lines)).decode()
            rows = [json.loads(line) for line in text.splitlines() if line]
            return {int(row[NUMBER]): str(row["task"]) for row in rows}
    except (pa.ArrowException, KeyError, StopIteration, TypeError, ValueError) as error:
        raise CorpusError(f"{where}: its tasks cannot be read ({error!r})") from error
    return {}


def read_places(path: Path) -> dict[int, dict[str, Any]]:
    """Of version 3, where each episode's rows and videos are."""
    found: dict[int, dict[str, Any]] = {}
    for file in files_of(path / "meta" / "episodes"):
        try:
            names = pq.read_schema(file).names
            wanted = [n for n in names if n == "episode_index" or n.startswith("videos/")]
            rows = pq.read_table(file, columns=wanted).to_pylist()
            found |= {int(row["episode_index"]): row for row in rows}
        except (pa.ArrowException, KeyError, OSError, ValueError) as error:
            raise CorpusError(f"{file}: not as LeRobot writes it ({error})") from error
    return found
