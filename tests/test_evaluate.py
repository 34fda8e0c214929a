"""Evaluation: statistics by hand, real runs and replays, the command from end to end."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from palaestra.evaluate import video
from palaestra.evaluate.__main__ import Arguments, command
from palaestra.evaluate.behaviour import episodes
from palaestra.evaluate.evaluation import choose_pairs
from palaestra.evaluate.players import display_names, load_players
from palaestra.evaluate.plots import read_metrics, smoothed
from palaestra.evaluate.runs import Runs, evaluation_seeds, play_runs
from palaestra.evaluate.statistics import (
    LARGE,
    bootstrap_mean,
    censored_steps,
    normalised,
    score,
    wilson,
)
from palaestra.generate.plan import episode_seed
from palaestra.generate.policies import Expert, Random
from palaestra.generate.registry import task_class
from palaestra.generate.slots import make_schema
from palaestra.generate.video import GAP
from palaestra.generate.world import Observation, World
from palaestra.shards.console import run_command
from palaestra.shards.schema import EVALUATION_BIT, Schema, Slot
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.export import export_metadata, shapes_of, write_weights
from palaestra.train.model import PolicyValueNetwork
from palaestra.train.places import MARKER, WEIGHTS
from PIL import Image

VOID = {"meta", "img", "br", "use", "path"}  # elements without an end tag, or closed in place


def make_runs(width: int, runs: int, task: str = "reach", seed: int = 0) -> Runs:
    return play_runs(Expert(), World(task, 1, width, pixels=False), runs, seed)


def require_equal(found: Runs, expected: Runs) -> None:
    """The same runs, to the last bit."""
    assert (found.seeds, found.causes) == (expected.seeds, expected.causes)
    for name in ("returns", "completion_step", "steps", "actions", "rewards"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name


def write_checkpoint(
    folder: Path, schema: Schema | None = None, inputs: str = "state", drop: str = "nothing"
) -> Path:
    """An untrained tiny network as a complete checkpoint, without the weights named `drop`…"""
    schema = schema or make_schema(16, (0.0, 1.0))
    model = load_preset("tiny").model
    config = TrainConfig(
        corpora=("none",), weights=(1,), preset="tiny", model=model, inputs=inputs, updates=1,
        batch=1, peak_rate=1e-3, end_rate=1e-5, warm_up=1, precision="fp32",
    )  # fmt: skip
    torch.manual_seed(0)
    network = PolicyValueNetwork(model, shapes_of(schema), inputs.split("+"))
    folder.mkdir(parents=True)
    metadata = export_metadata(config, schema, (("reach", 1),)) | {"update": 7}
    weights = {k: w for k, w in network.state_dict().items() if not k.startswith(drop)}
    write_weights(folder / WEIGHTS, weights, metadata)
    (folder / MARKER).write_text("{}")
    return folder


def fails(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command says when it refuses: one line."""
    with pytest.raises(SystemExit) as stop:
        run_command(Arguments, command, "evaluate", [str(word) for word in words])
    assert stop.value.code == 1
    out = capsys.readouterr()
    assert out.err.count("\n") == 1, out.err
    assert "steps/s" not in out.out, "played before it was checked"
    return out.err


# statistics


def test_wilson_is_the_textbook_interval() -> None:
    found = wilson(97, 100)
    assert found.value == 0.97
    # centre (0.97 + 1.9207/100)/(1 + 3.8415/100) = 0.952614, half-width 0.037643
    assert (found.low, found.high) == pytest.approx((0.91548, 0.98974), abs=2e-4)
    assert wilson(0, 100).low == 0.0 and wilson(0, 100).high == pytest.approx(0.03699, abs=1e-4)
    assert wilson(100, 100).high == 1.0 and wilson(100, 100).low == pytest.approx(0.96301, abs=1e-4)


def test_bootstrap_mean_nears_the_normal_interval_and_repeats() -> None:
    values = np.arange(100.0)
    found = bootstrap_mean(values, np.random.default_rng(1))
    half = 1.96 * values.std() / 10
    assert found.value == 49.5
    assert (found.low, found.high) == pytest.approx((49.5 - half, 49.5 + half), abs=0.4)
    assert found == bootstrap_mean(values, np.random.default_rng(1))
    flat = bootstrap_mean([2.0] * 5, np.random.default_rng(1))
    assert (flat.value, flat.low, flat.high) == (2.0, 2.0, 2.0)


def test_bootstrap_mean_of_many_is_close_to_that_of_fewer() -> None:
    values = np.random.default_rng(0).random(LARGE)
    many = bootstrap_mean(values, np.random.default_rng(1))
    few = bootstrap_mean(values[:-1], np.random.default_rng(1), resamples=2000)
    assert (many.low, many.high) == pytest.approx((few.low, few.high), abs=5e-4)


