"""The Ray engine: a cluster of two nodes, Ray on this machine, and the command that uses it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import waiting
from palaestra.generate.pool import Event, Finished
from palaestra.generate.ray_engine import run
from palaestra.generate.worker import ENVIRONMENT
from palaestra.shards.errors import ConfigError, PalaestraError, UnknownNameError, WorkerDiedError
from test_pool import Tell, failed, finished, living, pids, scaled, sign_in, told, wait_for

pytestmark = pytest.mark.xdist_group("ray")  # two Rays at a time are too much for two cores
# generate_runs, with MuJoCo and numba, is imported where it is used: Ray's workers import this file

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, as on two machines, for all tests of this file."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()
    os.environ.clear()
    os.environ.update(before)


def ray_processes() -> list[int]:
    """Ray's processes that have this one as their parent."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            line = path.with_name("cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == os.getpid() and state != "Z" and b"/ray/" in line:
            found.append(int(path.parent.name))
    return found


# On a cluster


def surroundings(folder: Path, item: int, tell: Tell) -> tuple[str, int, dict[str, str], int]:
    """Ends when two processes have been at it; the variables are those of the process's start."""
    import polars as pl
    import ray

    pid = sign_in(folder)
    wait_for(lambda: len(pids(folder)) >= 2)
    for _ in range(item):
        tell(2)
    lines = Path("/proc/self/environ").read_text().split("\0")
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    return ray.get_runtime_context().get_node_id(), pid, variables, pl.thread_pool_size()


class Noted(int):
    """A number that the driver remembers when it hands it over."""

    handed: ClassVar[list[int]] = []

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        Noted.handed.append(int(self))
        return int, (int(self),)


def test_two_tasks_per_cpu_are_handed_over(cluster: Any) -> None:
    Noted.handed.clear()
    events = run(partial(scaled, 3), [Noted(n) for n in range(8)], cluster.address)
    first = next(events)
    assert Noted.handed == [0, 1, 2, 3]
    assert finished([first, *events]) == {n: 3 * n for n in range(8)}
    assert Noted.handed == list(range(8))


