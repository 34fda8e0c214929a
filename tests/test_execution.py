"""How a run is computed does not matter to its numbers: batches, ZeRO, recomputation, offload."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from palaestra.generate.slots import make_schema
from palaestra.shards.errors import ConfigError
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.execution import (
    Execution,
    check_execution,
    parse_blocks,
    parse_stage,
    split_batch,
)
from palaestra.train.plan import room
from train_runs import assert_close, failure, prepare, train, words
from waiting import PATIENCE_S

UPDATES = 4
SLOW_EXECUTIONS = (
    ("zero-stage", 2, "ranks", 2, "offload", "optimizer"),
    ("zero-stage", 0, "ranks", 2),
    ("compile", True),  # a minute of the C++ compiler
)
TINY = load_preset("tiny").model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds preset.toml, corpus and a run of four updates."""
    path = prepare(tmp_path_factory.mktemp("execution"))
    run(path, "plain")
    return path


def run(folder: Path, name: str, *flags: object) -> str:
    short = ("updates", UPDATES, "checkpoint-every", "1h", "validate-every", 2)
    return train(folder, name, *short, *flags)


# Global batch = micro-batch × accumulation × ranks


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((2048, 2, None, 128), (2048, 2, 8)),
        ((2048, None, 8, 128), (2048, 2, 8)),
        ((None, 2, 8, 128), (2048, 2, 8)),
        ((2048, 2, 8, 128), (2048, 2, 8)),
        ((2048, 2, None, 120), (2048, 2, 9)),  # goes on with fewer, the last ones padded
        ((None, None, None, 4), (2048, 2, 256)),
        ((4, None, None, 4), (4, 1, 1)),
        ((None, 3, None, 1), (2048, 3, 683)),
    ],
)
def test_any_two_make_the_third(
    given: tuple[int | None, int | None, int | None, int], expected: tuple[int, int, int]
) -> None:
    assert split_batch(*given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((2048, 2, 8, 100), "--micro-batch 2 × --accumulation 8 × 100 ranks is 1600, not --batch "
                            "2048: --accumulation 11 makes it"),
        ((2048, 2, 9, 128), "is 2304, not --batch 2048: --accumulation 8 makes it"),
        ((2, 1, None, 4), "--batch 2 is smaller than the 4 ranks"),
        ((8, 0, None, 4), "--micro-batch should be at least 1, is 0"),
        ((8, None, -1, 4), "--accumulation should be at least 1, is -1"),
    ],
)  # fmt: skip
def test_what_cannot_make_the_batch_is_refused(
    given: tuple[int | None, int | None, int | None, int], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        split_batch(*given)
    assert message in str(error.value)


# Flags that do not go together


@pytest.mark.parametrize(
    ("execution", "precision", "message"),
    [
        (Execution(zero_stage=0), "bf16", "use stage 1 or --precision fp32"),
        (Execution(offload="disk"), "fp32", "--offload: unknown offload 'disk'"),
        (Execution(offload="all", zero_stage=2), "fp32", "--offload all needs --zero-stage 3"),
        (Execution(hpz=3, ranks=4), "fp32", "--hpz 3 does not divide the 4 ranks"),
        (Execution(hpz=2, ranks=2, zero_stage=2), "fp32", "--hpz needs --zero-stage 3, is 2"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    execution: Execution, precision: str, message: str
) -> None:
    config = TrainConfig(
        corpora=(), weights=(), preset="tiny", model=TINY, inputs="state", updates=1, batch=1,
        peak_rate=1e-3, end_rate=1e-5, warm_up=1, precision=precision,
    )  # fmt: skip
    with pytest.raises(ConfigError) as error:
        check_execution(execution, config)
    assert message in str(error.value)


def test_blocks_to_recompute() -> None:
    assert [parse_blocks(text, TINY) for text in ("auto", "none", "1", "all")] == [0, 0, 1, 2]
    with pytest.raises(ConfigError, match="up to 2 blocks, is '3'"):
        parse_blocks("3", TINY)
    with pytest.raises(ConfigError, match="--zero-stage should be auto, 0, 1, 2 or 3, is '4'"):
        parse_stage("4")


def test_a_preset_that_does_not_fit_is_refused_before_it_is_built(folder: Path) -> None:
    line = failure(words(folder, "huge", "preset", "30b"))
    assert "preset 30b does not fit: a GPU needs" in line and "would fit:" in line
    assert not (folder / "huge").exists()


def test_the_least_that_fits_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 ranks with ever less memory each: stage 1, 2, 3, then recomputation, then none."""
    config = TrainConfig(
        corpora=(), weights=(), preset="7b", model=load_preset("7b").model, inputs="state",
        updates=1, batch=8, peak_rate=1e-3, end_rate=1e-5, warm_up=1, precision="bf16",
    )  # fmt: skip
    schema = make_schema(64, (0.0, 1.0))
    chosen = []
    for gigabytes in (100.0, *np.arange(130.0, 5.0, -1.0)):
        monkeypatch.setattr(room, "rank_memory", lambda ranks: (gigabytes * 1e9, True))  # noqa: B023
        try:
            found = room.settle(config, Execution(ranks=64), schema, stage=True, recompute=True)
        except ConfigError as error:
            assert "preset 7b does not fit" in str(error)
            break
        choice = (found.zero_stage, found.recompute > 0)
        if choice not in chosen:
            chosen.append(choice)
    assert chosen == [(1, False), (2, False), (3, False), (3, True)]


CHOOSE = """
import sys

from palaestra.train.engine import as_first, start_ranks, stop_ranks
from palaestra.train.execution import Execution

rank, ranks = start_ranks()
chosen = as_first(Execution(ranks, zero_stage=1 + rank, recompute=4 - rank))
sys.stdout.write(f"{chosen}\\n")  # one write: print's end of line may come after another rank's
stop_ranks()
"""


def test_ranks_do_what_the_first_chose() -> None:
    """Memory that is free differs from moment to moment: two that differ would wait for ever."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    command += ["--nproc-per-node", "2", sys.executable, "-c", CHOOSE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    chosen = str(Execution(2, zero_stage=1, recompute=4))
    assert done.stdout.splitlines() == [chosen, chosen], done.stderr


# The same numbers


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_only_we_speak(stage: int, folder: Path) -> None:
    out = run(folder, f"quiet-{stage}", "precision", "bf16", "zero-stage", stage)
    first, *rest = out.splitlines()
    assert first.startswith(f"{folder}/preset.toml: 16,776 parameters, state, bf16, ZeRO-{stage}")
    assert rest and all(line.startswith("train: ") for line in rest)


@pytest.mark.parametrize(
    "flags",
    [
        ("ranks", 2, "hpz", 2, "recompute", "all", "micro-batch", 1),
        ("offload", "all", "recompute", 1),
        *(pytest.param(flags, marks=pytest.mark.slow) for flags in SLOW_EXECUTIONS),
    ],
    ids=lambda flags: "-".join(map(str, flags)),
)
def test_execution_moves_numbers_by_rounding_only(flags: tuple[object, ...], folder: Path) -> None:
    name = "-".join(map(str, flags))
    run(folder, name, *flags)
    assert_close(folder / name, folder / "plain", UPDATES)
