"""Watching runs of an evaluation again: `evaluate show`, and the GIFs of its report."""

from __future__ import annotations

import dataclasses
import io
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from palaestra.evaluate import video
from palaestra.evaluate.entrants import Entrant, Pair, find_entrants
from palaestra.evaluate.episodes import frame_of, joined
from palaestra.evaluate.opponents import find_opponents
from palaestra.evaluate.output import EPISODES, FORMAT, RESULTS
from palaestra.evaluate.runs import evaluation_seeds, play_wave
from palaestra.evaluate.settings import Settings
from palaestra.evaluate.show import choose, show
from palaestra.generate.players import load
from palaestra.generate.policies import Expert, Match
from palaestra.generate.rollout import Policy
from palaestra.generate.video import BAR, GAP, LABEL, pace
from palaestra.generate.work import versions
from palaestra.generate.world import Observation, World
from palaestra.shards import storage
from palaestra.shards.errors import (
    ConfigError,
    PalaestraError,
    RolloutError,
    StorageError,
    UnknownNameError,
)
from PIL import Image

RUNS = 3
TASKS: tuple[Pair, ...] = (("reach", 1), ("reach", 2), ("push", 1), ("sumo", 1))
SEEDS = evaluation_seeds(5, RUNS)
HEIGHT = LABEL + 2 + BAR  # of a clip, beside the picture
FLAGS: dict[str, Any] = {
    "task": "push", "level": None, "seed": "1", "policy": None, "opponent": None, "size": 24,
}  # fmt: skip


def played(policy: Policy, pair: Pair, runs: int = RUNS) -> pl.DataFrame:
    """A cell's runs, called `a` (against `b`)."""
    world = World(*pair, runs, pixels=False)
    return frame_of(play_wave(policy, world, evaluation_seeds(5, runs)), "a", "b", 0)


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Of an evaluation of the scripts."""
    entrants = find_entrants(["random", "expert"]).entrants
    opponents = find_opponents(None, entrants)
    return Settings(entrants, TASKS, opponents, runs=RUNS, seed=5, width=RUNS)


@pytest.fixture(scope="module")
def frame(settings: Settings) -> pl.DataFrame:
    """All its runs."""
    frames = []
    for cell in settings.cells():
        sides = [load(side.player) for side in (cell.entrant, cell.opponent) if side is not None]
        policy = sides[0] if len(sides) == 1 else Match(sides, alternate=True)
        runs = play_wave(policy, World(*cell.pair, RUNS, pixels=False), SEEDS)
        frames.append(frame_of(runs, cell.entrant.name, cell.rival, 0))
    return joined(frames)


def write(url: str, settings: Settings, frame: pl.DataFrame, **made: str) -> str:
    """The files that `show` reads, where some versions were others."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    storage.write_bytes(storage.join(url, EPISODES), buffer.getvalue())
    storage.write_json(storage.join(url, RESULTS), {
        "format": FORMAT, "settings": settings.to_json(), "versions": versions() | made,
        "weights": {},
    })  # fmt: skip
    return url