def test_both_nodes_work_with_one_thread_each_and_stay(cluster: Any, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    before = ray_processes()
    events = list(run(partial(surroundings, tmp_path), range(8), cluster.address))
    results = finished(events)
    assert sorted(results) == list(range(8)) and not failed(events)
    assert [sum(told(events, item)) for item in range(8)] == list(range(0, 16, 2))
    assert len({node for node, *_ in results.values()}) == 2
    for _, _, variables, threads in results.values():
        assert variables.items() >= ENVIRONMENT.items() and threads == 1
    assert {pid for _, pid, *_ in results.values()} == set(pids(tmp_path))
    wait_for(lambda: not any(map(living, pids(tmp_path))))
    assert ray_processes() == before
    assert signal.getsignal(signal.SIGTERM) is handler


class PositionalError(Exception):
    """Pickled, but not unpickled: it is made of two things and remembers one."""

    def __init__(self, url: str, found: str) -> None:
        super().__init__(f"{url}: found {found}")


def misbehave(folder: Path, item: str, tell: Tell) -> str:
    with (folder / "attempts").open("a") as file:
        file.write(f"{item}\n")
    again = (folder / "attempts").read_text().splitlines().count(item) > 1
    tell(5)
    match item:
        case "raise once" if not again:
            raise ValueError("at first")
        case "kill once" if not again:
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise UnknownNameError("task", "raech", ["reach"])
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            sys.exit(3)
        case "positional":
            raise PositionalError("s3://a", "b")
    return item


MISBEHAVIOUR: dict[str, tuple[type[Exception], str]] = {
    "raise": (UnknownNameError, "unknown task 'raech'; did you mean 'reach'?"),
    "kill": (WorkerDiedError, "WorkerCrashedError: The worker died unexpectedly"),
    "exit": (WorkerDiedError, "WorkerCrashedError: The worker died unexpectedly"),
    "positional": (PalaestraError, "PositionalError: s3://a: found b"),
}


def test_attempts_are_counted_and_the_rest_goes_on(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    items = ["raise once", "kill once", *MISBEHAVIOUR, *"abc"]
    work = partial(misbehave, tmp_path)
    events = list(run(work, items, cluster.address, attempts=2, workers=1))
    again = ("raise once", "kill once")
    assert sorted(finished(events)) == sorted([*"abc", *again])
    given_up = failed(events)
    assert {name: type(event.error) for name, event in given_up.items()} == {
        name: kind for name, (kind, _) in MISBEHAVIOUR.items()
    }
    for name, event in given_up.items():
        assert str(event.error).startswith(MISBEHAVIOUR[name][1]) and event.attempts == 2
        assert len(str(event.error).splitlines()) == 1
    assert "misbehave" in "".join(given_up["raise"].error.__notes__)
    tried = (tmp_path / "attempts").read_text().splitlines()
    assert sorted(tried) == sorted([*items, *again, *MISBEHAVIOUR])
    assert {item: told(events, item) for item in items} == {
        item: [5] if item in finished(events) else [] for item in items
    }
    assert capfd.readouterr() == ("", "")


def stuck(folder: Path, kind: Callable[[], Exception] | None, item: int, tell: Tell) -> int:
    """Item 0 ends when another hangs; the rest never do."""
    if item:
        sign_in(folder)
        signal.pause()
    wait_for(lambda: pids(folder))
    if kind is not None:
        raise kind()
    return item


def test_a_fatal_error_ends_everything(cluster: Any, tmp_path: Path) -> None:
    work = partial(stuck, tmp_path, partial(OSError, 28, "full"))
    with pytest.raises(OSError, match="full") as caught:
        list(run(work, [1, 0, 2], cluster.address))
    assert type(caught.value) is OSError and caught.value.errno == 28
    wait_for(lambda: not any(map(living, pids(tmp_path))))


def test_closed_early_it_leaves_nothing_but_the_cluster(cluster: Any, tmp_path: Path) -> None:
    events = run(partial(stuck, tmp_path, None), [1, 0, 2, 3], cluster.address, fatal=())
    assert next(events) == Finished(0, 0)
    with pytest.raises(ConfigError, match="Ray is in use in this process"):
        next(run(partial(stuck, tmp_path, None), [1], None))
    assert any(map(living, pids(tmp_path)))
    events.close()
    wait_for(lambda: not any(map(living, pids(tmp_path))))
    assert len(ray_processes()) >= 2 + 1  # two nodes, and what keeps the cluster together


def lasting(folder: Path, item: int, tell: Tell) -> str:
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    file = folder / f"{item}-{node}"
    file.with_suffix(".tmp").write_text(str(os.getpid()))
    file.with_suffix(".tmp").rename(file)
    wait_for((folder / "go").exists)
    return node


@pytest.mark.slow
def test_a_lost_machines_items_are_done_elsewhere(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1)
    events: list[Event[int, str]] = []

    def begun() -> list[str]:
        return [path.name for path in tmp_path.glob("*-*") if not path.suffix]

    def pull_the_plug() -> None:
        wait_for(lambda: len(begun()) == 3)
        cluster.remove_node(node, allow_graceful=False)
        (file,) = tmp_path.glob(f"?-{node.node_id}")
        with suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
        (tmp_path / "go").touch()

    with ThreadPoolExecutor(1) as thread:
        plug = thread.submit(pull_the_plug)
        events += run(partial(lasting, tmp_path), range(6), cluster.address)
        plug.result()
    assert sorted(finished(events)) == list(range(6)) and not failed(events)
    assert len(begun()) == 7 and node.node_id not in finished(events).values()


# On this machine


def test_ray_here_has_one_thread_per_worker_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = ray_processes()
    events = list(run(partial(surroundings, tmp_path), range(4), None, workers=2))
    for _, pid, variables, threads in finished(events).values():
        assert variables.items() >= ENVIRONMENT.items() and threads == 1
        assert pid in pids(tmp_path)
    assert len(finished(events)) == 4
    wait_for(lambda: not any(map(living, pids(tmp_path))))
    assert ray_processes() == before
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_it_ends_when_rays_process_here_dies(tmp_path: Path) -> None:
    before = ray_processes()
    with pytest.raises(WorkerDiedError, match="Ray's process on this machine died"):
        for event in run(partial(stuck, tmp_path, None), [1, 0, 2, 3], None, workers=2):
            assert event == Finished(0, 0)
            (raylet,) = [
                pid for pid in ray_processes()
                if pid not in before and Path(f"/proc/{pid}/comm").read_text() == "raylet\n"
            ]  # fmt: skip
            os.kill(raylet, signal.SIGKILL)
            for pid in pids(tmp_path):
                os.kill(pid, signal.SIGKILL)
    assert ray_processes() == before


def test_nothing_to_do_starts_nothing() -> None:
    assert list(run(partial(stuck, Path(), None), [], None)) == []


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray: pip install 'palaestra\[ray\]'$"):
        next(run(partial(stuck, Path(), None), [0], None))


@pytest.fixture
def closed_port() -> Iterator[int]:
    """One that is taken, so that nobody else listens there, and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:{port}", "no Ray cluster answers: .*refused"),
        ("ray://127.0.0.1:{port}", "no Ray cluster answers: .*refused"),
        ("127.0.0.1:99999", "no Ray cluster answers: "),
        ("127.0.0.1", "should be HOST:PORT, ray://HOST:PORT or auto: 127.0.0.1"),
        ("http://127.0.0.1:80", "should be HOST:PORT, ray://HOST:PORT or auto: http"),
    ],
)
def test_a_cluster_out_of_reach_is_named(address: str, message: str, closed_port: int) -> None:
    address = address.format(port=closed_port)
    with pytest.raises(ConfigError, match=message) as caught:
        next(run(partial(stuck, Path(), None), [0], address))
    assert str(caught.value).startswith("--ray-address ") and address in str(caught.value)


# The command


POLICY = """
import pathlib
import numpy as np
class Policy:
    def __init__(self, value):
        self.value = value
    def reset(self, world, seeds):
        self.nlane = world.nlane
        while self.value > 1:
            pathlib.Path("playing").touch()
    def act(self, observation):
        return np.full((self.nlane, 8), self.value, np.float32)
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts the command on the tiny recipe, with a policy of a module in the working directory.

    It plays for ever if its value is above 1.
    """
    import generate_runs as runs

    def launch(value: float, *arguments: object) -> subprocess.Popen[str]:
        policy = f'"constant:Policy"\narguments = {{value = {value}}}'
        Path("recipe.toml").write_text(runs.RECIPE.replace('"random"', policy))
        return begin("recipe.toml", "--allow-code", *arguments)

    (tmp_path / "constant.py").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    with runs.starter(tmp_path / "stderr") as begin:
        yield launch


def test_the_corpus_is_the_same_to_the_last_byte(start: Start, tmp_path: Path) -> None:
    """At a relative URL, which Ray's workers must take to mean the same folder."""
    import generate_runs as runs

    for engine in ("processes", "ray"):
        process = start(0.5, engine, "--workers", 2, "--engine", engine)
        assert process.wait(waiting.PATIENCE_S) == 0
        assert (tmp_path / "stderr").read_text() == ""
        wait_for(partial(ended, process))
    found = runs.contents(str(tmp_path / "ray"))
    assert len([name for name in found if "/shard-" in name]) == 2 * runs.SHARDS
    assert found == runs.contents(str(tmp_path / "processes"))


def test_ctrl_c_leaves_no_process(start: Start, tmp_path: Path) -> None:
    process = start(2.0, "corpus", "--engine", "ray")
    wait_for(lambda: (tmp_path / "playing").exists() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(waiting.PATIENCE_S) == 130
    (line,) = (tmp_path / "stderr").read_text().splitlines()
    assert line == "generate: error: interrupted; the same command goes on from here"
    wait_for(partial(ended, process))


def ended(process: subprocess.Popen[str]) -> bool:
    """Whether nothing is left of its session."""
    import generate_runs as runs

    return not runs.family(process.pid)


@pytest.mark.slow
def test_sigterm_leaves_no_process(start: Start, tmp_path: Path) -> None:
    """Sent to the command alone, which ends Ray in order."""
    process = start(2.0, "corpus", "--engine", "ray")
    wait_for(lambda: (tmp_path / "playing").exists() or process.poll() is not None)
    process.terminate()
    assert process.wait(waiting.PATIENCE_S) == 1
    assert (tmp_path / "stderr").read_text() == ""
    wait_for(partial(ended, process))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_started_by_hand(scheme: str, start: Start, tmp_path: Path) -> None:
    """Its address and, through Ray's client, that of its client server."""
    import generate_runs as runs

    with head_node(tmp_path / "head") as ports:
        address = f"{scheme}127.0.0.1:{ports[scheme == 'ray://']}"
        process = start(0.5, "corpus", "--engine", "ray", "--ray-address", address)
        assert process.wait(waiting.PATIENCE_S) == 0, (tmp_path / "stderr").read_text()
    assert runs.Corpus.open(str(tmp_path / "corpus")).index["steps"].sum() == runs.STEPS


@contextmanager
def head_node(log: Path) -> Iterator[tuple[int, int]]:
    """`ray start`; its port, and that of its client server."""
    ports = free_port(), free_port()
    words = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2",
        f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}", "--include-dashboard=false",
    ]  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=output, text=True, start_new_session=True,
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip
    try:
        wait_for(lambda: "--block" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield ports
    finally:
        process.terminate()
        process.wait()
        wait_for(partial(ended, process))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.slow
def test_what_listens_and_is_not_ray_is_refused(start: Start, tmp_path: Path) -> None:
    """By Ray itself, after 40 s."""

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        process = start(0.5, "corpus", "--engine", "ray", "--ray-address", address)
        assert process.wait(waiting.PATIENCE_S) == 1
    *_, line = (tmp_path / "stderr").read_text().splitlines()
    assert line.startswith(f"generate: error: Ray at {address}: Failed to connect")
