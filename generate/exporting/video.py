"""Frames to an MP4 that every LeRobot reader decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

ENCODER: Final = "libx264"
CODEC = "h264"
PIXEL_FORMAT = "yuv420p"  # colours at half the resolution, which is most of what is lost
KEYFRAME_FRAMES = 10  # between key frames: a reader that draws at random decodes at most as many
QUALITY = "20"  # constant rate factor: lower ones take more room and gain under 1 dB


def write_video(path: Path, frames: NDArray[np.uint8], fps: int) -> None:
    """Write frames (T, height, width, 3), both even, one every 1 / fps seconds from 0."""
    with av.open(str(path), "w", format="mp4") as file:
        # Without looking ahead no frame depends on a later one, so times count from 0 in every
        # player; and x264's guess at what will be seen again differs from run to run in small ones.
        options = {"crf": QUALITY, "tune": "zerolatency"}
        stream = file.add_stream(ENCODER, rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = PIXEL_FORMAT, KEYFRAME_FRAMES
        stream.thread_count = 1  # episodes are encoded side by side
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
