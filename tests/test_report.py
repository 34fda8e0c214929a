"""The report: one whole file whose numbers are the evaluation's, and what a browser makes of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import polars as pl
import pytest
import tyro
from evaluate_runs import played, settings_for, write_checkpoint
from html_page import Page
from palaestra.evaluate import video
from palaestra.evaluate.__main__ import Arguments
from palaestra.evaluate.entrants import Entrant
from palaestra.evaluate.episodes import COLUMNS
from palaestra.evaluate.evaluation import Evaluation, assemble
from palaestra.evaluate.opponents import find_opponents
from palaestra.evaluate.pairs import alone, choose_pairs
from palaestra.evaluate.report import clips
from palaestra.evaluate.report.build import build_report, calibrations
from palaestra.evaluate.report.calibration import BINS, calibrate, realised_returns
from palaestra.evaluate.report.commands import command_line
from palaestra.evaluate.report.headline import headline, lede, main_policy
from palaestra.evaluate.report.learning import (
    checkpoint_plot,
    learning_plot,
    read_evaluations,
    read_metrics,
    smoothed,
)
from palaestra.evaluate.report.plots import payoff_plot, profile_plot
from palaestra.evaluate.report.tables import by_task
from palaestra.evaluate.settings import Settings
from palaestra.evaluate.standings import payoff_of
from palaestra.evaluate.statistics import Estimate
from palaestra.evaluate.summary import profiles
from palaestra.generate.registry import task_class
from palaestra.shards.schema import EVALUATION_BIT
from palaestra.train.places import WEIGHTS

pytestmark = pytest.mark.xdist_group("report")  # its evaluations are played once
RUNS = 4
MATRIX_HEAD = [["task", "random", "expert"], ["1", "2", "3"] * 2]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Scripts and two seeds of an untrained method."""
    folder = tmp_path_factory.mktemp("report")
    seeds = [str(write_checkpoint(folder / name, seed=i)) for i, name in enumerate("ab")]
    words = ("random", f"net={','.join(seeds)}", "expert")
    return played(settings_for(words, ("reach", "push"), runs=RUNS, width=RUNS))


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """An untrained network in matches against the scripts."""
    network = str(write_checkpoint(tmp_path_factory.mktemp("report") / "net"))
    return played(settings_for((network,), ("sumo",), runs=RUNS, width=RUNS))


@pytest.fixture(scope="module")
def report(evaluation: Evaluation) -> str:
    return build_report(evaluation)


@pytest.fixture(scope="module")
def many() -> Evaluation:
    """The scripts on more tasks and levels than a table shows at once, and in matches."""
    words, tasks = ("random", "expert"), ("reach", "push", "lever", "swingup", "drawer")
    settings = settings_for(words, tasks, (1, 2, 3), runs=2, width=2)
    opponents = find_opponents(None, settings.policies)
    return played(replace(settings, tasks=(*settings.tasks, ("sumo", 1)), opponents=opponents))


@pytest.fixture(scope="module")
def long_report(many: Evaluation) -> str:
    return build_report(many)


