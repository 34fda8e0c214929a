"""Wall time of `make demo` by stage, in a fresh clone of this repository's HEAD.

Clones into an empty temporary folder and runs the demo there, virtual environment and all, as a
new user would; changes that are not committed do not take part. The installation downloads
packages unless pip has them. A stage begins at each output line that starts with `== `.

Run: python benchmarks/demo.py [--quick]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import tyro
from timing import print_table

REPOSITORY = Path(__file__).resolve().parents[1]
STAGE = "== "
LAST_LINES = 25


def clone(folder: Path) -> str:
    """Clone HEAD into `folder`; returns the commit."""
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], check=True)
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def stub_commands(folder: Path) -> list[str]:
    """Put an environment in place whose commands only echo; returns what make needs to know."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    stubs = folder / ".venv" / "stubs"
    stubs.mkdir(parents=True)
    for name in project["scripts"]:
        (stubs / name).symlink_to("/bin/echo")
    (folder / ".venv" / "installed").touch()
    return [f"BIN={stubs}"]


def run(command: list[str], folder: Path) -> tuple[list[tuple[str, float]], list[str]]:
    """Stages with their seconds, and the last stage's output; all of it is shown as it comes.

    Exits with the command's code if that fails.
    """
    start = time.monotonic()
    stages, output = [("start", start)], []
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in map(str.rstrip, process.stdout):
            now = time.monotonic()
            print(f"{now - start:6.1f} s  {line}", flush=True)
            if line.startswith(STAGE):
                stages.append((line.removeprefix(STAGE), now))
                output = []
            else:
                output.append(line)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed in stage {stages[-1][0]!r}")
    ends = [began for _, began in stages[1:]] + [time.monotonic()]
    return [(name, end - began) for (name, began), end in zip(stages, ends, strict=True)], output


def main(quick: bool = False) -> None:
    """Print seconds by stage and the scores; --quick runs commands that only echo."""
    with tempfile.TemporaryDirectory(prefix="palaestra-demo-") as temporary:
        folder = Path(temporary) / "palaestra"
        commit = clone(folder)
        variables = stub_commands(folder) if quick else [f"PYTHON={sys.executable}"]
        stages, output = run(["make", "--no-print-directory", "demo", *variables], folder)
    total = sum(seconds for _, seconds in stages)
    rows = [
        (name, f"{seconds:.1f}", f"{seconds / total:.2f}")
        for name, seconds in [*stages, ("all", total)]
    ]
    print_table(f"make demo at {commit}", ("stage", "seconds", "share"), rows)
    print("\n" + "\n".join(output[-LAST_LINES:]))


if __name__ == "__main__":
    tyro.cli(main)