@pytest.fixture(scope="module")
def results(
    settings: Settings, frame: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The evaluation's URL."""
    return write(str(tmp_path_factory.mktemp("evaluation")), settings, frame)


def gif(data: bytes) -> tuple[tuple[int, int], int]:
    """Its size and how long it lasts, in ms."""
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "GIF"
        duration = 0
        for number in range(picture.n_frames):
            picture.seek(number)
            duration += picture.info["duration"]
        return picture.size, duration


def lasting(pair: Pair, steps: int) -> int:
    """How long a film of so many steps should last, in ms."""
    rate = pace(World(*pair, 1, pixels=False))
    return -(-steps // rate.steps) * rate.milliseconds


def changed(frame: pl.DataFrame, run: int, player: int, column: str, place: int) -> pl.DataFrame:
    """The frame with one number of a run's list turned about."""
    rows = frame.to_dicts()
    (row,) = (row for row in rows if (row["run"], row["player"]) == (run, player))
    row[column][place] *= -1
    return pl.DataFrame(rows, frame.schema)


# replays


def test_every_replay_is_exact(frame: pl.DataFrame) -> None:
    cells = frame.select("policy", "opponent", "task", "level").unique()
    assert len(cells) == 2 * 3 + 2 * 5
    for row in frame.filter(pl.col("run") == 1).iter_rows(named=True):
        sides = frame.filter(video.same_run(row)).sort("player")
        players = 2 if row["opponent"] else 1
        assert len(sides) == players
        clip = video.replay(sides, row["player"], size=8)  # raises if it differs
        every = clip.pace.steps
        assert clip.frames.shape == (-(-row["steps"] // every), 8, 8 * players, 3)
        assert clip.frames.std() > 5 and clip.completed == row["success"]
        if row["success"] and not row["opponent"]:
            assert clip.success[-(-row["completion_step"] // every)]


def test_frames_are_those_of_the_run() -> None:
    """Drawn in a wave as it was played, they are the same as in a world of one."""
    frames = played(Expert(0.5), ("push", 1))
    world = World("push", 1, RUNS, image_size=20)
    world.reset(SEEDS)
    expert, expected = Expert(0.5), []
    expert.reset(world, SEEDS)
    while world.time < world.horizon:
        observation = world.observe()
        assert observation.pixels is not None
        if world.time % 2 == 0:
            expected.append(observation.pixels[1].copy())
        world.step(expert.act(observation))
    clip = video.replay(frames.filter(pl.col("run") == 1), 0, size=20)
    np.testing.assert_array_equal(clip.frames, np.stack(expected))


def test_a_match_shows_both_views(frame: pl.DataFrame) -> None:
    rows = video.runs_of(frame, "expert", ("sumo", 1), "random")
    assert rows["player"].to_list() == [1, 0, 1]  # sides alternate
    row = video.facts_of(rows.filter(pl.col("run") == 0))
    sides = frame.filter(video.same_run(row)).sort("player")
    mine, theirs = video.replay(sides, 1, size=20), video.replay(sides, 0, size=20)
    np.testing.assert_array_equal(mine.frames, theirs.frames)
    left, right = mine.frames[0, :, :18], mine.frames[0, :, 20:]
    assert (mine.frames[:, :, 18:20] == 255).all() and left.std() > 5 < right.std()
    assert mine.caption == f"run 0 (right): won at step {row['completion_step']}"
    assert mine.success[-1] and not mine.success[:-1].any() and not theirs.success.any()
    assert mine.completed and not theirs.completed and theirs.caption == "run 0 (left): lost"


@pytest.mark.parametrize(
    ("pair", "opponent", "column", "width"),
    [
        (("push", 1), "", "actions", 1), (("push", 1), "", "rewards", 1),
        (("sumo", 1), "random", "actions", 2), (("sumo", 1), "random", "rewards", 2),
    ],
)  # fmt: skip
def test_a_replay_that_differs_is_an_error(
    frame: pl.DataFrame, pair: Pair, opponent: str, column: str, width: int
) -> None:
    """Also where the other player's side differs."""
    task, level = pair
    row = video.facts_of(video.runs_of(frame, "expert", pair, opponent).head(1))
    sides = frame.filter(video.same_run(row)).sort("player")
    assert len(sides) == width
    used = len(sides["actions"][0]) // len(sides["rewards"][0])
    place = 10 * used if column == "actions" else 10
    for player in range(width):
        with pytest.raises(RolloutError) as caught:
            video.replay(changed(sides, 0, player, column, place), row["player"], size=8)
        told = str(caught.value)
        start = f"{task} level {level}, seed {row['seed']}: replays differently here from step "
        assert told.startswith(start) and told.endswith(" on")
        step = int(told.removeprefix(start).removesuffix(" on"))
        # a push is felt a step later, and a reward is told as it is
        assert step == 10 if column == "rewards" else 10 <= step < 20


def test_versions_that_differ_are_named(frame: pl.DataFrame) -> None:
    sides = video.runs_of(frame, "expert", ("push", 1)).filter(pl.col("run") == 2)
    here = versions()
    for made, told in (
        (here, "on"),
        (here | {"polars": "0.1"}, "on"),  # decides how a file looks, not what is played
        (here | {"mujoco": "3.0"}, f"on: made with mujoco 3.0 (here {here['mujoco']})"),
    ):
        with pytest.raises(RolloutError, match="differently here from step") as caught:
            video.replay(changed(sides, 2, 0, "rewards", 0), 0, size=8, versions=made)
        assert str(caught.value).endswith(f"from step 0 {told}")


@pytest.mark.parametrize("column", ["actions", "rewards"])
def test_lists_of_another_length_are_an_error(frame: pl.DataFrame, column: str) -> None:
    sides = video.runs_of(frame, "expert", ("push", 1)).filter(pl.col("run") == 2)
    cut = sides.with_columns(pl.col(column).list.head(255))
    with pytest.raises(RolloutError, match=f"^push level 1, seed {SEEDS[2]}: expected .*255"):
        video.replay(cut, 0, size=8)


def test_a_match_without_its_other_side_is_an_error(frame: pl.DataFrame) -> None:
    rows = video.runs_of(frame, "expert", ("sumo", 1), "random").filter(pl.col("run") == 0)
    with pytest.raises(RolloutError, match=r"^sumo level 1, seed .* of 2 player"):
        video.replay(rows, 1, size=8)


class Breaking(Expert):
    """An expert whose third simulation is broken at step 5."""

    def act(self, observation: Observation) -> NDArray[np.float32]:
        if self.world.time == 5:
            self.world.batch.qvel[2] = np.nan
        return super().act(observation)


@pytest.mark.parametrize("pair", [("push", 1), ("sumo", 1)])
def test_a_diverged_run_is_shown_up_to_its_end(pair: Pair) -> None:
    broken, whole = played(Breaking(), pair), played(Expert(), pair)
    row = video.facts_of(broken.filter(pl.col("run") == 2))
    assert row["steps"] == 6 and row["cause"].startswith("diverged")
    clip, other = (
        video.replay(frame.filter(video.same_run(row)).sort("player"), row["player"], size=12)
        for frame in (broken, whole)
    )
    assert clip.caption.endswith(f": {row['cause']}") and not clip.completed
    assert len(clip.frames) == -(-6 // clip.pace.steps) < len(other.frames)
    np.testing.assert_array_equal(clip.frames, other.frames[: len(clip.frames)])


# which runs


def table(*runs: tuple[float, int | None]) -> pl.DataFrame:
    """Rows of runs by (return, completion step)."""
    returns, steps = zip(*runs, strict=True)
    columns = {"run": range(len(runs)), "return": returns, "completion_step": steps}
    return pl.DataFrame(columns).with_columns(success=pl.col("completion_step").is_not_null())


def test_the_median_the_best_and_a_failure_are_shown() -> None:
    some = table((9, 50), (1, None), (7, 30), (2, None), (3, None), (8, 40))
    assert video.choose_runs(some) == [(5, "median"), (0, "best"), (3, "")]
    succeeded = table((9, 30), (5, 60), (6, 50), (7, 40))
    assert video.choose_runs(succeeded) == [(2, "median"), (0, "best"), (1, "worst")]
    failed = table((4, None), (1, None), (2, None), (3, None), (0, None))
    assert video.choose_runs(failed) == [(0, "best"), (2, ""), (4, "worst")]


def test_no_run_is_shown_twice() -> None:
    assert video.choose_runs(table((9, 50))) == [(0, "median")]
    assert video.choose_runs(table((9, None), (3, 4))) == [(1, "median"), (0, "best")]
    one_best = table((5, 20), (9, 30), (4, 40))  # in the middle by its steps, and the best
    assert video.choose_runs(one_best) == [(1, "median"), (2, "worst"), (0, "")]


def test_captions_say_how_it_went() -> None:
    row = {"run": 17, "opponent": "", "player": 0, "success": True, "completion_step": 83,
           "outcome": None, "cause": ""}  # fmt: skip
    failed = {"success": False, "completion_step": None}
    assert video.caption(row) == "run 17: completed at step 83"
    assert video.caption(row, "median") == "run 17, median: step 83"
    assert video.caption(row | failed, "best") == "run 17, best: failed"
    broken = row | failed | {"cause": "diverged: BADQACC"}
    assert video.caption(broken) == "run 17: diverged: BADQACC"
    match = row | {"opponent": "b", "outcome": "win"}
    assert video.caption(match, "median") == "run 17 (left), median: won at step 83"
    assert video.caption(match | failed | {"outcome": "draw"}) == "run 17 (left): drawn"
    assert video.caption(match | failed | {"outcome": "loss", "player": 1}) == (
        "run 17 (right): lost"
    )


@pytest.mark.parametrize(("pair", "opponent"), [(("push", 1), ""), (("sumo", 1), "random")])
def test_runs_stand_side_by_side(frame: pl.DataFrame, pair: Pair, opponent: str) -> None:
    data = video.record(frame, "expert", pair, opponent)
    rows = video.runs_of(frame, "expert", pair, opponent)
    size, duration = gif(data)
    width = 160 * (2 if opponent else 1)
    assert size == (3 * width + 2 * GAP, 160 + HEIGHT) and len(data) < video.MAXIMUM_BYTES
    # to 40 steps beyond the last completion, or the end of the last match
    last = max(rows["steps"]) if opponent else max(rows["completion_step"].drop_nulls()) + 40
    assert duration == lasting(pair, min(last, max(rows["steps"])))
    smaller = video.record(frame, "expert", pair, opponent, len(data) // 2)
    assert len(smaller) <= len(data) // 2
    assert video.record(frame, "expert", pair, opponent) == data


def test_fewer_runs_make_a_narrower_picture(frame: pl.DataFrame) -> None:
    data = video.record(frame.filter(pl.col("run") == 1), "random", ("reach", 1))
    assert gif(data) == ((160, 160 + HEIGHT), lasting(("reach", 1), 256))


# the command


def test_a_run_is_shown(
    results: str, frame: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new"
    show(results, **FLAGS | {"policy": "expert", "output": str(output)})
    row = video.runs_of(frame, "expert", ("push", 1)).row(1, named=True)
    (file,) = output.iterdir()
    assert file.name == "push-1-expert-seed1.gif"
    assert capsys.readouterr().out.splitlines() == [
        "policy:   expert",
        "task:     push level 1",
        f"run:      1, seed {row['seed']}",
        f"outcome:  completed at step {row['completion_step']}, return {row['return']:.2f} in "
        "256 steps",
        "replay:   equals what was recorded, bit for bit",
        f"file:     {file}",
    ]
    assert gif(file.read_bytes()) == ((24, 24 + HEIGHT), lasting(("push", 1), 256))


def test_a_match_is_shown(
    results: str, frame: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = FLAGS | {"task": "sumo", "level": 1, "policy": "medium", "output": str(tmp_path)}
    show(results, **flags | {"opponent": "expert"})
    row = video.runs_of(frame, "medium", ("sumo", 1), "expert").row(1, named=True)
    data = (tmp_path / "sumo-1-medium-vs-expert-seed1.gif").read_bytes()
    assert gif(data) == ((48, 24 + HEIGHT), lasting(("sumo", 1), row["steps"]))
    printed = capsys.readouterr().out
    how = {"win": "won", "loss": "lost", "draw": "drawn"}[row["outcome"]]
    assert "policy:   medium\nopponent: expert (it also met random)\n" in printed
    assert f"outcome:  {how}" in printed


def test_a_diverged_run_is_told_with_its_cause(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = played(Breaking(), ("push", 1)).with_columns(policy=pl.lit("expert"))
    url = write(str(tmp_path / "a"), settings, frame)
    show(url, **FLAGS | {"seed": "2", "policy": "expert", "output": str(tmp_path / "out")})
    cause, total = frame.select("cause", "return").row(2)
    printed = capsys.readouterr().out
    assert f"outcome:  {cause}, return {total:.2f} in 6 steps\n" in printed
    assert "recorded, bit for bit, up to the step that broke it\n" in printed
    data = (tmp_path / "out" / "push-1-expert-seed2.gif").read_bytes()
    assert gif(data) == ((24, 24 + HEIGHT), lasting(("push", 1), 6))


def test_any_url_will_do(settings: Settings, frame: pl.DataFrame, results: str) -> None:
    url = write("memory://evaluation", settings, frame)
    flags = FLAGS | {"seed": hex(SEEDS[2])}
    for where, output in ((url, "memory://one"), (results, "memory://two")):
        show(where, **flags, output=output)
    name = "push-1-random-seed2.gif"
    assert storage.names("memory://one") == storage.names("memory://two") == [name]
    assert storage.read_bytes(f"memory://one/{name}") == storage.read_bytes(f"memory://two/{name}")


def test_flags_that_are_left_out_are_chosen(settings: Settings) -> None:
    def chosen(settings: Settings, task: str, seed: str = "0", **flags: Any) -> tuple[Any, ...]:
        found = choose(settings, "", task, flags.pop("level", None), seed, **flags)
        return found.policy, found.opponent, found.others, found.run, found.seed

    assert chosen(settings, "push") == ("random", "", (), 0, SEEDS[0])
    assert chosen(settings, "reach", level=2, policy="expert")[0] == "expert"
    for word in (str(SEEDS[2]), hex(SEEDS[2]), hex(SEEDS[2]).upper(), "2", "0x2"):
        assert chosen(settings, "push", word)[3:] == (2, SEEDS[2])
    rivals = ("weak", "medium")
    assert chosen(settings, "sumo")[:3] == ("random", "expert", rivals)
    assert chosen(settings, "sumo", policy="expert")[:3] == ("expert", "random", rivals)
    assert chosen(settings, "sumo", opponent="weak")[:3] == (
        "random", "weak", ("expert", "medium"),
    )  # fmt: skip
    learned = Entrant("my run", "runs/a", "my run", "runs/a/weights.safetensors", history=True)
    trained = dataclasses.replace(settings, policies=(*settings.policies, learned))
    assert chosen(trained, "push")[0] == "my run"
    found = choose(trained, "", "sumo", None, "0")
    assert (found.policy, found.opponent) == ("my run", "random")
    assert found.stem == "sumo-1-my-run-vs-random-seed0"


def test_a_policy_that_meets_nobody_plays_no_match() -> None:
    lonely = Settings(find_entrants(["expert"]).entrants, (("sumo", 1), ("push", 1)))
    with pytest.raises(UnknownNameError, match=r"--policy"):
        choose(lonely, "", "push", None, "0", "random")
    with pytest.raises(ConfigError, match=r"^URL: nobody met in sumo: there were no opponents$"):
        choose(lonely, "URL", "sumo", None, "0")


@pytest.mark.parametrize(
    ("flags", "kind", "message"),
    [
        ({"task": "pussh"}, UnknownNameError, "--task: unknown task 'pussh'; did you mean 'push'?"),
        ({"task": "maze"}, ConfigError, "--task: URL has no runs of maze, only of reach, push, su"),
        ({"task": "reach"}, ConfigError, "--level is missing: reach was played at levels 1, 2"),
        ({"task": "reach", "level": 3}, ConfigError, "--level 3 was not played: reach was played"),
        ({"policy": "exprt"}, UnknownNameError, "--policy: unknown policy 'exprt'; did you mean"),
        ({"policy": "weak"}, UnknownNameError, "--policy: unknown policy 'weak'; known: expert, "),
        ({"opponent": "weak"}, ConfigError, "--opponent: push is played alone"),
        ({"task": "sumo", "opponent": "weka"}, UnknownNameError,
         "--opponent: unknown opponent 'weka'; did you mean 'weak'?"),
        ({"task": "sumo", "policy": "weak", "opponent": "medium"}, UnknownNameError,
         "--opponent: unknown opponent 'medium'; known: expert, random"),
        ({"seed": "3"}, ConfigError, f"--seed 3 was not played: expected runs 0 to 2, or their "
         f"seeds {SEEDS[0]} to {SEEDS[2]}"),
        ({"seed": "-1"}, ConfigError, "--seed -1 was not played: expected runs 0 to 2"),
        ({"seed": hex(SEEDS[2] + 1)}, ConfigError, f"--seed {hex(SEEDS[2] + 1)} was not played"),
        ({"seed": "0xyz"}, ConfigError, "--seed should be a run's number or seed, is '0xyz'"),
        ({"seed": "1.5"}, ConfigError, "--seed should be a run's number or seed, is '1.5'"),
        ({"size": 1}, ConfigError, "--size should be at least 2, is 1"),
        ({"size": 513}, ConfigError, "--size should be at most 512, is 513"),
        ({"output": "nowhere://x"}, StorageError, "nowhere://x: Protocol not known: nowhere"),
        ({"url": "URL/none"}, ConfigError, "URL/none: expected an evaluation, found no results"),
    ],
)  # fmt: skip
def test_wrong_words_are_named(
    results: str, flags: dict[str, Any], kind: type[PalaestraError], message: str, tmp_path: Path
) -> None:
    url = flags.get("url", results).replace("URL", results)
    rest = {name: value for name, value in flags.items() if name != "url"}
    with pytest.raises(PalaestraError) as caught:
        show(url, **FLAGS | {"output": str(tmp_path / "out")} | rest)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    assert str(caught.value).startswith(message.replace("URL", results))
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_named(results: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    output = str(tmp_path / "file")
    with pytest.raises(StorageError, match=r"^[^\n]*file/push-1-random-seed1\.gif: "):
        show(results, **FLAGS | {"output": output})
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_run_that_replays_differently_writes_nothing(
    settings: Settings, frame: pl.DataFrame, tmp_path: Path
) -> None:
    mine = video.runs_of(frame, "random", ("push", 1))
    url = write(str(tmp_path / "a"), settings, changed(mine, 1, 0, "actions", 7), mujoco="3.0")
    with pytest.raises(RolloutError, match=rf"^push level 1, seed {SEEDS[1]}: .*mujoco 3\.0 \(h"):
        show(url, **FLAGS | {"output": str(tmp_path / "out")})
    assert not (tmp_path / "out").exists()
    show(url, **FLAGS | {"seed": "2", "output": str(tmp_path / "out")})  # another one is as it was


Damage = Callable[[str, Settings, pl.DataFrame], None]


def foreign(url: str, settings: Settings, frame: pl.DataFrame) -> None:
    storage.write_json(storage.join(url, RESULTS), {"format": "else"})


def other_columns(url: str, settings: Settings, frame: pl.DataFrame) -> None:
    write(url, settings, frame.drop("cause"))


def other_runs(url: str, settings: Settings, frame: pl.DataFrame) -> None:
    write(url, settings, frame.filter(pl.col("run") != 1))


def no_table(url: str, settings: Settings, frame: pl.DataFrame) -> None:
    write(url, settings, frame)
    storage.remove(storage.join(url, EPISODES))


def no_parquet(url: str, settings: Settings, frame: pl.DataFrame) -> None:
    write(url, settings, frame)
    storage.write_bytes(storage.join(url, EPISODES), b"a thesis" * 99)


@pytest.mark.parametrize("start", ["", "memory:/"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (foreign, "results.json: not an evaluation's results"),
        (other_columns, "episodes.parquet: not an evaluation's episodes: other columns"),
        (other_runs, "episodes.parquet: run 1 of random on push 1 is missing: not the episodes"),
        (no_table, "episodes.parquet: not found"),
        (no_parquet, "episodes.parquet: "),
    ],
)
def test_what_is_no_evaluation_is_named(
    damage: Damage, message: str, start: str, settings: Settings, frame: pl.DataFrame,
    tmp_path: Path,
) -> None:  # fmt: skip
    url = f"{start}{tmp_path}/it"
    damage(url, settings, frame)
    with pytest.raises(PalaestraError) as caught:
        show(url, **FLAGS | {"output": str(tmp_path / "out")})
    assert str(caught.value).startswith(f"{url}/{message}") and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_picture_of_the_readme_shows_a_completed_run_of_each_task(
    results: str, frame: pl.DataFrame, tmp_path: Path
) -> None:
    script = Path(__file__).parent.parent / "docs/examples/rollouts.py"
    out = tmp_path / "rollouts.gif"
    runpy.run_path(str(script))["main"](results, str(out), "expert")
    alone = frame.filter(pl.col("success") & (pl.col("policy") == "expert"), opponent="")
    count = alone["task"].n_unique()
    assert count > 0
    (width, height), length = gif(out.read_bytes())
    assert length > 1 and width >= 128 * min(count, 3) and height >= 128 * -(-count // 3)
