"""Metrics of a global batch, and attention entropy, against numbers worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch
from palaestra.train.config import load_preset
from palaestra.train.layers import Attention, attention_entropy, record_entropy
from palaestra.train.loss import LossTerms
from palaestra.train.metrics import Tally
from palaestra.train.model import PolicyValueNetwork, Shapes
from torch import Tensor

CPU = torch.device("cpu")


def terms(
    kept: list[list[int]], sums: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0),
    value: tuple[float, ...] = (), outcome: tuple[float, ...] = (),
) -> LossTerms:  # fmt: skip
    """Terms with these sums of policy, value, correct and entropy, and these V and G."""
    v, g = (torch.tensor(x, dtype=torch.float64) for x in (value, outcome))
    moments = torch.stack([x.sum() for x in (v, g, v * v, g * g, v * g)])
    scalars = [torch.tensor(x) for x in sums]
    return LossTerms(scalars[0], *scalars, moments, torch.tensor(kept, dtype=torch.bool))


def alone(sums: Tensor) -> Tensor:
    """Sum over one rank."""
    return sums


def test_means_are_over_valid_steps_and_shares_by_behaviour() -> None:
    tally = Tally(["expert", "noisy", "random"], CPU)
    tally.add(terms([[1, 1, 0], [1, 0, 0]]), torch.tensor([3, 1]), torch.tensor([0, 2]))
    tally.add(terms([[0, 0, 0], [1, 0, 0]], (1.0, 1.0, 2.0, 3.0)),
              torch.tensor([2, 2]), torch.tensor([2, 2]))  # fmt: skip
    found = tally.result(alone)
    assert found["steps"] == 8
    assert found["policy_loss"] == 3 / 8
    assert found["value_loss"] == 4 / 8
    assert found["accuracy"] == 6 / 8
    assert found["entropy"] == 1.0
    assert found["advantage_kept"] == 4 / 8
    assert found["kept/expert"] == 2 / 3
    assert found["kept/random"] == 2 / 5
    assert "kept/noisy" not in found  # nobody saw it


def test_calibration_is_a_regression_of_returns_on_values() -> None:
    """V = 1, 2, 3, G = 1, 4, 4: slope 3 / 2, residuals G − V = 0, 2, 1 of variance 2 / 3."""
    tally = Tally(["expert"], CPU)
    for value, outcome in (((1.0, 2.0), (1.0, 4.0)), ((3.0,), (4.0,))):
        steps = torch.tensor([len(value)])
        tally.add(terms([[0, 0]], value=value, outcome=outcome), steps, torch.tensor([0]))
    found = tally.result(alone)
    assert found["value_bias"] == pytest.approx(-1)
    assert found["value_slope"] == pytest.approx(1.5)
    assert found["value_explained"] == pytest.approx(1 - (2 / 3) / 2)


def test_a_perfect_critic_and_one_that_knows_nothing() -> None:
    def found(value: tuple[float, ...]) -> dict[str, float]:
        tally = Tally(["expert"], CPU)
        tally.add(terms([[0]], value=value, outcome=(0.25, 0.5)), torch.tensor([2]),
                  torch.tensor([0]))  # fmt: skip
        return tally.result(alone)

    perfect, constant = found((0.25, 0.5)), found((0.375, 0.375))
    names = ("value_bias", "value_slope", "value_explained")
    assert [perfect[n] for n in names] == pytest.approx([0, 1, 1])
    assert constant["value_explained"] == pytest.approx(0)
    assert "value_slope" not in constant  # and no NaN, which JSON lacks


def test_no_valid_step_gives_numbers_that_json_takes() -> None:
    tally = Tally(["expert"], CPU)
    empty = terms([[0]], (0.0, 0.0, 0.0, 0.0))
    tally.add(empty, torch.tensor([0]), torch.tensor([0]))
    found = tally.result(alone)
    assert json.loads(json.dumps(found, allow_nan=False))["policy_loss"] == 0


def test_asking_twice_counts_once() -> None:
    """An all-reduce changes the tensor it is given."""
    tally = Tally(["expert"], CPU)
    tally.add(terms([[1, 0]]), torch.tensor([2]), torch.tensor([0]))
    assert tally.result(lambda sums: sums.mul_(3)) == tally.result(lambda sums: sums.mul_(3))


def test_ranks_add_up() -> None:
    """What another rank has summed is added before anything is divided."""
    first, second = Tally(["expert"], CPU), Tally(["expert"], CPU)
    for tally, steps in ((first, 2), (second, 3)):
        tally.add(terms([[1, 1, 0]]), torch.tensor([steps]), torch.tensor([0]))
    found = first.result(lambda sums: sums + second.sums)
    assert found["steps"] == 5
    assert found["kept/expert"] == found["policy_loss"] == 4 / 5


def entropy_of(*weights: float) -> float:
    """In nats."""
    return -sum(w * math.log(w) for w in weights if w)


def test_entropy_of_weights_known_by_hand() -> None:
    """Width 4, so that scores are halved: q·k = 2 log w gives weights in proportion to w."""
    k = torch.zeros(1, 1, 3, 4)
    k[0, 0, :, 0] = torch.tensor([1.0, 2.0, 5.0]).log() * 2
    q = torch.zeros(1, 2, 3, 4)
    q[0, 0, :, 0] = 1.0  # the other head's scores are all equal
    found = attention_entropy(q, k, causal=True)[0].tolist()
    two = entropy_of(1 / 3, 2 / 3) / math.log(2)
    three = entropy_of(1 / 8, 2 / 8, 5 / 8) / math.log(3)
    assert found == pytest.approx([0.0, (two + 1) / 2, (three + 1) / 2], rel=1e-5)
    across = attention_entropy(q, k, causal=False)[0].tolist()
    assert across == pytest.approx([(three + 1) / 2] * 3, rel=1e-5)


def test_grouped_heads_meet_their_own_keys() -> None:
    """Four heads on two groups of keys: equal ones, and one so large that it takes all."""
    k = torch.zeros(1, 2, 2, 4)
    k[0, 1, 1] = 100.0
    q = torch.ones(1, 4, 2, 4)
    q[0, 2] = 0.0  # the first of the second group asks for nothing: 1, 1, 1, 0
    found = attention_entropy(q, k, causal=False)
    assert found[0].tolist() == pytest.approx([0.75, 0.75], abs=1e-6)


def make_network() -> PolicyValueNetwork:
    """The tiny preset on state; as drawn, or with scores of the caller's."""
    shapes = Shapes(state_size=5, action_size=2, image_size=64, instruction_bytes=8)
    network = PolicyValueNetwork(load_preset("tiny").model, shapes, ("state",))
    network.initialise(torch.Generator().manual_seed(0))
    return network.eval()


