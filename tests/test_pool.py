"""The pool of processes: complete results, retries, every way to die, nothing left behind."""

from __future__ import annotations

import atexit
import fcntl
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import termios
import time
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import waiting
from palaestra.generate import pool
from palaestra.generate.pool import Advanced, Event, Failed, Finished, in_processes, run
from palaestra.generate.worker import TELL_S, Up, Worker, starting
from palaestra.shards.errors import (
    ConfigError,
    PalaestraError,
    StorageError,
    UnknownNameError,
    WorkerDiedError,
)

PATIENCE_S = 60  # for things that happen by themselves; a hang fails instead of blocking the suite
Tell = Callable[[int], None]
wait_for = partial(waiting.wait_for, patience_s=PATIENCE_S)


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids(folder: Path) -> list[int]:
    """Processes that have signed in a folder."""
    return [int(path.stem) for path in folder.glob("*.pid")]


def sign_in(folder: Path) -> int:
    (folder / f"{os.getpid()}.pid").touch()
    return os.getpid()


def finished(events: list[Event[Any, Any]]) -> dict[Any, Any]:
    """Results by item, each of which finished once."""
    pairs = [(event.item, event.result) for event in events if isinstance(event, Finished)]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def failed(events: list[Event[Any, Any]]) -> dict[Any, Failed[Any]]:
    return {event.item: event for event in events if isinstance(event, Failed)}


def told(events: list[Event[Any, Any]], item: Any) -> list[int]:
    return [e.amount for e in events if isinstance(e, Advanced) and e.item == item]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


# Results and progress


def scaled(factor: int, item: int, tell: Tell) -> int:
    for _ in range(item):
        tell(1)
    return factor * item


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_is_done_once(workers: int) -> None:
    events = list(run(partial(scaled, 3), range(20), workers))
    assert finished(events) == {item: 3 * item for item in range(20)}
    assert [sum(told(events, item)) for item in range(20)] == list(range(20))
    assert not failed(events)


def tidy(folder: Path, item: int, tell: Tell) -> None:
    atexit.register((folder / f"{item}.left").touch)


def test_workers_leave_in_order(tmp_path: Path) -> None:
    list(run(partial(tidy, tmp_path), range(2), 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.left", "1.left"]


def test_nothing_to_do() -> None:
    assert list(run(scaled, [], 2)) == []
    assert list(in_processes(str, [], None)) == []


def lengths(item: dict[str, bytes], tell: Tell) -> dict[str, bytes]:
    return {name: 2 * data for name, data in item.items()}


def test_items_may_be_equal_and_unhashable_and_large() -> None:
    """Larger than a pipe's buffer, both ways."""
    items = [{"a": bytes(3_000_000)} for _ in range(5)]
    events = list(run(lengths, items, 2))
    assert {id(event.item) for event in events} == {id(item) for item in items}
    assert all(isinstance(e, Finished) and len(e.result["a"]) == 6_000_000 for e in events)


def chatty(seen: Path, item: int, tell: Tell) -> tuple[int, float]:
    start, count = time.monotonic(), 0

    def talk() -> None:
        nonlocal count
        count += 1
        tell(1)

    wait_for(seen.exists, talk)
    for _ in range(10_000):
        talk()
    return count, time.monotonic() - start


def test_progress_is_told_on_the_way_and_not_too_often(tmp_path: Path) -> None:
    events = []
    for event in run(partial(chatty, tmp_path / "seen"), [0], 1, attempts=1):
        (tmp_path / "seen").touch()
        events.append(event)
    count, elapsed_s = finished(events)[0]
    assert sum(told(events, 0)) == count > 10_000
    assert len(told(events, 0)) <= elapsed_s / TELL_S + 2


def met(folder: Path, item: int, tell: Tell) -> int:
    """Ends when two processes are at it."""
    pid = sign_in(folder)
    wait_for(lambda: len(pids(folder)) == 2)
    return pid


def test_workers_work_at_the_same_time_and_are_no_more_than_items(tmp_path: Path) -> None:
    with closing(run(partial(met, tmp_path), [0, 1], 50)) as events:
        results = [next(events)]
        assert len(multiprocessing.active_children()) == 2
        results += list(events)
    assert sorted(finished(results).values()) == sorted(pids(tmp_path))


def environment(item: int, tell: Tell) -> tuple[int, str, dict[str, str], int]:
    import polars as pl

    return os.getpid(), str(Path.cwd()), dict(os.environ), pl.thread_pool_size()


def test_workers_are_single_threaded_one_per_core_of_the_mask_and_where_the_parent_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    before, mask = dict(os.environ), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mask)})
    try:
        results = finished(list(run(environment, range(4), None)))
    finally:
        os.sched_setaffinity(0, mask)
    assert len({pid for pid, *_ in results.values()}) == 1
    _, folder, variables, threads = results[0]
    names = ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "NUMBA_NUM", "POLARS_MAX")
    assert [variables[f"{name}_THREADS"] for name in names] == ["1"] * 5
    assert threads == 1 and folder == str(tmp_path)
    assert dict(os.environ) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


