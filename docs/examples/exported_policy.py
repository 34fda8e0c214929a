"""A policy that `train export` wrote, played with PyTorch and Gymnasium alone.

Run: python docs/examples/exported_policy.py POLICY.pt2 [ENVIRONMENT] [EPISODES]

Nothing of ours is imported here, but for an environment that is ours: by default Reach.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray


class ExportedPolicy:
    """Plays one lane; the program sees the segment so far, whose rows to come are zero."""

    def __init__(self, path: str) -> None:
        extra = {"palaestra.json": ""}
        self.program = torch.export.load(path, extra_files=extra).module()
        self.about: dict[str, Any] = json.loads(extra["palaestra.json"])
        self.steps, self.pixels = self.about["steps"], "pixels" in self.about["inputs"]
        schema = self.about["schema"]
        self.shapes: dict[str, tuple[int, ...]] = {
            "state": (sum(slot["size"] for slot in schema["slots"]),),
            "action": (schema["action_size"],),
        }
        if self.pixels:
            self.shapes["pixels"] = (schema["image_size"], schema["image_size"], 3)

    def reset(self, instruction: str, action_size: int) -> None:
        """Begin an episode of a task that uses the first `action_size` entries of an action."""
        length = self.about["instruction_bytes"]
        text = instruction.encode()[:length].ljust(length, b"\0")
        self.told = torch.frombuffer(bytearray(text), dtype=torch.uint8)[None]
        self.step, self.used = 0, action_size

    @torch.no_grad()
    def act(self, observation: Any) -> NDArray[np.float32]:
        """The mean action, of the entries used, in [-1, 1] for the present observation."""
        row = self.step % self.steps
        if row == 0:  # a segment begins, and with it its window
            self.window = {
                name: torch.zeros(1, self.steps, *shape, dtype=self._dtype(name))
                for name, shape in self.shapes.items()
            }
        seen = observation if isinstance(observation, dict) else {"state": observation}
        for name in self.window.keys() - {"action"}:
            self.window[name][0, row] = torch.as_tensor(seen[name])
        history = torch.ones(1, dtype=torch.bool)
        actions, _ = self.program(instruction=self.told, history=history, **self.window)
        if row + 1 < self.steps:
            # entries that a task does not use are zero in training, and not learned
            self.window["action"][0, row + 1, : self.used] = actions[0, row, : self.used]
        self.step += 1
        action: NDArray[np.float32] = actions[0, row, : self.used].numpy()
        return action

    def _dtype(self, name: str) -> torch.dtype:
        return torch.uint8 if name == "pixels" else torch.float32


def play(policy: ExportedPolicy, env: gymnasium.Env[Any, Any], seed: int) -> float:
    """The return of one episode."""
    observation, info = env.reset(seed=seed)
    policy.reset(info["instruction"], gymnasium.spaces.flatdim(env.action_space))
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, info = env.step(policy.act(observation))
        total, ended = total + float(reward), terminated or truncated
    return total


def main(
    path: str, name: str = "palaestra.generate.gym:palaestra/Reach-1-v0", episodes: str = "1"
) -> None:
    """Play, and print each return."""
    policy = ExportedPolicy(path)
    options: dict[str, Any] = {}
    if policy.pixels:
        options = {"pixels": True, "image_size": policy.shapes["pixels"][0]}
    env = gymnasium.make(name, **options)
    for seed in range(int(episodes)):
        print(f"episode {seed}: return {play(policy, env, seed):.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
