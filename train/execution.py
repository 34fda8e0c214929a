"""How a run is computed: its batch shared out among ranks, and what they share of the states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..shards.errors import ConfigError, UnknownNameError
from .config import TrainConfig
from .model import ModelConfig

BATCH, MICRO_BATCH = 2048, 2  # segments, where no flag says
OFFLOADS = ("none", "optimizer", "all")


@dataclass(frozen=True)
class Execution:
    """How a run is computed. May change whenever it is resumed: results move by rounding only."""

    ranks: int = 1
    """Processes of all machines together, one per GPU."""
    micro_batch: int = 2
    """Segments a rank puts through the network at once."""
    accumulation: int = 1
    """Micro-batches of a rank in a global batch."""
    zero_stage: int = 3
    """What ranks share: 1 optimizer states, 2 gradients too, 3 parameters too; 0 nothing."""
    hpz: int = 1
    """Ranks of a node that keep a second copy of the parameters among them (ZeRO++ hpZ)."""
    offload: str = "none"
    """What lies in the host's memory: `none`, `optimizer` (states) or `all` (parameters too)."""
    recompute: int = 0
    """Blocks, counted from the first, whose activations are computed again going backwards."""
    compile: bool = False
    """torch.compile of every block."""


class Flags(Protocol):
    """What `train` and `train plan` are told."""

    @property
    def batch(self) -> int | None: ...

    @property
    def micro_batch(self) -> int | None: ...

    @property
    def accumulation(self) -> int | None: ...

    @property
    def zero_stage(self) -> str: ...

    @property
    def hpz(self) -> int: ...

    @property
    def offload(self) -> str: ...

    @property
    def recompute(self) -> str: ...


def share_out(flags: Flags, ranks: int, model: ModelConfig) -> tuple[int, Execution]:
    """The global batch, and how ranks compute it; stage 3 and no recomputation for `auto`.

    Raises ConfigError naming the flags.
    """
    batch, micro_batch, accumulation = split_batch(
        flags.batch, flags.micro_batch, flags.accumulation, ranks
    )
    execution = Execution(
        ranks, micro_batch, accumulation, parse_stage(flags.zero_stage), flags.hpz, flags.offload,
        parse_blocks(flags.recompute, model),
    )  # fmt: skip
    return batch, execution


def split_batch(
    batch: int | None, micro_batch: int | None, accumulation: int | None, ranks: int
) -> tuple[int, int, int]:
    """Global batch, micro-batch and accumulation, of which any two make the third.

    Where ranks do not divide the batch the last micro-batches are padded, so that a run of 128
    ranks goes on with 120; given all three, one more micro-batch than needed is an error.
    Raises ConfigError naming the flags.
    """
    for flag, value in (
        ("batch", batch), ("micro-batch", micro_batch), ("accumulation", accumulation)
    ):  # fmt: skip
        if value is not None and value < 1:
            raise ConfigError(f"--{flag} should be at least 1, is {value}")
    if batch is None and accumulation is not None:
        micro_batch = micro_batch or MICRO_BATCH
        return micro_batch * accumulation * ranks, micro_batch, accumulation
    batch = batch or BATCH
    if batch < ranks:
        raise ConfigError(f"--batch {batch} is smaller than the {ranks} ranks")
    share = -(-batch // ranks)
    if micro_batch is None:
        micro_batch = min(MICRO_BATCH, share) if accumulation is None else -(-share // accumulation)
    needed = -(-share // micro_batch)
    if accumulation is not None and accumulation != needed:
        raise ConfigError(
            f"--micro-batch {micro_batch} × --accumulation {accumulation} × {ranks} ranks is "
            f"{micro_batch * accumulation * ranks}, not --batch {batch}: "
            f"--accumulation {needed} makes it"
        )
    return batch, micro_batch, needed


def parse_stage(text: str) -> int:
    """A ZeRO stage; 3 for `auto`, which is settled later."""
    if text not in ("auto", "0", "1", "2", "3"):
        raise ConfigError(f"--zero-stage should be auto, 0, 1, 2 or 3, is {text!r}")
    return 3 if text == "auto" else int(text)


def parse_blocks(text: str, model: ModelConfig) -> int:
    """Blocks to recompute: a number, `all` or `none`; 0 for `auto`, which is settled later."""
    blocks = model.encoder_blocks + model.decoder_blocks
    known = {"auto": 0, "none": 0, "all": blocks}
    if text in known:
        return known[text]
    if not text.isdigit() or int(text) > blocks:
        raise ConfigError(
            f"--recompute should be auto, none, all or up to {blocks} blocks, is {text!r}"
        )
    return int(text)


def check_execution(execution: Execution, config: TrainConfig) -> None:
    """Raise a ConfigError that names the flag at fault."""
    if execution.zero_stage == 0 and config.precision == "bf16":
        raise ConfigError(
            "--zero-stage 0 keeps no fp32 copy of bf16 weights: use stage 1 or --precision fp32"
        )
    if execution.offload not in OFFLOADS:
        raise UnknownNameError("offload", execution.offload, OFFLOADS, "--offload")
    needed = {"optimizer": 1, "all": 3}.get(execution.offload, 0)
    if execution.zero_stage < needed:
        raise ConfigError(
            f"--offload {execution.offload} needs --zero-stage {needed} or more, "
            f"is {execution.zero_stage}"
        )
    if execution.hpz < 1 or execution.ranks % execution.hpz:
        raise ConfigError(f"--hpz {execution.hpz} does not divide the {execution.ranks} ranks")
    if execution.hpz > 1 and execution.zero_stage != 3:
        raise ConfigError(f"--hpz needs --zero-stage 3, is {execution.zero_stage}")
