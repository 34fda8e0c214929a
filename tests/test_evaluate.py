"""Evaluation: real runs, the policies and tasks that words name, the command from end to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from evaluate_runs import fails, played, settings_for, write_checkpoint
from numpy.typing import NDArray
from palaestra.evaluate import play
from palaestra.evaluate.__main__ import Arguments, command
from palaestra.evaluate.behaviour import episodes
from palaestra.evaluate.entrants import display_names, find_entrants
from palaestra.evaluate.episodes import COLUMNS, frame_of, runs_of
from palaestra.evaluate.evaluation import record
from palaestra.evaluate.pairs import choose_pairs, unseen
from palaestra.evaluate.play import waves_of
from palaestra.evaluate.runs import Runs, evaluation_seeds, play_wave
from palaestra.evaluate.scores import normalised_returns, span
from palaestra.evaluate.settings import Settings
from palaestra.generate.plan import episode_seed
from palaestra.generate.policies import Expert, Match, Random
from palaestra.generate.registry import held_out, task_classes
from palaestra.generate.world import Observation, World
from palaestra.shards.errors import CheckpointError, ConfigError, PalaestraError, UnknownNameError
from palaestra.shards.schema import EVALUATION_BIT, Schema, Slot
from palaestra.train.places import MARKER, WEIGHTS
from waiting import wait_for

SUITE = 16 * 3


def make_runs(width: int, task: str = "reach", seed: int = 0, first: int = 0) -> Runs:
    world = World(task, 1, width, pixels=False)
    return play_wave(Expert(), world, evaluation_seeds(seed, width, first))


# runs


def test_seeds_are_in_no_corpus() -> None:
    seeds = evaluation_seeds(3, 100)
    assert len(set(seeds)) == 100 and all(seed & EVALUATION_BIT for seed in seeds)
    assert not any(episode_seed(3, match) & EVALUATION_BIT for match in range(100))
    assert not set(seeds) & set(evaluation_seeds(4, 100))
    assert evaluation_seeds(3, 90, 10) == seeds[10:]


@pytest.mark.parametrize("task", ["reach", "push"])
def test_scripted_runs_do_not_depend_on_width(task: str) -> None:
    whole = frame_of(make_runs(6, task), "expert", "", 0)
    assert len(whole.unique("return")) == 6
    parts = [frame_of(make_runs(4, task, first=first), "expert", "", first) for first in (0, 4)]
    assert pl.concat(parts).head(6).equals(whole)


def test_expert_beats_random() -> None:
    expert = make_runs(16)
    random = play_wave(Random(), World("reach", 1, 16, pixels=False), expert.seeds)
    assert expert.returns.mean() > 2 * random.returns.mean()
    assert expert.success.mean() > 0.8 > 0.2 > random.success.mean()
    assert (expert.steps == 256).all()


def test_a_row_holds_what_a_run_was() -> None:
    runs = make_runs(3)
    frame = frame_of(runs, "mine", "", 10)
    assert frame.schema == pl.Schema(COLUMNS)
    assert frame["run"].to_list() == [10, 11, 12] and set(frame["policy"]) == {"mine"}
    row = frame.row(1, named=True)
    assert row["seed"] == runs.seeds[1] and row["return"] == runs.returns[1]
    assert row["completion_step"] == runs.completion_step[1] and row["success"]
    actions = np.array(row["actions"], np.float32).reshape(256, -1)
    assert actions.tobytes() == runs.actions[1].tobytes()
    assert sum(row["rewards"]) == pytest.approx(row["return"])
    assert row["values"] is None and row["outcome"] is None and row["opponent"] == ""


class Breaking(Expert):
    """An expert whose third simulation is broken at step 5."""

    def act(self, observation: Observation) -> NDArray[np.float32]:
        if self.world.time == 5:
            self.world.batch.qvel[2] = np.nan
        return super().act(observation)


def test_a_diverged_run_fails_with_its_cause_and_touches_no_other() -> None:
    seeds = evaluation_seeds(0, 4)
    found = play_wave(Breaking(), World("push", 1, 4, pixels=False), seeds)
    expected = make_runs(4, "push")
    assert found.causes[2].startswith("diverged") and found.steps[2] == 6
    assert not found.success[2] and np.isnan(found.rewards[2, 6:]).all()
    others = [0, 1, 3]
    assert [found.causes[i] for i in others] == [""] * 3
    assert (found.returns[others] == expected.returns[others]).all()
    assert len(frame_of(found, "broken", "", 0)) == 4, "a diverged run is a run"


def test_sides_of_a_match_alternate_and_each_has_a_row() -> None:
    world = World("sumo", 1, 4, pixels=False)
    match = Match((Expert(), Random()), alternate=True)
    frame = frame_of(play_wave(match, world, evaluation_seeds(0, 4)), "expert", "random", 0)
    mine = runs_of(frame, "expert", ("sumo", 1), "random")
    theirs = runs_of(frame, "random", ("sumo", 1), "expert")
    assert mine["player"].to_list() == [0, 1, 0, 1]
    assert theirs["player"].to_list() == [1, 0, 1, 0]
    assert mine["seed"].to_list() == theirs["seed"].to_list()
    turned = {"win": "loss", "loss": "win", "draw": "draw"}
    assert [turned[how] for how in mine["outcome"]] == theirs["outcome"].to_list()
    assert mine["outcome"].to_list().count("win") >= 3
    np.testing.assert_allclose(mine["return"], -theirs["return"].to_numpy(), atol=1e-6)


def test_a_cells_waves_are_of_one_width_and_their_padding_does_not_count() -> None:
    settings = settings_for(("expert",), ("reach",), runs=5, width=4)
    waves = list(waves_of(settings.cells(), [0], 5, 0, 4))
    assert [(len(wave.seeds), wave.first, wave.wanted) for wave in waves] == [(4, 0, 4), (4, 4, 1)]
    found = record(settings).frame
    assert found["run"].to_list() == [0, 1, 2, 3, 4]
    assert found.equals(record(replace(settings, width=5)).frame)


# policies, tasks, corpora


def test_names_are_short_and_distinct() -> None:
    assert display_names(["random", "s3://b/runs/a", "/x/b/"]) == ["random", "a", "b"]
    clash = ["/r1/checkpoints/u7", "/r2/checkpoints/u7", "/r2/random", "random"]
    assert display_names(clash) == [
        "r1/checkpoints/u7", "r2/checkpoints/u7", "r2/random", "random",
    ]  # fmt: skip


def test_a_checkpoint_enters_with_and_without_its_history(tmp_path: Path) -> None:
    url = str(write_checkpoint(tmp_path / "run"))
    both = find_entrants([url, "random"], "both").entrants
    assert [(e.name, e.method, e.history, e.update) for e in both] == [
        ("run", "run", True, 7), ("run, no history", "run, no history", False, 7),
        ("random", "random", None, None),
    ]  # fmt: skip
    assert both[0].tasks == (("reach", 1),) and both[0].discount == 0.99
    assert [e.history for e in find_entrants([url], "off").entrants] == [False]
    assert both[1].player.arguments == {"url": f"{url}/{WEIGHTS}", "history": False}


def test_a_method_has_several_seeds(tmp_path: Path) -> None:
    urls = [str(write_checkpoint(tmp_path / name, seed=n)) for n, name in enumerate("ab")]
    words = [f"mine={urls[0]},{urls[1]}", "expert", "scripted=random"]
    found = find_entrants(words).entrants
    assert [(e.name, e.method) for e in found] == [
        ("mine 1", "mine"), ("mine 2", "mine"), ("expert", "expert"), ("scripted", "scripted"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="given twice"):
        find_entrants([f"mine={urls[0]},{urls[0]}"])
    with pytest.raises(ConfigError, match="name 'a' is given twice"):
        find_entrants([f"a={urls[1]}", urls[0]])
    with pytest.raises(ConfigError, match="expected NAME=URL"):
        find_entrants([f"mine={urls[0]},"])
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        find_entrants(["mine=randon"])


def test_a_folder_may_be_called_like_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "date=today")
    monkeypatch.chdir(tmp_path)
    assert find_entrants(["date=today"]).entrants[0].method == "date=today"


def test_pairs_follow_from_flags_then_the_checkpoint_then_the_suite() -> None:
    (script,) = find_entrants(["random"]).entrants
    trained = [script, replace(script, weights="w", tasks=(("push", 1), ("push", 2)))]
    assert choose_pairs((), (), trained) == (("push", 1), ("push", 2))
    assert choose_pairs((), (2,), trained) == (("push", 2),)
    assert choose_pairs((), (3,), trained) == (("push", 3),)  # a level it never saw
    assert choose_pairs(("reach",), (), trained) == tuple(("reach", n) for n in (1, 2, 3))
    assert choose_pairs(("reach",), (2,), trained) == (("reach", 2),)
    suite = choose_pairs((), (), [script])
    assert len(suite) == len(set(suite)) == SUITE
    assert set(suite) == set(choose_pairs(("all",), ()))
    assert set(choose_pairs(("heldout",), ())) == set(held_out())
    assert {task for task, _ in choose_pairs(("match",), (1,))} == {"sumo", "tag"}


def test_what_no_policy_was_trained_on_is_unseen() -> None:
    (script,) = find_entrants(["random"]).entrants
    pairs = (("push", 1), ("lever", 1), ("reach", 2))
    assert unseen(pairs, [script]) == {("lever", 1)}
    trained = replace(script, weights="w", tasks=(("push", 1),))
    assert unseen(pairs, [script, trained]) == {("lever", 1), ("reach", 2)}


def test_behaviour_data_joins_an_episodes_segments(make_corpus: Any) -> None:
    frame = episodes(make_corpus())
    assert len(frame) == 4
    by_policy = dict(frame.group_by("policy").agg("completion_step").rows())
    assert by_policy == {"expert+noise0.3": [280, 280], "random": [-1, -1]}


def test_settings_travel_through_json(tmp_path: Path) -> None:
    url = str(write_checkpoint(tmp_path / "run"))
    settings = settings_for((url, "random"), ("reach", "sumo"), history="both")
    assert settings.opponents and settings.policies[0].tasks
    stored = json.loads(json.dumps(settings.to_json()))
    assert Settings.from_json(stored, "results.json") == settings
    stored["tasks"] = [["reach"]]
    with pytest.raises(ConfigError, match=r"results.json: tasks\[0\]: expected 2 entries"):
        Settings.from_json(stored, "results.json")


def test_normalised_returns_lie_between_the_baselines() -> None:
    ends = span(("reach", 1))
    assert ends is not None
    found = normalised_returns(np.array([*ends, ends[0] + (ends[1] - ends[0]) / 4]), ("reach", 1))
    assert found is not None and found == pytest.approx([0.0, 1.0, 0.25])
    assert normalised_returns(np.zeros(3), ("sumo", 1)) is None, "a match has no such ends"


# the command


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small evaluation of the scripts."""
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    command(arguments_of(folder))
    return folder


