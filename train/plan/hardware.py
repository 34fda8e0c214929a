"""What accelerators can do, as their makers state it.

Sources: NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM (dense BF16, memory, NVLink),
and of DGX A100, H100 and H200 (one network adapter a GPU: 200, 400 and 400 Gb/s).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One GPU and how it is connected; GB are 10⁹ bytes, rates hold in each direction."""

    name: str
    memory_gb: float
    bf16_flops: float
    """Per second, dense."""
    bandwidth_gb_s: float
    """Of its memory."""
    link_gb_s: float
    """To the other GPUs of its node."""
    network_gb_s: float
    """Its share of the node's network."""
    gpus_per_node: int = 8


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device("a100", 80, 312e12, 2039, 300, 25),
        Device("h100", 80, 989e12, 3350, 450, 50),
        Device("h200", 141, 989e12, 4800, 450, 50),
    )
}
_PEAKS = (  # by a part of torch's name for a device; the first that is there
    ("H100 PCIe", 756e12), ("H100 NVL", 835e12),
    ("H200", 989e12), ("H100", 989e12), ("A100", 312e12),
)  # fmt: skip


def peak_flops(device_name: str) -> float | None:
    """Dense BF16 FLOP/s of a device as torch names it; None for one that is not known here."""
    return next((peak for part, peak in _PEAKS if part in device_name), None)
