"""The network sees neither the future nor the answer, and steps as it runs in parallel."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from palaestra.shards.schema import Schema, Slot
from palaestra.train.config import load_preset, preset_names
from palaestra.train.learner import hidden_state
from palaestra.train.model import PolicyValueNetwork, Shapes
from torch import Tensor

SHAPES = Shapes(state_size=11, action_size=3, image_size=64, instruction_bytes=64)
STEPS = 9
Inputs = dict[str, Tensor]


def make_network(inputs: str = "pixels+state") -> PolicyValueNetwork:
    """The tiny preset with every weight drawn, zero-initialised ones too: nothing may hide."""
    network = PolicyValueNetwork(load_preset("tiny").model, SHAPES, inputs.split("+"))
    generator = torch.Generator().manual_seed(3)
    network.initialise(generator)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    return network.eval()


def make_inputs(steps: int = STEPS, seed: int = 0) -> Inputs:
    """Two segments; the second without history."""
    g = torch.Generator().manual_seed(seed)
    return {
        "state": torch.randn(2, steps, SHAPES.state_size, generator=g),
        "pixels": torch.randint(0, 256, (2, steps, 64, 64, 3), generator=g, dtype=torch.uint8),
        "instruction": torch.randint(1, 128, (2, 64), generator=g, dtype=torch.uint8),
        "action": torch.rand(2, steps, SHAPES.action_size, generator=g) * 2 - 1,
        "history": torch.tensor([True, False]),
    }


@torch.no_grad()
def outputs(network: PolicyValueNetwork, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Policy and value logits; `action` in the inputs is what is played at each step."""
    played = inputs["action"]
    before = torch.cat((torch.zeros_like(played[:, :1]), played[:, :-1]), dim=1)
    return network(
        inputs["state"], inputs["pixels"], inputs["instruction"], before, inputs["history"]
    )


def changed_from(inputs: Inputs, step: int, other: Inputs, names: tuple[str, ...]) -> Inputs:
    """The inputs with `names` replaced by another's from `step` on."""
    mixed = dict(inputs)
    for name in names:
        mixed[name] = torch.cat((inputs[name][:, :step], other[name][:, step:]), dim=1)
    return mixed


@pytest.mark.parametrize("step", [0, 1, 4, STEPS - 2])
def test_the_future_moves_no_bit(step: int) -> None:
    network, inputs, other = make_network(), make_inputs(), make_inputs(seed=1)
    later = changed_from(inputs, step + 1, other, ("state", "pixels", "action"))
    for before, after in zip(outputs(network, inputs), outputs(network, later), strict=True):
        assert torch.equal(before[:, : step + 1], after[:, : step + 1])
        assert not torch.equal(before[:, step + 1 :], after[:, step + 1 :])


def test_the_answer_moves_no_bit() -> None:
    """The action at t is what the policy must predict: it may show from t + 1 on only."""
    network, inputs, other = make_network(), make_inputs(), make_inputs(seed=1)
    answered = changed_from(inputs, 4, other, ("action",))
    policy, value = outputs(network, inputs)
    policy_after, value_after = outputs(network, answered)
    assert torch.equal(policy[:, :5], policy_after[:, :5])
    assert not torch.equal(policy[0, 5:], policy_after[0, 5:])
    assert torch.equal(value, value_after)


def test_dropped_history_hides_all_actions() -> None:
    network, inputs, other = make_network(), make_inputs(), make_inputs(seed=1)
    policy, _ = outputs(network, inputs)
    policy_after, _ = outputs(network, changed_from(inputs, 0, other, ("action",)))
    assert torch.equal(policy[1], policy_after[1])
    assert not torch.equal(policy[0], policy_after[0])


def test_the_value_sees_only_its_own_step() -> None:
    network, inputs, other = make_network(), make_inputs(), make_inputs(seed=1)
    past = dict(inputs)
    for name in ("state", "pixels", "action"):
        past[name] = torch.cat((other[name][:, :4], inputs[name][:, 4:]), dim=1)
    _, value = outputs(network, inputs)
    _, value_after = outputs(network, past)
    assert torch.equal(value[:, 4:], value_after[:, 4:])
    assert not torch.equal(value[:, :4], value_after[:, :4])


@pytest.mark.parametrize("name", ["state", "pixels", "instruction"])
def test_every_input_counts(name: str) -> None:
    network, inputs, other = make_network(), make_inputs(), make_inputs(seed=1)
    for before, after in zip(
        outputs(network, inputs), outputs(network, inputs | {name: other[name]}), strict=True
    ):
        assert not torch.equal(before, after)


@torch.no_grad()
def test_pixels_alone_leave_of_the_state_what_the_body_feels() -> None:
    schema = Schema((Slot("goal_position", 3), Slot("gripper", 8)), 3, 64, (0.0, 1.0))
    inputs, other = make_inputs(), make_inputs(seed=1)
    for names, seen in (("pixels", False), ("pixels+state", True)):
        network = make_network(names)
        hidden = hidden_state(schema, names)
        network.normalise_by(torch.zeros(11), torch.ones(11), hidden)
        for part, counts in ((slice(0, 3), seen), (slice(3, 11), True)):
            changed = inputs["state"].clone()
            changed[..., part] = other["state"][..., part]
            for before, after in zip(
                outputs(network, inputs), outputs(network, inputs | {"state": changed}), strict=True
            ):
                assert torch.equal(before, after) != counts


@pytest.mark.parametrize("inputs_name", ["state", "pixels+state"])
def test_step_by_step_equals_the_parallel_pass(inputs_name: str) -> None:
    network, inputs = make_network(inputs_name), make_inputs(steps=40)
    policy, value = outputs(network, inputs)
    cache = network.new_cache(40)
    for t in range(40):
        before = inputs["action"][:, t - 1 : t] if t else torch.zeros(2, 1, SHAPES.action_size)
        with torch.no_grad():
            step_policy, step_value = network(
                inputs["state"][:, t : t + 1], inputs["pixels"][:, t : t + 1],
                inputs["instruction"], before, inputs["history"], cache,
            )  # fmt: skip
        torch.testing.assert_close(step_policy[:, 0], policy[:, t], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(step_value[:, 0], value[:, t], atol=2e-5, rtol=1e-4)


def test_recomputation_gives_the_same_gradients() -> None:
    def gradients(recompute: bool) -> list[Tensor]:
        network, inputs = make_network("state"), make_inputs()
        network.recompute = 2 if recompute else 0
        policy, value = network(
            inputs["state"], None, inputs["instruction"], inputs["action"], inputs["history"]
        )
        (policy.square().sum() + value.square().sum()).backward()
        return [p.grad for p in network.parameters() if p.grad is not None]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        # sums over the tokens' several uses come in another order
        assert (recomputed - plain).norm() <= 1e-5 * plain.norm()


def test_tiny_is_tiny() -> None:
    shapes = dataclasses.replace(SHAPES, state_size=50, action_size=7)
    network = PolicyValueNetwork(load_preset("tiny").model, shapes, ("pixels", "state"))
    assert sum(p.numel() for p in network.parameters()) <= 400_000


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_builds_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        network = PolicyValueNetwork(load_preset(name).model, SHAPES, ("pixels", "state"))
    assert sum(p.numel() for p in network.parameters()) > 100_000


