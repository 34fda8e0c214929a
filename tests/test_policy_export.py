"""`train export`: a program that torch alone runs, and that plays what the agent plays."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from palaestra.generate.adapter import env_id
from palaestra.shards.errors import CheckpointError, ConfigError, StorageError
from palaestra.shards.schema import SEGMENT_STEPS
from palaestra.train.agent import Agent
from palaestra.train.export import read_weights
from palaestra.train.program import (
    ABOUT,
    ExportArguments,
    export_command,
    export_program,
)
from test_agent import SCHEMA, export

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs/examples/exported_policy.py"

# a process that never imports ours plays an environment made of recorded observations
ALONE = """
import json, runpy, sys
import gymnasium, numpy as np, torch

class Recorded(gymnasium.Env):
    action_space = gymnasium.spaces.Box(-1, 1, (7,))

    def __init__(self, file):
        self.seen, self.played = np.load(file), []

    def observe(self):
        return {name: self.seen[name][len(self.played)] for name in ("state", "pixels")
                if name in self.seen}

    def reset(self, seed=None):
        return self.observe(), {"instruction": str(self.seen["instruction"])}

    def step(self, action):
        self.played.append(action)
        ended = len(self.played) == len(self.seen["state"]) - 1
        return self.observe(), 1.0, False, ended, {}

torch.set_num_threads(1)
example = runpy.run_path(sys.argv[1])
env = Recorded(sys.argv[3])
total = example["play"](example["ExportedPolicy"](sys.argv[2]), env, 0)
assert not [name for name in sys.modules if name.startswith("palaestra")]
np.save(sys.argv[4], np.stack(env.played))
print(json.dumps(total))
"""


def run(*words: str) -> str:
    """What a process of this Python prints; nothing on stderr."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """By inputs, a weights file and the program that the command writes of it."""
    folder, made = tmp_path_factory.mktemp("programs"), {}
    for inputs in ("state", "pixels+state"):
        url = export(folder / f"{inputs}.safetensors", inputs)
        output = str(folder / f"{inputs}.pt2")
        said = run("-m", "palaestra.train", "export", url, output)
        assert f".pt2: {inputs}, update 7, " in said.replace("\n", "")
        made[inputs] = url, output
    return made


def record(agent: Agent, pixels: bool, steps: int) -> tuple[dict[str, Any], Any]:
    """What an agent saw in an environment, and what it did."""
    options = {"pixels": True, "image_size": SCHEMA.image_size} if pixels else {}
    env = gymnasium.make(f"palaestra.generate.gym:{env_id('stack', 1)}", **options)
    observation, info = env.reset(seed=4)
    agent.reset(env)
    seen, played = [observation], []
    for _ in range(steps):
        played.append(agent.act(observation, info))
        observation, *_, info = env.step(played[-1])
        seen.append(observation)
    rows = [row if isinstance(row, dict) else {"state": row} for row in seen]
    told = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return told | {"instruction": np.array(info["instruction"])}, np.stack(played)


@pytest.mark.parametrize(("inputs", "steps"), [("state", SEGMENT_STEPS + 30), ("pixels+state", 40)])
def test_torch_alone_plays_what_the_agent_plays(
    inputs: str, steps: int, programs: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    """Step by step, across a segment's edge, in a process without our code."""
    torch.set_num_threads(1)
    url, output = programs[inputs]
    seen, expected = record(Agent.load(url), "pixels" in inputs, steps)
    np.savez(tmp_path / "seen.npz", **seen)
    files = [str(tmp_path / name) for name in ("seen.npz", "played.npy")]
    total = run("-c", ALONE, str(EXAMPLE), output, *files)
    assert json.loads(total) == steps
    played = np.load(tmp_path / "played.npy")
    assert played.shape == expected.shape and played.std() > 0.1
    np.testing.assert_allclose(played, expected, atol=1e-5)


def test_the_example_plays_our_environment(programs: dict[str, tuple[str, str]]) -> None:
    _, output = programs["pixels+state"]
    name = f"palaestra.generate.gym:{env_id('swingup', 1)}"
    (line,) = run(str(EXAMPLE), output, name, "1").splitlines()
    assert re.fullmatch(r"episode 0: return -?\d+\.\d", line)


def test_lanes_values_and_what_it_tells(tmp_path: Path) -> None:
    """Of a whole window at once, with and without history: the network's own numbers."""
    url = export(tmp_path / "w.safetensors")
    exported = read_weights(url)
    path = tmp_path / "three.pt2"
    path.write_bytes(export_program(exported, url, 3))
    extra = {ABOUT: ""}
    program = torch.export.load(path, extra_files=extra).module()
    about = json.loads(extra[ABOUT])
    assert (about["lanes"], about["steps"], about["update"]) == (3, SEGMENT_STEPS, 7)
    assert about["inputs"] == ["state"] and about["tasks"] == [["reach", 1]]
    assert about["schema"] == json.loads(json.dumps(SCHEMA.to_json()))
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(3, SEGMENT_STEPS, SCHEMA.state_size, generator=generator)
    before = torch.zeros(3, SEGMENT_STEPS, SCHEMA.action_size)
    told = torch.zeros(3, about["instruction_bytes"], dtype=torch.uint8)
    told[:, :4] = torch.tensor(list(b"push"), dtype=torch.uint8)
    agent = Agent.load(url, history=False)
    agent.reset(3)
    with torch.no_grad():
        actions, values = program(
            state=state, instruction=told, action=before, history=torch.zeros(3, dtype=torch.bool)
        )
    for step in range(20):
        found = agent.act(state[:, step].numpy(), {"instruction": "push"})
        np.testing.assert_allclose(actions[:, step].numpy(), found, atol=1e-5)
        np.testing.assert_allclose(values[:, step].numpy(), agent.value, atol=1e-5)


@pytest.mark.parametrize(
    ("output", "lanes", "error", "message"),
    [
        ("policy.pth", 1, ConfigError, r"policy\.pth: expected a name that ends in \.pt2"),
        ("policy.pt2", 0, ConfigError, "--lanes should be positive, is 0"),
        ("policy.pt2", 1, CheckpointError, "nowhere: expected a run with a complete checkpoint"),
        ("nosuch://policy.pt2", 1, StorageError, "nosuch"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    output: str, lanes: int, error: type[Exception], message: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        export_command(ExportArguments("nowhere", output, lanes))
    assert not list(tmp_path.iterdir())
