"""DeepSpeed, and nothing else: the only file that imports it.

One engine at every size: ZeRO-3 over gloo on a CPU, over NCCL on GPUs.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .execution import Execution
from .fragments import Fragment, fragments, publish
from .model import DecoderBlock, EncoderBlock, PolicyValueNetwork
from .perception import FrameBlock
from .plan.memory import ALL_PERSISTENT, MAX_LIVE, PERSISTENT, SMALLEST_BUCKET, SUB_GROUP

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations inside deepspeed, of no concern to a user
    import deepspeed
    from deepspeed.utils import logger as deepspeed_logger
    from deepspeed.utils import set_z3_leaf_modules

UNITS = (EncoderBlock, DecoderBlock, FrameBlock)  # gathered and released whole

deepspeed_logger.setLevel(logging.ERROR)
# its shared-memory collectives take 15 s of a C++ compiler and gain nothing over gloo at this size
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
# deepspeed calls collectives that torch 2.13 renamed, at every step
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def start_ranks() -> tuple[int, int]:
    """Join the process group of torchrun or the deepspeed launcher, or form one alone.

    Returns (rank, world_size).
    """
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ |= {
            "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    if not torch.distributed.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        deepspeed.init_distributed("nccl" if cuda else "gloo", verbose=False)
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def as_first(execution: Execution) -> Execution:
    """The first rank's stage and recomputation: each chose by what memory it saw free."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.tensor([execution.zero_stage, execution.recompute], device=device)
    torch.distributed.broadcast(chosen, 0)
    stage, recompute = chosen.tolist()
    return replace(execution, zero_stage=stage, recompute=recompute)


def start_as_first(config: TrainConfig) -> TrainConfig:
    """With the first rank's `warm_start`: a source in training may be at another checkpoint by now.

    Collective.
    """
    chosen = [config.warm_start]
    torch.distributed.broadcast_object_list(chosen, 0)
    return replace(config, warm_start=chosen[0])


def lowest(value: int) -> int:
    """The least of all ranks' values."""
    values = torch.tensor([value], device="cuda" if torch.cuda.is_available() else "cpu")
    torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MIN)
    return int(values.item())


@contextmanager
def one_voice() -> Iterator[None]:
    """Of ranks that fail together, or because another left, only the first raises its error.

    The others leave with exit code 1.
    """
    try:
        yield
    except Exception as error:
        if torch.distributed.get_world_size() > 1 and not _first_to_fail():
            raise SystemExit(1) from error
        raise


def _first_to_fail() -> bool:
    store = torch.distributed.distributed_c10d._get_default_store()
    try:
        return bool(store.add("palaestra/failed", 1) == 1)
    except RuntimeError:  # the launcher, which holds the store, has gone
        return False


