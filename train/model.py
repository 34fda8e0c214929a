"""The policy-and-value network: perception, encoder, decoder, two heads. Imports only torch.

Shapes: b segments of t steps, S = K + 2 tokens a step (K pixels, state, instruction), width d.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .layers import Attention, KVCache, SwiGLU
from .perception import Perception

EMBEDDING_SCALE = 0.02
LOCATION_SHARPNESS = 8.0  # 1 / 2σ² of the policy before its free logits: σ = 0.25
STATE_CLIP = 5.0  # deviations; a freak value must not blow up a bf16 network

Gather = Callable[[list[nn.Parameter]], AbstractContextManager[object]]


def _in_place(parameters: list[nn.Parameter]) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the network's shape."""

    width: int
    heads: int
    kv_heads: int
    """Of temporal attention; fewer than heads shrink the inference cache."""
    encoder_blocks: int
    decoder_blocks: int
    hidden: int
    """Of the blocks' feed-forward layers."""
    state_hidden: int
    """Of the MLP that embeds the state."""
    perception_width: int
    perception_blocks: int
    perception_heads: int
    patch: int
    """Pixels along a patch's side."""
    pixel_tokens: int
    """K, the tokens a frame becomes."""
    policy_bins: int = 21
    """Per action dimension; odd, so that zero is representable."""
    value_bins: int = 51
    value_hidden: int = 0
    """Of the value head's MLP; 0 stands for 2 × width."""

    @property
    def block_parameters(self) -> int:
        """Of an encoder or a decoder block: both have two attentions and one feed-forward layer."""
        d, head = self.width, self.width // self.heads
        attention = 2 * d * d + 2 * d * self.kv_heads * head + 2 * head
        return 2 * attention + 3 * d * self.hidden + 3 * d


@dataclass(frozen=True)
class Shapes:
    """What the data fixes: taken from the corpus's schema."""

    state_size: int
    action_size: int
    image_size: int
    instruction_bytes: int


@dataclass
class Cache:
    """Keys and values of one segment so far; a new segment begins with a new cache."""

    encoder: list[KVCache]
    decoder: list[KVCache]
    instruction: Tensor | None = None

    @property
    def length(self) -> int:
        """Steps taken in."""
        return self.decoder[0].length


class EncoderBlock(nn.Module):
    """Causal attention over time per token, attention within the step, SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.width
        self.temporal_norm = nn.RMSNorm(d)
        self.temporal = Attention(d, config.heads, config.kv_heads, over_time=True)
        self.spatial_norm = nn.RMSNorm(d)
        self.spatial = Attention(d, config.heads, config.kv_heads)
        self.mlp_norm = nn.RMSNorm(d)
        self.mlp = SwiGLU(d, config.hidden)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(b, t, S, d) → the same."""
        b, t, s, d = x.shape
        over_time = self.temporal_norm(x).transpose(1, 2).reshape(b * s, t, d)
        mixed = self.temporal(over_time, cache=cache).view(b, s, t, d).transpose(1, 2)
        x = x + mixed
        x = x + self.spatial(self.spatial_norm(x).reshape(b * t, s, d)).view(b, t, s, d)
        return x + self.mlp(self.mlp_norm(x))


class DecoderBlock(nn.Module):
    """Causal attention over the action history, attention to the step's tokens, SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.width
        self.self_norm = nn.RMSNorm(d)
        self.self_attention = Attention(d, config.heads, config.kv_heads, over_time=True)
        self.cross_norm = nn.RMSNorm(d)
        self.cross = Attention(d, config.heads, config.kv_heads)
        self.mlp_norm = nn.RMSNorm(d)
        self.mlp = SwiGLU(d, config.hidden)

    def forward(self, x: Tensor, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """(b, t, d) with the encoder's tokens (b, t, S, d) → (b, t, d)."""
        b, t, d = x.shape
        x = x + self.self_attention(self.self_norm(x), cache=cache)
        query = self.cross_norm(x).reshape(b * t, 1, d)
        x = x + self.cross(query, tokens.reshape(b * t, -1, d)).view(b, t, d)
        return x + self.mlp(self.mlp_norm(x))


