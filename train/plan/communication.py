"""What ranks send each other, and how long that takes beside what they compute.

Volumes follow Rajbhandari et al. 2020 (ZeRO, section 7): a gather and a reduce-scatter each bring a
rank all parameters once, an all-reduce twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..execution import Execution
from .hardware import Device

EFFICIENCY = 0.8  # of the stated rates, that NCCL reaches with large messages: assumed


@dataclass(frozen=True)
class Communication:
    """Of one rank."""

    micro_batch_bytes: int
    micro_batch_s: float
    update_bytes: int
    """Once an update, besides."""
    update_s: float


def communication(parameters: int, execution: Execution, device: Device) -> Communication:
    """Of bf16 parameters; gradients are reduced in bf16 too, at stage 1 in fp32.

    ZeRO-3 gathers parameters forwards and backwards. A recomputed block is gathered no third time:
    what it gathers it keeps, since its backward pass follows within `MAX_LIVE` elements.
    """
    size, stage = 2 * parameters, execution.zero_stage
    if execution.ranks == 1:
        return Communication(0, 0.0, 0, 0.0)
    everywhere = transfer_s(size, execution.ranks, device)
    if stage == 3:
        within = min(execution.hpz, device.gpus_per_node)
        again = transfer_s(size, within, device) if execution.hpz > 1 else everywhere
        return Communication(3 * size, 2 * everywhere + again, 0, 0.0)
    if stage == 2:
        return Communication(size, everywhere, size, everywhere)
    # an all-reduce of fp32 gradients and a gather, when all micro-batches are done
    return Communication(0, 0.0, 5 * size, 5 * everywhere)


def transfer_s(size: int, ranks: int, device: Device) -> float:
    """Seconds until each of `ranks` holds `size` bytes of which each held its share.

    Within a node every GPU takes in all other shares by its own link; what comes from other nodes
    comes once, through all network adapters of the node together.
    """
    within = size * (ranks - 1) / ranks / device.link_gb_s
    nodes = -(-ranks // device.gpus_per_node)
    between = size * (nodes - 1) / nodes / (device.gpus_per_node * device.network_gb_s)
    return max(within, between) / 1e9 / EFFICIENCY