def arguments_of(folder: Path, **changes: Any) -> Arguments:
    arguments = Arguments(
        ("expert", "random"), str(folder), runs=8, width=4, tasks=("reach", "push"), levels=(1,)
    )
    return replace(arguments, **changes)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_command_writes_its_three_files(output: Path) -> None:
    assert sorted(files_of(output)) == ["episodes.parquet", "report.html", "results.json"]
    results = json.loads((output / "results.json").read_text())
    cells = {(c["policy"], c["task"]): c for c in results["results"]}
    assert [policy for policy, _ in cells] == ["random", "random", "expert", "expert"]
    assert cells["expert", "push"]["normalised"] == pytest.approx(1.0, abs=0.1)
    assert cells["random", "push"]["normalised"] == pytest.approx(0.0, abs=0.1)
    frame = pl.read_parquet(output / "episodes.parquet")
    assert len(frame) == 8 * len(cells)
    for (policy, task), cell in cells.items():
        rows = frame.filter((pl.col("policy") == policy) & (pl.col("task") == task))
        assert rows["success"].sum() == cell["successes"]
        assert rows["return"].mean() == pytest.approx(cell["mean_return"]["value"])
    summary = {(s["group"], s["method"]): s for s in results["summary"]}
    assert summary["all", "expert"]["tasks"] == 2
    expected = np.mean([cells["expert", task]["success"]["value"] for task in ("reach", "push")])
    assert summary["all", "expert"]["success"]["value"] == pytest.approx(expected)