class StateEmbedding(nn.Module):
    """Normalise by the corpus's statistics, then an MLP."""

    def __init__(self, size: int, hidden: int, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.first = nn.Linear(size, hidden, bias=False)
        self.second = nn.Linear(hidden, hidden, bias=False)
        self.third = nn.Linear(hidden, width, bias=False)

    def forward(self, state: Tensor) -> Tensor:
        """(…, state_size) float32 → (…, width)."""
        x = (state - self.mean) * self.scale
        x = x.clamp(-STATE_CLIP, STATE_CLIP).to(self.first.weight.dtype)
        return self.third(F.silu(self.second(F.silu(self.first(x)))))


class PolicyValueNetwork(nn.Module):
    """One network, two heads.

    The policy at step t sees states and pixels up to t and actions before t. The value sees the
    current step's tokens before any attention over time, and no actions: a critic that sees
    history recognises who plays and centres the advantage within that behaviour.
    """

    def __init__(
        self, config: ModelConfig, shapes: Shapes, inputs: Sequence[str],
        recompute: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        d = config.width
        self.config, self.shapes, self.inputs = config, shapes, tuple(inputs)
        self.recompute = recompute
        self.perception = None
        if "pixels" in self.inputs:
            self.perception = Perception(
                shapes.image_size, config.patch, config.perception_width,
                config.perception_blocks, config.perception_heads, config.pixel_tokens, d,
            )  # fmt: skip
        self.state = StateEmbedding(shapes.state_size, config.state_hidden, d)
        self.letters = nn.Embedding(256, d)
        self.letter_places = nn.Embedding(shapes.instruction_bytes, d)
        self.instruction = SwiGLU(d, d)
        self.kinds = nn.Embedding(3, d)  # pixels, state, instruction
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_blocks))
        self.encoder_norm = nn.RMSNorm(d)
        self.action = nn.Linear(shapes.action_size, d, bias=False)
        self.bos = nn.Embedding(1, d)
        self.residual = nn.Linear(d, d, bias=False)
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_blocks))
        self.policy_norm = nn.RMSNorm(d)
        # per action dimension a location and a free logit for every bin
        self.policy = nn.Linear(d, shapes.action_size * (config.policy_bins + 1), bias=False)
        self.value_norm = nn.RMSNorm(d)
        value_hidden = config.value_hidden or 2 * d
        self.value_in = nn.Linear(d, value_hidden, bias=False)
        self.value_mid = nn.Linear(value_hidden, value_hidden, bias=False)
        self.value_out = nn.Linear(value_hidden, config.value_bins, bias=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """Encoder's, then decoder's."""
        return [*self.encoder, *self.decoder]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, gather: Gather = _in_place) -> None:
        """Draw all weights: variance 1 / fan-in, zero where a residual branch ends.

        `gather` makes a module's own parameters whole while they are drawn, one module at a time,
        so that a partitioned network never exists on one rank.
        """
        for name, module in self.named_modules():
            own = list(module.parameters(recurse=False))
            if not own or isinstance(module, nn.RMSNorm):
                continue
            zero = getattr(module, "zero_output", False) or name == "policy"
            # past actions enter softly: the network must not have to unlearn their noise
            linear = isinstance(module, nn.Linear) and name != "action"
            scale = 0.0 if zero else module.in_features**-0.5 if linear else EMBEDDING_SCALE
            with gather(own):
                for parameter in own:
                    parameter.normal_(0.0, 1.0, generator=generator).mul_(scale)

    def normalise_by(self, mean: Tensor, deviation: Tensor, hidden: Tensor) -> None:
        """Keep the corpus's state statistics, in fp32; constant and hidden entries become zero."""
        constant = (deviation < 1e-4) | hidden
        scale = torch.where(constant, 0.0, 1.0 / deviation.clamp(min=1e-4))
        for name, values in (("mean", mean), ("scale", scale)):
            setattr(self.state, name, values.float().to(self.state.first.weight.device))

    def keep_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """Take back statistics (state_size,) that the weights were trained with, after others.

        An entry that was zero then, constant or hidden, keeps the others' scale: no weight knows
        it, and where it is what it always was it still is zero.
        """
        self.state.mean, own = mean, self.state.scale
        self.state.scale = torch.where(scale != 0, scale, own)

    def forward(
        self, state: Tensor, pixels: Tensor | None, instruction: Tensor, action: Tensor,
        history: Tensor, cache: Cache | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Policy logits (b, t, action_size, policy_bins) and value logits (b, t, value_bins).

        state (b, t, state_size) float32; pixels (b, t, H, H, 3) uint8; instruction (b, L) uint8;
        action (b, t, action_size), the action *before* each step, ignored at a segment's first;
        history (b,) bool, whether a segment's actions may be seen at all.
        With a cache, t is 1 and the past comes from it.
        """
        tokens = self._tokens(state, pixels, instruction, cache)
        value = self._value(tokens)
        x = tokens
        for i, block in enumerate(self.encoder):
            x = self._run(i, block, x, cache.encoder[i] if cache else None)
        x = self.encoder_norm(x)
        y = self._history(action, history, cache) + self.residual(tokens[:, :, -2])
        for i, block in enumerate(self.decoder):
            number = len(self.encoder) + i
            y = self._run(number, block, y, x, cache.decoder[i] if cache else None)
        return self._logits(self.policy(self.policy_norm(y))), value

    def _logits(self, head: Tensor) -> Tensor:
        """Free logits plus a discretised normal around a learned location.

        Bins that know nothing of their neighbours learn a mean slowly: with the location a cloned
        reacher went from 8 to 95 % in the same 500 updates.
        """
        bins = self.config.policy_bins
        head = head.view(*head.shape[:-1], self.shapes.action_size, bins + 1)
        centres = torch.linspace(-1, 1, bins, device=head.device, dtype=head.dtype)
        return head[..., 1:] - LOCATION_SHARPNESS * (centres - head[..., :1]).square()

    def new_cache(self, capacity: int) -> Cache:
        """An empty cache for a segment of at most `capacity` steps."""
        return Cache(
            [KVCache(capacity) for _ in self.encoder], [KVCache(capacity) for _ in self.decoder]
        )

    def _run(self, number: int, block: nn.Module, *inputs: Tensor | KVCache | None) -> Tensor:
        if number < self.recompute and torch.is_grad_enabled():
            # reentrant: its second forward pass has a graph of its own, whose hooks keep a
            # partitioned block's parameters gathered until the backward pass is through it
            result: Tensor = checkpoint(
                block, *inputs, use_reentrant=True, preserve_rng_state=False
            )
        else:
            result = block(*inputs)
        return result

    def _tokens(
        self, state: Tensor, pixels: Tensor | None, instruction: Tensor, cache: Cache | None
    ) -> Tensor:
        """(b, t, S, d): pixel tokens, then the state's, then the instruction's."""
        b, t = state.shape[:2]
        kinds = self.kinds(torch.arange(3, device=state.device))
        parts = []
        if self.perception is not None:
            assert pixels is not None
            seen = self.perception(pixels.flatten(0, 1)).view(b, t, self.config.pixel_tokens, -1)
            parts.append(seen + kinds[0])
        parts.append((self.state(state) + kinds[1])[:, :, None])
        words = cache.instruction if cache else None
        if words is None:
            words = self._words(instruction) + kinds[2]
            if cache:
                cache.instruction = words
        parts.append(words[:, None, None].expand(b, t, 1, -1))
        return torch.cat(parts, dim=2)

    def _words(self, instruction: Tensor) -> Tensor:
        """(b, L) bytes → (b, d): embedded with their places, pooled over the real ones."""
        places = torch.arange(instruction.shape[1], device=instruction.device)
        x = F.silu(self.letters(instruction.long()) + self.letter_places(places)) * 16
        real = (instruction > 0).to(x.dtype)[..., None]
        x = (x * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return x + self.instruction(x)

    def _history(self, action: Tensor, history: Tensor, cache: Cache | None) -> Tensor:
        """(b, t, d): previous actions; BOS at the first step and wherever history is dropped."""
        embedded = self.action(action.to(self.action.weight.dtype))
        seen = history[:, None].expand(action.shape[:2])
        if cache is None or cache.length == 0:
            first = torch.zeros_like(seen)
            first[:, 0] = True
            seen = seen & ~first
        bos = self.bos(torch.zeros(1, dtype=torch.long, device=action.device))
        return torch.where(seen[..., None], embedded, bos)

    def _value(self, tokens: Tensor) -> Tensor:
        """(b, t, value_bins) from one step's own tokens: pixels' mean + state + instruction."""
        x = tokens[:, :, -2:].sum(dim=2)
        if tokens.shape[2] > 2:
            x = x + tokens[:, :, :-2].mean(dim=2)
        x = F.silu(self.value_in(self.value_norm(x)))
        return self.value_out(F.silu(self.value_mid(x)))
