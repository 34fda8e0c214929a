"""Nothing is lost: killed, stopped and moved runs go on, on any number of ranks."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import waiting
from palaestra.shards.errors import ConfigError
from palaestra.train.cadence import Every, parse_interval
from palaestra.train.places import Keep, complete_checkpoints, kept
from train_runs import (
    EVERY,
    PRESET,
    UPDATES,
    assert_close,
    assert_same,
    failure,
    family,
    finish,
    logged,
    marker,
    metrics,
    prepare,
    started,
    train,
    words,
)
from waiting import PATIENCE_S

wait_for = partial(waiting.wait_for, every_s=0.005)
INTERRUPTED = 75
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds preset.toml and corpus: 8 segments of 4 matches."""
    return prepare(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """A run to the end without a pause."""
    train(folder, "finished")
    return folder / "finished"


def checkpoint(run: Path, update: int) -> Path:
    return run / "checkpoints" / f"update-{update:08d}"


def is_saving(run: Path) -> bool:
    """Whether the newest checkpoint has begun and is not complete."""
    found = sorted((run / "checkpoints").glob("update-*"))
    return bool(found) and not (found[-1] / "checkpoint.json").exists()


def copy(run: Path, name: str, updates: int) -> Path:
    """Another run that stands where this one stood after so many updates."""
    other = run.parent / name
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("tensorboard"))
    forget_after(updates, other)
    return other


def leave_at(update: int, run: Path, arguments: list[str]) -> None:
    """Kill the run once that checkpoint is complete; it goes on from there."""
    with started(arguments) as process:
        wait_for(lambda: (checkpoint(run, update) / "checkpoint.json").exists())
        process.kill()
        process.wait()
    forget_after(update, run)


def forget_after(updates: int, run: Path) -> None:
    """Delete later checkpoints."""
    for update in complete_checkpoints(str(run)):
        if update > updates:
            shutil.rmtree(checkpoint(run, update))


# Killed and stopped


def test_a_killed_run_goes_on_bit_for_bit(finished: Path, folder: Path) -> None:
    run = folder / "killed"
    with started(words(folder, "killed")) as process:
        wait_for(lambda: (checkpoint(run, EVERY) / "checkpoint.json").exists())
        process.kill()
        process.wait()
    saved = complete_checkpoints(str(run))[-1]
    assert saved < UPDATES
    # as if killed while saving a later one, and while writing a line
    shutil.copytree(checkpoint(run, saved), checkpoint(run, 11))
    (checkpoint(run, 11) / "checkpoint.json").unlink()
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"update": 7, "poli')
    assert f"updates {saved} to {UPDATES}" in train(folder, "killed")
    assert_same(run, finished)
    assert complete_checkpoints(str(run)) == [8, 12]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "update-00000008", "update-00000012",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(n, marks=SLOW) for n in (signal.SIGUSR1, signal.SIGINT))],
)
def test_a_stopped_run_saves_and_says_that_it_is_not_finished(
    number: signal.Signals, finished: Path, folder: Path
) -> None:
    ranks = 2 if number == signal.SIGTERM else 1
    name = f"stopped-{number.name}"
    arguments = words(folder, name, "ranks", ranks, "checkpoint-every", "1h")
    run = folder / name
    with started(arguments) as process:
        wait_for(lambda: logged(run) >= 2)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == INTERRUPTED
    (saved,) = complete_checkpoints(str(run))
    assert saved == logged(run) < UPDATES
    assert not (run / "owner.json").exists()
    if number == signal.SIGTERM:
        with started(arguments) as process:
            assert f"updates {saved} to {UPDATES}" in finish(process)
        # two ranks against one: over twelve updates Adam lets rounding grow to 1.1e-4
        assert_close(run, finished, UPDATES, loss=1e-3)