def test_the_same_evaluation_elsewhere_has_the_same_bytes(output: Path, tmp_path: Path) -> None:
    command(arguments_of(tmp_path / "again", workers=1))
    assert files_of(tmp_path / "again") == files_of(output)


def test_a_complete_evaluation_is_not_played_again(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(output)
    monkeypatch.setattr(play, "play_wave", None)
    command(arguments_of(output))
    assert files_of(output) == before
    last = capsys.readouterr().out.splitlines()
    assert "this evaluation is complete" in last[0]
    assert last[-1] == f"report: {output}/report.html"
    row = next(line for line in last if line.split()[:1] == ["expert"])
    assert re.search(r"\d+ % \[\d+, \d+\] +\d+\.\d +\d+", row)


class StoppedError(PalaestraError):
    """What ends an evaluation half-way."""


def test_an_evaluation_goes_on_where_it_was(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palaestra.evaluate.output import Parts

    folder, keep, cells = tmp_path / "out", Parts.keep, list[int]()

    def keep_two(parts: Parts, cell: int, part: play.Recorded) -> None:
        keep(parts, cell, part)
        cells.append(cell)
        if len(cells) == 2:
            raise StoppedError("that is enough")

    monkeypatch.setattr(Parts, "keep", keep_two)
    with pytest.raises(StoppedError):
        command(arguments_of(folder))
    assert [p.name for p in folder.iterdir()] == ["parts"]
    monkeypatch.setattr(Parts, "keep", lambda parts, cell, part: cells.append(cell))
    command(arguments_of(folder))
    assert sorted(cells) == [0, 1, 2, 3], "each cell is played once"
    assert files_of(folder) == files_of(output)


def test_a_killed_evaluation_goes_on(output: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    words = ["expert", "random", "--tasks", "reach", "push", "--levels", "1", "--runs", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "palaestra.evaluate", *words, "--width", "4", "--output", folder],
        start_new_session=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: list((folder / "parts").glob("0*.json")))
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    command(arguments_of(folder))
    assert files_of(folder) == files_of(output)


def test_half_an_evaluation_of_other_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from palaestra.evaluate.output import Parts

    Parts(str(tmp_path), settings_for(("expert",), ("reach",))).begin()
    words = ("expert", "--tasks", "reach", "--levels", 1, "--runs", 7, "--width", 6)
    assert "runs = 6, this one has 7" in fails(capsys, *words, "--output", tmp_path)


def test_foreign_output_is_refused(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (output / "results.json").read_bytes()
    words = ("expert", "random", "--tasks", "reach", "push", "--levels", 1, "--width", 4)
    assert "runs = 8, this one has 9" in fails(capsys, *words, "--runs", 9, "--output", output)
    assert (output / "results.json").read_bytes() == before
    (tmp_path / "report.html").write_text("a thesis")
    assert "report.html" in fails(capsys, "random", "--output", tmp_path)
    assert (tmp_path / "report.html").read_text() == "a thesis"
    (tmp_path / "results.json").write_text("[]")
    assert "not an evaluation" in fails(capsys, "random", "--output", tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["exprt"], "did you mean 'expert'"),
        (["random", "random"], "given twice"),
        (["random", "--runs", "0"], "--runs should be in [1, "),
        (["random", "--width", "0"], "--width"),
        (["random", "--workers", "0"], "--workers"),
        (["random", "--seed", "-1"], "--seed"),
        (["random", "--tasks", "reech"], "--tasks: unknown task 'reech'; did you mean 'reach'"),
        (["random", "--tasks", "reach", "--levels", "9"], "--tasks: reach has levels 1 to"),
        (["random", "--corpus", "/nowhere"], "/nowhere: no corpus here"),
        (["random", "--tasks", "reach", "--league", "x"], "--league is for matches"),
        (["random", "--update-league"], "--update-league is for --league URL"),
        ([], "at least one POLICY"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in fails(capsys, *words, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_checkpoints_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--output", tmp_path / "out")
    foreign = Schema((Slot("wheels", 4),), 7, 16, (0.0, 1.0))
    other = write_checkpoint(tmp_path / "other", foreign)
    assert "schema differs in slots" in fails(capsys, other, *flags)
    incomplete = write_checkpoint(tmp_path / "incomplete")
    (incomplete / MARKER).unlink()
    assert "incomplete checkpoint" in fails(capsys, incomplete, *flags)
    (incomplete / WEIGHTS).write_bytes(b"\0" * 64)
    (incomplete / MARKER).write_text("{}")
    assert "not weights of ours" in fails(capsys, incomplete, *flags)
    (tmp_path / "empty").mkdir()
    assert "expected a run" in fails(capsys, tmp_path / "empty", *flags)
    misfit = write_checkpoint(tmp_path / "misfit", drop="policy")
    assert "do not fit their own config: Missing key" in fails(capsys, misfit, *flags)


@pytest.mark.parametrize("inputs", ["state", "pixels+state"])
def test_the_number_of_workers_changes_no_bit(
    inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(write_checkpoint(tmp_path / "run", inputs=inputs))
    settings = settings_for((checkpoint,), ("reach",), runs=3, width=2)
    here = record(settings)
    monkeypatch.setattr(play, "STEPS_PER_WORKER", 1)
    apart = record(settings, 2)
    assert apart.frame.equals(here.frame)
    assert (apart.versions, apart.weights) == (here.versions, here.weights)


def test_a_checkpoint_plays_what_it_was_trained_on(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "run")
    command(Arguments((str(checkpoint),), str(tmp_path / "out"), runs=2, width=2))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["settings"]["tasks"] == [["reach", 1]]
    assert results["settings"]["policies"][0]["update"] == 7
    assert list(results["weights"]) == [f"{checkpoint}/{WEIGHTS}"]
    assert [cell["policy"] for cell in results["results"]] == ["run", "run, no history"]
    returns = [cell["mean_return"]["value"] for cell in results["results"]]
    assert returns[0] != returns[1], "it does not look at its past actions"
    values = pl.read_parquet(tmp_path / "out" / "episodes.parquet")["values"]
    assert values.list.len().to_list() == [256] * 4 and values.explode().is_finite().all()


def test_weights_that_change_meanwhile_are_noticed(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "run")
    settings = settings_for((str(checkpoint),), ("reach",), runs=2, width=1)
    first = record(replace(settings, runs=1))
    write_checkpoint(tmp_path / "other", seed=1).joinpath(WEIGHTS).replace(checkpoint / WEIGHTS)
    with pytest.raises(CheckpointError, match="changed while it was evaluated"):
        play.together([first, record(settings)])


def test_seeds_of_a_method_are_summarised_as_one(tmp_path: Path) -> None:
    urls = [str(write_checkpoint(tmp_path / name, seed=n)) for n, name in enumerate("ab")]
    found = played(settings_for((f"mine={urls[0]},{urls[1]}", "random"), ("reach", "push")))
    (mine,) = (row for row in found.summary if (row.method, row.group) == ("mine", "all"))
    assert (mine.seeds, mine.tasks) == (2, 2)
    rates = [cell.scores.success.value for cell in found.cells if cell.policy.startswith("mine")]
    assert len(rates) == 4 and mine.success.value == pytest.approx(np.mean(rates))
    groups = {row.group for row in found.summary}
    assert groups == {"all", "training", "held-out"}  # nobody was trained on push


def test_levels_and_families_are_groups() -> None:
    found = played(settings_for(("random",), ("reach", "swingup", "lever"), (1, 2), runs=2))
    groups = {row.group: row.tasks for row in found.summary}
    assert groups == {
        "all": 6, "training": 4, "held-out": 2, "arm": 4, "locomotion": 2, "level 1": 3,
        "level 2": 3,
    }  # fmt: skip


def test_every_task_of_the_suite_is_played_by_default() -> None:
    (script,) = find_entrants(["random"]).entrants
    settings = Settings((script,), choose_pairs((), (), (script,)))
    tasks: Sequence[str] = [cell.pair[0] for cell in settings.cells()]
    alone = [name for name, cls in task_classes().items() if cls.players == 1]
    assert sorted(set(tasks)) == alone and len(tasks) == 3 * len(alone)
