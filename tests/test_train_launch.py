"""Ranks by torchrun on two nodes and by the deepspeed launcher: the bits of `--ranks 2`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import waiting
from palaestra.train.places import complete_checkpoints
from train_runs import PRESET, assert_same, family, logged, train, words, write_corpus
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow
wait_for = partial(waiting.wait_for, every_s=0.005)
UPDATES = 40
FLAGS = ("updates", UPDATES, "checkpoint-every", "12h")  # so that only a signal saves
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds preset.toml and corpus."""
    path = tmp_path_factory.mktemp("launch")
    (path / "preset.toml").write_text(PRESET)
    write_corpus(path / "corpus")
    return path


@pytest.fixture(scope="module")
def together(folder: Path) -> Path:
    """What two ranks without a launcher write."""
    train(folder, "together", *FLAGS, "ranks", 2)
    return folder / "together"


def free_port() -> int:
    """A TCP port of which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@contextmanager
def launcher(command: Sequence[object], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A launcher in a session of its own; nothing of it outlives the block."""
    process = subprocess.Popen(
        list(map(str, command)), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        for member in family(process.pid):
            os.kill(member, signal.SIGKILL)
        process.communicate()


@contextmanager
def two_nodes(
    arguments: list[str], addresses: Sequence[str], ways: Sequence[Sequence[object]] = ((), ()),
    interface: str = "lo",
) -> Iterator[list[subprocess.Popen[str]]]:  # fmt: skip
    """An agent with one rank at each address, which meet at the first; `ways` lead to a node."""
    meeting = f"{addresses[0]}:{free_port()}"
    with ExitStack() as stack:
        yield [
            stack.enter_context(launcher([
                *way, PROGRAMS / "torchrun", "--nnodes", 2, "--nproc-per-node", 1,
                "--rdzv-backend", "c10d", "--rdzv-id", "run", "--rdzv-endpoint", meeting,
                "--local-addr", address, "-m", "palaestra.train", "--", *arguments,
            ], GLOO_SOCKET_IFNAME=interface))
            for way, address in zip(ways, addresses, strict=True)
        ]  # fmt: skip


def finish(processes: Sequence[subprocess.Popen[str]]) -> None:
    """See every launcher end well."""
    for process in processes:
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output


def test_two_nodes_by_torchrun(folder: Path, together: Path) -> None:
    """One agent is told to stop, and both ranks have saved; started again, they finish."""
    run, addresses = folder / "addresses", ("127.0.0.1", "127.0.0.2")
    arguments = words(folder, "addresses", *FLAGS)
    with two_nodes(arguments, addresses) as processes:
        wait_for(lambda: logged(run) >= 3)
        processes[1].send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
        # it hides the ranks' 75
        assert [process.returncode for process in processes] == [1, 1], outputs
    assert complete_checkpoints(str(run)) == [logged(run)]
    assert logged(run) < UPDATES
    with two_nodes(arguments, addresses) as processes:
        finish(processes)
    assert_same(run, together, UPDATES)


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Two network namespaces joined by a wire, with 10.213.0.1 and 10.213.0.2 at its ends."""
    names = [f"palaestra-{os.getpid()}-{end}" for end in (1, 2)]
    with ExitStack() as stack:
        for name in names:
            try:
                ip("netns", "add", name)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no network namespaces here: {error}")
            stack.callback(ip, "netns", "delete", name)
        ip("link", "add", "wire", "netns", names[0], "type", "veth",
           "peer", "name", "wire", "netns", names[1])  # fmt: skip
        for end, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.213.0.{end}/24", "dev", "wire")
            for device in ("lo", "wire"):
                ip("-n", name, "link", "set", device, "up")
        yield names


def ip(*words: str) -> None:
    """Run a command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def test_two_nodes_with_networks_of_their_own(
    folder: Path, together: Path, namespaces: list[str]
) -> None:
    ways = [("ip", "netns", "exec", name) for name in namespaces]
    arguments = words(folder, "namespaces", *FLAGS)
    with two_nodes(arguments, ("10.213.0.1", "10.213.0.2"), ways, "wire") as processes:
        finish(processes)
    assert_same(folder / "namespaces", together, UPDATES)


def test_the_deepspeed_launcher(folder: Path, together: Path) -> None:
    command = [
        PROGRAMS / "deepspeed", "--num_gpus", 2, "--master_port", free_port(), "--no_local_rank",
        "--module", "palaestra.train", *words(folder, "deepspeed", *FLAGS),
    ]  # fmt: skip
    with launcher(command, DS_ACCELERATOR="cpu") as process:
        finish([process])
    assert_same(folder / "deepspeed", together, UPDATES)