# Attempts


def fail_twice(folder: Path, how: str, item: int, tell: Tell) -> int:
    """Item 0, at first, tells of progress until that is seen, then fails; then it just fails."""
    failures = folder / "failures"
    if item == 0 and len(failures.read_bytes()) < 2:
        wait_for((folder / "seen").exists, lambda: tell(5))
        with failures.open("a") as file:
            file.write("x")
        if how == "raise":
            raise ValueError("at first")
        os.kill(os.getpid(), signal.SIGKILL)
    tell(7)
    return os.getpid()


@pytest.mark.parametrize("how", ["raise", "die"])
def test_a_failed_attempt_is_taken_back_and_made_again(
    how: str, tmp_path: Path
) -> None:
    (tmp_path / "failures").touch()
    events = []
    for event in run(partial(fail_twice, tmp_path, how), range(3), 1):
        (tmp_path / "seen").touch()
        events.append(event)
    assert sorted(finished(events)) == [0, 1, 2]
    assert not failed(events)
    assert [sum(told(events, item)) for item in range(3)] == [7, 7, 7]
    amounts = told(events, 0)
    back = next(amount for amount in amounts if amount < 0)
    assert back == -sum(amounts[: amounts.index(back)]) and amounts[-1] == 7


def fail_beside(folder: Path, item: int, tell: Tell) -> int:
    """Item 0 fails once, when the other worker is free."""
    if item == 0 and not pids(folder):
        sign_in(folder)
        wait_for((folder / "free").exists)
        raise ValueError("at first")
    return os.getpid()


def test_another_attempt_is_made_on_another_worker(tmp_path: Path) -> None:
    events = []
    for event in run(partial(fail_beside, tmp_path), range(2), 2):
        (tmp_path / "free").touch()  # item 1 has ended
        events.append(event)
    results = finished(events)
    assert results[0] == results[1] and results[0] not in pids(tmp_path)


class PositionalError(Exception):
    """Pickled, but not unpickled: it is made of two things and remembers one."""

    def __init__(self, url: str, found: str) -> None:
        super().__init__(f"{url}: found {found}")