def run(network: PolicyValueNetwork, steps: int = 6) -> Tensor:
    """Policy logits of two segments."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        policy, _ = network(
            torch.randn(2, steps, 5, generator=g), None,
            torch.randint(1, 128, (2, 8), generator=g, dtype=torch.uint8),
            torch.rand(2, steps, 2, generator=g), torch.tensor([True, False]),
        )  # fmt: skip
    return policy


NAMES = {
    "attention/encoder.0.temporal", "attention/decoder.0.self_attention",
    "attention/decoder.0.cross",
}  # fmt: skip


def test_layers_over_time_and_across_are_recorded_by_name() -> None:
    network = make_network()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, Attention):
                layer.query_norm.weight.zero_()  # all scores equal
    with record_entropy(network, torch.ones(2, 6, dtype=torch.bool)) as found:
        run(network)
        assert not found
    assert found == {name: pytest.approx(1.0) for name in NAMES}


def test_the_entropy_is_that_of_the_weights_which_the_layer_uses() -> None:
    """From the layer's outputs alone: values that are one-hot by step give the weights back."""
    layer = Attention(8, 2, 1, over_time=True)
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8)
    recorded: list[Tensor] = []
    attend = layer._attend

    def with_known_values(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = attend(q, k, torch.eye(4)[None, None])
        recorded.append(weights)
        return attend(q, k, v)

    layer._attend = with_known_values  # type: ignore[method-assign]
    with record_entropy(layer, torch.ones(1, 4, dtype=torch.bool)) as found:
        layer(x)
    weights = recorded[0][0]  # (heads, t, s)
    expected = [
        entropy_of(*weights[head, t, : t + 1].tolist()) / math.log(t + 1)
        for head in range(2) for t in range(1, 4)
    ]  # fmt: skip
    assert 0 < min(expected) < max(expected) < 1
    assert found["attention/"] == pytest.approx(sum(expected) / 6, rel=1e-5)


def test_steps_that_are_padding_do_not_count() -> None:
    """Segments of 6 and 3 steps: padding changes nothing, whatever it holds."""
    network = make_network()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    valid = torch.arange(6) < torch.tensor([[6], [3]])
    with record_entropy(network, valid) as whole:
        run(network)
    with record_entropy(network, valid & (torch.arange(2) == 0)[:, None]) as first:
        run(network)
    with record_entropy(network, valid & (torch.arange(2) == 1)[:, None]) as second:
        run(network)
    for name in NAMES:  # five steps of the one, two of the other, firsts left out
        assert first[name] != second[name]
        assert whole[name] == pytest.approx((5 * first[name] + 2 * second[name]) / 7, rel=1e-5)


def test_several_queries_a_step_belong_to_their_step() -> None:
    """Two segments of three steps, a row each, of two queries; the last step's see one key only."""
    layer = Attention(4, 1, 1)
    with torch.no_grad():
        for linear in (layer.query, layer.key_value):
            linear.weight.copy_(torch.eye(4).repeat(len(linear.weight) // 4, 1))
    layer.query_norm = layer.key_norm = torch.nn.Identity()  # type: ignore[assignment]
    queries = torch.zeros(6, 2, 4)
    queries[[2, 5], :, 0] = 100.0
    context = torch.zeros(6, 2, 4)
    context[:, 1, 0] = 100.0
    valid = torch.tensor([[True, True, True], [True, True, False]])
    with record_entropy(layer, valid) as found:
        layer(queries, context)
    assert found["attention/"] == pytest.approx(2 / 3)  # steps 1 and 2, and the other segment's 1


def test_recording_moves_no_bit_and_leaves_nothing_behind() -> None:
    network = make_network()
    before = run(network)
    with record_entropy(network, torch.ones(2, 6, dtype=torch.bool)):
        assert torch.equal(run(network), before)
    with pytest.raises(ValueError, match="stop"), record_entropy(network, torch.ones(2, 6)):
        raise ValueError("stop")
    layers = [layer for layer in network.modules() if isinstance(layer, Attention)]
    assert not any(layer.recording or layer.entropy is not None for layer in layers)
