"""Which elements of which parameter a rank keeps, at every ZeRO stage, as views that can be set.

DeepSpeed's own checkpoints are pickles, one for each rank, and fit another number of ranks only
after a conversion by one process, from which every rank then reads every parameter whole: at 30 B
and 128 ranks 46 TB. A rank's fragments, named and placed, are all that either direction needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("weight", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + n) of a flattened parameter, with AdamW's two moments of them."""

    name: str
    start: int
    values: dict[str, Tensor]
    """(n,) fp32 of each of `KINDS`, views into the optimiser's own memory"""

    @property
    def stop(self) -> int:
        """One past the last element."""
        return self.start + len(self.values["weight"])


def fragments(
    optimizer: Any, names: Mapping[nn.Parameter, str], rank: int, updates: int | None = None
) -> list[Fragment]:
    """What this rank keeps, by DeepSpeed's optimiser; together the ranks keep each element once.

    With `updates`, how many AdamW is to count, they are to be filled: all that the rank has, also
    where others have it too. Moments that do not exist yet are made, as zeros.
    """
    if hasattr(optimizer, "fp16_groups"):
        return list(_of_stage_3(optimizer, names, rank, updates))
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        groups, flats = optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups
    elif hasattr(optimizer, "fp32_groups_flat_partition"):
        groups, flats = optimizer.bf16_groups, optimizer.fp32_groups_flat_partition
    else:
        return list(_of_stage_0(optimizer, names, rank, updates))
    return list(_of_stage_1_and_2(optimizer, groups, flats, names, updates))


def publish(optimizer: Any) -> None:
    """Carry the fragments' weights over to the parameters that compute, on all ranks."""
    if hasattr(optimizer, "fp16_groups"):
        for group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()  # gathers the persistent ones anew
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()


def _of_stage_3(
    optimizer: Any, names: Mapping[nn.Parameter, str], rank: int, updates: int | None
) -> Iterator[Fragment]:
    flats = zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True)
    for group, flat in flats:
        state = _state(optimizer.optimizer, flat, updates)
        for parameter in group:
            _, offset, share = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = rank * share
            count = min(share, parameter.ds_numel - start)  # the last ones are padded
            if count > 0:
                yield _fragment(names[parameter], start, state, offset, count)


def _of_stage_1_and_2(
    optimizer: Any, groups: Any, flats: Any, names: Mapping[nn.Parameter, str], updates: int | None
) -> Iterator[Fragment]:
    for group, flat in zip(groups, flats, strict=True):
        state = _state(optimizer.optimizer, flat, updates)
        for parameter in group:
            mapping = parameter._hp_mapping
            if mapping is not None:
                at, count = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
                start = mapping.lp_fragment_address.start
                yield _fragment(names[parameter], start, state, at, count)


def _of_stage_0(
    optimizer: Any, names: Mapping[nn.Parameter, str], rank: int, updates: int | None
) -> Iterator[Fragment]:
    """Every rank has everything: the first keeps it for all."""
    if rank and updates is None:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = _state(optimizer, parameter, updates)
            count = parameter.numel()
            yield _fragment(names[parameter], 0, state, 0, count)


def _state(adam: torch.optim.Optimizer, flat: Tensor, updates: int | None) -> dict[str, Tensor]:
    """(n,) values of each kind for a flat tensor of the optimiser's."""
    state = adam.state[flat]
    for kind in KINDS[1:]:
        if kind not in state:
            state[kind] = torch.zeros_like(flat)
    if updates is not None or "step" not in state:
        state["step"] = torch.tensor(float(updates or 0))
    return {"weight": flat.detach().view(-1)} | {k: state[k].view(-1) for k in KINDS[1:]}


def _fragment(
    name: str, start: int, state: dict[str, Tensor], offset: int, count: int
) -> Fragment:
    return Fragment(name, start, {kind: x.narrow(0, offset, count) for kind, x in state.items()})