def test_the_rolling_checkpoint_is_gone_on_from_where_it_is_newer(
    finished: Path, folder: Path
) -> None:
    run, flags = folder / "rolling", ("checkpoint-every", "1h", "rolling-every", "1u")
    with started(words(folder, "rolling", *flags)) as process:
        wait_for(lambda: len(list((run / "rolling").glob("*/checkpoint.json"))) == 1)
        wait_for(lambda: logged(run) >= 3)
        process.kill()
        process.wait()
    assert not (run / "checkpoints").exists()
    assert len(list((run / "rolling").iterdir())) <= 2  # each in the place of the one before
    out = train(folder, "rolling", *flags)
    assert f"from {run}/rolling/update-0000000" in out and "updates 0 to" not in out
    assert_same(run, finished)
    assert not (run / "rolling").exists()  # of no use to a finished run


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_kill_9_at_any_instant(ranks: int, folder: Path) -> None:
    """Killed twelve times, in turn within a save and at a random moment."""
    flags = ("ranks", ranks, "updates", 40, "checkpoint-every", "1u", "validate-every", 0)
    train(folder, f"whole-{ranks}", *flags)
    run, chance, within = folder / f"kills-{ranks}", random.Random(ranks), 0
    for number in range(12):
        before = logged(run)
        with started(words(folder, f"kills-{ranks}", *flags)) as process:  # its end kills all
            wait_for(lambda: logged(run) > before or process.poll() is not None)  # noqa: B023
            if number % 2:
                time.sleep(chance.random())
            else:
                wait_for(lambda: is_saving(run) or process.poll() is not None)
        within += is_saving(run)
        if complete_checkpoints(str(run))[-1:] == [40]:
            break
    train(folder, f"kills-{ranks}", *flags)
    assert within, "no kill within a save"
    assert_same(run, folder / f"whole-{ranks}", 40)


