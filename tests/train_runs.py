"""Small training runs as their user starts them, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from conftest import RECIPE, SCHEMA, default_shards
from palaestra.shards.corpus import Corpus, Manifest
from palaestra.shards.writer import ShardWriter
from waiting import PATIENCE_S

PRESET = """peak_rate = 4e-3
warm_up = 2

[model]
width = 16
heads = 2
kv_heads = 1
encoder_blocks = 1
decoder_blocks = 1
hidden = 24
state_hidden = 24
perception_width = 16
perception_blocks = 1
perception_heads = 2
patch = 4
pixel_tokens = 2
"""
UPDATES, EVERY = 12, 4
TIMED = ("steps_per_s", "data_wait", "mfu")  # may differ between equal runs
COMPARED = ("policy_loss", "value_loss", "gradient_norm", "validation/policy_loss")


def write_corpus(path: Path, shards: list[list[Any]] | None = None, **manifest: Any) -> Corpus:
    """By default 8 segments of 4 matches."""
    shards = default_shards() if shards is None else shards
    corpus = Corpus.create(str(path), Manifest(SCHEMA, RECIPE, 3, len(shards), {}, **manifest))
    for number, episodes in enumerate(shards):
        writer = ShardWriter(corpus, number)
        for episode in episodes:
            writer.add(episode)
        writer.commit()
    corpus.write_merged()
    return corpus


def prepare(folder: Path, shards: list[list[Any]] | None = None) -> Path:
    """Write preset.toml and corpus; returns the folder."""
    (folder / "preset.toml").write_text(PRESET)
    write_corpus(folder / "corpus", shards)
    return folder


def words(folder: Path, run: str, *more: object) -> list[str]:
    """The command's arguments; later ones win."""
    given = {
        "preset": folder / "preset.toml", "inputs": "state", "updates": UPDATES, "batch": 4,
        "precision": "fp32", "checkpoint-every": f"{EVERY}u",
        "validation-share": 0.5, "validate-every": 5,
        # without the filter, in which rounding flips a step whose advantage is next to zero
        "loss.policy": "bc",
    }  # fmt: skip
    given |= {str(a).removeprefix("--"): b for a, b in zip(more[::2], more[1::2], strict=True)}
    flags = [
        str(word) for name, value in given.items()
        for word in ([f"--{name}"] if value is True else [f"--{name}", value])
    ]  # fmt: skip
    return [str(folder / "corpus"), "--run", str(folder / run), *flags]


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own; nothing of it outlives the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "palaestra.train", *arguments], start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    with ending(process):
        yield process


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[None]:
    """Nothing of the process's session outlives the block."""
    try:
        yield
    finally:
        for member in family(process.pid):
            os.kill(member, signal.SIGKILL)
        process.communicate()


def family(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, number = (path / "stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if int(number) == session and state != "Z":
            found.append(int(path.name))
    return found


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run that ends well and says nothing on stderr; returns its stdout."""
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, ""), errors[-1500:]
    return out


def train(folder: Path, run: str, *more: object) -> str:
    """A whole run; returns its stdout."""
    with started(words(folder, run, *more)) as process:
        return finish(process)


def failure(arguments: list[str]) -> str:
    """The one line on stderr with which the command exits 1."""
    with started(arguments) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, errors
    (line,) = errors.splitlines()
    assert line.startswith("train: error: ")
    return line


def metrics(run: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl without what may differ between equal runs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


def logged(run: Path) -> int:
    """Updates in metrics.jsonl."""
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def marker(run: Path, update: int = UPDATES) -> dict[str, Any]:
    path = run / "checkpoints" / f"update-{update:08d}" / "checkpoint.json"
    return json.loads(path.read_text())


def weights(run: Path, update: int = UPDATES) -> dict[str, torch.Tensor]:
    path = run / "checkpoints" / f"update-{update:08d}" / "weights.safetensors"
    return safetensors.torch.load_file(path)


def assert_same(first: Path, second: Path, updates: int = UPDATES) -> None:
    """The same numbers to the last bit."""
    assert metrics(first) == metrics(second)
    assert marker(first, updates) == marker(second, updates)
    mine, theirs = weights(first, updates), weights(second, updates)
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def assert_close(first: Path, second: Path, updates: int, loss: float = 1e-4) -> None:
    """The same batches, and numbers but for rounding: losses to `loss`, relative.

    The norm of a gradient is the least exact of them: without AVX-512 two ways to accumulate it
    were seen to part by 0.1 %, with losses that agree to 0.01 %.
    """
    assert marker(first, updates)["digest"] == marker(second, updates)["digest"]
    mine, theirs = metrics(first), metrics(second)
    assert [line["update"] for line in mine] == list(range(updates))
    assert [list(line) for line in mine] == [list(line) for line in theirs]
    for name in COMPARED:
        values = [[line[name] for line in lines if name in line] for lines in (mine, theirs)]
        assert values[0]
        tolerance = max(1e-2, loss) if name == "gradient_norm" else loss
        np.testing.assert_allclose(*values, rtol=tolerance, err_msg=name)
