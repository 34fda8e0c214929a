"""Perception: a frame becomes K tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Attention, SwiGLU


class FrameBlock(nn.Module):
    """Self-attention among a frame's patches, then SwiGLU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.attention = Attention(width, heads, heads)
        self.mlp_norm = nn.RMSNorm(width)
        self.mlp = SwiGLU(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, patches, width) → the same."""
        x = x + self.attention(self.norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Perception(nn.Module):
    """Patch embedding with 2-D positions, a small transformer within the frame, K pooled tokens.

    Pooling is cross-attention from K learned queries (Jaegle et al. 2021, Perceiver).
    """

    def __init__(
        self, image_size: int, patch: int, width: int, blocks: int, heads: int, tokens: int,
        out_width: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch, side = patch, image_size // patch
        self.embed = nn.Linear(3 * patch * patch, width, bias=False)
        self.row = nn.Parameter(torch.zeros(side, 1, width))
        self.column = nn.Parameter(torch.zeros(1, side, width))
        self.blocks = nn.ModuleList(FrameBlock(width, heads) for _ in range(blocks))
        self.norm = nn.RMSNorm(width)
        self.queries = nn.Parameter(torch.zeros(tokens, width))
        self.pool = Attention(width, heads, heads, zero_output=False)
        self.out = nn.Linear(width, out_width, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, H, H, 3) uint8 → (n, K, out_width)."""
        n, size = pixels.shape[0], pixels.shape[1]
        side, p = size // self.patch, self.patch
        patches = pixels.reshape(n, side, p, side, p, 3).transpose(2, 3)
        x = patches.reshape(n, side * side, 3 * p * p).to(self.embed.weight.dtype)
        x = self.embed(x / 64.0 - 2.0)  # about zero mean, unit spread
        x = x + (self.row + self.column).reshape(1, side * side, -1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        queries = self.queries.expand(n, -1, -1)
        return self.out(self.pool(queries, x))


def augment(pixels: Tensor, draws: Tensor, shift: int, colour: float) -> Tensor:
    """Random shift (Yarats et al. 2021, DrQ) and brightness per channel, one draw per segment.

    (b, T, H, H, 3) uint8 with draws (b, 5) in [0, 1) → the same. One draw per segment keeps motion
    between frames intact.
    """
    size = pixels.shape[2]
    moves = (draws[:, :2] * (2 * shift + 1)).long() - shift
    gains = 1 + colour * (2 * draws[:, 2:] - 1)
    out = torch.empty_like(pixels)
    for i, ((dy, dx), gain) in enumerate(zip(moves.tolist(), gains, strict=True)):
        rows = torch.arange(size).add(dy).clamp(0, size - 1)
        columns = torch.arange(size).add(dx).clamp(0, size - 1)
        moved = pixels[i].index_select(1, rows.to(pixels.device))
        moved = moved.index_select(2, columns.to(pixels.device))
        table = (torch.arange(256)[:, None] * gain).clamp(0, 255).to(torch.uint8)
        channels = [table[:, c].to(pixels.device)[moved[..., c].int()] for c in range(3)]
        out[i] = torch.stack(channels, dim=-1)
    return out