def percent(estimate: Estimate) -> str:
    value, low, high = (f"{100 * x:.0f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value}\u00a0% [{low}, {high}]"


def rows_under(page: Page, title: str) -> list[list[str]]:
    """The rows of a table under one of its titles."""
    return next(rows[1:] for rows in page.tables if rows[0] == [title])


# the page


def test_page_is_whole_and_names_every_task_and_policy(
    evaluation: Evaluation, report: str
) -> None:
    page = Page(report)
    for name in ("reach 1", "push 1", *(p.name for p in evaluation.settings.policies)):
        assert name in page.text, name
    assert len(page.images) == 2 * 4
    for picture in page.pictures():
        assert picture.format == "GIF" and getattr(picture, "n_frames") > 10  # noqa: B009
    assert len(report) < 25e6


def test_same_evaluation_same_bytes(evaluation: Evaluation, report: str) -> None:
    again = assemble(evaluation.settings, evaluation.recorded)
    assert build_report(again) == report


def test_tables_hold_the_evaluations_numbers(evaluation: Evaluation, report: str) -> None:
    page = Page(report)
    for pair in alone(evaluation.settings.tasks):
        rows = rows_under(page, f"{pair[0]} {pair[1]}")
        assert [row[0] for row in rows] == evaluation.rows
        for label, success, bar, mean, steps, completed, normal in rows:
            cell = evaluation.cell(label, pair)
            assert cell is not None and bar == ""
            scores = cell.scores
            assert success == percent(scores.success)
            assert mean.startswith(f"{scores.mean_return.value:.1f} [")
            assert steps.startswith(f"{scores.steps.value:.0f} [")
            known = scores.completed_steps
            assert completed == ("–" if known is None else f"{known:.0f}")
            assert float(normal) == pytest.approx(cell.normalised, abs=0.00501)


def test_tables_of_matches_hold_the_evaluations_numbers(met: Evaluation) -> None:
    rows = rows_under(Page(build_report(met)), "sumo 1")
    assert len(rows) == len(met.matches) == 4
    for (label, won, _, drawn, lost, _, _), match in zip(rows, met.matches, strict=True):
        assert label == f"{match.policy} against {match.opponent}"
        assert won == percent(match.won)
        shares = f"{100 * match.draws / RUNS:.0f}\u00a0%", f"{100 * match.losses / RUNS:.0f}\u00a0%"
        assert (drawn, lost) == shares


def test_summary_tells_methods_their_seeds_and_what_its_intervals_leave_out(
    evaluation: Evaluation, report: str
) -> None:
    page = Page(report)
    rows = rows_under(page, "all 2 tasks and levels")
    found = [row for row in evaluation.summary if row.group == "all"]
    assert [row[0] for row in rows] == ["random", "net 2 seeds", "expert"]
    for (_, success, _, middle, mean, steps), own in zip(rows, found, strict=True):
        assert success == percent(own.success) and steps == percent(own.steps)
        assert own.normalised is not None and own.mean_normalised is not None
        assert float(middle.split()[0]) == pytest.approx(own.normalised.value, abs=0.00501)
        assert float(mean.split()[0]) == pytest.approx(own.mean_normalised.value, abs=0.00501)
    assert "leave out how much training itself varies" in page.text
    assert "of single runs that succeed or fail it would be 0 or 1" in page.text


def test_drawings_are_described_and_all_there(
    evaluation: Evaluation, report: str, many: Evaluation, long_report: str
) -> None:
    drawings = Page(report).drawings
    for name in ("reach", "push"):
        cell = evaluation.cell("expert", (name, 1))
        assert cell is not None
        told = next(d for d in drawings if d.startswith(f"Success on {name} 1: "))
        assert f"expert {100 * cell.scores.success.value:.0f} %" in told
    assert sum(d.startswith("Calibration of net ") for d in drawings) == 2
    assert sum(d.startswith("Mean reward over time") for d in drawings) == 2
    assert not any("profile" in d for d in drawings), "two tasks make no profile"
    drawings = Page(long_report).drawings
    assert any(d.startswith("Performance profiles") for d in drawings)
    assert not any(d.startswith("Mean reward") for d in drawings), "of fifteen tasks"
    (rates,) = (d for d in drawings if d.startswith("Win rates"))
    payoff = payoff_of(many.settings, many.matches)
    assert all(name in rates for name in payoff.names)
    (ratings,) = (d for d in drawings if d.startswith("Ratings, all"))
    assert all(f"{r.name} {r.value:.0f}" in ratings for r in many.ratings["all"])


def test_many_tasks_are_a_matrix_first_and_folded_tables(
    many: Evaluation, long_report: str
) -> None:
    page = Page(long_report)
    matrix = {row[0]: row[1:] for row in page.tables[page.tables.index(MATRIX_HEAD) + 1]}
    pairs = [(policy, ("reach", level)) for policy in many.rows for level in (1, 2, 3)]
    success = [c.scores.success.value for c in (many.cell(*pair) for pair in pairs) if c]
    assert matrix["reach"] == [f"{100 * value:.0f}" for value in success]
    assert list(matrix) == ["reach", "push", "lever †", "swingup", "drawer"]
    assert long_report.count("<details>") == 5, "a task's tables each"
    for task, level in many.settings.tasks:
        assert f"{task} {level}" in page.text
    assert len(page.images) == 15 + 1, "one policy alone, and in its match"
    assert len(long_report) < 25e6


def test_videos_share_what_a_page_may_weigh(
    many: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(many, settings=replace(many.settings, tasks=alone(many.settings.tasks)[:1]))
    assert clips._budget(few) == video.MAXIMUM_BYTES
    every = replace(many, settings=replace(many.settings, tasks=choose_pairs(("all",), ())))
    assert 48 * clips._budget(every) <= clips.PAGE_BYTES
    monkeypatch.setattr(clips, "PAGE_BYTES", 16 * 80_000)
    pictures = Page(clips.videos(many, dict.fromkeys(many.rows, "#000"))).images
    sizes = [len(p["src"]) * 3 / 4 for p in pictures]
    assert len(sizes) == 15 and max(sizes) < 80_000 + 100


def test_plots_show_profiles_and_payoff(many: Evaluation) -> None:
    found = dict(profiles(many.settings, many.recorded.frame))
    drawn = profile_plot(found, {"random": "#123456", "expert": "#654321"})
    assert {"#123456", "#654321"} <= set(drawn.replace('"', " ").replace(";", " ").split())
    payoff = payoff_of(many.settings, many.matches)
    text = Page(payoff_plot(payoff, payoff.names)).text
    rates = payoff.win_rate[np.isfinite(payoff.win_rate)]
    assert all(f"{100 * rate:.0f}" in text for rate in rates) and len(rates) > 10


# what it says


def test_headline_tells_the_methods_success(evaluation: Evaluation, many: Evaluation) -> None:
    cells = [evaluation.cell(f"net {i}", ("push", 1)) for i in (1, 2)]
    mean = sum(c.scores.success.value for c in cells if c is not None) / 2
    told = headline(evaluation)
    assert told.startswith("net completes reach in ")
    assert f"push in {100 * mean:.0f}\u00a0% of 2 × {RUNS} runs" in told
    assert "the scripted expert" in lede(evaluation)
    assert "It wins " in lede(many) and "matches against the scripted anchors" in lede(many)
    assert main_policy(evaluation) in ("net 1", "net 2")
    success = [c.scores.success.value for c in many.cells if c.policy == "expert"]
    share = f"{100 * sum(success) / len(success):.0f}\u00a0%"
    assert headline(many) == (
        f"The scripted expert completes {share} of its runs over 15 tasks and levels, 2 on each"
    )


def test_matches_alone_make_a_headline_and_a_page(met: Evaluation) -> None:
    share = 100 * sum(m.wins for m in met.matches) / (4 * RUNS)
    won = f"net wins {share:.0f}\u00a0% of its matches against the scripted anchors"
    assert headline(met) == won and lede(met) == ""
    page = Page(build_report(met))
    assert len(page.images) == 1 and "Summary" not in page.text


@pytest.mark.parametrize("words", [
    "random expert --tasks all",
    "random expert --tasks reach push --levels 1 2 --runs 7 --width 3 --seed 5",
    "expert --tasks heldout", "expert --levels 2", "net=A,B random --history both", "A B",
    "A --history off --tasks arm --levels 1", "old=A B --tasks sumo reach", "random --tasks train",
])  # fmt: skip
def test_the_printed_command_asks_for_the_same(words: str, tmp_path: Path) -> None:
    for name, tasks in (("A", (("reach", 1), ("push", 3))), ("B", (("reach", 1),))):
        write_checkpoint(tmp_path / name, tasks=tasks)
        words = words.replace(name, str(tmp_path / name))

    def asked(command: Sequence[str]) -> Settings:
        a = tyro.cli(Arguments, args=list(command))
        return settings_for(a.policies, a.tasks, a.levels, a.runs, a.width, a.history, a.seed)

    settings = asked(shlex.split(words))
    printed = shlex.split(command_line(settings))
    assert printed[0] == "evaluate" and printed[-2:] == ["--output", "DIR"]
    assert asked(printed[1:]) == settings


def test_joined_evaluations_are_repeated_by_several_commands() -> None:
    settings = settings_for(("random",), ("reach",))
    pairs = (("reach", 1), ("push", 2), ("push", 3), ("lever", 1))
    *lines, merge = command_line(replace(settings, tasks=pairs)).splitlines()
    asked = [tyro.cli(Arguments, args=shlex.split(line)[1:]) for line in lines]
    chosen = [pair for a in asked for pair in choose_pairs(a.tasks, a.levels)]
    assert sorted(chosen) == sorted(pairs)
    assert [a.output for a in asked] == ["DIR-1", "DIR-2"]
    assert merge == "evaluate merge DIR-1 DIR-2 --output DIR"


def test_a_tasks_levels_stand_together() -> None:
    pairs = [("maze", 1), ("reach", 2), ("reach", 1), ("maze", 3)]
    assert by_task(pairs) == [("maze", 1), ("maze", 3), ("reach", 1), ("reach", 2)]


def test_the_page_tells_how_to_repeat_it(evaluation: Evaluation, report: str) -> None:
    text = Page(report).text
    assert command_line(evaluation.settings) in text
    assert len(evaluation.recorded.weights) == 2
    for url, digest in evaluation.recorded.weights.items():
        assert url in text and digest in text
    assert f"{EVALUATION_BIT:#x} to {EVALUATION_BIT + RUNS - 1:#x}" in text
    assert "evaluate show DIR --task reach --level 1 --seed 0" in text
    for name, version in evaluation.recorded.versions.items():
        assert f"{name} {version}" in text


# value calibration


def by_hand(
    reward: Sequence[float], value: Sequence[float], discount: float, ended: bool
) -> list[float]:
    """Realised returns, one sum at a time."""
    steps = len(reward)
    return [
        sum((1 - discount) * discount ** (k - t) * reward[k] for k in range(t, steps))
        + (0.0 if ended else discount ** (steps - t) * value[-1])
        for t in range(steps)
    ]  # fmt: skip


def test_realised_returns_bootstrap_time_limits_alone() -> None:
    generator = np.random.default_rng(0)
    reward, value = generator.random((2, 3, 12))
    steps, ended = np.array([12, 12, 5]), np.array([False, True, True])
    found = realised_returns(reward, value, steps, ended, 0.9)
    for i, count in enumerate(steps):
        expected = by_hand(reward[i, :count], value[i, :count], 0.9, bool(ended[i]))
        assert found[i, :count] == pytest.approx(expected)
    # of a constant reward of 1 for ever, a value of 1 is right at every step
    ones = np.ones((1, 12))
    assert realised_returns(ones, ones, steps[:1], ended[:1], 0.97) == pytest.approx(ones)


def critic_frame(runs: int, change: Callable[[Any], Any] = lambda g: g) -> pl.DataFrame:
    """Runs of reach and of sumo's length with rewards at random and values made from the returns.

    Every second run is cut off early, as a termination is.
    """
    generator = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for number in range(runs):
        task = ("reach", "sumo")[number % 2]
        horizon = task_class(task).horizon
        steps = horizon if number % 4 < 2 else horizon // 3
        reward = generator.random(steps).cumsum() % 1.0
        returns = by_hand(list(reward), [float(generator.random())], 0.95, steps < horizon)
        rows.append({
            "policy": "net", "opponent": "", "task": task, "level": 1, "run": number, "player": 0,
            "seed": number, "return": float(reward.sum()), "success": False,
            "completion_step": None, "steps": steps, "outcome": None, "cause": "", "actions": [],
            "rewards": reward.tolist(), "values": [float(v) for v in change(np.array(returns))],
        })  # fmt: skip
    return pl.DataFrame(rows, COLUMNS, strict=False)


def test_values_that_come_true_are_calibrated() -> None:
    frame = critic_frame(8).filter(pl.col("steps") < 200)  # terminated: nothing is guessed
    found = calibrate(frame, 0.95)
    assert found is not None and found.steps == frame["steps"].sum()
    assert found.slope == pytest.approx(1, abs=1e-4)
    assert found.bias == pytest.approx(0, abs=1e-6)
    assert found.explained == pytest.approx(1, abs=1e-6)
    assert len(found.predicted) == BINS and (np.diff(found.predicted) > 0).all()
    assert found.realised == pytest.approx(found.predicted, abs=1e-6)
    assert ((found.low <= found.realised) & (found.realised <= found.high)).all()


def test_values_that_are_half_as_large_have_slope_two_and_a_bias() -> None:
    frame = critic_frame(8, lambda g: 0.5 * g + 0.1).filter(pl.col("steps") < 200)
    true = critic_frame(8).filter(pl.col("steps") < 200)["values"].explode().to_numpy()
    found = calibrate(frame, 0.95)
    assert found is not None
    assert found.slope == pytest.approx(2, abs=1e-3)
    assert found.bias == pytest.approx(float(0.1 - 0.5 * true.mean()), abs=1e-5)
    assert found.explained == pytest.approx(0.75, abs=1e-3)


def test_calibration_tells_time_limits_from_endings() -> None:
    frame = critic_frame(4)
    found = calibrate(frame, 0.95, bins=1)
    outcomes = [
        by_hand(row["rewards"], row["values"], 0.95, row["steps"] < task_class(row["task"]).horizon)
        for row in frame.iter_rows(named=True)
    ]
    assert found is not None
    assert found.realised == pytest.approx([np.concatenate(outcomes).mean()], abs=1e-6)


def test_calibration_of_a_constant_value_has_no_slope() -> None:
    found = calibrate(critic_frame(4, lambda g: np.full_like(g, 0.5)), 0.95)
    assert found is not None and found.slope is None
    scripts = critic_frame(4).with_columns(values=pl.lit(None, pl.List(pl.Float32)))
    assert calibrate(scripts, 0.95) is None


def test_every_learned_policy_is_calibrated_on_all_its_steps(evaluation: Evaluation) -> None:
    found = calibrations(evaluation)
    assert list(found) == ["net 1", "net 2"]
    for name, own in found.items():
        frame = evaluation.recorded.frame.filter(policy=name, opponent="")
        assert own.steps == frame["steps"].sum() == 2 * RUNS * 256


# learning


def lines_of(history: bool, runs: int = 20) -> list[dict[str, Any]]:
    return [
        {
            "update": update, "task": task, "level": 1, "history": history, "runs": runs, "seed": 0,
            "success": {"value": 0.5, "low": 0.3, "high": 0.7}, "normalised": 0.4,
        }
        for update in (14, 7) for task in ("push", "lever")
    ]  # fmt: skip


def test_a_runs_files_are_found_from_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"update": 0, "policy_loss": 2.5}\n{"upd')
    met = {"update": 14, "task": "sumo", "level": 1, "history": True, "opponent": "strong"}
    lines = [*lines_of(True, runs=5), *lines_of(True), *lines_of(False), met]
    (tmp_path / "evaluations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    checkpoint = write_checkpoint(tmp_path / "checkpoints" / "update-00000007")
    for source in (tmp_path, checkpoint, checkpoint / WEIGHTS):
        assert read_metrics(str(source)) == [{"update": 0, "policy_loss": 2.5}]
        entrant = Entrant("run", str(source), "run", str(checkpoint / WEIGHTS), 7, True)
        found = read_evaluations(entrant)
        assert [(row["update"], row["task"]) for row in found] == [
            (7, "lever"), (7, "push"), (14, "lever"), (14, "push"),
        ]  # fmt: skip
        assert all(row["history"] and row["runs"] == 20 for row in found)
    assert read_evaluations(replace(entrant, source=str(tmp_path.parent / "none"))) == []


def test_learning_and_checkpoints_are_drawn(tmp_path: Path) -> None:
    metrics = [
        {"update": u, "policy_loss": 2.0, "kept/expert": 0.5, "steps_per_s": 9.0} for u in range(40)
    ]
    learned = Page(learning_plot("run", metrics, "#123456"))
    assert learned.drawings == [
        f"run: {title} by update"
        for title in ("policy loss", "kept by the advantage filter", "steps per second")
    ]
    each = Page(checkpoint_plot("run", lines_of(True), "#123456"))
    assert "lever 1 †" in each.text and "push 1" in each.text
    many = [line | {"level": level} for line in lines_of(True) for level in range(1, 5)]
    whole = Page(checkpoint_plot("run", many, "#123456"))
    assert "mean of 8 tasks and levels" in whole.text and "lever" not in whole.text


def test_smoothing_keeps_a_constant() -> None:
    np.testing.assert_allclose(smoothed(np.full(100, 3.0)), 3.0)


# in a browser

in_browser = [
    pytest.mark.chromium,
    pytest.mark.skipif(chromium.find() is None, reason="no Chromium on PATH"),
]


class TestInBrowser:
    """What headless Chromium says, without a network."""

    pytestmark = in_browser

    @pytest.mark.parametrize("width", [1280, 390])
    @pytest.mark.parametrize("name", ["report", "long_report"])
    def test_page_fits_the_window_and_loads_nothing(
        self, name: str, width: int, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        path = tmp_path / "report.html"
        path.write_text(request.getfixturevalue(name))
        found = chromium.measure(path, width, tmp_path)
        assert found.width == width and found.scrolled <= width
        assert (found.broken, found.loaded, found.complaints) == (0, [], [])
        shown = np.asarray(chromium.screenshot(path, width, 2400, tmp_path))
        assert shown.shape == (2400, width, 3)
        strips = shown.reshape(6, 400, width, 3)
        assert all(len(np.unique(strip.reshape(-1, 3), axis=0)) > 30 for strip in strips)

    def test_the_browser_would_tell(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.html"
        path.write_text(
            '<!doctype html><div style="width: 800px">wide</div>'
            '<img src="http://example.com/a.png"><script>console.error("oops")</script>'
        )
        found = chromium.measure(path, 390, tmp_path)
        assert found.scrolled > found.width and found.broken == 1
        assert found.loaded == ["http://example.com/a.png"] and "oops" in found.complaints[0]
