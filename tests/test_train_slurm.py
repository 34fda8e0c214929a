"""The job scripts of `train`: one on a real Slurm, interrupted; the other run as PBS runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import train_runs
from palaestra.train import ranks
from palaestra.train.places import complete_checkpoints
from slurm_node import MISSING, Node, slurm_node, wait_for
from train_runs import assert_same, ending, family, logged, prepare, train
from waiting import PATIENCE_S

pytestmark = pytest.mark.xdist_group("slurm")
needs_slurm = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed (Debian: slurm-wlm, munge): {', '.join(MISSING)}"
)

LAUNCH = Path(ranks.__file__).parent / "launch"
SLURM, PBS = LAUNCH / "slurm.sh", LAUNCH / "pbs.sh"
UPDATES = 30
FLAGS = ("updates", UPDATES, "checkpoint-every", "12h")  # so that only a signal saves
JOB = "7"  # of PBS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where jobs are submitted: a preset, a corpus, and a .venv as beside a checkout."""
    folder = prepare(tmp_path_factory.mktemp("jobs"))
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    """What two ranks on one machine write, from beginning to end."""
    train(folder, "undisturbed", *FLAGS, "ranks", 2)
    return folder / "undisturbed"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with slurm_node() as node:
        yield node


def words(run: str, *more: object) -> list[str]:
    """Arguments of `train` with paths that hold where the job was submitted."""
    return train_runs.words(Path(), run, *FLAGS, *more)


# Slurm


def submit(node: Node, folder: Path, run: str, *more: object) -> str:
    """The script with two ranks, on the memory that the node has to give."""
    return node.submit("--ntasks-per-node=2", SLURM, *words(run, *more), cwd=folder)


def record(node: Node, job: str) -> dict[str, str]:
    """What Slurm knows of the job."""
    shown = node.command("scontrol", "--oneliner", "show", "job", job)
    return dict(re.findall(r"(\w+)=(\S*)", shown))


def finish(node: Node, job: str) -> dict[str, str]:
    """Its record when it has ended."""
    wait_for(lambda: not node.command("squeue", "--noheader", "--jobs", job))
    return record(node, job)


@needs_slurm
@pytest.mark.slow
def test_slurm_goes_on_after_a_preemption(node: Node, folder: Path, undisturbed: Path) -> None:
    """To the bits of a run that nothing disturbed."""
    run = folder / "preempted"
    job = submit(node, folder, "preempted")
    wait_for(lambda: logged(run) >= 3)
    node.command("scontrol", "requeue", job)
    wait_for(lambda: record(node, job)["JobState"] == "PENDING")
    saved = logged(run)
    assert complete_checkpoints(str(run)) == [saved] and saved < UPDATES
    # instead of two minutes; in the same second slurmd takes the new start for the old, "already
    # killed"
    node.command("scontrol", "update", f"JobId={job}", "StartTime=now+5")
    ended = finish(node, job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "1")
    assert f"updates {saved} to {UPDATES}" in (folder / f"train-{job}.log").read_text()
    assert_same(run, undisturbed, UPDATES)


@needs_slurm
@pytest.mark.slow
def test_slurm_queues_again_at_the_time_limit(node: Node, folder: Path) -> None:
    """Told ten minutes before it, the ranks save, and their job waits for its next turn."""
    run = folder / "limited"
    job = submit(node, folder, "limited", "updates", 100_000)
    wait_for(lambda: logged(run) >= 3)
    node.command("scontrol", "update", f"JobId={job}", "TimeLimit=5")  # Slurm looks every 30 s
    wait_for(lambda: record(node, job)["JobState"] == "PENDING")
    assert record(node, job)["Restarts"] == "1"
    assert complete_checkpoints(str(run)) == [logged(run)]
    node.command("scancel", job)


@needs_slurm
def test_slurm_does_not_repeat_an_error(node: Node, folder: Path) -> None:
    job = submit(node, folder, "refused", "updates", 0)
    ended = finish(node, job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "1:0", "0")
    log = (folder / f"train-{job}.log").read_text()
    assert "train: error: --updates should be at least 1, is 0" in log.splitlines()
    assert not (folder / "refused").exists()


@needs_slurm
@pytest.mark.slow
def test_slurm_cancels_for_good(node: Node, folder: Path) -> None:
    """The ranks save in the 30 s that they have, and the job does not come back."""
    run = folder / "cancelled"
    job = submit(node, folder, "cancelled")
    wait_for(lambda: logged(run) >= 3)
    node.command("scancel", job)
    assert finish(node, job)["JobState"] == "CANCELLED"
    assert complete_checkpoints(str(run)) == [logged(run)]


# PBS Pro


@pytest.fixture
def pbs(tmp_path: Path) -> Path:
    """A home, and PBS's two programs in it: a remote shell that passes no variables, and qdel."""
    programs = {"pbs_tmrsh": 'shift; exec env -i "$@"', "qdel": 'echo "$@" >>~/deleted'}
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


@contextmanager
def job_of_pbs(
    folder: Path, home: Path, hosts: str, arguments: list[str]
) -> Iterator[subprocess.Popen[str]]:
    """The script as a task runs it: in the home, with PBS's variables and those of `qsub -v`."""
    (home / "nodes").write_text(hosts.replace(" ", "\n") + "\n")
    environment = {
        "HOME": str(home), "PATH": f"{home}:/usr/bin:/bin", "PBS_O_WORKDIR": str(folder),
        "PBS_JOBID": f"{JOB}[0].server", "PBS_ARRAY_ID": f"{JOB}[].server",
        "PBS_NODEFILE": str(home / "nodes"), "NCPUS": str(hosts.split().count("localhost")),
        "TRAIN": " ".join(arguments),
    }  # fmt: skip
    process = subprocess.Popen(
        ["bash", PBS], cwd=home, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with ending(process):
        yield process


def clocks(process: subprocess.Popen[str]) -> list[int]:
    """The `timeout`s of a job whose ranks are at work."""
    pids = family(process.pid)
    return [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "timeout\n"]


@pytest.mark.slow
def test_pbs_goes_on_until_the_run_is_finished(folder: Path, pbs: Path, undisturbed: Path) -> None:
    """A task stopped at its limit, on one host; the next one finishes, on two."""
    run = folder / "pbs"
    with job_of_pbs(folder, pbs, "localhost localhost", words("pbs")) as process:
        wait_for(lambda: logged(run) >= 3)
        (clock,) = clocks(process)
        os.kill(clock, signal.SIGALRM)  # its own, at the end of STOP_AFTER
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75, output
    saved = logged(run)
    assert complete_checkpoints(str(run)) == [saved] and saved < UPDATES
    assert not (pbs / "deleted").exists()
    with job_of_pbs(folder, pbs, "localhost 127.0.0.1", words("pbs")) as process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and f"updates {saved} to {UPDATES}" in output
    assert (pbs / "deleted").read_text() == f"{JOB}[].server\n"
    assert_same(run, undisturbed, UPDATES)


def test_pbs_does_not_repeat_an_error(folder: Path, pbs: Path) -> None:
    with job_of_pbs(folder, pbs, "localhost", words("refused", "updates", 0)) as process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert output == "train: error: --updates should be at least 1, is 0\n"
    assert process.returncode == 1
    assert (pbs / "deleted").read_text() == f"{JOB}[].server\n"
