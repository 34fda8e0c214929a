"""`evaluate compare` and `evaluate merge`: evaluations put side by side, and put together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from evaluate_runs import settings_for, write_checkpoint
from palaestra.evaluate import output
from palaestra.evaluate.__main__ import (
    CompareArguments,
    MergeArguments,
    compare_command,
    merge_command,
)
from palaestra.evaluate.compare import compare, difference
from palaestra.evaluate.evaluation import assemble, record
from palaestra.evaluate.merge import merge
from palaestra.evaluate.settings import Settings
from palaestra.shards.errors import ConfigError, UnknownNameError

pytestmark = pytest.mark.xdist_group("compare")  # its evaluations are played once
DEFAULTS = Settings((), (), (), 6, 0, 6)


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of both scripts on two tasks, and one of each task alone."""
    folder = tmp_path_factory.mktemp("evaluations")
    for name, tasks in (("whole", ("reach", "push")), ("reach", ("reach",)), ("push", ("push",))):
        write(folder / name, settings_for(("random", "expert"), tasks))
    return folder


def write(folder: Path, settings: Settings) -> str:
    output.write(str(folder), assemble(settings, record(settings)), "<html>")
    return str(folder)


# compare


def test_differences_are_of_the_same_seeds(scripts: Path) -> None:
    whole = f"{scripts}/whole"
    found = compare(f"{whole}#random", f"{whole}#expert", (), (), DEFAULTS, None)
    assert (found.a, found.b) == ("random", "expert")
    assert [row.tasks for row in found.differences] == [
        (("reach", 1),), (("push", 1),), (("reach", 1), ("push", 1)),
    ]  # fmt: skip
    frame = pl.read_parquet(scripts / "whole" / "episodes.parquet")
    for row in found.differences[:2]:
        ((task, _),) = row.tasks
        sides = [
            frame.filter((pl.col("policy") == name) & (pl.col("task") == task)).sort("seed")
            for name in ("random", "expert")
        ]
        returns = [side["return"].to_numpy() for side in sides]
        assert row.runs == 6 and row.mean_return is not None
        assert row.mean_return.value == pytest.approx((returns[1] - returns[0]).mean())
        assert row.mean_return.apart and row.success.value >= 0.8
        assert row.normalised is not None and 0.7 < row.normalised.value < 1.3
        assert row.steps.value < 0
    both = found.differences[2]
    assert both.runs == 12 and both.mean_return is None
    assert both.success.value == pytest.approx(
        np.mean([row.success.value for row in found.differences[:2]])
    )


def test_the_other_way_round_is_the_negative(scripts: Path) -> None:
    whole = f"{scripts}/whole"
    there = compare(f"{whole}#random", f"{whole}#expert", (), (), DEFAULTS, None)
    back = compare(f"{whole}#expert", f"{whole}#random", (), (), DEFAULTS, None)
    for one, other in zip(there.differences, back.differences, strict=True):
        assert one.steps.value == -other.steps.value and one.success.value == -other.success.value


def test_a_policy_is_as_good_as_itself(scripts: Path) -> None:
    one = compare(f"{scripts}/reach#expert", f"{scripts}/whole#expert", (), (), DEFAULTS, None)
    assert [row.tasks for row in one.differences] == [(("reach", 1),)], "what both played"
    (row,) = one.differences
    assert (row.steps.value, row.steps.low, row.steps.high) == (0, 0, 0) and not row.steps.apart


def test_what_is_not_played_yet_is_played_as_the_other_was(scripts: Path, tmp_path: Path) -> None:
    checkpoint = str(write_checkpoint(tmp_path / "run"))
    found = compare(checkpoint, f"{scripts}/push#expert", (), (), DEFAULTS, None)
    assert [row.tasks for row in found.differences] == [(("push", 1),)]
    assert found.differences[0].success.value > 0.5
    fresh = compare(checkpoint, "expert", (), (), DEFAULTS, None)
    assert [row.tasks for row in fresh.differences] == [(("reach", 1),)]  # what A was trained on


def test_the_command_prints_a_line_per_task(
    scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"{scripts}/whole#random", f"{scripts}/whole#expert")
    compare_command(CompareArguments(*words))
    printed = capsys.readouterr().out
    assert "A: random   B: expert" in printed and "all (2)" in printed
    (line,) = [line for line in printed.splitlines() if line.split()[:2] == ["reach", "1"]]
    assert "points [" in line and "*" in line
    compare_command(CompareArguments(*words, json=True))
    assert len(json.loads(capsys.readouterr().out)["differences"]) == 3