class ClosureError(Exception):
    """Not even pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.undo = lambda: None


class DeniedError(PositionalError, StorageError):
    """Fatal, and not unpickled."""


def misbehave(folder: Path, item: str, tell: Tell) -> object:
    with (folder / "attempts").open("a") as file:
        file.write(f"{item}\n")
    match item:
        case "raise":
            raise UnknownNameError("task", "raech", ["reach"])
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            sys.exit(3)
        case "positional":
            raise PositionalError("s3://a", "b")
        case "closure":
            raise ClosureError("nothing to undo")
        case "result":
            return lambda: None
    return item


MISBEHAVIOUR: dict[str, tuple[type[Exception], str]] = {
    "raise": (UnknownNameError, "unknown task 'raech'; did you mean 'reach'?"),
    "kill": (WorkerDiedError, "a worker died (signal 9), perhaps for want of memory"),
    "segfault": (WorkerDiedError, "a worker died (signal 11)"),
    "exit": (WorkerDiedError, "a worker died (exit code 3)"),
    "positional": (PalaestraError, "PositionalError: s3://a: found b"),
    "closure": (PalaestraError, "ClosureError: nothing to undo"),
    "result": (AttributeError, "Can't pickle local object 'misbehave.<locals>.<lambda>'"),
}


def test_what_fails_each_time_is_given_up_and_the_rest_goes_on(tmp_path: Path) -> None:
    items = [*"ab", *MISBEHAVIOUR, *"cd"]
    events = list(run(partial(misbehave, tmp_path), items, 2, attempts=2))
    assert finished(events) == {name: name for name in "abcd"}
    given_up = failed(events)
    assert {name: (type(e.error), str(e.error)) for name, e in given_up.items()} == MISBEHAVIOUR
    assert {event.attempts for event in given_up.values()} == {2}
    tried = (tmp_path / "attempts").read_text().split()
    assert sorted(tried) == sorted([*items, *MISBEHAVIOUR])


def test_an_error_brings_the_workers_traceback(tmp_path: Path) -> None:
    (event,) = run(partial(misbehave, tmp_path), ["raise"], 1, attempts=1)
    assert isinstance(event, Failed)
    (note,) = event.error.__notes__
    assert 'raise UnknownNameError("task", "raech", ["reach"])' in note


def test_work_that_is_nothing_to_a_worker_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_here")
    exec("def work(item, tell): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    events = list(run(module.work, [0, 1], 1, attempts=2))
    assert {type(event.error) for event in failed(events).values()} == {ModuleNotFoundError}
    assert sorted(failed(events)) == [0, 1]


def slow_sum(item: int, tell: Tell) -> int:
    rng = np.random.default_rng(item)
    end, total = time.monotonic() + 0.1, 0
    while time.monotonic() < end:
        amount = int(rng.integers(10))
        tell(amount)
        total += amount
    return total


def test_workers_killed_at_random_cost_nothing_but_time() -> None:
    rng, events, kills = np.random.default_rng(0), [], 0
    for event in run(slow_sum, range(12), 3, attempts=20):
        events.append(event)
        victims = multiprocessing.active_children()
        if victims and kills < 8 and rng.random() < 0.7:
            rng.choice(victims).kill()
            kills += 1
    assert kills == 8
    assert sorted(finished(events)) == list(range(12)) and not failed(events)
    assert {item: sum(told(events, item)) for item in range(12)} == finished(events)


def large(item: int, tell: Tell) -> bytes:
    return bytes(100_000_000)


def unread(descriptor: int) -> int:
    """Bytes in a socket's buffer."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_worker_killed_in_the_middle_of_a_message_is_dead() -> None:
    with starting():
        worker = Worker(fatal=())
    wait_for(worker.pipe.poll)
    assert worker.messages() == [Up()]
    worker.send(pickle.dumps(large))
    worker.send(pickle.dumps(0))
    wait_for(lambda: unread(worker.pipe.fileno()) > 100)
    worker.process.kill()
    (message,) = worker.messages()
    assert isinstance(message, WorkerDiedError)
    worker.close()


def wait_or_go(folder: Path, item: int, tell: Tell) -> int:
    if item:
        wait_for((folder / "go").exists)
    return os.getpid()


def test_an_idle_worker_may_die(tmp_path: Path) -> None:
    events = []
    for event in run(partial(wait_or_go, tmp_path), [0, 1], 2):
        events.append(event)
        if event.item == 0 and isinstance(event, Finished):
            os.kill(event.result, signal.SIGKILL)
            (tmp_path / "go").touch()
    assert sorted(finished(events)) == [0, 1] and len(events) == 2


# The end of everything


def stuck(folder: Path, item: int, tell: Tell) -> int:
    """Item 0 ends when all others hang."""
    if item:
        sign_in(folder)
        wait_for(bool)
    wait_for(lambda: len(pids(folder)) == 2)
    return item


def fatal(folder: Path, kind: Callable[[], Exception], item: int, tell: Tell) -> None:
    stuck(folder, item, tell)
    raise kind()


