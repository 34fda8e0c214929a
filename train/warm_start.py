"""A new run that begins with another's weights: which file that is, whether it fits, what it holds.

All else is new: update 0, AdamW's moments, the schedule, corpora, and so on.
"""

from __future__ import annotations

from torch import Tensor

from ..shards import storage
from ..shards.errors import CheckpointError
from ..shards.schema import Schema
from .config import TrainConfig
from .export import assign_weights, empty_network, find_weights, read_weights
from .places import SETTINGS
from .run import check_network


def settle_start(given: str, run: str) -> str:
    """URL of the weights file that `--warm-start` names; empty if nothing is given.

    Looked for once: a run that has begun keeps to the file in its run.json, if that is what `given`
    names or lies within it, and asks nothing of the source, which may have trained on or be gone.
    Where it is not, `given` itself is returned, which the comparison of settings then refuses.
    Raises CheckpointError if a new run is given no run, complete checkpoint or weights file.
    """
    if not given:
        return ""
    settings = storage.join(run, SETTINGS)
    if storage.exists(settings):
        begun = TrainConfig.from_json(storage.read_json(settings), settings).warm_start
        return begun if f"{begun}/".startswith(f"{given.rstrip('/')}/") else given
    url = find_weights(given)
    _require_file(url)
    return url


def check_start(run: str, config: TrainConfig, schema: Schema) -> None:
    """Raise what would stop a new run from beginning with the weights in `config.warm_start`.

    SchemaMismatchError, or CheckpointError if they are of another network; the preset's name may
    differ. For a run that has begun this was asked then.
    """
    if config.warm_start and not storage.exists(storage.join(run, SETTINGS)):
        check_network(config.warm_start, config, schema, ("inputs", "model"))


def read_start(config: TrainConfig) -> dict[str, Tensor]:
    """The weights in `config.warm_start`, and the statistics that belong to them, by name.

    In the precision of the run that exported them: what a bf16 run computed with, without the
    further digits of its optimiser's fp32 copies. CheckpointError if it is gone or damaged.
    """
    _require_file(config.warm_start)
    exported = read_weights(config.warm_start)
    assign_weights(empty_network(exported), exported.weights, exported.url)
    return exported.weights


def _require_file(url: str) -> None:
    if not storage.exists(url):
        raise CheckpointError(f"{url}: expected weights to begin with, nothing there")
