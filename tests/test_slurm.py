"""The job scripts: one submitted to a real Slurm, the other run as PBS Pro runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from palaestra.generate import array
from slurm_node import MISSING, Node, Task, slurm_node, wait_for
from waiting import PATIENCE_S

pytestmark = pytest.mark.xdist_group("slurm")
needs_slurm = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed (Debian: slurm-wlm, munge): {', '.join(MISSING)}"
)

LAUNCH = Path(array.__file__).parent / "launch"
SLURM, PBS = LAUNCH / "slurm.sh", LAUNCH / "pbs.sh"
STEPS, SHARDS = 3072, 6
RECIPE = f"""name = "tiny"
steps = {STEPS}
shard_steps = 512
wave = 2
image_size = 16
seed = 5

[[behaviours]]
tasks = ["reach", "push"]
policy = "expert"
noise = 0.2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where jobs are submitted: a recipe, and a .venv as beside a checkout."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "tiny.toml").write_text(RECIPE)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, bytes]:
    """The corpus that one plain command writes."""
    words = [sys.executable, "-m", "palaestra.generate", "tiny.toml", "plain"]
    subprocess.run(words, cwd=folder, check=True, timeout=PATIENCE_S)
    found = files(folder / "plain")
    assert len([name for name in found if name.startswith("index/")]) == SHARDS
    return found


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with slurm_node() as node:
        yield node


def files(corpus: Path) -> dict[str, bytes]:
    """Every file of a corpus."""
    paths = [path for path in corpus.rglob("*") if path.is_file()]
    return {str(path.relative_to(corpus)): path.read_bytes() for path in paths}


def complete(corpus: Path) -> list[int]:
    """The shards whose index is there."""
    return sorted(int(path.stem.removeprefix("shard-")) for path in corpus.glob("index/shard-*"))


# Slurm


def submit(node: Node, folder: Path, tasks: str, *words: object) -> str:
    """The script with one core a task, so that three tasks run at once on the node."""
    return node.submit(f"--array={tasks}", "--cpus-per-task=1", SLURM, *words, cwd=folder)


def run(node: Node, folder: Path, tasks: str, *words: object) -> None:
    """Submit it and see every task succeed."""
    job = submit(node, folder, tasks, *words)
    ended = node.finish(job)
    logs = "".join(path.read_text() for path in folder.glob(f"generate-{job}-*.log"))
    assert set(ended.values()) == {Task("COMPLETED", 0)}, logs


@needs_slurm
def test_slurm_writes_the_corpus(node: Node, folder: Path, expected: dict[str, bytes]) -> None:
    """Three tasks at once, counted from 1, and the bytes of one plain command."""
    run(node, folder, "1-3", "tiny.toml", "slurm")
    assert files(folder / "slurm") == expected


@needs_slurm
@pytest.mark.slow
def test_slurm_runs_some_tasks_again(node: Node, folder: Path, expected: dict[str, bytes]) -> None:
    dest = folder / "again"
    run(node, folder, "0,2", "tiny.toml", dest, "--array-count", 3)
    assert complete(dest) == [0, 2, 3, 5] and not (dest / "index.parquet").exists()
    run(node, folder, "1", "tiny.toml", dest, "--array-count", 3)
    assert files(dest) == expected


@needs_slurm
def test_slurm_tasks_with_holes_need_their_count(node: Node, folder: Path) -> None:
    job = submit(node, folder, "0,1,3", "tiny.toml", "holes")
    assert node.finish(job) == dict.fromkeys((0, 1, 3), Task("FAILED", 1))
    for task in (0, 1, 3):
        (line,) = (folder / f"generate-{job}-{task}.log").read_text().splitlines()
        assert line.startswith("generate: error: SLURM_ARRAY_TASK_ID: ")
        assert f"found {task} in a list with holes; pass --array-count" in line
    assert not (folder / "holes").exists()


