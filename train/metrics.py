"""A global batch's metrics: summed where the network runs, read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .loss import LossTerms

MEANS = ("policy_loss", "value_loss", "accuracy", "entropy")
MOMENTS = 5
NO_SPREAD = 1e-10  # variance, in units of ((1 − γ) · return)², that sums of 10⁶ steps cannot tell


class Tally:
    """Sums over the micro-batches of a global batch, on the device: adding waits for nothing."""

    def __init__(self, behaviours: Sequence[str], device: torch.device) -> None:
        self.behaviours = list(behaviours)
        size = 1 + len(MEANS) + MOMENTS + 2 * len(self.behaviours)
        self.sums = torch.zeros(size, dtype=torch.float64, device=device)

    def add(self, terms: LossTerms, steps: Tensor, behaviour: Tensor) -> None:
        """Take in a micro-batch; steps (b,) and behaviour (b,) int64 as in SegmentBatch."""
        device = self.sums.device
        steps, behaviour = steps.to(device), behaviour.to(device)
        sums = (steps.sum(), terms.policy, terms.value, terms.correct, terms.entropy)
        counts = torch.stack((terms.kept.sum(dim=1), steps)).double()
        by_behaviour = counts.new_zeros(2, len(self.behaviours)).index_add_(1, behaviour, counts)
        self.sums += torch.cat(
            (torch.stack([x.double() for x in sums]), terms.calibration, by_behaviour.flatten())
        )

    def result(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over all ranks' valid steps, `kept/…` over a behaviour's; one transfer.

        `value_bias` is mean(V − G), `value_slope` that of the regression of G on V (1: calibrated)
        and `value_explained` 1 − Var(G − V) / Var(G), with V in units of (1 − γ) · return and G the
        λ = 1 return to the segment's edge. A slope without spread is left out.
        """
        steps, *sums = sum_over_ranks(self.sums.clone()).cpu().tolist()
        valid = max(steps, 1.0)
        means, moments = sums[: len(MEANS)], sums[len(MEANS) : len(MEANS) + MOMENTS]
        metrics = {"steps": steps} | {n: s / valid for n, s in zip(MEANS, means, strict=True)}
        counts = sums[len(MEANS) + MOMENTS :]
        kept, played = counts[: len(self.behaviours)], counts[len(self.behaviours) :]
        metrics["advantage_kept"] = sum(kept) / valid
        for name, share, count in zip(self.behaviours, kept, played, strict=True):
            if count:
                metrics[f"kept/{name}"] = share / count
        return metrics | _calibration([moment / valid for moment in moments])


def _calibration(means: Sequence[float]) -> dict[str, float]:
    """What the means of V, G, V², G² and V·G tell of a critic."""
    v, g, vv, gg, vg = means
    spread, wanted, together = vv - v * v, gg - g * g, vg - v * g
    metrics = {"value_bias": v - g}
    if spread > NO_SPREAD:
        metrics["value_slope"] = together / spread
    if wanted > NO_SPREAD:
        metrics["value_explained"] = 1 - (wanted - 2 * together + spread) / wanted
    return metrics