def test_what_cannot_be_compared_is_one_line(scripts: Path) -> None:
    whole = f"{scripts}/whole"
    with pytest.raises(ConfigError, match=r"which policy.* 'random', 'expert'"):
        compare(whole, "random", (), (), DEFAULTS, None)
    with pytest.raises(UnknownNameError, match="did you mean 'expert'"):
        compare(f"{whole}#exprt", "random", (), (), DEFAULTS, None)
    with pytest.raises(ConfigError, match="no run on the same task"):
        compare(f"{scripts}/reach#expert", f"{scripts}/push#expert", (), (), DEFAULTS, None)
    with pytest.raises(ConfigError, match="tasks of one player"):
        compare("random", "expert", ("sumo",), (1,), DEFAULTS, None)
    with pytest.raises(UnknownNameError, match="unknown policy 'nowhere'"):
        compare("nowhere", "expert", (), (), DEFAULTS, None)


def test_runs_that_only_one_has_are_left_out() -> None:
    settings = settings_for(("random", "expert"), ("reach",), runs=4, width=4)
    frame = record(settings).frame
    sides = [frame.filter(pl.col("policy") == name) for name in ("random", "expert")]
    found = difference("a", "b", sides[0].head(3), sides[1].tail(3), settings)
    assert found.differences[0].runs == 2


# merge


def test_parts_by_task_make_the_whole(
    scripts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge_command(MergeArguments((f"{scripts}/reach", f"{scripts}/push"), str(tmp_path / "all")))
    for name in ("results.json", "episodes.parquet"):
        whole = (scripts / "whole" / name).read_bytes()
        assert (tmp_path / "all" / name).read_bytes() == whole, name
    assert "report: " in capsys.readouterr().out


def test_parts_by_policy_make_the_whole(tmp_path: Path) -> None:
    whole = settings_for(("random", "expert"), ("reach", "sumo"))
    parts = [settings_for((name,), ("reach", "sumo")) for name in ("random", "expert")]
    # the second met the first as an anchor, the first the second: each match is in one of them
    urls = [write(tmp_path / f"{i}", part) for i, part in enumerate(parts)]
    with pytest.raises(ConfigError, match="opponents is"):
        merge(urls)
    alone = tuple(pair for pair in whole.tasks if pair[0] == "reach")
    urls = [
        write(tmp_path / f"alone-{i}", replace(part, tasks=alone, opponents=()))
        for i, part in enumerate(parts)
    ]
    settings, recorded = merge(urls)
    assert settings == replace(whole, tasks=alone, opponents=())
    assert recorded.frame.equals(record(settings).frame)


def test_matches_merge_with_runs_alone(tmp_path: Path) -> None:
    whole = settings_for(("random",), ("reach", "sumo"), runs=2, width=2)
    parts = [
        replace(whole, tasks=whole.tasks[:1], opponents=()), replace(whole, tasks=whole.tasks[1:])
    ]  # fmt: skip
    settings, recorded = merge([write(tmp_path / f"{i}", p) for i, p in enumerate(parts)])
    assert settings == whole and recorded.frame.equals(record(whole).frame)


def test_what_does_not_fit_together_is_one_line(scripts: Path, tmp_path: Path) -> None:
    reach, push = f"{scripts}/reach", f"{scripts}/push"
    with pytest.raises(ConfigError, match="two evaluations or more"):
        merge([reach])
    with pytest.raises(ConfigError, match=r"found no results\.json"):
        merge([reach, str(tmp_path)])
    other = write(tmp_path / "seed", settings_for(("random",), ("push",), seed=1))
    with pytest.raises(ConfigError, match=r"seed is 1, in .* 0"):
        merge([reach, other])
    one = write(tmp_path / "one", settings_for(("random",), ("push",)))
    with pytest.raises(ConfigError, match="expert on push 1 is in none"):
        merge([reach, one])
    settings, recorded = output.read(push)
    changed = recorded.frame.with_columns(pl.col("return") + 1)
    output.write(
        str(tmp_path / "changed"), assemble(settings, replace(recorded, frame=changed)), "",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="on push 1 came out differently"):
        merge([push, str(tmp_path / "changed")])
