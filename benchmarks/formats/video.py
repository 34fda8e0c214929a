"""H.264 by PyAV: an mp4 for each segment, its other arrays beside it in a compressed npz."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from .segments import LONGEST, READ, Arrays, Batch, Segments, gather

FRAMES_PER_SECOND = 20


class Video:
    """Lossless (libx264rgb with qp 0) or lossy (libx264, yuv420p, crf 23), at x264's own preset."""

    ahead = False

    def __init__(self, folder: Path, segments: Segments, lossless: bool) -> None:
        self._folder, self._segments = folder, segments
        self._codec = "libx264rgb" if lossless else "libx264"
        self._pixel_format = "rgb24" if lossless else "yuv420p"
        self._quality = {"qp": "0"} if lossless else {"crf": "23"}

    def write(self) -> None:
        """Segments are read whole, so that one key frame is enough."""
        for number, words in enumerate(self._segments.words):
            arrays = self._segments.arrays_of(number)
            self._encode(self._path(number), arrays.pop("pixels"))
            np.savez_compressed(self._folder / f"{number:06d}.npz", **arrays, words=np.array(words))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.mp4"

    def _encode(self, path: Path, frames: NDArray[np.uint8]) -> None:
        with av.open(str(path), "w") as container:
            options = self._quality | {"g": str(LONGEST), "threads": "1"}
            stream = container.add_stream(self._codec, FRAMES_PER_SECOND, options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = self._pixel_format
            for frame in frames:
                image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))

    def epoch(self, seed: int) -> Iterator[Batch]:
        """With one thread."""
        return gather(map(self._sample, self._segments.order(seed)), self._segments)

    def _sample(self, number: int) -> tuple[int, Arrays]:
        with np.load(self._folder / f"{number:06d}.npz") as stored:
            arrays: dict[str, NDArray[Any]] = {n: stored[n] for n in READ if n != "pixels"}
        return number, arrays | {"pixels": self._decode(self._path(number))}

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames)
