"""What playing with a network costs on one CPU thread: lanes at once, cached keys and values.

Networks are drawn, not trained, and see the state alone. Three tables, each from variants run in
turn:

* policy steps/s of `tiny` with 1 to 200 lanes at once, through `Agent.act`, no world;
* milliseconds a step of one lane or a few, with the cache, and by a forward pass over all steps so
  far, as one would have to without it;
* steps/s of whole episodes of reach 1, world and agent together, with 100 lanes at once and one.

All are averages over a segment of 256 steps: a step costs more the more came before it.

Run: python benchmarks/inference.py [--quick] [--cpu-time]
"""

from __future__ import annotations

import os

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from palaestra.generate.slots import make_schema
from palaestra.generate.world import World
from palaestra.shards.schema import INSTRUCTION_BYTES, SEGMENT_STEPS
from palaestra.train.agent import Agent
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.export import export_metadata, shapes_of, write_weights
from palaestra.train.model import PolicyValueNetwork
from timing import interleave, pin_to_one_core, print_table

WIDTHS = (1, 10, 50, 100, 200)
REPETITIONS, QUICK_REPETITIONS = 5, 1
SEGMENTS = (("tiny", 1, 5), ("tiny", 16, 3), ("small", 1, 3))
"""Presets, lanes and repetitions; the last two take 15 and 30 s a segment without a cache."""
TARGET = 20.0  # times the steps of one lane at a time, with 100
SCHEMA = make_schema(64, (0.0, 1.0))

Clock = Callable[[], float]


class Seen(NamedTuple):
    """An observation without a world."""

    state: NDArray[np.float32]
    pixels: None
    instruction: list[str]


def load_agent(preset_name: str) -> Agent:
    """A drawn network of a preset, by way of a weights file."""
    preset = load_preset(preset_name)
    config = TrainConfig(
        corpora=(), weights=(), preset=preset_name, model=preset.model, inputs="state", updates=1,
        batch=1, peak_rate=preset.peak_rate, end_rate=1e-5, warm_up=1, precision="fp32",
    )  # fmt: skip
    network = PolicyValueNetwork(config.model, shapes_of(SCHEMA), ["state"])
    network.initialise(torch.Generator().manual_seed(0))
    metadata = export_metadata(config, SCHEMA, (("reach", 1),)) | {"update": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        write_weights(path, network.state_dict(), metadata)
        return Agent.load(str(path))


def act(agent: Agent, lanes: int, clock: Clock) -> float:
    """Lanes' steps/s of the agent alone."""
    state = np.random.default_rng(0).standard_normal((lanes, SCHEMA.state_size), np.float32)
    seen = Seen(state, None, ["touch the ball"] * lanes)
    agent.reset(lanes)
    start = clock()
    for _ in range(SEGMENT_STEPS):
        agent.act(seen)
    return lanes * SEGMENT_STEPS / (clock() - start)


def step_cached(agent: Agent, lanes: int, clock: Clock) -> float:
    """Steps/s, of all lanes together, over a segment; the network alone."""
    state, words, action, history = segment(lanes)
    start = clock()
    cache = agent.network.new_cache(SEGMENT_STEPS)
    with torch.inference_mode():
        for t in range(SEGMENT_STEPS):
            now = slice(t, t + 1)
            agent.network(state[:, now], None, words, action[:, now], history, cache)
    return SEGMENT_STEPS / (clock() - start)


def step_recomputed(agent: Agent, lanes: int, clock: Clock) -> float:
    """The same with every step's past computed again."""
    state, words, action, history = segment(lanes)
    start = clock()
    with torch.inference_mode():
        for t in range(1, SEGMENT_STEPS + 1):
            agent.network(state[:, :t], None, words, action[:, :t], history)
    return SEGMENT_STEPS / (clock() - start)


def segment(lanes: int) -> tuple[torch.Tensor, ...]:
    """State, instruction, previous actions and use of history of drawn segments."""
    g = torch.Generator().manual_seed(0)
    state = torch.randn((lanes, SEGMENT_STEPS, SCHEMA.state_size), generator=g)
    action = torch.rand((lanes, SEGMENT_STEPS, SCHEMA.action_size), generator=g) * 2 - 1
    words = torch.randint(97, 123, (lanes, INSTRUCTION_BYTES), generator=g).to(torch.uint8)
    return state, words, action, torch.ones(lanes, dtype=torch.bool)


def play(agent: Agent, world: World, clock: Clock) -> float:
    """Lanes' steps/s of an episode: observing, acting and stepping."""
    seeds = list(range(world.nsim))
    start = clock()
    world.reset(seeds)
    agent.reset(world)
    for _ in range(world.horizon):
        world.step(agent.act(world.observe()))
    return world.nlane * world.horizon / (clock() - start)


def main(quick: bool = False, cpu_time: bool = False) -> None:
    """Print the tables; --quick repeats once.

    --cpu-time counts the process's own seconds, which hold on a busy machine too.
    """
    pin_to_one_core()
    torch.set_num_threads(1)
    clock = time.process_time if cpu_time else time.perf_counter
    repetitions = QUICK_REPETITIONS if quick else REPETITIONS
    agents = {name: load_agent(name) for name in ("tiny", "small")}
    tiny = agents["tiny"]

    widths = interleave({str(n): partial(act, tiny, n, clock) for n in WIDTHS}, repetitions)
    rows = [
        (name, f"{widths.rate(name):,.0f}", f"{widths.ratio(name, '1'):.1f}")
        for name in widths.rates
    ]
    title = f"policy steps/s, tiny (median of {repetitions}; goal with 100 lanes: {TARGET:.0f})"
    print_table(title, ("lanes", "per second", "ratio"), rows)

    rows = []
    for name, lanes, most in SEGMENTS:
        variants = {
            "cached": partial(step_cached, agents[name], lanes, clock),
            "recomputed": partial(step_recomputed, agents[name], lanes, clock),
        }
        timing = interleave(variants, min(repetitions, most))
        rows += [
            (f"{name}, {lanes}, {variant}", f"{1e3 / timing.rate(variant):.2f}",
             f"{timing.ratio('cached', variant):.1f}")
            for variant in variants
        ]  # fmt: skip
    title = f"milliseconds a step over a segment of {SEGMENT_STEPS}"
    print_table(title, ("preset, lanes, variant", "ms", "ratio"), rows)

    worlds = {str(n): World("reach", 1, n, pixels=False) for n in (1, 100)}
    plays = interleave({n: partial(play, tiny, w, clock) for n, w in worlds.items()}, repetitions)
    rows = [(n, f"{plays.rate(n):,.0f}", f"{plays.ratio(n, '1'):.1f}") for n in plays.rates]
    print_table("steps/s on reach 1, tiny, world included", ("lanes", "per second", "ratio"), rows)


if __name__ == "__main__":
    tyro.cli(main)
