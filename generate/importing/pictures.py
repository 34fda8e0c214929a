"""Images of any size as square frames of ours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .mapping import ColumnMapping
from .source import Recorded, refuse


class Pictures:
    """Resizes frames; those of a whole source have one size, unless they may vary."""

    def __init__(self, mapping: ColumnMapping, first: Recorded) -> None:
        """`first` is the source's first episode: its first image's size is everybody's."""
        self.table, self.size = mapping.pixels, mapping.image_size
        self.shape: tuple[int, ...] | None = None
        if self.table and not self.table.varying:
            frame = next(first.frames(self.table.column), None)
            self.shape = None if frame is None else frame.shape

    def of(self, recorded: Recorded) -> NDArray[np.uint8]:
        """Every step's frame, (T, size, size, 3); black without a column of images.

        CorpusError for an image that is not as wide as high or as large as the first, where the
        mapping does not allow it, and for more or fewer images than steps.
        """
        pixels = np.zeros((recorded.steps, self.size, self.size, 3), np.uint8)
        if self.table is None:
            return pixels
        column, step = self.table.column, 0
        for frame in recorded.frames(column):
            if step >= recorded.steps:
                refuse(recorded, step - 1, column, f"{recorded.steps} images", "more")
            if self.shape is not None and frame.shape != self.shape:
                expected = f"an image of {_dimensions(self.shape)} (varying = true allows others)"
                refuse(recorded, step, column, expected, _dimensions(frame.shape))
            if self.table.fit == "refuse" and frame.shape[0] != frame.shape[1]:
                expected = "a square image (fit = 'crop' takes its middle)"
                refuse(recorded, step, column, expected, _dimensions(frame.shape))
            pixels[step] = fit(frame, self.size)
            step += 1
        if step < recorded.steps:
            refuse(recorded, step, column, f"{recorded.steps} images", step)
        return pixels


def fit(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle square of (height, width, 3) as (size, size, 3), by averages over areas."""
    height, width, _ = frame.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frame[top : top + side, left : left + side]
    if side == size:
        return square
    image = Image.fromarray(np.ascontiguousarray(square))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def _dimensions(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]}"
