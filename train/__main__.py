"""`train CORPUS… --run RUN`: stream corpora into a policy-and-value network."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from ..shards.console import console, run_command
from ..shards.errors import ConfigError
from .config import TrainConfig, check, load_preset, split_weight
from .launch import end_with_launcher, launch
from .loss import LossConfig

if TYPE_CHECKING:
    from ..shards.cache import RangeCache


@dataclass(frozen=True)
class Arguments:
    """Train a network on corpora. Running it again goes on from the newest checkpoint."""

    corpora: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Corpus URLs, each with an optional weight: CORPUS_A:0.95 CORPUS_B:0.05. Tars without an index
    do too: 's3://bucket/data/shard-{000000..000999}.tar'."""
    run: str
    """Where checkpoints and metrics go: a folder or any URL."""
    preset: str = "tiny"
    """Model size: a preset's name, or a TOML file of your own."""
    where: str = ""
    """Train on some segments only: "success and level >= 2" (any columns of the index, in SQL)."""
    inputs: str = "pixels+state"
    """What the network sees: pixels+state, pixels or state."""
    updates: int = 1000
    """Optimiser steps in the whole run."""
    batch: int = 2048
    """Segments of 256 steps in a global batch, over all ranks."""
    micro_batch: int = 2
    """Segments a rank puts through the network at once."""
    peak_rate: float | None = None
    """Learning rate after warm-up; the preset's by default."""
    end_rate: float = 1e-5
    """Learning rate at the last update, reached by quadratic decay."""
    warm_up: int | None = None
    """Updates of linear warm-up; the preset's by default."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the machine computes in it."""
    checkpoint_every: str = "12h"
    """Wall clock (12h, 30m) or updates (500u)."""
    validate_every: int = 100
    """Updates between losses on held-out matches; 0 for never."""
    validation_share: float = 0.02
    """Share of the matches kept out of training."""
    history_dropout: float = 0.5
    """Share of segments trained without their action history."""
    recompute: bool = False
    """Activation checkpointing: less memory, a third more compute."""
    cache: str | None = None
    """Local folder that keeps what was read of the corpora; ranks on one machine share it."""
    cache_size: float = 100.0
    """GB that it may hold."""
    ranks: int = 1
    """Processes on this machine, sharing its cores; with a launcher such as torchrun leave it."""
    seed: int = 0
    """Of weights, order and dropout."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss's settings."""
    debug: bool = False
    """Show tracebacks."""


def resolve(arguments: Arguments) -> TrainConfig:
    """The run's settings, checked whole before any work."""
    from .engine import bf16_is_fast

    preset = load_preset(arguments.preset)
    pairs = [split_weight(corpus) for corpus in arguments.corpora]
    if not pairs:
        raise ConfigError("expected at least one corpus")
    precision = arguments.precision
    if precision == "auto":
        precision = "bf16" if bf16_is_fast() else "fp32"
    if precision not in ("bf16", "fp32"):
        raise ConfigError(f"--precision should be bf16, fp32 or auto, is {precision!r}")
    config = TrainConfig(
        corpora=tuple(url for url, _ in pairs), weights=tuple(weight for _, weight in pairs),
        where=arguments.where, preset=arguments.preset, model=preset.model, inputs=arguments.inputs,
        updates=arguments.updates, batch=arguments.batch, micro_batch=arguments.micro_batch,
        peak_rate=preset.peak_rate if arguments.peak_rate is None else arguments.peak_rate,
        end_rate=arguments.end_rate,
        warm_up=preset.warm_up if arguments.warm_up is None else arguments.warm_up,
        precision=precision, loss=arguments.loss, history_dropout=arguments.history_dropout,
        validation_share=arguments.validation_share, recompute=arguments.recompute,
        seed=arguments.seed,
    )  # fmt: skip
    check(config)
    return config


def parse_interval(text: str) -> tuple[float, int]:
    """`12h`, `30m`, `90s` → (seconds, 0); `500u` → (inf, 500)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hms])|(\d+)u", text)
    if not found or float(found[1] or found[3]) <= 0:
        raise ConfigError(f"--checkpoint-every should look like 12h, 30m or 500u, is {text!r}")
    if found[3]:
        return float("inf"), int(found[3])
    return float(found[1]) * {"h": 3600, "m": 60, "s": 1}[found[2]], 0


def command(arguments: Arguments) -> int:
    """Check everything, then train."""
    from ..shards.plain import open_corpus  # polars and torch: --help does without
    from .run import check_run, record_run

    config = resolve(arguments)
    seconds, updates = parse_interval(arguments.checkpoint_every)
    if arguments.ranks < 1:
        raise ConfigError(f"--ranks should be positive, is {arguments.ranks}")
    if arguments.cache_size <= 0:
        raise ConfigError(f"--cache-size should be positive, is {arguments.cache_size:g}")
    corpora = [open_corpus(url) for url in config.corpora]
    world_size = int(os.environ.get("WORLD_SIZE", arguments.ranks))
    check_run(arguments.run, config, corpora, world_size)
    if arguments.ranks > 1 and "RANK" not in os.environ:
        return launch(arguments.ranks, sys.argv[1:])

    from .engine import one_voice, start_ranks, stop_ranks
    from .trainer import Every, Trainer

    end_with_launcher()
    rank, _ = start_ranks()
    try:
        with one_voice():
            if rank == 0:
                record_run(arguments.run, config)
            trainer = Trainer(config, arguments.run, corpora, open_cache(arguments))
            trainer.resume()
            if rank == 0:
                describe(config, trainer.engine.parameter_count, trainer.start)
            trainer.train(Every(seconds, updates), arguments.validate_every)
    finally:
        stop_ranks()
    return 0


def open_cache(arguments: Arguments) -> RangeCache | None:
    """The cache that the flags ask for."""
    from ..shards.cache import RangeCache

    if arguments.cache is None:
        return None
    return RangeCache(arguments.cache, round(arguments.cache_size * 1e9))


def describe(config: TrainConfig, parameters: int, start: int) -> None:
    """Say what is about to be trained."""
    console.print(
        f"{config.preset}: {parameters:,} parameters, {config.inputs}, {config.precision}, "
        f"ZeRO-{config.zero_stage}, updates {start} to {config.updates} of {config.batch} segments"
    )


def main() -> None:
    """Entry point."""
    run_command(Arguments, command, "train")


if __name__ == "__main__":
    main()
