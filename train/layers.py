"""Attention and feed-forward layers that every module of the network shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLAIN_KEYS = 32  # at most so many keys: a plain product beats SDPA (it took 59 % of a CPU step)


class KVCache:
    """Keys and values of past steps, (n, kv_heads, capacity, head_width) each."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add new steps (n, kv_heads, t, head_width); returns all so far."""
        if self.keys is None or self.values is None:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self.keys, self.values = keys.new_zeros(shape), values.new_zeros(shape)
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def rotary(length: int, head_width: int, start: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin (length, head_width / 2) of positions start, start + 1, … (Su et al. 2021)."""
    frequency = 10_000.0 ** (-torch.arange(0, head_width, 2, device=like.device) / head_width)
    angle = torch.arange(start, start + length, device=like.device)[:, None] * frequency
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (…, t, head_width) by position."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Attention(nn.Module):
    """Multi-head attention with grouped keys and values, QK-norm and a zero-initialised output."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, *, over_time: bool = False,
        zero_output: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.kv_heads, self.over_time = heads, kv_heads, over_time
        self.head_width = width // heads
        self.query = nn.Linear(width, heads * self.head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * kv_heads * self.head_width, bias=False)
        self.query_norm = nn.RMSNorm(self.head_width)
        self.key_norm = nn.RMSNorm(self.head_width)
        self.out = nn.Linear(heads * self.head_width, width, bias=False)
        self.out.zero_output = zero_output  # type: ignore[assignment]
        self.recording = False
        self.entropy: Tensor | None = None

    def forward(
        self, x: Tensor, context: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """(n, t, width), attending to `context` (n, s, width) or causally over time to itself.

        With a cache, x holds the next steps only and the past comes from the cache.
        """
        n, t, _ = x.shape
        source = x if context is None else context
        s = source.shape[1]
        q = self.query(x).view(n, t, self.heads, self.head_width)
        kv = self.key_value(source).view(n, s, 2 * self.kv_heads, self.head_width)
        k, v = kv.chunk(2, dim=2)
        q = self.query_norm(q).transpose(1, 2)
        k, v = self.key_norm(k).transpose(1, 2), v.transpose(1, 2)
        if self.over_time:
            start = cache.length if cache is not None else 0
            cos, sin = rotary(t, self.head_width, start, q)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            if cache is not None:
                k, v = cache.append(k, v)
        if self.recording and (self.over_time or context is not None):
            self.entropy = attention_entropy(q, k, causal=self.over_time)
        attended = self._attend(q, k, v)
        return self.out(attended.transpose(1, 2).reshape(n, t, -1))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        t, s = q.shape[2], k.shape[2]
        if not self.over_time and s <= PLAIN_KEYS:
            if self.kv_heads != self.heads:
                k, v = (x.repeat_interleave(self.heads // self.kv_heads, dim=1) for x in (k, v))
            scores = torch.matmul(q, k.transpose(-1, -2)) * self.head_width**-0.5
            return torch.matmul(scores.float().softmax(dim=-1).to(v.dtype), v)
        causal = self.over_time and t > 1
        # cached prefixes of several steps would need an offset mask: steps come one at a time
        assert not causal or t == s
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=causal, enable_gqa=self.kv_heads != self.heads
        )


@torch.no_grad()
def attention_entropy(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """Entropy of a query's weights over that of equal weights on the keys it sees: (n, t).

    q (n, heads, t, head_width), k (n, kv_heads, s, head_width); the mean over heads, which are
    looked at one by one: all at once, 30b's weights would take 0.5 GB. 0 where one key is seen.
    """
    heads, t, s = q.shape[1], q.shape[2], k.shape[2]
    seen = torch.full((t,), s, device=q.device)
    if causal:
        seen = torch.arange(s - t + 1, s + 1, device=q.device)
    hidden = torch.arange(s, device=q.device) >= seen[:, None]
    total = q.new_zeros(q.shape[0], t, dtype=torch.float32)
    for head in range(heads):
        keys = k[:, head // (heads // k.shape[1])].float()
        scores = q[:, head].float() @ keys.transpose(1, 2) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        total -= torch.xlogy(weights, weights).sum(dim=-1)
    return total / heads / seen.clamp(min=2).log()


@contextmanager
def record_entropy(network: nn.Module, valid: Tensor) -> Iterator[dict[str, float]]:
    """Mean attention entropy of the forward pass within, by layer, filled in at the end.

    Names are as in `attention/encoder.0.temporal`: attention over time, and across to the step's
    other tokens. 1 means equal weights on all keys, 0 a single key. valid (b, T) bool marks the
    steps that count; a segment's first, with nothing before it, never does. Costs the scores once
    more while it lasts.
    """
    layers = {n: layer for n, layer in network.named_modules() if isinstance(layer, Attention)}
    found: dict[str, float] = {}
    counted = valid.clone()
    counted[:, 0] = False
    for layer in layers.values():
        layer.recording = True
    try:
        yield found
        means = {
            f"attention/{name}": _mean_where(layer.entropy, counted, layer.over_time)
            for name, layer in layers.items() if layer.entropy is not None
        }  # fmt: skip
        if means:
            found.update(zip(means, torch.stack(list(means.values())).tolist(), strict=True))
    finally:
        for layer in layers.values():
            layer.recording, layer.entropy = False, None


def _mean_where(entropy: Tensor, counted: Tensor, over_time: bool) -> Tensor:
    """Mean over the steps that count: rows are tokens over time, else steps over queries."""
    b, steps = counted.shape
    rows = entropy.view(b, -1, steps) if over_time else entropy.view(b, steps, -1).transpose(1, 2)
    return (rows * counted[:, None]).sum() / (counted.sum().clamp(min=1) * rows.shape[1])


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer 2020) with a zero-initialised output."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.down.zero_output = True  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → the same."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)
