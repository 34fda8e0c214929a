"""Plain WebDataset tars: KEY.json and KEY.npz per segment, for any reader of NumPy files."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from ...shards import storage
from ...shards.codec import encode_fields, fields_of, tar_member
from ...shards.console import Advance
from ...shards.episode import ARRAYS, Episode
from ...shards.writer import END_OF_TAR
from ..replay import read_segments
from .options import Options, provenance
from .selection import Selection, groups

MARKER = "export.json"


def write(selection: Selection, folder: Path, options: Options, advance: Advance) -> None:
    """Write shard-000000.tar, … with a tar for each of the corpus's that holds what was chosen."""
    shards = selection.segments.partition_by("shard", maintain_order=True)
    members = partial(_members, pixels=options.pixels)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # deflate releases the GIL
        for number, shard in enumerate(shards):
            with (folder / f"shard-{number:06d}.tar").open("wb") as tar:
                for rows in groups(shard):
                    tar.writelines(pool.map(members, read_segments(selection.corpus, rows)))
                    advance(int(rows["steps"].sum()))
                tar.write(END_OF_TAR)
    about = provenance(selection) | {"shards": len(shards)}
    storage.write_json(str(folder / MARKER), about)


def _members(segment: Episode, pixels: bool) -> bytes:
    names = [name for name in ARRAYS if pixels or name != "pixels"]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(segment, name) for name in names})
    return b"".join((
        tar_member(f"{segment.key}.json", encode_fields(fields_of(segment))),
        tar_member(f"{segment.key}.npz", buffer.getvalue()),
    ))  # fmt: skip
