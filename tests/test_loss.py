"""The loss, against numbers worked out by hand and against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from palaestra.train.loss import (
    LossConfig,
    action_target,
    advantages,
    expected_value,
    hl_gauss,
    losses,
    mean_action,
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


def loss_of(
    steps: list[int], terminated: bool, demonstration: bool, reward: Tensor, config: LossConfig
) -> Tensor:
    """Policy term for uniform logits, whose cloning loss is log(bins) at every valid step."""
    b, length = reward.shape
    return losses(
        torch.zeros(b, length, 2, 21), torch.zeros(b, length, 51), torch.zeros(b, length, 2),
        reward, torch.tensor(steps), torch.tensor([terminated] * b),
        torch.tensor([demonstration] * b), (0.0, 1.0), config,
    ).policy  # fmt: skip


def test_the_filter_weighs_steps_as_designed() -> None:
    """Uniform values are 0.5 everywhere; reward 1 then has a positive advantage, reward 0 not."""
    config = LossConfig(floor=0.1)
    one = math.log(21)
    good, bad = torch.ones(1, 4), torch.zeros(1, 4)
    # the last of four steps is a bootstrapped edge and counts α whatever happened
    assert loss_of([4], False, False, good, config).item() == pytest.approx(3.1 * one, rel=1e-5)
    assert loss_of([4], False, False, bad, config).item() == pytest.approx(0.4 * one, rel=1e-5)
    assert loss_of([4], False, True, bad, config).item() == pytest.approx(4 * one, rel=1e-5)
    cloning = LossConfig(policy="bc")
    assert loss_of([4], False, False, bad, cloning).item() == pytest.approx(4 * one, rel=1e-5)


def test_padding_weighs_nothing() -> None:
    config, reward = LossConfig(policy="bc"), torch.ones(2, 6)
    assert loss_of([2, 0], False, False, reward, config).item() == pytest.approx(2 * math.log(21))


def test_the_rate_warms_up_and_decays_quadratically() -> None:
    def rate(update: int) -> float:
        return learning_rate(update, peak=3e-4, end=1e-5, warm_up=10, updates=110)

    assert rate(0) == pytest.approx(3e-5)
    assert rate(9) == pytest.approx(3e-4)
    assert rate(10) == pytest.approx(3e-4)
    assert rate(60) == pytest.approx(1e-5 + 2.9e-4 * 0.25)
    assert rate(110) == pytest.approx(1e-5)