def stop_ranks() -> None:
    """Leave the process group."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def bf16_is_fast() -> bool:
    """Whether this machine computes in bf16; without AVX512-BF16 a CPU is slower in it."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def deepspeed_config(config: TrainConfig, execution: Execution) -> dict[str, Any]:
    """Every ZeRO key explicitly: documented and coded defaults differ."""
    # of a gather ahead and of a reduction: a block at least, 0.57 B elements at 30b
    bucket = max(config.model.block_parameters, SMALLEST_BUCKET)
    offload = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    zero: dict[str, Any] = {
        "stage": execution.zero_stage,
        "contiguous_gradients": True,
        "overlap_comm": torch.cuda.is_available(),
        "reduce_scatter": True,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket,
        # norms and small matrices stay whole on every rank: a gather of theirs is all latency
        "stage3_param_persistence_threshold": PERSISTENT,
        "stage3_model_persistence_threshold": ALL_PERSISTENT,
        "stage3_max_live_parameters": MAX_LIVE,
        "stage3_max_reuse_distance": MAX_LIVE,
        "stage3_gather_16bit_weights_on_model_save": False,
        "stage3_module_granularity_threshold": 0,  # the leaf modules are named below
        "sub_group_size": SUB_GROUP,
        "zero_hpz_partition_size": execution.hpz,
        "round_robin_gradients": False,
        "ignore_unused_parameters": False,
    }
    if execution.offload != "none":
        zero["offload_optimizer"] = offload
    if execution.offload == "all":
        zero["offload_param"] = offload
    return {
        "train_batch_size": execution.micro_batch * execution.accumulation * execution.ranks,
        "train_micro_batch_size_per_gpu": execution.micro_batch,
        "gradient_accumulation_steps": execution.accumulation,
        "gradient_clipping": config.clip,
        "bf16": {"enabled": config.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        "zero_optimization": zero,
    }


class Engine:
    """A network under DeepSpeed: forward and backward of micro-batches, update, save, load."""

    def __init__(
        self, build: Callable[[], PolicyValueNetwork], config: TrainConfig, execution: Execution,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """Build the network partitioned from the start (`zero.Init`) and draw its weights.

        Or take those of `weights`, by parameter, in place of the drawn ones: all of them on every
        rank, but under ZeRO-3 on the first alone, and then none on the others. The optimiser's fp32
        copies begin as the parameters are: exactly those, or in a bf16 run their bf16 values.
        """
        self.rank, self.world_size = (
            torch.distributed.get_rank(),
            torch.distributed.get_world_size(),
        )
        self.execution = execution
        settings = deepspeed_config(config, execution)
        partitioned, cuda = execution.zero_stage == 3, torch.cuda.is_available()
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        # no dtype here: on a CPU without fp16 DeepSpeed 0.19 would take bf16 whatever it says
        with deepspeed.zero.Init(config_dict_or_path=settings, enabled=partitioned):
            model = build()
        if partitioned:  # a block's parameters are gathered together, and so released
            set_z3_leaf_modules(model, [*UNITS], raise_if_not_found=False)
        else:
            model.to("cuda" if cuda else "cpu", dtype)
        generator = torch.Generator("cuda" if cuda else "cpu").manual_seed(config.seed)
        model.initialise(generator, self._gather)
        if weights is not None:
            self._take(model, weights)
        if execution.compile:
            for block in model.blocks:
                block.forward = torch.compile(block.forward)
        optimizer = torch.optim.AdamW(
            _parameter_groups(model, config.weight_decay), lr=config.peak_rate,
            betas=(0.9, config.beta2), eps=1e-8,
        )  # fmt: skip
        # its bf16 optimizer prints what memory it takes
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            self.engine, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=settings, dist_init_required=False
            )
        self.model = model

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return torch.device(self.engine.device)

    @property
    def parameter_count(self) -> int:
        """Of the whole network, partitioned or not."""
        return sum(int(getattr(p, "ds_numel", p.numel())) for p in self.model.parameters())

    def _gather(self, parameters: list[nn.Parameter]) -> Any:
        return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0)

    @torch.no_grad()
    def _take(self, model: PolicyValueNetwork, weights: Mapping[str, Tensor]) -> None:
        """One parameter at a time, so that a partitioned network never exists on one rank."""
        for name, parameter in model.named_parameters():
            with self._gather([parameter]):
                if name in weights:
                    parameter.copy_(weights[name])

    def forward(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """The network's outputs for a micro-batch."""
        outputs: tuple[Tensor, Tensor] = self.engine(*inputs)
        return outputs

    def backward(self, total: Tensor, valid_steps: int) -> None:
        """Gradient of a micro-batch's summed loss over the *global* batch's valid steps.

        DeepSpeed averages over ranks and micro-batches; the loss is a sum, so that is undone.
        """
        self.engine.backward(total / valid_steps * (self.world_size * self.execution.accumulation))

    def step(self, rate: float) -> None:
        """After each micro-batch; updates the weights at the last one of a global batch."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        if self.execution.zero_stage == 0 and self.engine.is_gradient_accumulation_boundary():
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            self._norm = torch.nn.utils.get_total_norm(gradients)
        self.engine.step()

    def gradient_norm(self) -> float:
        """Global norm before clipping, of the last update."""
        if self.execution.zero_stage > 0:
            self._norm = self.engine.get_global_grad_norm()
        return float(self._norm)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Elementwise sum of a small tensor over all ranks."""
        torch.distributed.all_reduce(values)
        return values

    def as_first(self, values: Tensor) -> Tensor:
        """The first rank's values, in the place of every rank's."""
        torch.distributed.broadcast(values, 0)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        torch.distributed.barrier()

    def fragments(self, updates: int | None = None) -> list[Fragment]:
        """This rank's share of weights and moments, in place; `updates` sets AdamW's count."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return fragments(self.engine.optimizer, names, self.rank, updates)

    def publish(self) -> None:
        """After the fragments were written: have the network compute with them."""
        publish(self.engine.optimizer)

    def weights(self) -> dict[str, Tensor]:
        """All weights and buffers on rank 0, one gathered at a time; empty on other ranks."""
        gathered: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if self.rank == 0:
                    gathered[name] = parameter.detach().cpu().clone().contiguous()
        if self.rank == 0:
            gathered |= {n: b.detach().cpu().clone() for n, b in self.model.named_buffers()}
        return gathered


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices only: not norms, embeddings or learned positions."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            (decayed if isinstance(module, nn.Linear) else plain).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
