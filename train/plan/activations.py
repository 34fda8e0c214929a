"""What autograd keeps of a forward pass for the backward pass, in bytes, layer by layer.

Follows `layers`, `perception` and `model` line by line; every formula is checked against the
storages that the real network saves (tests/test_plan.py). Not counted are tables shared by all
rows: rotary angles, positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...shards.schema import SEGMENT_STEPS
from ..layers import PLAIN_KEYS
from ..model import ModelConfig, Shapes
from .flops import step_tokens


@dataclass(frozen=True)
class Kernels:
    """What decides how much a layer keeps."""

    item: int = 2
    """Bytes of an activation: 2 in bf16, 4 in fp32."""
    fused_norm: bool = True
    """CUDA's RMSNorm keeps its input; on a CPU it keeps the input and the quotient in fp32."""


GPU = Kernels()


@dataclass(frozen=True)
class Activations:
    """Bytes that one micro-batch keeps."""

    perception: int
    embeddings: int
    encoder_block: int
    decoder_block: int
    encoder_input: int
    """What a recomputed encoder block keeps: its input."""
    decoder_input: int
    heads: int
    """Norms after encoder and decoder, both heads, the loss."""
    gradients: int
    """What an encoder block's backward pass adds at its widest, in the feed-forward layer: three
    gradients of its hidden width are there before the first of two activations can go."""


def activations(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], segments: int,
    kernels: Kernels = GPU,
) -> Activations:  # fmt: skip
    """Of a micro-batch of `segments` full segments."""
    steps, tokens = segments * SEGMENT_STEPS, step_tokens(config, inputs)
    layer, d = _Layer(kernels, config.width, config.heads, config.kv_heads), config.width
    rows = steps * tokens
    feed_forward = layer.norm(rows, d) + layer.feed_forward(rows, config.hidden)
    encoder = (
        layer.norm(rows, d) + layer.fused_attention(rows, rows, rotated=True)
        + layer.norm(rows, d) + layer.unmasked_attention(rows, rows, tokens) + feed_forward
    )  # fmt: skip
    cross = layer.unmasked_attention(steps, rows, tokens)
    decoder = (
        layer.norm(steps, d) + layer.fused_attention(steps, steps, rotated=True)
        + layer.norm(steps, d) + cross
        + layer.norm(steps, d) + layer.feed_forward(steps, config.hidden)
    )  # fmt: skip
    return Activations(
        perception=_perception(config, shapes, steps, kernels) if "pixels" in inputs else 0,
        embeddings=_embeddings(config, shapes, segments, steps, kernels.item),
        encoder_block=encoder, decoder_block=decoder,
        encoder_input=kernels.item * rows * d, decoder_input=kernels.item * steps * d,
        heads=_heads(config, shapes, steps, rows, layer),
        gradients=kernels.item * rows * 2 * config.hidden,
    )  # fmt: skip


@dataclass(frozen=True)
class _Layer:
    """Layers of one width; rows are tokens, all of a micro-batch's together."""

    kernels: Kernels
    width: int
    heads: int
    kv_heads: int

    @property
    def key_width(self) -> int:
        return self.width // self.heads * self.kv_heads

    def norm(self, rows: int, width: int) -> int:
        """RMSNorm's input and one reciprocal root a row."""
        return rows * (width * (self.kernels.item if self.kernels.fused_norm else 8) + 4)

    def feed_forward(self, rows: int, hidden: int) -> int:
        """SwiGLU: its input, gate and up, the gate's activation, their product."""
        return self.kernels.item * rows * (self.width + 4 * hidden)

    def fused_attention(self, queries: int, keys: int, rotated: bool) -> int:
        """By SDPA: input, q and output; k; a log-sum a head.

        Rotated queries lie head by head, and so does the output: it is copied for what follows.
        """
        kept = queries * self.width * (4 if rotated else 3) + keys * self.key_width
        return (
            self.kernels.item * kept + 4 * queries * self.heads
            + self._normed(queries, keys, kept_values=True)
        )  # fmt: skip

    def plain_attention(self, queries: int, keys: int, seen: int) -> int:
        """By plain products: q, k and v laid out anew for every head, weights twice in bf16."""
        weights = 4 if self.kernels.item == 4 else 4 + self.kernels.item
        kept = 3 * queries * self.width + 2 * keys * self.width  # input, q and output; k and v
        return (
            self.kernels.item * kept + weights * queries * self.heads * seen
            + self._normed(queries, keys, kept_values=self.kernels.item == 4)
        )  # fmt: skip

    def unmasked_attention(self, queries: int, keys: int, seen: int) -> int:
        """Of each query to `seen` keys, by whichever product `Attention` takes."""
        if seen <= PLAIN_KEYS:
            return self.plain_attention(queries, keys, seen)
        return self.fused_attention(queries, keys, rotated=False)

    def _normed(self, queries: int, keys: int, kept_values: bool) -> int:
        """QK-norm; keys and values are one tensor, kept whole with either."""
        head = self.width // self.heads
        found = self.norm(queries * self.heads, head) + self.norm(keys * self.kv_heads, head)
        if self.kernels.fused_norm:  # whose inputs are the keys: the values stay with them
            return found + self.kernels.item * keys * self.key_width
        # fp32 keys are such inputs too; bf16 ones are copied, and both stay for the values' sake
        return found + (4 * keys * self.key_width if kept_values else 0)


def _perception(config: ModelConfig, shapes: Shapes, frames: int, kernels: Kernels) -> int:
    patches = (shapes.image_size // config.patch) ** 2
    width, rows = config.perception_width, frames * patches
    layer = _Layer(kernels, width, config.perception_heads, config.perception_heads)
    block = (
        layer.norm(rows, width) + layer.unmasked_attention(rows, rows, patches)
        + layer.norm(rows, width) + layer.feed_forward(rows, 2 * width)
    )  # fmt: skip
    queries = frames * config.pixel_tokens
    # pooling reads the last norm's output besides, and the last layer what it gave
    pool = layer.norm(rows, width) + layer.unmasked_attention(queries, rows, patches)
    pool += kernels.item * (rows + queries) * width
    patched = kernels.item * rows * 3 * config.patch**2
    return patched + config.perception_blocks * block + pool


def _embeddings(
    config: ModelConfig, shapes: Shapes, segments: int, steps: int, item: int
) -> int:
    state = shapes.state_size + 4 * config.state_hidden
    words = shapes.instruction_bytes * config.width + 5 * config.width
    history = shapes.action_size + config.width  # the action, and the state's token
    return item * (steps * (state + history) + segments * words)


def _heads(
    config: ModelConfig, shapes: Shapes, steps: int, rows: int, layer: _Layer
) -> int:
    d, value_hidden = config.width, config.value_hidden or 2 * config.width
    bins = shapes.action_size * config.policy_bins
    value = layer.norm(steps, d) + layer.kernels.item * steps * (d + 4 * value_hidden)
    policy = layer.norm(steps, d) + layer.kernels.item * steps * (d + bins)
    # the encoder's output is read by every decoder block and kept once
    encoder = layer.norm(rows, d) + layer.kernels.item * rows * d
    loss = 4 * steps * 2 * (bins + config.value_bins)  # log-probabilities and targets
    return value + policy + encoder + loss
