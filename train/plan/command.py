"""`train plan`: its flags, and what they resolve to."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...shards.errors import ConfigError, UnknownNameError
from .hardware import DEVICES, Device

if TYPE_CHECKING:
    from ..execution import Execution
    from .plan import Workload

MOST_RANKS = 1 << 20


@dataclass(frozen=True)
class PlanArguments:
    """Say what training a preset takes: memory by kind, FLOPs, communication, time, and whether it
    fits. Allocates nothing.

    Exits with 0 if it fits, 1 if it does not.
    """

    preset: str = "30b"
    """A preset's name, or a TOML file of your own."""
    gpus: int = 128
    """Of all machines together."""
    device: str = "h100"
    """a100 (80 GB), h100 or h200; the flags below put numbers in the place of its own."""
    memory: float | None = None
    """GB of one GPU."""
    flops: float | None = None
    """Its dense BF16 FLOP/s, as 989e12."""
    network: float | None = None
    """GB/s from node to node for each of its GPUs, in one direction."""
    link: float | None = None
    """GB/s between GPUs of a node, in one direction."""
    gpus_per_node: int | None = None
    """GPUs of a node."""
    inputs: str = "pixels+state"
    """What the network sees: pixels+state, pixels or state."""
    batch: int | None = None
    """Segments of a global batch; 2048 by default."""
    micro_batch: int | None = None
    """Segments a GPU puts through the network at once; 2 by default."""
    accumulation: int | None = None
    """Micro-batches of a GPU in a global batch; by default what the batch takes."""
    recompute: str = "auto"
    """Blocks whose activations are computed again: none, all, a number, or auto: as few as fit."""
    zero_stage: str = "auto"
    """What GPUs share: 1 optimizer states, 2 gradients too, 3 parameters too; auto: as few as fit
    without recomputation."""
    hpz: int = 1
    """GPUs of a node that keep a second copy of the parameters among them (ZeRO++ hpZ)."""
    offload: str = "none"
    """What lies in the host's memory: none, optimizer or all."""
    mfu: float = 0.4
    """Share of the GPUs' FLOP/s that the model's own come to: a wish, to be measured."""
    weeks: float = 7.0
    """Time there is."""
    steps: float = 500e6
    """Of the corpus."""
    corpus: str | None = None
    """URL of a corpus: its shapes, its steps and the mean length of its segments."""
    json: bool = False
    """Print one JSON object and nothing else."""
    debug: bool = False
    """Show tracebacks."""


def plan_command(arguments: PlanArguments) -> int:
    """Check everything, plan, and print."""
    from .plan import plan  # torch: --help does without
    from .table import print_plan

    device = resolve_device(arguments)
    workload, execution = resolve(arguments)
    found = plan(
        workload, execution, device, stage=arguments.zero_stage == "auto",
        recompute=arguments.recompute == "auto",
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print_plan(arguments.preset, found)
    return 0 if found.fits else 1


def resolve_device(arguments: PlanArguments) -> Device:
    """The device, with the numbers that flags give."""
    if arguments.device not in DEVICES:
        raise UnknownNameError("device", arguments.device, DEVICES, "--device")
    known, changed = DEVICES[arguments.device], dict[str, Any]()
    for flag, field, value in (
        ("memory", "memory_gb", arguments.memory), ("flops", "bf16_flops", arguments.flops),
        ("network", "network_gb_s", arguments.network), ("link", "link_gb_s", arguments.link),
        ("gpus-per-node", "gpus_per_node", arguments.gpus_per_node),
    ):  # fmt: skip
        if value is None:
            continue
        if not value > 0:  # NaN too
            raise ConfigError(f"--{flag} should be positive, is {value}")
        changed[field] = value
    name = f"{known.name} with other numbers" if changed else known.name
    return dataclasses.replace(known, name=name, **changed)


def resolve(arguments: PlanArguments) -> tuple[Workload, Execution]:
    """What is trained and how it is shared out, checked as for a run."""
    from ..config import TrainConfig, check, load_preset
    from ..execution import check_execution, share_out
    from .plan import Workload

    for flag, value, most in (
        ("gpus", arguments.gpus, MOST_RANKS), ("mfu", arguments.mfu, 1.0),
        ("weeks", arguments.weeks, 1e6), ("steps", arguments.steps, 1e18),
    ):  # fmt: skip
        if not 0 < value <= most:
            raise ConfigError(f"--{flag} should be in (0, {most:g}], is {value:g}")
    preset = load_preset(arguments.preset)
    batch, execution = share_out(arguments, arguments.gpus, preset.model)
    config = TrainConfig(
        corpora=(), weights=(), preset=arguments.preset, model=preset.model,
        inputs=arguments.inputs, updates=1, batch=batch, peak_rate=preset.peak_rate, end_rate=0.0,
        warm_up=preset.warm_up, precision="bf16",
    )  # fmt: skip
    check(config)
    check_execution(execution, config)
    workload = Workload(
        preset.model, tuple(arguments.inputs.split("+")), batch=batch,
        corpus_steps=arguments.steps, weeks=arguments.weeks, mfu=arguments.mfu,
    )  # fmt: skip
    if arguments.corpus is not None:
        workload = with_corpus(workload, arguments.corpus)
    if "pixels" in workload.inputs and workload.shapes.image_size % preset.model.patch:
        raise ConfigError(
            f"preset {arguments.preset}: patch {preset.model.patch} does not divide the image "
            f"size {workload.shapes.image_size}"
        )
    return workload, execution


def with_corpus(workload: Workload, url: str) -> Workload:
    """The workload on a corpus that is there."""
    from ...shards.plain import open_corpus
    from ..export import shapes_of

    corpus = open_corpus(url)
    steps, segments = 0, 0
    for rows in corpus.frames("steps"):
        steps, segments = steps + int(rows["steps"].sum()), segments + rows.height
    return dataclasses.replace(
        workload, shapes=shapes_of(corpus.schema), corpus_steps=float(steps),
        segment_steps=steps / segments,
    )  # fmt: skip