@needs_slurm
@pytest.mark.slow
def test_slurm_goes_on_after_a_preemption(
    node: Node, folder: Path, expected: dict[str, bytes]
) -> None:
    """Requeued while it writes: the task ends, and begins again from its finished shards."""
    dest = folder / "requeued"
    job = submit(node, folder, "0", "tiny.toml", dest)
    wait_for(lambda: complete(dest))
    node.command("scontrol", "requeue", f"{job}_0")
    stamps = {path: path.stat().st_mtime_ns for path in dest.glob("index/shard-*")}
    assert len(stamps) < SHARDS
    wait_for(lambda: "PENDING" in node.command("scontrol", "show", "job", job))
    # instead of two minutes; in the same second slurmd takes the new start for the old, "already
    # killed"
    node.command("scontrol", "update", f"JobId={job}_0", "StartTime=now+5")
    assert node.finish(job) == {0: Task("COMPLETED", 0)}
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert files(dest) == expected
    assert "DUE TO JOB REQUEUE" in (folder / f"generate-{job}-0.log").read_text()


# PBS Pro


def run_as_pbs(
    folder: Path, home: Path, index: int, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The script as a subjob runs it: in the home, with PBS's variables and those of `qsub -v`."""
    environment = {
        "HOME": str(home), "PATH": "/usr/bin:/bin", "PBS_O_WORKDIR": str(folder),
        "PBS_ARRAY_INDEX": str(index), "NCPUS": "1",
    }  # fmt: skip
    return subprocess.run(
        ["bash", PBS], cwd=home, env=environment | variables, capture_output=True, text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip


def test_pbs_writes_the_corpus(folder: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    """Task by task, with a flag of generate's that has a value."""
    (folder / "other.toml").write_text(RECIPE.replace(f"steps = {STEPS}\n", "steps = 1\n", 1))
    variables = {"RECIPE": "other.toml", "DEST": "pbs", "TASKS": "2", "FLAGS": f"--steps {STEPS}"}
    for index, shards in ((1, [1, 3, 5]), (0, list(range(SHARDS)))):
        done = run_as_pbs(folder, tmp_path, index, **variables)
        assert done.stderr == "" and done.returncode == 0
        assert complete(folder / "pbs") == shards
    assert files(folder / "pbs") == expected


def test_pbs_has_as_many_tasks_as_shares(folder: Path, tmp_path: Path) -> None:
    """The range in its header is the number that it passes on."""
    (last,) = re.findall(r"^#PBS -J 0-(\d+)$", PBS.read_text(), re.MULTILINE)
    done = run_as_pbs(folder, tmp_path, int(last) + 1, RECIPE="tiny.toml", DEST="beyond")
    message = f"PBS_ARRAY_INDEX: expected 0 to {last} (--array-count {int(last) + 1})"
    assert message in done.stderr and done.returncode == 1


# Both


def test_workers_are_the_cores_that_the_job_has(folder: Path, tmp_path: Path) -> None:
    """Whatever it may run on: with a number that cannot be, which is then refused."""
    refusal = "generate: error: --workers should be positive, is 0\n"
    done = run_as_pbs(folder, tmp_path, 0, RECIPE="tiny.toml", DEST="none", NCPUS="0")
    assert done.stderr == refusal and done.returncode == 1
    words = {"ID": 0, "COUNT": 1, "MIN": 0, "MAX": 0, "STEP": 1}
    environment = {f"SLURM_ARRAY_TASK_{word}": str(value) for word, value in words.items()}
    environment |= {"PATH": "/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "0"}
    done = subprocess.run(
        ["bash", SLURM, "tiny.toml", "none"], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.stderr == refusal and done.returncode == 1


@pytest.mark.parametrize("room", ["generate", "train"])
@pytest.mark.parametrize("script", [SLURM, PBS], ids=lambda path: path.name)
@pytest.mark.parametrize("words", ["bash -n", "shellcheck"])
def test_scripts_are_sound(words: str, script: Path, room: str) -> None:
    script = LAUNCH.parent.parent / room / LAUNCH.name / script.name
    program, *flags = words.split()
    if shutil.which(program) is None:
        pytest.skip(f"not installed: {program}")
    done = subprocess.run([program, *flags, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
