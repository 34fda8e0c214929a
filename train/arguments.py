"""The flags of `train`, and what they resolve to."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from ..shards.errors import ConfigError
from .cadence import Cadence, check_cadence, parse_interval
from .config import TrainConfig, check, load_preset, split_weight
from .execution import Execution, check_execution, share_out
from .loss import LossConfig
from .places import Keep


@dataclass(frozen=True)
class Arguments:
    """Train a network on corpora. Running it again goes on from the newest checkpoint.

    Three commands besides: `train plan` says what a model takes on how many GPUs, `train status
    RUN` where a run stands, `train export RUN OUT.pt2` writes its policy for PyTorch alone.

    SIGTERM, SIGUSR1 and ctrl-C save after the present update and exit with 75: the same command
    goes on from there. 0: the last update was made; 1: an error, which would come again.
    """

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
    """What the network sees: pixels+state, state, or pixels, and then of the state only what a
    player feels of its own body."""
    updates: int = 1000
    """Optimiser steps in the whole run."""
    batch: int | None = None
    """Segments of 256 steps in a global batch, over all ranks: micro-batch × accumulation × ranks;
    2048 by default, with the last ones padded where the ranks do not divide it."""
    micro_batch: int | None = None
    """Segments a rank puts through the network at once; 2 by default."""
    accumulation: int | None = None
    """Micro-batches of a rank in a global batch; by default what the batch takes."""
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
    keep: int = 2
    """Newest checkpoints that stay."""
    keep_every: int = 0
    """Besides, the first after each so many updates stays; 0 for none."""
    rolling_every: str = "30m"
    """Checkpoints besides, on a local disk, each in the place of the one before; `never`."""
    rolling_folder: str | None = None
    """Where: by default in a local run, or else among the temporary files of each machine."""
    resume: str = "auto"
    """`auto`: from the run's newest complete checkpoint, on any number of ranks; `never`; or a
    checkpoint's URL, from which a new run goes on."""
    warm_start: str = ""
    """Begin a new run, at update 0, with the weights of another: a run (its newest checkpoint), a
    checkpoint, or a .safetensors file."""
    validate_every: int = 100
    """Updates between losses on held-out matches and on --heldout; 0 for never."""
    validation_batches: int = 4
    """Global batches of either that are looked at, the same each time."""
    validation_share: float = 0.02
    """Share of the matches kept out of training."""
    heldout: tuple[str, ...] = ()
    """URLs of corpora of other tasks, on which only losses and calibration are measured."""
    on_held_out: bool = False
    """Train on what training holds out too, for a reference that knows those tasks and levels."""
    history_dropout: float = 0.5
    """Share of segments trained without their action history."""
    recompute: str = "auto"
    """Activation checkpointing of so many blocks, `all`, `none`, or `auto`: as few as fit. Less
    memory, more compute."""
    zero_stage: str = "auto"
    """What ranks share: 1 optimizer states, 2 gradients too, 3 parameters too; 0 nothing. `auto`:
    as little as fits, from 1."""
    hpz: int = 1
    """Ranks of a node that keep a second copy of the parameters among them (ZeRO++)."""
    offload: str = "none"
    """Into the host's memory: `none`, `optimizer` states, or `all`, parameters too."""
    compile: bool = False
    """torch.compile of every block."""
    cache: str | None = None
    """Local folder that keeps what was read of the corpora; ranks on one machine share it."""
    cache_size: float = 100.0
    """GB that it may hold."""
    ranks: int | None = None
    """Processes on this machine, by default one per GPU; with a launcher such as torchrun leave
    it."""
    seed: int = 0
    """Of weights, order and dropout."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss's settings."""
    debug: bool = False
    """Show tracebacks."""


def resolve(arguments: Arguments) -> tuple[TrainConfig, Execution, Cadence]:
    """What decides the run's numbers, how it is computed, and when it saves; checked whole."""
    from .engine import bf16_is_fast
    from .warm_start import settle_start

    preset = load_preset(arguments.preset)
    pairs = [split_weight(corpus) for corpus in arguments.corpora]
    if not pairs:
        raise ConfigError("expected at least one corpus")
    precision = arguments.precision
    if precision == "auto":
        precision = "bf16" if bf16_is_fast() else "fp32"
    if precision not in ("bf16", "fp32"):
        raise ConfigError(f"--precision should be bf16, fp32 or auto, is {precision!r}")
    batch, execution = share_out(arguments, count_ranks(arguments.ranks), preset.model)
    execution = replace(execution, compile=arguments.compile)
    config = TrainConfig(
        corpora=tuple(url for url, _ in pairs), weights=tuple(weight for _, weight in pairs),
        where=arguments.where, preset=arguments.preset, model=preset.model, inputs=arguments.inputs,
        updates=arguments.updates, batch=batch,
        peak_rate=preset.peak_rate if arguments.peak_rate is None else arguments.peak_rate,
        end_rate=arguments.end_rate,
        warm_up=preset.warm_up if arguments.warm_up is None else arguments.warm_up,
        precision=precision, loss=arguments.loss, history_dropout=arguments.history_dropout,
        validation_share=arguments.validation_share, on_held_out=arguments.on_held_out,
        seed=arguments.seed,
        warm_start=settle_start(arguments.warm_start, arguments.run),
    )  # fmt: skip
    cadence = Cadence(
        checkpoint=parse_interval(arguments.checkpoint_every, "checkpoint-every"),
        rolling=parse_interval(arguments.rolling_every, "rolling-every", never=True),
        rolling_folder=arguments.rolling_folder, validate=arguments.validate_every,
        validation_batches=arguments.validation_batches,
        keep=Keep(arguments.keep, arguments.keep_every),
    )  # fmt: skip
    check(config)
    check_execution(execution, config)
    check_cadence(cadence)
    return config, execution, cadence


def count_ranks(wanted: int | None) -> int:
    """Of all machines together, as a launcher says, or of this one: one per GPU by default."""
    if wanted is not None and wanted < 1:
        raise ConfigError(f"--ranks should be positive, is {wanted}")
    if "RANK" in os.environ:
        found = int(os.environ["WORLD_SIZE"])
        if wanted not in (None, found):
            raise ConfigError(f"--ranks is {wanted}, but a launcher started {found}; leave it out")
        return found
    import torch  # a second, which --help does without

    return wanted or max(1, torch.cuda.device_count())
