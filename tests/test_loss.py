"""The loss, against numbers worked out by hand and against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from palaestra.train.loss import (
    POLICY_LOSSES,
    LossConfig,
    LossTerms,
    action_target,
    advantages,
    expected_value,
    hl_gauss,
    is_top,
    losses,
    mean_action,
    top_share,
    value_centres,
)
from palaestra.train.schedule import learning_rate
from torch import Tensor

CPU = torch.device("cpu")


def test_action_targets_are_normal_histograms() -> None:
    density = [math.exp(-0.5 * ((c - 0.25) / 0.2) ** 2) for c in (-1, -0.5, 0, 0.5, 1)]
    expected = torch.tensor(density) / sum(density)
    torch.testing.assert_close(action_target(torch.tensor(0.25), 5, 0.2), expected)


def test_mean_decoding_recovers_the_action() -> None:
    actions = torch.linspace(-0.5, 0.5, 11)  # the ends of the range pull towards the middle
    decoded = mean_action(action_target(actions, 21, 0.2).log())
    torch.testing.assert_close(decoded, actions, atol=0.01, rtol=0)


def test_hl_gauss_is_the_normal_mass_of_each_bin() -> None:
    target, bins = 0.37, 10
    sigma = 0.75 / bins

    def phi(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    mass = [
        phi(((i + 1) / bins - target) / sigma) - phi((i / bins - target) / sigma)
        for i in range(bins)
    ]
    expected = torch.tensor(mass) / sum(mass)
    torch.testing.assert_close(
        hl_gauss(torch.tensor(target), bins, 0.0, 1.0), expected, atol=1e-6, rtol=0
    )


def test_expected_value_inverts_hl_gauss() -> None:
    targets = torch.linspace(0.1, 0.9, 9)
    logits = hl_gauss(targets, 51, 0.0, 1.0).clamp(min=1e-30).log()
    torch.testing.assert_close(expected_value(logits, 0.0, 1.0), targets, atol=1e-3, rtol=0)
    assert value_centres(2, -1.0, 1.0, CPU).tolist() == [-0.5, 0.5]


def advantages_by_loop(
    reward: list[float], value: list[float], terminated: bool, gamma: float, lam: float
) -> list[float]:
    """The recursion of the paper, one step at a time."""
    result, running = [], 0.0
    for t in reversed(range(len(reward))):
        last = t == len(reward) - 1
        following = (0.0 if terminated else value[t]) if last else value[t + 1]
        delta = (1 - gamma) * reward[t] + gamma * following - value[t]
        running = delta + (0.0 if last else gamma * lam * running)
        result.append(running)
    return result[::-1]


@pytest.mark.parametrize("terminated", [False, True])
def test_advantages_equal_the_recursion(terminated: bool) -> None:
    g = torch.Generator().manual_seed(1)
    reward, value = torch.rand(2, 12, generator=g), torch.rand(2, 12, generator=g)
    steps = torch.tensor([12, 7])
    found = advantages(reward, value, steps, torch.tensor([terminated] * 2), 0.9, 0.8)
    for row, length in enumerate(steps.tolist()):
        expected = advantages_by_loop(
            reward[row, :length].tolist(), value[row, :length].tolist(), terminated, 0.9, 0.8
        )
        torch.testing.assert_close(found[row, :length], torch.tensor(expected), atol=1e-6, rtol=0)
        assert not found[row, length:].any()


def test_a_time_limit_bootstraps_and_a_termination_does_not() -> None:
    """One step, reward 0, value v: A = γv − v at a limit, −v at an end."""
    reward, value, steps = torch.zeros(1, 1), torch.full((1, 1), 0.5), torch.tensor([1])
    limit = advantages(reward, value, steps, torch.tensor([False]), 0.9, 0.95)
    end = advantages(reward, value, steps, torch.tensor([True]), 0.9, 0.95)
    assert limit.item() == pytest.approx(0.9 * 0.5 - 0.5)
    assert end.item() == pytest.approx(-0.5)


def terms_of(
    reward: Tensor, config: LossConfig, steps: list[int] | None = None, *,
    terminated: bool = False, demonstration: bool = False, top: list[bool] | None = None,
    value: Tensor | None = None,
) -> LossTerms:  # fmt: skip
    """For uniform policy logits, whose cloning loss is log(21) at every valid step.

    value (b, T), centres of 51 bins, becomes the critic's; by default its logits are uniform: 0.5.
    """
    b, length = reward.shape
    value_logits = torch.zeros(b, length, 51)
    if value is not None:
        bin_of = (value * 51 - 0.5).round().long()
        value_logits = 1e4 * torch.nn.functional.one_hot(bin_of, 51).float()
    return losses(
        torch.zeros(b, length, 2, 21), value_logits, torch.zeros(b, length, 2), reward,
        torch.tensor(steps or [length] * b), torch.tensor([terminated] * b),
        torch.tensor([demonstration] * b), (0.0, 1.0), config,
        None if top is None else torch.tensor(top),
    )  # fmt: skip


def weight_of(*arguments: Any, **options: Any) -> float:
    """Sum of the weights of all steps."""
    return terms_of(*arguments, **options).policy.item() / math.log(21)


GOOD, BAD = torch.ones(1, 4), torch.zeros(1, 4)  # where values are 0.5: A > 0, and A < 0


def test_the_filter_weighs_steps_as_designed() -> None:
    config = LossConfig("binary", floor=0.1)
    # the last of four steps is a bootstrapped edge and counts α whatever happened
    assert weight_of(GOOD, config) == pytest.approx(3.1, rel=1e-5)
    assert weight_of(BAD, config) == pytest.approx(0.4, rel=1e-5)
    # a termination is no edge: reward 1 at the end, A = 0.01 − 0.5 < 0 there with γ = 0.99
    assert weight_of(GOOD, config, terminated=True) < 3.1
    one = LossConfig("binary", floor=0.1, discount=0.1)  # A = 0.9 − 0.5 > 0
    assert weight_of(GOOD, one, terminated=True) == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize("policy", [p for p in POLICY_LOSSES if not is_top(p)])
def test_demonstrations_count_in_full(policy: str) -> None:
    config = LossConfig(policy=policy)
    found = weight_of(BAD, config, demonstration=True, top=[False])
    assert found == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize("policy", ["bc", "top10", "top50"])
def test_cloning_counts_every_step(policy: str) -> None:
    """What `top10` leaves out, the reader leaves out."""
    assert weight_of(BAD, LossConfig(policy=policy)) == pytest.approx(4, rel=1e-5)


def test_names_of_losses_tell_the_share_of_episodes() -> None:
    shares = {name: top_share(name) for name in ("top1", "top10", "top99", "top-half", "bc")}
    assert shares == {"top1": 0.01, "top10": 0.1, "top99": 0.99, "top-half": 0.5, "bc": None}
    others = ("top0", "top05", "top100", "top", "atop10", "top10x", "top-half")
    assert is_top("top50") and not any(is_top(name) for name in others)


def test_exponential_weights_have_a_floor_and_a_cap() -> None:
    """One step that ends the episode, γ = 0.5: A = 0.5 r − V."""
    config = LossConfig(policy="exp", floor=0.1, temperature=0.2, cap=3.0, discount=0.5)

    def found(reward: float, value: float) -> float:
        return weight_of(
            torch.tensor([[reward]]), config, terminated=True, value=torch.tensor([[value]])
        )

    v = 25.5 / 51  # a bin's centre
    assert found(1.0, v) == pytest.approx(1.0, rel=1e-4)  # A = 0
    assert found(0.8, v) == pytest.approx(0.1 + 0.9 * math.exp(-0.1 / 0.2), rel=1e-4)
    assert found(1.0, 20.5 / 51) == pytest.approx(0.1 + 0.9 * math.exp(5 / 51 / 0.2), rel=1e-4)
    assert found(1.0, 0.5 / 51) == pytest.approx(0.1 + 0.9 * 3, rel=1e-4)  # exp(2.45) > 3
    assert found(0.0, 50.5 / 51) == pytest.approx(0.1 + 0.9 * math.exp(-50.5 / 51 / 0.2), rel=1e-4)
    # an edge: its A says nothing
    edge = weight_of(torch.tensor([[1.0]]), config, value=torch.tensor([[0.5 / 51]]))
    assert edge == pytest.approx(0.1, rel=1e-4)


def test_exponential_weights_never_overflow() -> None:
    config = LossConfig(policy="exp", temperature=1e-4, floor=0.0)
    assert weight_of(GOOD, config) == pytest.approx(3 * 20, rel=1e-5)


def test_top_half_keeps_what_is_good_in_good_episodes() -> None:
    config = LossConfig(policy="top-half", floor=0.1)
    both, mixed = torch.ones(2, 4), torch.cat((GOOD, BAD))
    assert weight_of(both, config, top=[True, False]) == pytest.approx(3.1 + 0.4, rel=1e-5)
    assert weight_of(mixed, config, top=[True, True]) == pytest.approx(3.1 + 0.4, rel=1e-5)
    assert weight_of(both, config) == pytest.approx(6.2, rel=1e-5)
    kept = terms_of(both, config, top=[True, False]).kept
    assert kept.tolist() == [[True] * 4, [False] * 4]
    filtered = LossConfig(policy="binary")
    assert terms_of(both, filtered, top=[True, False]).kept.all()  # another loss does not look


def test_padding_weighs_nothing() -> None:
    """Whatever the arrays hold there."""
    config, g = LossConfig(policy="bc"), torch.Generator().manual_seed(0)
    drawn, steps = torch.rand(2, 6, generator=g), [2, 0]
    cleared = drawn * torch.tensor([[1.0, 1, 0, 0, 0, 0], [0.0] * 6])
    found = terms_of(drawn, config, steps)
    assert found.policy.item() == pytest.approx(2 * math.log(21))
    assert found.value.item() == pytest.approx(2 * math.log(51))
    assert found.entropy.item() == pytest.approx(2 * math.log(21))
    assert found.calibration[0].item() == pytest.approx(2 * 0.5)
    assert not found.kept[:, 2:].any() and not found.kept[1].any()
    for one, other in zip(found, terms_of(cleared, config, steps), strict=True):
        assert torch.equal(one, other)


def test_the_loss_of_a_batch_is_the_sum_of_its_segments() -> None:
    """So ranks and micro-batches of any size make the same gradient, divided by all valid steps."""
    g = torch.Generator().manual_seed(0)
    reward, steps = torch.rand(3, 8, generator=g), [8, 3, 0]
    whole = terms_of(reward, LossConfig("binary"), steps)
    parts = [terms_of(reward[i : i + 1], LossConfig("binary"), steps[i : i + 1]) for i in range(3)]
    for name in ("total", "policy", "value", "correct", "entropy", "calibration"):
        summed = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(getattr(whole, name), summed)


def test_an_entry_that_a_task_does_not_use_is_left_out() -> None:
    """Tasks share one action vector, zero throughout a segment where a task has no such entry.

    Four steps of two entries: the used one's policy is uniform, log(21) a step; the other's has
    learned the very opposite of zero, and that counts for nothing. Where no entry ever moves,
    standing still is what was played, and all are cloned.
    """
    action = torch.zeros(1, 4, 2)
    action[0, 2, 0] = 0.7
    logits = torch.zeros(1, 4, 2, 21, requires_grad=True)

    def cloned(played: Tensor) -> LossTerms:
        return losses(
            logits, torch.zeros(1, 4, 51), played, torch.ones(1, 4), torch.tensor([4]),
            torch.tensor([False]), torch.tensor([False]), (0.0, 1.0), LossConfig(policy="bc"),
        )  # fmt: skip

    with torch.no_grad():
        logits[..., 1, -1] = 9.0
    found = cloned(action)
    assert found.policy.item() == pytest.approx(4 * math.log(21), rel=1e-5)
    assert found.entropy.item() == pytest.approx(4 * math.log(21), rel=1e-5)
    (gradient,) = torch.autograd.grad(found.total, logits)
    assert gradient[..., 0, :].any() and not gradient[..., 1, :].any()
    assert cloned(torch.zeros(1, 4, 2)).policy.item() > 4 * math.log(21)


def test_the_critic_learns_the_histogram_of_the_lambda_return() -> None:
    """One step of reward 1 that ends the episode: the return is 1 − γ, whatever V was."""
    config = LossConfig("binary", discount=0.7)
    found = terms_of(torch.ones(1, 1), config, terminated=True)
    assert found.value.item() == pytest.approx(math.log(51), rel=1e-5)  # V's logits are uniform
    assert found.total.item() == pytest.approx(
        found.policy.item() + config.value_weight * math.log(51), rel=1e-5
    )
    value = torch.tensor([[15.5 / 51]])  # on a bin's centre, 0.3039
    sure = terms_of(torch.ones(1, 1), config, terminated=True, value=value)
    mass = hl_gauss(torch.tensor(0.3), 51, 0.0, 1.0)
    # logits 10⁴ on V's bin and 0 elsewhere: the mass that lies elsewhere costs 10⁴
    assert sure.value.item() == pytest.approx(1e4 * (1 - mass[15].item()), rel=1e-4)


def test_calibration_compares_values_with_returns_to_the_edge() -> None:
    """γ = 0.5, V = 0.5: G = ½ r + ½ G', from ½·0.5 at a limit and from 0 at an end."""
    config = LossConfig("binary", discount=0.5, trace=0.3)
    reward = torch.tensor([[1.0, 0.0, 1.0]])
    limit, end = (terms_of(reward, config, terminated=t).calibration for t in (False, True))
    for found, last in ((limit, 0.75), (end, 0.5)):
        g = [0.5 + 0.25 * last, 0.5 * last, last]
        expected = [1.5, sum(g), 0.75, sum(x * x for x in g), 0.5 * sum(g)]
        assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_rate_warms_up_and_decays_quadratically() -> None:
    def rate(update: int) -> float:
        return learning_rate(update, peak=3e-4, end=1e-5, warm_up=10, updates=110)

    assert rate(0) == pytest.approx(3e-5)
    assert rate(9) == pytest.approx(3e-4)
    assert rate(10) == pytest.approx(3e-4)
    assert rate(60) == pytest.approx(1e-5 + 2.9e-4 * 0.25)
    assert rate(110) == pytest.approx(1e-5)
