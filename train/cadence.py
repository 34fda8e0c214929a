"""When a run saves and validates."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from ..shards.errors import ConfigError
from .places import Keep


@dataclass(frozen=True)
class Every:
    """How often something happens: by wall clock, by updates, or both."""

    seconds: float = math.inf
    updates: int = 0

    def due(self, update: int, since: float) -> bool:
        """Whether it is time, `since` seconds after the last one."""
        return since >= self.seconds or (self.updates > 0 and update % self.updates == 0)


@dataclass(frozen=True)
class Cadence:
    """May change whenever a run is resumed."""

    checkpoint: Every = Every(seconds=12 * 3600)
    rolling: Every = Every(seconds=1800)
    """Checkpoints besides, on a local disk, each in the place of the one before."""
    rolling_folder: str | None = None
    """Of each machine's own; by default within a local run, else among its temporary files."""
    validate: int = 100
    """Updates; 0 for never."""
    validation_batches: int = 4
    keep: Keep = field(default_factory=Keep)


def parse_interval(text: str, flag: str, never: bool = False) -> Every:
    """`12h`, `30m`, `90s` or `500u`, and `never` where that may be."""
    if never and text == "never":
        return Every()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hms])|(\d+)u", text)
    if not found or float(found[1] or found[3]) <= 0:
        known = "12h, 30m, 500u or never" if never else "12h, 30m or 500u"
        raise ConfigError(f"--{flag} should look like {known}, is {text!r}")
    if found[3]:
        return Every(updates=int(found[3]))
    return Every(seconds=float(found[1]) * {"h": 3600, "m": 60, "s": 1}[found[2]])


def check_cadence(cadence: Cadence) -> None:
    """Raise a ConfigError that names the flag at fault."""
    for flag, value, least in (
        ("keep", cadence.keep.last, 1), ("keep-every", cadence.keep.every, 0),
        ("validate-every", cadence.validate, 0),
        ("validation-batches", cadence.validation_batches, 1),
    ):  # fmt: skip
        if value < least:
            raise ConfigError(f"--{flag} should be at least {least}, is {value}")