def test_failures_count_at_the_horizon() -> None:
    completion = np.array([10, -1, 30, -1])
    assert censored_steps(completion, 256).tolist() == [10, 256, 30, 256]
    scores = score([1.0, 2.0, 3.0, 4.0], completion, 256, np.random.default_rng(0))
    assert (scores.runs, scores.successes, scores.success.value) == (4, 2, 0.5)
    assert scores.steps.value == 138.0 and scores.completed_steps == 20.0
    assert scores.mean_return.value == 2.5
    none = score([1.0], np.array([-1]), 256, np.random.default_rng(0))
    assert none.completed_steps is None


def test_normalised_needs_both_baselines() -> None:
    assert normalised(15.0, 10.0, 30.0) == 0.25
    assert normalised(15.0, None, 30.0) is None and normalised(15.0, 10.0, 10.0) is None


def test_smoothing_keeps_a_constant() -> None:
    np.testing.assert_allclose(smoothed(np.full(100, 3.0)), 3.0)


# runs


def test_seeds_are_in_no_corpus() -> None:
    seeds = evaluation_seeds(3, 100)
    assert len(set(seeds)) == 100 and all(seed & EVALUATION_BIT for seed in seeds)
    assert not any(episode_seed(3, match) & EVALUATION_BIT for match in range(100))
    assert not set(seeds) & set(evaluation_seeds(4, 100))


def test_seeds_give_different_episodes() -> None:
    assert len(set(make_runs(8, 8).returns.tolist())) == 8


@pytest.mark.parametrize("task", ["reach", "push"])
def test_scripted_runs_do_not_depend_on_width_or_time(task: str) -> None:
    expected = make_runs(6, 6, task)
    require_equal(make_runs(6, 6, task), expected)
    require_equal(make_runs(4, 6, task), expected)  # two waves, the second padded with two
    assert len(expected.seeds) == len(expected.actions) == 6


def test_expert_beats_random() -> None:
    expert = make_runs(16, 16)
    random = play_runs(Random(), World("reach", 1, 16, pixels=False), 16, 0)
    assert expert.seeds == random.seeds
    assert expert.returns.mean() > 2 * random.returns.mean()
    assert expert.success.mean() > 0.8 > 0.2 > random.success.mean()
    assert (expert.steps == 256).all()


@pytest.mark.parametrize("task", ["reach", "push"])
def test_replay_is_exact_and_makes_a_gif(task: str) -> None:
    runs = play_runs(Expert(noise=0.3), World(task, 1, 5, pixels=False), 5, 1)
    for number in range(5):
        run = video.replay(runs, number)  # asserts the same return
        assert run.frames.shape == (128, 160, 160, 3) and run.frames.std() > 10
    data = video.record(runs)
    assert len(data) < video.MAXIMUM_BYTES
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.width == 3 * 160 + 2 * GAP and picture.n_frames > 20


def test_a_replay_that_differs_is_noticed() -> None:
    runs = make_runs(1, 1)
    runs.actions[0, 3] = 0.0
    with pytest.raises(AssertionError, match="replays differently"):
        video.replay(runs, 0)


class Breaking(Expert):
    """An expert whose third simulation is broken at step 5."""

    def act(self, observation: Observation) -> NDArray[np.float32]:
        if self.world.time == 5:
            self.world.batch.qvel[2] = np.nan
        return super().act(observation)


def test_a_diverged_run_fails_with_its_cause_and_touches_no_other() -> None:
    found = play_runs(Breaking(), World("push", 1, 4, pixels=False), 4, 0)
    expected = make_runs(4, 4, "push")
    assert found.causes[2].startswith("diverged") and found.steps[2] == 6
    assert not found.success[2] and np.isnan(found.rewards[2, 6:]).all()
    others = [0, 1, 3]
    assert [found.causes[i] for i in others] == [""] * 3
    assert (found.returns[others] == expected.returns[others]).all()


def fake_runs(completion: Sequence[int]) -> Runs:
    count = len(completion)
    return Runs(
        "reach", 1, 256, tuple(range(count)), np.arange(count, dtype=float),
        np.array(completion), np.full(count, 256), ("",) * count,
        np.zeros((count, 256, 7), np.float32), np.zeros((count, 256), np.float32),
    )  # fmt: skip


def test_videos_show_median_successes_and_a_failure() -> None:
    assert video.choose_runs(fake_runs([10, 20, 30, 40, 50])) == [1, 2, 3]
    assert video.choose_runs(fake_runs([10, 20, -1, 40, 50])) == [1, 3, 2]
    assert video.choose_runs(fake_runs([-1, -1, -1, -1])) == [1, 2, 3]
    assert video.choose_runs(fake_runs([7])) == [0]


# policies and corpora


def test_names_are_short_and_distinct() -> None:
    assert display_names(["random", "s3://b/runs/a", "/x/b/"]) == ["random", "a", "b"]
    clash = ["/r1/checkpoints/u7", "/r2/checkpoints/u7", "/r2/random", "random"]
    assert display_names(clash) == [
        "r1/checkpoints/u7", "r2/checkpoints/u7", "r2/random", "random",
    ]  # fmt: skip


