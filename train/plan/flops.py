"""What a network costs to compute: parameters and matrix-product FLOPs, by component.

A product of m × k and k × n counts 2·m·n·k, scores of attention included and causal ones in full
(the convention of model-FLOPs utilisation: Chowdhery et al. 2022, PaLM, appendix B). Norms,
activations, softmax and the loss count nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch

from ...shards.schema import SEGMENT_STEPS
from ..model import ModelConfig, PolicyValueNetwork, Shapes

MODULES = {  # of PolicyValueNetwork, by what a plan calls them
    "perception": ("perception",),
    "embeddings": (
        "state", "letters", "letter_places", "instruction", "kinds", "action", "bos", "residual",
    ),
    "encoder": ("encoder", "encoder_norm"),
    "decoder": ("decoder", "decoder_norm"),
    "policy head": ("policy_norm", "policy"),
    "value head": ("value_norm", "value_in", "value_mid", "value_out"),
}  # fmt: skip
_COMPONENT = {module: name for name, modules in MODULES.items() for module in modules}


@cache
def parameter_counts(
    config: ModelConfig, shapes: Shapes, inputs: tuple[str, ...]
) -> Mapping[str, int]:
    """Elements of every parameter by name, in the network's order."""
    with torch.device("meta"):  # shapes without memory: 30 B parameters in under a second
        network = PolicyValueNetwork(config, shapes, inputs)
    return {name: parameter.numel() for name, parameter in network.named_parameters()}


def parameters_by_component(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str]
) -> dict[str, int]:
    """Parameters of each component, counted from the network itself: they sum to all."""
    counts = dict.fromkeys(MODULES, 0)
    for name, count in parameter_counts(config, shapes, tuple(inputs)).items():
        counts[_COMPONENT[name.split(".")[0]]] += count
    return counts


def step_tokens(config: ModelConfig, inputs: Sequence[str]) -> int:
    """S, the encoder's tokens of a step: K of the frame, the state's and the instruction's."""
    return 2 + (config.pixel_tokens if "pixels" in inputs else 0)


def forward_flops(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], steps: int = SEGMENT_STEPS
) -> dict[str, int]:
    """FLOPs of one segment of `steps` steps through each component."""
    c, d, tokens = config, config.width, step_tokens(config, inputs)
    key_width = d // c.heads * c.kv_heads
    feed_forward = 6 * d * c.hidden  # of a token
    over_time = attention_flops(d, key_width, 1, steps)
    encoder = tokens * (over_time + attention_flops(d, key_width, 1, tokens) + feed_forward)
    # cross-attention: one query a step, keys and values of every token
    cross = attention_flops(d, key_width, tokens, tokens)
    decoder = over_time + cross + feed_forward
    value_hidden = c.value_hidden or 2 * d
    embeddings = 2 * (
        c.state_hidden * (shapes.state_size + c.state_hidden + d) + shapes.action_size * d + d * d
    )
    value = 2 * value_hidden * (d + value_hidden + c.value_bins)
    perception = _frame_flops(config, shapes.image_size) if "pixels" in inputs else 0
    return {
        "perception": steps * perception,
        "embeddings": steps * embeddings + 6 * d * d,  # an instruction is embedded once
        "encoder": steps * c.encoder_blocks * encoder,
        "decoder": steps * c.decoder_blocks * decoder,
        "policy head": steps * 2 * d * shapes.action_size * (c.policy_bins + 1),
        "value head": steps * value,
    }


def attention_flops(width: int, key_width: int, context: int, keys: int) -> int:
    """Of one query that sees `keys` keys, for which `context` keys and values are computed."""
    return 4 * width * width + 4 * context * width * key_width + 4 * keys * width


def _frame_flops(config: ModelConfig, image_size: int) -> int:
    """Of a frame through perception."""
    w, k = config.perception_width, config.pixel_tokens
    patches = (image_size // config.patch) ** 2
    block = patches * (attention_flops(w, w, 1, patches) + 6 * w * 2 * w)
    pool = k * (4 * w * w + 4 * patches * w) + patches * 4 * w * w
    return (
        patches * 2 * 3 * config.patch**2 * w + config.perception_blocks * block
        + pool + k * 2 * w * config.width
    )  # fmt: skip


def recomputed_flops(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], blocks: int,
    steps: int = SEGMENT_STEPS,
) -> int:  # fmt: skip
    """FLOPs of a segment's forward pass that `blocks` recomputed blocks add, the first first."""
    flops = forward_flops(config, shapes, inputs, steps)
    encoder = min(blocks, config.encoder_blocks)
    return (
        flops["encoder"] // config.encoder_blocks * encoder
        + flops["decoder"] // config.decoder_blocks * (blocks - encoder)
    )  # fmt: skip


def train_flops(
    config: ModelConfig, shapes: Shapes, inputs: Sequence[str], steps: int = SEGMENT_STEPS
) -> int:
    """FLOPs of training on a segment, recomputation left out: what MFU is measured in.

    The backward pass costs two forward passes, one for the inputs' gradients and one for the
    weights'; only what reads data needs no gradient of it (12.5 % less at tiny, 0.001 % at 30b).
    """
    first = shapes.state_size * config.state_hidden + shapes.action_size * config.width
    if "pixels" in inputs:
        first += 3 * shapes.image_size**2 * config.perception_width
    return 3 * sum(forward_flops(config, shapes, inputs, steps).values()) - 2 * steps * first
