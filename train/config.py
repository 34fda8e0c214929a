"""A training run's settings: presets, validation, what a run directory records."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from ..shards import storage
from ..shards.config import parse
from ..shards.errors import ConfigError, UnknownNameError
from .loss import POLICY_LOSSES, LossConfig, is_top
from .model import ModelConfig

INPUTS = ("state", "pixels", "pixels+state")


@dataclass(frozen=True)
class Preset:
    """A model size and the learning rate that belongs to it."""

    model: ModelConfig
    peak_rate: float
    warm_up: int
    """Updates."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's numbers; stored in run.json and in every checkpoint."""

    corpora: tuple[str, ...]
    """URLs, in order."""
    weights: tuple[int, ...]
    """Shares of each batch, one per corpus."""
    preset: str
    """Name, or URL of a TOML file."""
    model: ModelConfig
    inputs: str
    updates: int
    batch: int
    """Segments in a global batch."""
    peak_rate: float
    end_rate: float
    warm_up: int
    precision: str
    """`bf16` or `fp32`."""
    loss: LossConfig = field(default_factory=LossConfig)
    where: str = ""
    """Condition on columns of the index that a segment has to meet; empty for all."""
    weight_decay: float = 0.01
    beta2: float = 0.95
    clip: float = 1.0
    """Global gradient norm."""
    history_dropout: float = 0.5
    """Share of segments trained without their action history."""
    shift: int = 4
    """Pixels of random shift."""
    colour: float = 0.2
    """Relative change of each colour channel."""
    validation_share: float = 0.02
    """Of the matches, kept out of training."""
    on_held_out: bool = False
    """Whether it may have trained on what training corpora hold out."""
    seed: int = 0
    warm_start: str = ""
    """URL of the weights file that the run began with, found when it began; empty for drawn
    weights. Given again as the run or checkpoint that holds the file it is the same setting; once
    the run has a checkpoint of its own the file is read no more, and may be gone."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any], where: str) -> TrainConfig:
        """Read settings; ConfigError names `where` and the key."""
        config: TrainConfig = parse(TrainConfig, data, where)
        return config


def preset_names() -> list[str]:
    """The presets that come with the package."""
    folder = files(f"{__package__}.presets")
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load_preset(name: str) -> Preset:
    """A preset by name, or from the TOML file at a URL that ends in .toml.

    Raises UnknownNameError or ConfigError naming the preset and key.
    """
    if name.endswith(".toml"):
        text = storage.read_bytes(name).decode()
    elif name in preset_names():
        text = (files(f"{__package__}.presets") / f"{name}.toml").read_text()
    else:
        raise UnknownNameError("preset", name, preset_names())
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: malformed TOML: {error}") from error
    preset: Preset = parse(Preset, data, f"preset {name}")
    return preset


def split_weight(corpus: str) -> tuple[str, int]:
    """`URL:0.95` → (URL, 950); without a weight, 1000."""
    found = re.fullmatch(r"(.+?):(\d+(?:\.\d+)?)", corpus)
    if not found:
        return corpus, 1000
    weight = round(float(found[2]) * 1000)
    if weight < 1:
        raise ConfigError(f"{corpus}: the weight should be at least 0.001")
    return found[1], weight


def check(config: TrainConfig) -> None:
    """Raise a ConfigError that names the flag at fault."""
    if config.inputs not in INPUTS:
        raise UnknownNameError("inputs", config.inputs, INPUTS, "--inputs")
    if config.loss.policy not in POLICY_LOSSES and not is_top(config.loss.policy):
        raise UnknownNameError("loss", config.loss.policy, POLICY_LOSSES, "--loss.policy")
    for name, value, low, high in (
        ("updates", config.updates, 1, math.inf),
        ("batch", config.batch, 1, math.inf),
        ("warm-up", config.warm_up, 0, math.inf),
        ("peak-rate", config.peak_rate, 0, 1),
        ("end-rate", config.end_rate, 0, 1),
        ("history-dropout", config.history_dropout, 0, 1),
        ("seed", config.seed, 0, 1 << 32),
        ("loss.floor", config.loss.floor, 0, 1),
        ("loss.temperature", config.loss.temperature, 1e-4, math.inf),
        ("loss.cap", config.loss.cap, 1, math.inf),
        ("loss.discount", config.loss.discount, 0, 1),
        ("loss.trace", config.loss.trace, 0, 1),
        ("loss.value-weight", config.loss.value_weight, 0, math.inf),
        ("loss.smoothing", config.loss.smoothing, 1e-3, math.inf),
    ):
        if not low <= value <= high:  # NaN fails too
            bounds = f"at least {low}" if high == math.inf else f"in [{low}, {high}]"
            raise ConfigError(f"--{name} should be {bounds}, is {value}")
    if not 0 <= config.validation_share < 1:
        raise ConfigError(f"--validation-share should be in [0, 1), is {config.validation_share}")
    _check_model(config.model, f"preset {config.preset}")


def _check_model(model: ModelConfig, where: str) -> None:
    """Raise a ConfigError that names the sizes that do not fit each other."""
    for field_name, size in dataclasses.asdict(model).items():
        if size < (0 if field_name == "value_hidden" else 1):
            raise ConfigError(f"{where}: {field_name} should be positive, is {size}")
    if model.policy_bins % 2 == 0:
        raise ConfigError(f"{where}: policy_bins should be odd, is {model.policy_bins}")
    if model.width % (2 * model.heads):  # rotary positions turn pairs
        raise ConfigError(f"{where}: width {model.width} is no multiple of 2 × heads {model.heads}")
    if model.heads % model.kv_heads:
        raise ConfigError(f"{where}: kv_heads {model.kv_heads} does not divide heads {model.heads}")
    if model.perception_width % model.perception_heads:
        raise ConfigError(
            f"{where}: perception_heads {model.perception_heads} does not divide "
            f"perception_width {model.perception_width}"
        )
