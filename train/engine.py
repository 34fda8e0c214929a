"""DeepSpeed, and nothing else: the only file that imports it.

One engine at every size: ZeRO-3 over gloo on a CPU, over NCCL on GPUs.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..shards.errors import CheckpointError
from .config import TrainConfig
from .model import PolicyValueNetwork

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations inside deepspeed, of no concern to a user
    import deepspeed
    from deepspeed.utils import logger as deepspeed_logger

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


def deepspeed_config(config: TrainConfig, world_size: int, accumulation: int) -> dict[str, Any]:
    """Every ZeRO key explicitly: documented and coded defaults differ."""
    return {
        "train_batch_size": config.micro_batch * accumulation * world_size,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.clip,
        "bf16": {"enabled": config.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        "zero_optimization": {
            "stage": config.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": torch.cuda.is_available(),
            "reduce_scatter": True,
            "reduce_bucket_size": 50_000_000,
            "allgather_bucket_size": 50_000_000,
            "stage3_prefetch_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_model_persistence_threshold": 100_000_000,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": False,
            "sub_group_size": 1_000_000_000,
        },
    }


class Engine:
    """A network under DeepSpeed: forward and backward of micro-batches, update, save, load."""

    def __init__(
        self, build: Callable[[], PolicyValueNetwork], config: TrainConfig, accumulation: int
    ) -> None:
        """Build the network partitioned from the start (`zero.Init`) and draw its weights."""
        self.rank, self.world_size = (
            torch.distributed.get_rank(),
            torch.distributed.get_world_size(),
        )
        self.accumulation = accumulation
        settings = deepspeed_config(config, self.world_size, accumulation)
        partitioned = config.zero_stage == 3
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        with deepspeed.zero.Init(config_dict_or_path=settings, dtype=dtype, enabled=partitioned):
            model = build()
        generator = torch.Generator().manual_seed(config.seed)
        model.initialise(generator, self._gather)
        optimizer = torch.optim.AdamW(
            _parameter_groups(model, config.weight_decay), lr=config.peak_rate,
            betas=(0.9, config.beta2), eps=1e-8,
        )  # fmt: skip
        with warnings.catch_warnings():
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

    def forward(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """The network's outputs for a micro-batch."""
        outputs: tuple[Tensor, Tensor] = self.engine(*inputs)
        return outputs

    def backward(self, total: Tensor, valid_steps: int) -> None:
        """Gradient of a micro-batch's summed loss over the *global* batch's valid steps.

        DeepSpeed averages over ranks and micro-batches; the loss is a sum, so that is undone.
        """
        self.engine.backward(total / valid_steps * (self.world_size * self.accumulation))

    def step(self, rate: float) -> None:
        """After each micro-batch; updates the weights at the last one of a global batch."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.engine.step()

    def gradient_norm(self) -> float:
        """Global norm before clipping, of the last update."""
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Elementwise sum of a small tensor over all ranks."""
        torch.distributed.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        torch.distributed.barrier()

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """DeepSpeed's own checkpoint (pickles: resume only your own); on all ranks."""
        self.engine.save_checkpoint(
            str(folder), tag="engine", client_state=state, save_latest=False
        )

    def load(self, folder: Path) -> dict[str, Any]:
        """Restore weights, optimiser and counters; returns the saved state."""
        found, state = self.engine.load_checkpoint(str(folder), tag="engine")
        if found is None:
            raise CheckpointError(f"{folder}: DeepSpeed found no checkpoint of its own")
        return dict(state)

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
