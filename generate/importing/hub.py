"""Demonstrations in whatever `datasets` reads: Parquet files, folders laid out as on the Hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetsError

from ...shards.errors import ConfigError, CorpusError
from .images import Images
from .mapping import SourceTable
from .source import files_of
from .tables import TableEpisode, by_episode

READERS = {
    ".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv",
}  # fmt: skip
BATCH = 1024  # rows read at once; with encoded images of 50 kB, 50 MB


class HubSource:
    """Streamed, so that nothing is copied into the cache of `datasets`."""

    packages = ("datasets", "pyarrow")
    fps: float | None = None  # no format that it reads has a place for it

    def __init__(self, table: SourceTable, path: Path) -> None:
        """ConfigError for a split that is not there, CorpusError for what cannot be read."""
        self.table, self.images = table, Images(path)
        # it logs, in several lines, the faults that it raises as well
        logging.getLogger("datasets").setLevel(logging.CRITICAL)
        try:
            self.data = _load(table, path)
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"{table.url}: {_line(error)}") from error
        except ValueError as error:
            raise ConfigError(f"{table.url}: split {table.split!r}: {_line(error)}") from error
        except StopIteration as error:  # an empty file of JSON
            raise CorpusError(f"{table.url}: expected at least one row, found none") from error
        names = self.data.column_names  # of formats that do not tell, the first rows'
        first = None if names else next(self._tables(), None)
        self.columns = frozenset(names or (first.column_names if first else ()))

    def episodes(self) -> Iterator[TableEpisode]:
        """All of them, in order."""
        return by_episode(self._tables(), self.table, self.images)

    def _tables(self) -> Iterator[pa.Table]:
        try:
            yield from self.data.with_format("arrow").iter(batch_size=BATCH)
        # ValueError: columns that another file lacks, and CSV that is ragged or not UTF-8
        except (OSError, ValueError, pa.ArrowException, DatasetsError) as error:
            raise CorpusError(f"{self.table.url}: {_line(error)}") from error


def _load(table: SourceTable, path: Path) -> Any:
    if path.is_dir():
        return datasets.load_dataset(str(path), split=table.split, streaming=True)
    files = [str(file) for file in files_of(path)]
    ending = Path(files[0]).suffix
    if ending not in READERS:
        known = ", ".join(READERS)
        raise ConfigError(f"{table.url}: expected a file ending in {known}, found {files[0]}")
    # left to itself the reader of Parquet takes its first row group's length, also if that is 0
    options = {"batch_size": BATCH} if ending == ".parquet" else {}
    return datasets.load_dataset(
        READERS[ending], data_files={table.split: files}, split=table.split, streaming=True,
        **options,
    )  # fmt: skip


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
