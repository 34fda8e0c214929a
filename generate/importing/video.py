"""Frames of a video file, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ...shards.errors import CorpusError

Frames = Iterator[NDArray[np.uint8]]


class Videos:
    """Decodes stretches of videos; those that follow one another decode each file once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: Frames = iter(())
        self._at = 0

    def read(self, path: Path, start: int, count: int, where: str, whole: bool) -> Frames:
        """`count` frames from number `start` on, (height, width, 3) each.

        CorpusError, naming `where`, if there are fewer, or more in a file that should hold no
        other episode, `whole`.
        """
        if path != self._path or start < self._at:
            self._path, self._frames, self._at = path, decode(path, where), 0
        for _ in islice(self._frames, start - self._at):
            self._at += 1
        found = 0
        for frame in islice(self._frames, count):
            found, self._at = found + 1, self._at + 1
            yield frame
        if found < count:
            raise CorpusError(f"{where}: {path.name}: expected {count} frames, found {found}")
        if whole and next(self._frames, None) is not None:
            raise CorpusError(f"{where}: {path.name}: expected {count} frames, found more")


def decode(path: Path, where: str) -> Frames:
    """Every frame of a video; CorpusError for one that cannot be decoded."""
    converter = VideoReformatter()  # a frame's own would begin anew: 18 times as slow
    try:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"  # else one core decodes
            for frame in container.decode(video=0):
                yield np.asarray(converter.reformat(frame, format="rgb24").to_ndarray(), np.uint8)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise CorpusError(f"{where}: {path}: cannot be decoded ({error})") from error