def test_pairs_follow_from_flags_then_the_checkpoint_then_the_suite() -> None:
    scripts = load_players(["random"])
    trained = [*scripts, replace(scripts[0], update=1, tasks=(("push", 1),))]
    assert choose_pairs((), (), trained) == (("push", 1),)
    assert choose_pairs(("reach",), (), trained) == (("reach", 1),)
    suite = dict(choose_pairs((), (), scripts))
    assert {"reach", "push"} <= set(suite) and set(suite.values()) == {1}
    assert not any(1 in task_class(task).held_out for task in suite)


def test_behaviour_data_joins_an_episodes_segments(make_corpus: Any) -> None:
    frame = episodes(make_corpus())
    assert len(frame) == 4
    by_policy = dict(frame.group_by("policy").agg("completion_step").rows())
    assert by_policy == {"expert+noise0.3": [280, 280], "random": [-1, -1]}


def test_metrics_are_found_from_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"update": 0, "policy_loss": 2.5}\n{"upd')
    checkpoint = write_checkpoint(tmp_path / "checkpoints" / "update-00000007")
    for source in (tmp_path, checkpoint, checkpoint / WEIGHTS):
        assert read_metrics(str(source)) == [{"update": 0, "policy_loss": 2.5}]


# the command


class Page(HTMLParser):
    """Checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values["src"] or "")
        for name in ("src", "href", "xlink:href"):
            assert (values.get(name) or "#").startswith(("#", "data:")), "not self-contained"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small evaluation of the scripts."""
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    command(arguments_of(folder))
    return folder


def arguments_of(folder: Path) -> Arguments:
    policies, tasks = ("expert", "random"), ("reach", "push")
    return Arguments(policies, str(folder), runs=8, width=8, tasks=tasks, threads=1)


def test_command_writes_its_three_files(output: Path) -> None:
    assert sorted(p.name for p in output.iterdir()) == [
        "episodes.parquet", "report.html", "results.json",
    ]  # fmt: skip
    results = json.loads((output / "results.json").read_text())
    cells = {(c["policy"], c["task"]): c for c in results["results"]}
    assert [policy for policy, _ in cells] == ["random", "random", "expert", "expert"]
    assert cells["expert", "push"]["normalised"] == 1.0
    frame = pl.read_parquet(output / "episodes.parquet")
    assert len(frame) == 8 * len(cells)
    for (policy, task), cell in cells.items():
        rows = frame.filter((pl.col("policy") == policy) & (pl.col("task") == task))
        assert rows["success"].sum() == cell["successes"]
        assert rows["return"].mean() == pytest.approx(cell["mean_return"]["value"])


def test_report_is_whole_html_with_every_task_and_video(output: Path) -> None:
    text = (output / "report.html").read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert "reach 1" in page.text and "push 1" in page.text and "scripted expert" in page.text
    assert len(page.images) == 4 and text.count("<svg") == 2
    for image in page.images:
        with Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2]))) as gif:
            assert gif.format == "GIF" and gif.n_frames > 10


def test_same_command_same_bytes(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in output.iterdir()}
    command(arguments_of(output))
    assert {p.name: p.read_bytes() for p in output.iterdir()} == before
    last = capsys.readouterr().out.splitlines()
    assert last[-1] == f"report: {output}/report.html"
    row = next(line for line in last if line.split()[:1] == ["expert"])
    assert re.search(r"\d+ % \[\d+, \d+\] +\d+\.\d +\d+", row)


def test_foreign_output_is_refused(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (output / "results.json").read_bytes()
    words = ("expert", "random", "--tasks", "reach", "push", "--runs", 9, "--width", 8)
    assert "runs = 8, this one has 9" in fails(capsys, *words, "--output", output)
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
        (["random", "--threads", "0"], "--threads"),
        (["random", "--seed", "-1"], "--seed"),
        (["random", "--tasks", "reech"], "--tasks: unknown task 'reech'; did you mean 'reach'"),
        (["random", "--tasks", "reach", "--levels", "9"], "--levels: reach has levels 1 to"),
        (["random", "--corpus", "/nowhere"], "/nowhere: no corpus here"),
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
    misfit = write_checkpoint(tmp_path / "misfit", drop="policy")
    assert "do not fit their own config: Missing key" in fails(capsys, misfit, *flags)
    (tmp_path / "empty").mkdir()
    assert "expected a run" in fails(capsys, tmp_path / "empty", *flags)


@pytest.mark.parametrize("inputs", ["state", "pixels+state"])
def test_a_checkpoint_plays_what_it_was_trained_on(inputs: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "run", inputs=inputs)
    tables = []
    for name in ("a", "b"):
        threads = torch.get_num_threads()
        command(Arguments((str(checkpoint),), str(tmp_path / name), runs=3, width=4, threads=1))
        torch.set_num_threads(threads)
        tables.append((tmp_path / name / "results.json").read_bytes())
    assert tables[0] == tables[1]
    results = json.loads(tables[0])
    assert results["settings"]["tasks"] == [["reach", 1]]
    assert results["settings"]["policies"][0]["update"] == 7
    assert [cell["policy"] for cell in results["results"]] == ["run"]
