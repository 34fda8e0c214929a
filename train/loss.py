"""Filtered cloning and a categorical critic, as pure functions of logits and data.

Loss = Σ_t w_t · CE(action bins) + c · CE(HL-Gauss(λ-return)), divided by the *global* batch's valid
steps, so that ranks and micro-batches of any size sum to the same gradient.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

POLICY_LOSSES = ("binary", "bc", "exp", "top-half", "top10")
"""The last stands for any of `top1` to `top99`."""


def top_share(policy: str) -> float | None:
    """Share of the episodes, by return, that a policy loss looks at; None for all alike."""
    if policy == "top-half":
        return 0.5
    found = re.fullmatch(r"top([1-9]\d?)", policy)
    return int(found[1]) / 100 if found else None


def is_top(policy: str) -> bool:
    """Whether a policy loss clones its share of the episodes, and reads no others."""
    return policy != "top-half" and top_share(policy) is not None


@dataclass(frozen=True)
class LossConfig:
    """What the loss weighs."""

    policy: str = "top10"
    """How a step with advantage A counts. `binary`: w = α + (1 − α)·1[A > 0]; `bc`: w = 1; `exp`:
    w = α + (1 − α)·min(exp(A / β), cap), as AWR (Peng 2019) and CRR (Wang 2020) do; `top10`: w = 1
    on the tenth of the episodes with the highest returns, others are not read (and so with any
    share from `top1` to `top99`); `top-half`: binary, and w = α in episodes of the lower half.
    The default won on mixed data by 25 points and more (docs/experiments.md); data that is good
    throughout loses nine tenths to it."""
    floor: float = 0.1
    """α, the weight of a step that the filter drops; weighted policies collapse without one."""
    temperature: float = 0.05
    """β of `exp`, in units of (1 − γ) · return; A deviates by 0.044 on mixed data."""
    cap: float = 20.0
    """Of `exp`, lest a few steps decide everything."""
    discount: float = 0.99
    """γ per control step."""
    trace: float = 0.95
    """λ of the λ-return."""
    value_weight: float = 0.05
    """c. The critic shares the state's embedding, and Adam makes c the share of its say there: at
    0.5 a cloned reacher came to 25 %, at 0 to 61 %, in the same updates."""
    smoothing: float = 0.2
    """Deviation of the cloning targets over the action bins."""


class LossTerms(NamedTuple):
    """Sums over valid steps, not yet divided; metrics by step where they are needed apart."""

    total: Tensor
    """Scalar to differentiate, after division by the global batch's valid steps."""
    policy: Tensor
    value: Tensor
    correct: Tensor
    """Action entries whose likeliest bin is the one played."""
    entropy: Tensor
    """Of the policy, mean over action dimensions."""
    calibration: Tensor
    """(5,) float64: Σ V, Σ G, Σ V², Σ G², Σ V·G, with G the λ = 1 return to the segment's edge."""
    kept: Tensor
    """(b, T) bool, valid steps that a filter keeps: A > 0, for `top-half` in the upper half too"""


def action_target(action: Tensor, bins: int, smoothing: float) -> Tensor:
    """Actions (…) in [-1, 1] as normal histograms of deviation `smoothing`: (…, bins).

    Sharp targets would let noise-free demonstrations, whose gradient grows with 1/σ², decide
    everywhere: with them a cloned reacher came to 28 %, with σ = 0.2 to 74 %, in 600 updates.
    """
    distance = action[..., None] - bin_centres(bins, action.device)
    return (-0.5 * (distance / smoothing).square()).softmax(dim=-1)


def used_entries(action: Tensor) -> Tensor:
    """(b, T, action_size) → (b, 1, action_size) bool: entries that ever move; all if none does.

    Swingup uses one entry of eight: with the others cloned, seven eighths of its loss taught zeros.
    """
    used = (action != 0).any(dim=1, keepdim=True)
    return used | ~used.any(dim=-1, keepdim=True)


def mean_where(chosen: Tensor, values: Tensor) -> Tensor:
    """(…, n) → (…): the mean over the chosen entries, of which there is at least one."""
    return torch.where(chosen, values, 0.0).sum(dim=-1) / chosen.sum(dim=-1)


def bin_centres(bins: int, device: torch.device | None = None) -> Tensor:
    """(bins,) action values in [-1, 1]."""
    return torch.linspace(-1, 1, bins, device=device)


def mean_action(logits: Tensor) -> Tensor:
    """(…, bins) → (…): the policy's mean; noisy expert data decoded so beats the mode."""
    probability = logits.float().softmax(dim=-1)
    return (probability * bin_centres(logits.shape[-1], logits.device)).sum(dim=-1)


