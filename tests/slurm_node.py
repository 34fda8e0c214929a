"""A real one-node Slurm on loopback, in a folder of its own, run by whoever runs the tests."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import waiting
from waiting import PATIENCE_S

wait_for = partial(waiting.wait_for, every_s=0.1)  # each look is a question to the scheduler
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue")
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
MISSING = [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]
MUNGE_FILES = ("socket", "key-file", "pid-file", "log-file", "seed-file")
CPUS, MEMORY_MB = 3, 4000  # what the node says it has, whatever the machine has
# linuxproc and none: jobs are not confined to their cores, as on the plainest of clusters
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb}
PartitionName=all Nodes=ALL Default=YES
"""


@dataclass(frozen=True)
class Task:
    """What became of an array's task."""

    state: str
    exit_code: int


@dataclass(frozen=True)
class Node:
    """The commands of a Slurm that is up."""

    environment: dict[str, str]

    def command(self, *words: object, cwd: Path | None = None) -> str:
        """What a command of Slurm's prints; raises when it fails."""
        return subprocess.run(
            list(map(str, words)), env=self.environment, cwd=cwd, check=True,
            stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S,
        ).stdout  # fmt: skip

    def submit(self, *words: object, cwd: Path) -> str:
        """The number of the job that `sbatch WORDS` in that folder makes."""
        return self.command("sbatch", "--parsable", *words, cwd=cwd).strip()

    def tasks(self, job: str) -> dict[int, Task]:
        """The job's tasks that have begun; the others are one record, whose ID is a list."""
        found = {}
        for line in self.command("scontrol", "--oneliner", "show", "job", job).splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            if fields["ArrayTaskId"].isdigit():
                code = int(fields["ExitCode"].split(":")[0])
                found[int(fields["ArrayTaskId"])] = Task(fields["JobState"], code)
        return found

    def finish(self, job: str) -> dict[int, Task]:
        """Its tasks, when all have ended: seen at once, where `sbatch --wait` looks each 10 s."""
        wait_for(lambda: not self.command("squeue", "--noheader", "--jobs", job))
        return self.tasks(job)


@contextmanager
def slurm_node() -> Iterator[Node]:
    """Munge, controller and node daemon, all gone at the end, and every job with them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="palaestra-slurm-")))
        configuration = folder / "slurm.conf"
        configuration.write_text(configure(folder))
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").touch(mode=0o600)
        (folder / "munge.key").write_bytes(os.urandom(128))
        # not those of a job that runs the tests
        own = {key: value for key, value in os.environ.items()
               if not key.startswith(("SLURM", "SBATCH"))}  # fmt: skip
        node = Node(own | {"PATH": SEARCH, "SLURM_CONF": str(configuration)})
        # --force: it would refuse a socket in a folder that other users cannot enter
        munge = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in MUNGE_FILES]
        starts: list[tuple[Sequence[str], Callable[[], bool]]] = [
            (["munged", "--foreground", "--force", *munge], (folder / "munge.socket").exists),
            (["slurmctld", "-D"], lambda: "UP" in node.command("scontrol", "ping")),
            (["slurmd", "-D"], lambda: node.command("sinfo", "-ho", "%T") == "idle\n"),
        ]
        for words, ready in starts:
            start(stack, node, words, ready)
        stack.callback(cancel_all, node)
        yield node


def configure(folder: Path) -> str:
    """The text of slurm.conf, with ports that are free now."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        ports = first.getsockname()[1], second.getsockname()[1]
    return CONFIGURATION.format(
        folder=folder, ports=ports, cpus=CPUS, memory_mb=MEMORY_MB,
        host=socket.gethostname().split(".")[0], user=pwd.getpwuid(os.getuid()).pw_name,
    )  # fmt: skip


def start(stack: ExitStack, node: Node, words: Sequence[str], ready: Callable[[], bool]) -> None:
    """Run a daemon until the stack unwinds, and wait until it is ready."""
    process = subprocess.Popen(words, env=node.environment, stdin=subprocess.DEVNULL)
    stack.callback(process.wait, PATIENCE_S)
    stack.callback(process.terminate)

    def up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{words[0]} did not start; stderr says why")
        try:
            return ready()
        except subprocess.CalledProcessError:  # nobody answers yet
            return False

    wait_for(up)


def cancel_all(node: Node) -> None:
    """End what still runs, and wait until it has."""
    if jobs := node.command("squeue", "--noheader", "--format=%A").split():
        node.command("scancel", *jobs)
        wait_for(lambda: not node.command("squeue", "--noheader"))
