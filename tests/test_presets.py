"""Presets: how large each is, and that the largest starts and stays well scaled at its depth."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from importlib.resources import files

import pytest
import torch
from palaestra.generate.slots import make_schema
from palaestra.train.config import Preset, load_preset, preset_names
from palaestra.train.export import shapes_of
from palaestra.train.loss import LossConfig, losses
from palaestra.train.model import PolicyValueNetwork
from palaestra.train.plan.flops import parameter_counts
from palaestra.train.plan.plan import SUITE
from torch import Tensor, nn

SIZES = {  # parameters, and how far a preset may be off
    "tiny": (0.35e6, 0.15), "small": (5e6, 0.05), "base": (100e6, 0.02), "1b": (1e9, 0.02),
    "7b": (7e9, 0.01), "30b": (30e9, 0.005),
}  # fmt: skip
INPUTS = ("pixels", "state")


def size(preset: Preset) -> int:
    return sum(parameter_counts(preset.model, SUITE, INPUTS).values())


def test_the_planned_suite_is_the_suite() -> None:
    assert shapes_of(make_schema(64, (0.0, 1.0))) == SUITE


def test_every_preset_has_a_size() -> None:
    assert sorted(SIZES) == preset_names()


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_is_as_large_as_its_name_and_its_header_say(name: str) -> None:
    parameters, tolerance = SIZES[name]
    counted = size(load_preset(name))
    assert counted == pytest.approx(parameters, rel=tolerance)
    header = (files("palaestra.train.presets") / f"{name}.toml").read_text().splitlines()[0]
    found = re.match(r"# ([\d.]+) ([MB]) parameters: ", header)
    assert found, header
    digits = len(found[1].partition(".")[2])
    assert f"{counted / {'M': 1e6, 'B': 1e9}[found[2]]:.{digits}f}" == found[1]


def test_larger_presets_learn_more_slowly() -> None:
    presets = [load_preset(name) for name in SIZES]
    rates, warm_ups = [p.peak_rate for p in presets], [p.warm_up for p in presets]
    assert rates == sorted(rates, reverse=True) and warm_ups == sorted(warm_ups)
    assert presets[-1].peak_rate == 3e-4


@pytest.mark.parametrize("name", [name for name in SIZES if name != "tiny"])
def test_shapes_suit_gpus(name: str) -> None:
    """Heads that flash attention is made for, and products that fill the tiles of tensor cores."""
    model = load_preset(name).model
    assert model.width // model.heads in (64, 128)
    assert model.perception_width // model.perception_heads in (64, 128)
    assert model.width % 64 == 0 and model.hidden % 128 == 0


def thin_slice() -> PolicyValueNetwork:
    """30b at its full depth, 96 times narrower."""
    model = dataclasses.replace(
        load_preset("30b").model, width=64, heads=2, kv_heads=1, hidden=224, state_hidden=64,
        perception_width=32, perception_heads=1, perception_blocks=1, patch=16, pixel_tokens=2,
        value_hidden=64,
    )  # fmt: skip
    return PolicyValueNetwork(model, SUITE, INPUTS)


@torch.no_grad()
def draw_outputs(network: nn.Module, gain: float = 1.0) -> None:
    """What a network without zero-initialised residual branches starts from."""
    for module in network.modules():
        if getattr(module, "zero_output", False):
            module.weight.normal_(0.0, module.in_features**-0.5)
        if isinstance(module, nn.Linear):
            module.weight.mul_(gain)


def triple_gain(network: nn.Module) -> None:
    draw_outputs(network, gain=3.0)


def drop_norms(network: nn.Module) -> None:
    draw_outputs(network)
    for block in network.blocks:
        for name in [name for name, module in block.named_children() if name.endswith("norm")]:
            setattr(block, name, nn.Identity())


def scales(spoil: Callable[[nn.Module], None] | None) -> tuple[float, float]:
    """(growth, spread) in the fourth update of a thin 30b, at its peak rate and without warm-up.

    Growth: RMS of the residual stream after the last encoder block over that after the first.
    Spread: the largest norm of an encoder block's gradient over the smallest.
    """
    generator = torch.Generator().manual_seed(0)
    network = thin_slice()
    network.initialise(generator)
    if spoil:
        spoil(network)
    rms: list[float] = []
    for block in network.encoder:
        block.register_forward_hook(lambda _, __, x: rms.append(x.square().mean().sqrt().item()))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4, betas=(0.9, 0.95))
    for update in range(4):
        if update:  # the first pass only makes the policy head move, which starts from zero
            optimizer.step()
        optimizer.zero_grad()
        rms.clear()
        loss(network, generator).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    norms = [
        torch.stack([p.grad.norm() for p in block.parameters() if p.grad is not None]).norm()
        for block in network.encoder
    ]
    return rms[-1] / rms[0], float(max(norms) / min(norms))


def loss(network: PolicyValueNetwork, generator: torch.Generator) -> Tensor:
    """On random segments: two of four steps."""
    shape, size = (2, 4), SUITE.image_size
    action = torch.rand(*shape, SUITE.action_size, generator=generator) * 2 - 1
    policy, value = network(
        torch.randn(*shape, SUITE.state_size, generator=generator),
        torch.randint(0, 256, (*shape, size, size, 3), generator=generator, dtype=torch.uint8),
        torch.full((2, SUITE.instruction_bytes), 97, dtype=torch.uint8), action.roll(1, dims=1),
        torch.tensor([True, False]),
    )  # fmt: skip
    none, steps = torch.zeros(2, dtype=torch.bool), torch.full((2,), 4)
    reward = torch.rand(*shape, generator=generator)
    terms = losses(policy, value, action, reward, steps, none, ~none, (0.0, 1.0), LossConfig())
    return terms.total / 8


def test_30b_keeps_its_scale_with_depth() -> None:
    growth, spread = scales(None)
    assert 0.5 < growth < 2.0
    assert spread < 4.0


@pytest.mark.parametrize("spoil", [draw_outputs, triple_gain, drop_norms])
def test_a_bad_initialisation_does_not(spoil: Callable[[nn.Module], None]) -> None:
    """Branches drawn like other layers, at three times the gain, or without norms (NaN)."""
    growth, spread = scales(spoil)
    assert not growth < 4.0
    assert not spread < 8.0
