"""Every command and code block of the README, run as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return [text for kind, text in BLOCKS if kind == language]


def run(words: list[str], folder: Path, **environment: str) -> str:
    """Run a command of this environment; its output, and a failure that shows it."""
    program = Path(sys.executable).parent / Path(words[0]).name
    done = subprocess.run(
        [str(program), *words[1:]], cwd=folder, capture_output=True, text=True,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([\w-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_four_commands_and_the_agent(tmp_path: Path) -> None:
    """The shell block as it stands, then the Python block on what it trained."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (four,) = (text for text in blocks("sh") if ".venv/bin/generate" in text)
    lines = [line for line in four.splitlines() if line]
    for line in lines:
        output = run(shlex.split(line), tmp_path)
    assert [Path(line.split()[0]).name for line in lines] == [
        "generate", "audit", "train", "evaluate",
    ]  # fmt: skip
    assert "report: runs/small/report.html" in output
    assert (tmp_path / "runs/small/report.html").stat().st_size > 100_000
    (agent,) = blocks("python")
    # an episode ends at step 256, and the next begins
    run(["python", "-c", agent + "\nassert envs.unwrapped.world.elapsed.max() < 50"], tmp_path)


def test_the_environments_are_there(tmp_path: Path) -> None:
    makers = r"(?:gymnasium\.make|palaestra\.generate\.gym\.parallel_env)"
    made = re.findall(rf"`({makers}\(.*?\))`", README, re.DOTALL)
    assert len(made) == 2
    for call in made:
        code = f"import gymnasium, palaestra.generate.gym\n{call}.reset(seed=0)"
        run(["python", "-c", code], tmp_path)


def test_the_example_recipe_generates(tmp_path: Path) -> None:
    (recipe,) = blocks("toml")
    (tmp_path / "recipe.toml").write_text(recipe)
    output = run(["generate", "recipe.toml", "corpus", "--steps", "49152"], tmp_path)
    assert "49,152 steps" in output


@pytest.mark.parametrize("command", ["generate", "audit", "train", "evaluate"])
def test_help_explains(command: str, tmp_path: Path) -> None:
    console = run([command, "--help"], tmp_path)
    rooms = {"audit": "shards"}
    module = run(["python", "-m", f"palaestra.{rooms.get(command, command)}", "--help"], tmp_path)
    assert console == module
    assert "--debug" in console


def test_the_bucket_commands_take_urls(tmp_path: Path) -> None:
    """With another fsspec URL in the bucket's place, and small."""
    (block,) = (
        text for text in blocks("") if "s3://bucket/corpus" in text and "torchrun" not in text
    )
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    extra = {
        "generate": "--steps 131072",
        "train": "--inputs state --batch 4 --updates 2 --validate-every 0",
    }
    for line in block.strip().splitlines():
        line = line.replace("s3://bucket", f"file://{tmp_path}")
        run(shlex.split(f"{line} {extra[line.split()[0]]}"), tmp_path, OMP_NUM_THREADS="1")
    assert list((tmp_path / "run/checkpoints").glob("*/checkpoint.json"))


def test_launching_by_torchrun_works(tmp_path: Path) -> None:
    """The cluster line, on one node of two processes and a local corpus."""
    (line,) = (
        line for text in blocks("") for line in text.splitlines() if line.startswith("torchrun")
    )
    (recipe,) = blocks("toml")
    (tmp_path / "recipe.toml").write_text(recipe)
    run(["generate", "recipe.toml", "corpus", "--steps", "49152"], tmp_path)
    line = line.replace("--nnodes 16 --nproc-per-node 8", "--standalone --nproc-per-node 2")
    line = line.replace("s3://bucket", str(tmp_path))
    extra = "--inputs state --batch 4 --updates 2 --validate-every 0"
    run(shlex.split(f"{line} {extra}"), tmp_path, OMP_NUM_THREADS="1")
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2
