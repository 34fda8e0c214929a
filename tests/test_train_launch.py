"""Launchers: two nodes by torchrun, one machine as docs/launching.md has it; the same bits."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import tyro
import waiting
from palaestra.train.arguments import Arguments
from palaestra.train.config import load_preset
from palaestra.train.places import complete_checkpoints
from train_runs import assert_same, logged, prepare, train, words
from waiting import PATIENCE_S

wait_for = partial(waiting.wait_for, every_s=0.005)
UPDATES = 30
FLAGS = ("updates", UPDATES, "checkpoint-every", "12h")  # so that only a signal saves
PROGRAMS = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/launching.md").read_text()


def blocks(language: str) -> list[str]:
    """Lines of the page's code blocks of a language."""
    found = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.S)
    return [line for kind, text in found if kind == language for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds preset.toml and corpus."""
    return prepare(tmp_path_factory.mktemp("launch"))


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
    """A launcher, of which nothing outlives the block; torchrun's ranks have their own sessions."""
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            for member in [*psutil.Process(process.pid).children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
        process.communicate()


@contextmanager
def two_nodes(
    arguments: list[str], addresses: Sequence[str], ways: Sequence[Sequence[object]] = ((), ()),
    interface: str = "lo",
) -> Iterator[list[subprocess.Popen[str]]]:  # fmt: skip
    """The page's line for nodes with one rank at each address; `ways` lead to a node."""
    (line,) = (line for line in blocks("") if line.startswith("torchrun"))
    meeting = f"{addresses[0]}:{free_port()}"
    for old, new in (("nodes 16", "nodes 2"), ("node 8", "node 1"), ("node0:29400", meeting)):
        assert old in line
        line = line.replace(old, new)
    program, *flags = shlex.split(line.partition(" -- ")[0])
    with ExitStack() as stack:
        yield [
            stack.enter_context(launcher([
                *way, PROGRAMS / program, "--local-addr", address,
                # a node's name leads to its address, but not that of a network namespace
                "--rdzv-conf", f"is_host={address == addresses[0]}", *flags, "--", *arguments,
            ], GLOO_SOCKET_IFNAME=interface))
            for way, address in zip(ways, addresses, strict=True)
        ]  # fmt: skip


def finish(processes: Sequence[subprocess.Popen[str]]) -> None:
    """See every launcher end well."""
    for process in processes:
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_nodes_with_networks_of_their_own(
    folder: Path, together: Path, namespaces: list[str]
) -> None:
    ways = [("ip", "netns", "exec", name) for name in namespaces]
    arguments = words(folder, "namespaces", *FLAGS)
    with two_nodes(arguments, ("10.213.0.1", "10.213.0.2"), ways, "wire") as processes:
        finish(processes)
    assert_same(folder / "namespaces", together, UPDATES)


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in blocks("sh") if not line.startswith("train")])
def test_launchers_of_one_machine(line: str, folder: Path, together: Path) -> None:
    """As on the page, but for the corpus."""
    program, *given = shlex.split(line)
    corpus = given.index("runs/small/corpus")
    name = Path(given[given.index("--run") + 1]).name
    given[corpus:] = words(folder, name, *FLAGS)
    if program == "deepspeed":  # always 29500 by itself
        given = ["--master_port", str(free_port()), *given]
    with launcher([PROGRAMS / program, *given], DS_ACCELERATOR="cpu") as process:
        finish([process])
    assert_same(folder / name, together, UPDATES)


def test_lines_of_the_page_parse() -> None:
    """Their words for `train`, as it reads them; and the scripts exist."""
    starts = []
    for line in [*blocks("sh"), *blocks("")]:
        given = shlex.split(line)
        starts.append(given[0])
        scripts = [word for word in given if word.endswith(".sh")]
        assert all((ROOT / script).exists() for script in scripts)
        (corpus,) = (n for n, word in enumerate(given) if re.search(r"(^|=)\S+/corpus", word))
        of_train = given[corpus:]
        if given[0] == "qsub":
            of_train = shlex.split(given[corpus].removeprefix("TRAIN="))
        load_preset(tyro.cli(Arguments, args=of_train).preset)
    assert starts == ["train", "train", "torchrun", "deepspeed", "torchrun", "sbatch", "qsub"]