@pytest.mark.parametrize(
    ("kind", "expected", "text"),
    [
        (partial(StorageError, "s3://a: denied"), StorageError, "s3://a: denied"),
        (partial(OSError, 28, "full"), OSError, "[Errno 28] full"),
        (partial(DeniedError, "s3://a", "b"), PalaestraError, "DeniedError: s3://a: found b"),
    ],
)
def test_a_fatal_error_ends_everything(
    kind: Callable[[], Exception], expected: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(expected) as caught:
        list(run(partial(fatal, tmp_path, kind), [1, 0, 2], 3))
    assert str(caught.value) == text
    assert len(pids(tmp_path)) == 2 and not any(map(living, pids(tmp_path)))


def test_what_is_fatal_is_the_callers_choice(tmp_path: Path) -> None:
    work = partial(fatal, tmp_path, partial(KeyError, "a"))
    with pytest.raises(KeyError, match="a"):
        list(run(work, [1, 0, 2], 3, fatal=(KeyError,)))
    assert not any(map(living, pids(tmp_path)))


def test_closed_early_it_leaves_nothing(tmp_path: Path) -> None:
    events = run(partial(stuck, tmp_path), [1, 2, 0], 3)
    assert next(events) == Finished(0, 0)
    assert all(map(living, pids(tmp_path)))
    events.close()
    assert not any(map(living, pids(tmp_path)))


def test_an_error_in_the_consumer_leaves_nothing(tmp_path: Path) -> None:
    events = run(partial(stuck, tmp_path), [1, 2, 0], 3)
    with pytest.raises(ZeroDivisionError), closing(events):
        1 / next(events).item
    assert not any(map(living, pids(tmp_path)))


SCRIPT = """
import os, sys
from functools import partial
from pathlib import Path
from palaestra.generate.pool import run
folder = Path(sys.argv[1])
def start_fails(allowed):
    with (folder / "starts").open("a") as file:
        file.write("x")
    if (folder / "starts").stat().st_size > allowed:
        sys.exit(3)
if __name__ == "__main__":
    from test_pool import stuck, scaled
    work = partial(stuck, folder) if sys.argv[2] == "stuck" else partial(scaled, 1)
    for event in run(work, [1, 2], 2):
        print(event, flush=True)
elif sys.argv[2] != "stuck":
    start_fails(int(sys.argv[2]))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a script in a session of its own, as a shell does."""
    begun: list[subprocess.Popen[str]] = []
    (tmp_path / "script.py").write_text(SCRIPT)
    paths = os.pathsep.join(path for path in sys.path if path)

    def launch(how: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py"), str(tmp_path), how], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env=os.environ | {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{paths}"},
        )  # fmt: skip
        begun.append(process)
        return process

    yield launch
    for process in begun:
        process.kill()
        process.communicate()
    for pid in filter(living, pids(tmp_path)):
        os.kill(pid, signal.SIGKILL)


def test_killed_outright_it_takes_its_workers_along(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start("stuck")
    wait_for(lambda: len(pids(tmp_path)) == 2)
    assert all(map(living, pids(tmp_path)))
    process.kill()
    wait_for(lambda: not any(map(living, pids(tmp_path))))
    assert process.communicate(timeout=PATIENCE_S) == ("", "")


def deaf(pid: int) -> bool:
    """Whether a process holds SIGINT back, and so cannot answer it with a traceback."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [line.split()[1] for line in lines if line.startswith("SigBlk")]
    return bool(int(mask, 16) >> signal.SIGINT - 1 & 1)


def test_ctrl_c_is_the_parents(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start("stuck")
    wait_for(lambda: len(pids(tmp_path)) == 2)
    assert all(map(deaf, pids(tmp_path)))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1
    assert not any(map(living, pids(tmp_path)))


def test_workers_that_cannot_start_end_it(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start("0")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.splitlines()[-1].endswith("WorkerDiedError: a worker died (exit code 3)")
    assert (tmp_path / "starts").stat().st_size <= 4  # 3 attempts, of two workers


def test_those_that_start_do_the_work(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start("1")
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")
    assert output.count("Finished") == 2


# Without progress or second attempts


def test_in_processes_gives_results() -> None:
    assert sorted(in_processes(str, range(12), 2)) == sorted(map(str, range(12)))


def half(item: int) -> float:
    if item == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return item / (item - 1)


def test_in_processes_raises_the_first_error() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_processes(half, [2, 1, 3], 1))
    with pytest.raises(PalaestraError, match=r"^a worker died, perhaps .* fewer --workers"):
        list(in_processes(half, [2, 0, 3], 1))


def test_there_must_be_workers() -> None:
    pool.check_workers(None)
    pool.check_workers(1)
    with pytest.raises(ConfigError, match="--workers should be positive, is 0"):
        pool.check_workers(0)
