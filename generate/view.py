"""What people see of a world: larger frames than the learner's, also of what has ended."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..shards.errors import ConfigError
from .raster import Rasterizer
from .world import World


class Views:
    """The players' views of every simulation. Construct it before the world's next reset."""

    def __init__(self, world: World, size: int) -> None:
        """Raises ConfigError for a size below 2 pixels."""
        require_image_size(size, "size")
        self._nsim, self._size = world.nsim, size
        self._rasterizers = [
            Rasterizer(world.batch, camera, size, world.task.rivals if player else ())
            for player, camera in enumerate(world.task.cameras)
        ]

    def draw(self) -> NDArray[np.uint8]:
        """Frames (nsim, size, players × size, 3) of the present, the players side by side."""
        shape = len(self._rasterizers), self._nsim, self._size, self._size, 3
        frames = np.zeros(shape, np.uint8)
        for out, rasterizer in zip(frames, self._rasterizers, strict=True):
            rasterizer.render(out)
        frames[:-1, :, :, -2:] = 255  # a line between the views
        return np.concatenate(list(frames), axis=2)


def require_image_size(size: int, name: str) -> None:
    """Raise ConfigError naming the setting unless frames of this size can be drawn."""
    if size < 2:  # the rasteriser measures the distance between two pixels
        raise ConfigError(f"{name} should be at least 2, is {size}")


def control_period(world: World) -> float:
    """Simulated seconds per control step."""
    return float(world.batch.model.opt.timestep) * world.task.substeps