def test_a_finished_run_changes_nothing_when_run_again(finished: Path, folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")}, metrics(finished)
    assert f"updates {UPDATES} to {UPDATES}" in train(folder, "finished")
    after = {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")}, metrics(finished)
    assert after == before


@pytest.mark.slow
def test_ranks_end_with_their_launcher(folder: Path) -> None:
    arguments = words(folder, "orphaned", "ranks", 2, "updates", 100_000)
    with started(arguments) as process:
        wait_for(lambda: logged(folder / "orphaned") >= 1)
        process.kill()  # the launcher alone: its ranks must not write on
        process.wait()
        wait_for(lambda: not family(process.pid))


# Another number of ranks, another ZeRO stage


@pytest.mark.parametrize(
    ("precision", "stage"),
    [("fp32", 3), pytest.param("bf16", 3, marks=SLOW), pytest.param("bf16", 1, marks=SLOW)],
)
def test_two_ranks_then_one_then_four(precision: str, stage: int, folder: Path) -> None:
    """The same order, and but for rounding the losses of one rank from beginning to end."""
    whole, moved = (f"{name}-{precision}-{stage}" for name in ("whole", "moved"))
    flags = ("precision", precision, "checkpoint-every", "1h", "micro-batch", 1,
             "zero-stage", stage)  # fmt: skip
    train(folder, whole, *flags)
    for ranks, stop in ((2, 4), (1, 8), (4, UPDATES)):
        run = folder / moved
        arguments = words(folder, moved, *flags, "ranks", ranks, "checkpoint-every", "4u")
        if stop == UPDATES:
            with started(arguments) as process:
                assert "updates 8 to" in finish(process)
            break
        leave_at(stop, run, arguments)
        assert marker(run, stop)["ranks"] == ranks
    assert_close(folder / moved, folder / whole, UPDATES, 1e-3 if precision == "fp32" else 2e-2)


def test_any_zero_stage_goes_on_from_any_other(finished: Path, folder: Path) -> None:
    """1, then 2, 0 and 1 with two ranks, then 3: a checkpoint is of weights, not of a stage."""
    run = copy(finished, "stages", 8)
    (kept_one,) = complete_checkpoints(str(run))
    assert kept_one == 8
    for update, (stage, ranks) in zip((9, 10, 11), ((2, 2), (0, 2), (1, 2)), strict=True):
        arguments = words(
            folder, "stages", "zero-stage", stage, "ranks", ranks, "checkpoint-every", "1u"
        )
        leave_at(update, run, arguments)
    train(folder, "stages", "zero-stage", 3)
    assert_close(run, finished, UPDATES, 1e-3)


# Damaged, foreign and forked checkpoints


@pytest.mark.parametrize(
    "damage", ["flipped", *(pytest.param(damage, marks=SLOW) for damage in ("short", "missing"))]
)
def test_a_damaged_checkpoint_is_named(damage: str, finished: Path, folder: Path) -> None:
    run = copy(finished, f"damaged-{damage}", 8)
    file = checkpoint(run, 8) / "state" / "rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[-100] ^= 1
        file.write_bytes(data)
    elif damage == "short":
        file.write_bytes(data[:-100])
    else:
        file.unlink()
    line = failure(words(folder, f"damaged-{damage}"))
    expected = {"flipped": "checksum differs", "short": "bytes", "missing": "not found"}[damage]
    assert str(file) in line and expected in line


def test_a_new_run_goes_on_from_another_runs_checkpoint(finished: Path, folder: Path) -> None:
    url = checkpoint(finished, 8)
    out = train(folder, "forked", "resume", url, "updates", 14)
    assert f"from {url}" in out and "updates 8 to 14" in out
    assert [line["update"] for line in metrics(folder / "forked")] == list(range(8, 14))
    # begun, it goes on from its own checkpoints
    assert "updates 14 to 14" in train(folder, "forked", "resume", url, "updates", 14)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("resume", "{run}/checkpoints/update-00000008", "inputs", "pixels+state"),
         "is of inputs state, this run has inputs pixels+state"),
        (("resume", "{run}/checkpoints/update-00000008", "preset", "{folder}/wide.toml"),
         "is of preset"),
        (("resume", "{run}"), "--resume should be auto, never or a checkpoint's URL"),
        (("resume", "{run}/checkpoints/update-00000003"),
         "expected a run with a complete checkpoint, nothing there"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_something_else_is_refused(
    flags: tuple[str, ...], message: str, finished: Path, folder: Path,
    refusal: Callable[[list[str]], str],
) -> None:  # fmt: skip
    (folder / "wide.toml").write_text(PRESET.replace("width = 16\nh", "width = 32\nh"))
    given = [flag.format(run=finished, folder=folder) for flag in flags]
    assert message in refusal(words(folder, "refused", *given))
    assert not (folder / "refused").exists()
    line = refusal(words(folder, "finished", "resume", "never"))
    assert line.endswith(f"finished: --resume never, but it is at update {UPDATES}")


def test_a_run_that_is_being_trained_is_refused(folder: Path) -> None:
    arguments = words(folder, "busy", "updates", 100_000)
    with started(arguments) as process:
        wait_for(lambda: logged(folder / "busy") >= 1)
        line = failure(arguments)
        assert f"busy is in use by process {process.pid} on this machine" in line
        lines = logged(folder / "busy")
        wait_for(lambda: logged(folder / "busy") > lines)  # undisturbed


# Which checkpoints stay, and when they are due


def test_the_newest_stay_and_the_first_of_every_period() -> None:
    updates = [3, 9, 12, 18, 21, 33, 34]
    assert kept(updates, Keep(2)) == {33, 34}
    assert kept(updates, Keep(1, every=10)) == {12, 21, 33, 34}
    assert kept([5], Keep(3, every=2)) == {5}


def test_intervals_are_by_wall_clock_or_updates() -> None:
    assert parse_interval("12h", "x") == Every(43200.0)
    assert parse_interval("0.5m", "x") == Every(30.0)
    assert parse_interval("500u", "x") == Every(updates=500)
    assert parse_interval("never", "x", never=True) == Every()
    with pytest.raises(ConfigError, match=r"--x should look like 12h, 30m or 500u, is 'never'"):
        parse_interval("never", "x")
    assert Every(30.0).due(1, 30.0) and not Every(30.0).due(1, 29.9)
    assert Every(updates=5).due(10, 0) and not Every(updates=5).due(11, 1e9)
    assert not Every().due(10, 1e9)


def test_kept_checkpoints_of_a_run(folder: Path) -> None:
    train(folder, "kept", "checkpoint-every", "1u", "keep", 1, "keep-every", 5, "updates", 12,
          "validate-every", 0)  # fmt: skip
    assert complete_checkpoints(str(folder / "kept")) == [5, 10, 12]
    assert json.loads((folder / "kept" / "run.json").read_text())["updates"] == 12