def sample_action(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """(…, bins) → (…): an action of the policy at a temperature > 0, by its inverse distribution.

    uniform (…) in [0, 1) decides it. An action is its bin's centre, so that the mean over draws is
    `mean_action`. Spread within the bin it would teach the same: its `action_target` averages to
    the centre's but for 0.5 % of the mass (21 bins, σ = 0.2), while the outer bins, half of them
    outside [-1, 1], would play 0.99 for 1. Logits that are not finite give NaN, which a world
    refuses.
    """
    free = logits.double()  # in float32 a sum over bins can fall short of the largest uniform
    # the largest first: quotients of small temperatures stay below zero and never overflow to NaN
    free = (free - free.amax(dim=-1, keepdim=True)) / temperature
    reached = free.softmax(dim=-1).cumsum(dim=-1)
    drawn = (reached <= uniform[..., None] * reached[..., -1:]).sum(dim=-1)
    centres = bin_centres(logits.shape[-1], logits.device)
    return torch.where(reached[..., -1].isfinite(), centres[drawn], torch.nan)


def value_centres(bins: int, low: float, high: float, device: torch.device) -> Tensor:
    """(bins,) centres of the value bins on [low, high]."""
    edges = torch.linspace(low, high, bins + 1, device=device)
    return (edges[1:] + edges[:-1]) / 2


def hl_gauss(target: Tensor, bins: int, low: float, high: float) -> Tensor:
    """Histogram target (…, bins): mass of N(target, σ = 0.75 bins) by bin (Farebrother 2024)."""
    edges = torch.linspace(low, high, bins + 1, device=target.device)
    sigma = 0.75 * (high - low) / bins
    cdf = torch.special.ndtr((edges - target[..., None]) / sigma)
    mass = cdf[..., 1:] - cdf[..., :-1]
    return mass / mass.sum(dim=-1, keepdim=True).clamp(min=1e-6)


def expected_value(logits: Tensor, low: float, high: float) -> Tensor:
    """(…, bins) → (…): the mean of the value distribution, in units of (1 − γ) · return."""
    centres = value_centres(logits.shape[-1], low, high, logits.device)
    return (logits.float().softmax(dim=-1) * centres).sum(dim=-1)


def advantages(
    reward: Tensor, value: Tensor, steps: Tensor, terminated: Tensor, discount: float, trace: float
) -> Tensor:
    """Generalised advantages (Schulman et al. 2016) = λ-return − V, all times 1 − γ.

    reward (b, T), value (b, T) in units of (1 − γ) · return, steps (b,), terminated (b,) → (b, T),
    zero on padding. A termination does not bootstrap; a time limit or a segment's edge bootstraps
    from the last step's own value.
    """
    length = reward.shape[1]
    time = torch.arange(length, device=reward.device)
    valid = time < steps[:, None]
    last = time == steps[:, None] - 1
    following = torch.where(last, value, value.roll(-1, dims=1))
    following = torch.where(last & terminated[:, None], 0.0, following)
    delta = torch.where(valid, (1 - discount) * reward + discount * following - value, 0.0)
    # one triangular product instead of T steps backwards: powers[s, t] = (γλ)^(s − t), s ≥ t
    gap = time[:, None] - time
    powers = torch.where(gap >= 0, (discount * trace) ** gap.clamp(min=0).float(), 0.0)
    return torch.where(valid, delta @ powers, 0.0)


def losses(
    policy_logits: Tensor, value_logits: Tensor, action: Tensor, reward: Tensor, steps: Tensor,
    terminated: Tensor, demonstration: Tensor, reward_range: tuple[float, float],
    config: LossConfig, top: Tensor | None = None,
) -> LossTerms:  # fmt: skip
    """All terms of a micro-batch; shapes as in SegmentBatch, demonstration (b,) bool.

    Demonstrations have weight 1 whatever the filter says. `top` (b,) bool, by default all, marks
    the episodes of the upper half for `top-half`. Entries of an action that a task does not use
    are zero in a corpus, whose schema does not tell them apart: those that are zero throughout a
    segment are left out.
    """
    time = torch.arange(reward.shape[1], device=reward.device)
    valid = time < steps[:, None]
    low, high = reward_range
    with torch.no_grad():
        value = expected_value(value_logits, low, high)
        played = (reward, value, steps, terminated, config.discount)
        advantage = advantages(*played, config.trace)
        target = hl_gauss((value + advantage).clamp(low, high), value_logits.shape[-1], low, high)
        kept = (advantage > 0) & valid
        if config.policy == "top-half" and top is not None:
            kept &= top[:, None]
        weight = _policy_weight(advantage, kept, steps, terminated, demonstration, config)

    log_policy = F.log_softmax(policy_logits.float(), dim=-1)
    bins = action_target(action, policy_logits.shape[-1], config.smoothing)
    used = used_entries(action)
    cloning = -mean_where(used, (bins * log_policy).sum(dim=-1))
    policy = (weight * valid * cloning).sum()
    critic = -(target * F.log_softmax(value_logits.float(), dim=-1)).sum(dim=-1)
    value_loss = (valid * critic).sum()
    with torch.no_grad():
        right = mean_where(used, (log_policy.argmax(dim=-1) == bins.argmax(dim=-1)).float())
        entropy = -mean_where(used, (log_policy.exp() * log_policy).sum(dim=-1))
        calibration = _calibration(value, value + advantages(*played, 1.0), valid)
    return LossTerms(
        policy + config.value_weight * value_loss, policy.detach(), value_loss.detach(),
        (valid * right).sum(), (valid * entropy).sum(), calibration, kept,
    )  # fmt: skip


def _policy_weight(
    advantage: Tensor, kept: Tensor, steps: Tensor, terminated: Tensor, demonstration: Tensor,
    config: LossConfig,
) -> Tensor:  # fmt: skip
    """(b, T) weights of the cloning term."""
    if config.policy == "bc" or is_top(config.policy):
        return torch.ones_like(advantage)
    if config.policy == "exp":
        gain = (advantage / config.temperature).exp().clamp(max=config.cap)
        weight = config.floor + (1 - config.floor) * gain
    else:
        weight = torch.where(kept, 1.0, config.floor)
    time = torch.arange(kept.shape[1], device=kept.device)
    # a bootstrapped edge knows nothing of its own action's consequences
    edge = (time == steps[:, None] - 1) & ~terminated[:, None]
    return torch.where(demonstration[:, None], 1.0, torch.where(edge, config.floor, weight))


def _calibration(value: Tensor, outcome: Tensor, valid: Tensor) -> Tensor:
    """Sums over valid steps from which a regression of outcomes on values follows."""
    v, g = (torch.where(valid, x, 0.0).double() for x in (value, outcome))
    return torch.stack([x.sum() for x in (v, g, v * v, g * g, v * g)])
