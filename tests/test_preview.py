"""`generate tasks` and `generate preview`: what they print, write and refuse."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from palaestra.generate import __main__, catalogue, view
from palaestra.generate.policies import Expert
from palaestra.generate.preview import IMAGE_SIZE, MOMENTS, ZOOM, outcome, preview, record
from palaestra.generate.registry import make_task, task_classes
from palaestra.generate.slots import SLOTS
from palaestra.generate.video import BAR, GAP, LABEL, Clip, Pace, film, pace, shown_steps
from palaestra.generate.world import World
from palaestra.shards import console as console_module
from palaestra.shards import storage
from palaestra.shards.errors import ConfigError, RolloutError
from PIL import Image

MATCHES = [name for name, cls in task_classes().items() if cls.players == 2][:1]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `generate` with some words; its exit code and what it printed."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["generate", *words])
        with pytest.raises(SystemExit) as exit_:
            __main__.main()
        code = exit_.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return call


def png(url: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(storage.read_bytes(url))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


# preview


def test_a_preview_shows_what_was_played(run: Run, tmp_path: Path) -> None:
    words = ("reach", "--noise", "0.4", "--seeds", "4", "--first-seed", "7", "--size", "24")
    code, printed, errors = run("preview", *words, "--output", str(tmp_path / "new"))
    assert (code, errors) == (0, "")
    files = [tmp_path / "new" / f"reach-1-expert+noise0.4.{end}" for end in ("gif", "png")]
    assert sorted((tmp_path / "new").iterdir()) == files
    lines = printed.splitlines()
    assert lines[4:] == [str(file) for file in files]
    assert [line.split(":")[0] for line in lines[:4]] == ["seed 7", "seed 8", "seed 9", "seed 10"]

    world = World("reach", 1, 4, image_size=IMAGE_SIZE)
    takes = record(world, Expert(0.4), range(7, 11), 24)
    assert [take.clip.caption for take in takes] == lines[:4]
    longest = max(take.shown for take in takes)
    with Image.open(files[0]) as gif:
        cell = LABEL + 24 + 2 + BAR
        assert gif.format == "GIF" and gif.size == (3 * 24 + 2 * GAP, 2 * cell + GAP)
        assert gif.info["duration"] == 50 and gif.n_frames <= -(-longest // 2)
        first = np.asarray(gif.convert("RGB"))[LABEL : LABEL + 24, :24].astype(int)
    assert np.abs(first - takes[0].clip.frames[0]).mean() < 12  # one palette for all frames
    sheet = png(str(files[1]))
    size = ZOOM * IMAGE_SIZE
    row, width = size + 2 * LABEL, MOMENTS * (size + GAP) - GAP + 2 * GAP
    assert sheet.shape == (LABEL + 4 * row, width, 3)
    for place, take in enumerate(takes):
        top = LABEL + place * row + LABEL
        tiles = (0, 0), (MOMENTS - 1, (take.shown - 1) // 2)
        for column, moment in tiles:
            left = GAP + column * (size + GAP)
            tile = sheet[top : top + size : ZOOM, left : left + size : ZOOM]
            np.testing.assert_array_equal(tile, take.seen[moment, 0])


def test_what_is_recorded_is_what_the_learner_saw() -> None:
    world = World("reach", 1, 2, image_size=16)
    takes = record(world, Expert(), [3, 4], 40)
    again = World("reach", 1, 2, image_size=16)
    again.reset([3, 4])
    frames, success = [], []
    while again.time < again.horizon:
        pixels = again.observe().pixels
        assert pixels is not None
        frames.append(pixels)
        success.append(again.step(np.clip(again.task.expert(), -1, 1)).success > 0)
    for sim, take in enumerate(takes):
        np.testing.assert_array_equal(take.seen[:, 0], np.stack(frames)[::2, sim])
        np.testing.assert_array_equal(take.clip.success, np.stack(success)[::2, sim])
        assert take.clip.frames.shape == (128, 40, 40, 3) and take.clip.completed
        assert take.shown < 256 and "completed at step" in take.clip.caption


@pytest.mark.parametrize("task", MATCHES)
def test_a_match_shows_both_views(task: str) -> None:
    world = World(task, 1, 1, image_size=16)
    (take,) = record(world, Expert(), [1], 20)
    count = -(-take.shown // take.clip.pace.steps)
    assert take.clip.frames.shape[1:] == (20, 40, 3) and take.seen.shape[1:] == (2, 16, 16, 3)
    assert len(take.clip.frames) >= count
    assert not np.array_equal(take.seen[0, 0], take.seen[0, 1])
    left, right = take.clip.frames[0, :, :18], take.clip.frames[0, :, 20:]
    assert (take.clip.frames[:, :, 18:20] == 255).all() and left.std() > 5 < right.std()


def test_what_has_ended_stays_as_it_was() -> None:
    world = World("reach", 1, 2, image_size=16)

    class Breaking(Expert):
        def act(self, observation: object) -> NDArray[np.float32]:
            if self.world.time == 5:
                self.world.batch.qvel[1] = np.nan
            return self.world.task.expert()

    whole, broken = record(world, Breaking(), [1, 2], 16)
    assert broken.clip.caption.startswith("seed 2: diverged") and not broken.clip.completed
    assert broken.shown == 6 and len(broken.clip.frames) == len(broken.seen) == 3
    assert len(whole.clip.frames) == 128 and whole.clip.completed


def test_outcomes_say_how_it_went() -> None:
    def told(*completed: int, steps: int = 256, cause: str = "") -> tuple[str, bool]:
        return outcome(np.array(completed), steps, 256, cause)

    assert told(41) == ("completed at step 41", True)
    assert told(-1) == ("not done in 256 steps", False)
    assert told(-1, steps=9) == ("ended at step 9", False)
    assert told(41, cause="diverged: BADQACC") == ("diverged: BADQACC", False)
    assert told(-1, 90, steps=91) == ("player 1 won at step 90", True)
    assert told(12, -1, steps=13) == ("player 0 won at step 12", True)


def test_any_url_will_do_and_it_is_the_same_bytes() -> None:
    options = {"seeds": 1, "size": 16}
    first, second = (preview("reach", 1, "random", f"memory://{n}", **options) for n in "ab")
    assert storage.names("memory://a") == ["reach-1-random.gif", "reach-1-random.png"]
    for one, other in zip(first.urls, second.urls, strict=True):
        assert storage.read_bytes(one) == storage.read_bytes(other)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pussh",), "unknown task 'pussh'; did you mean 'push'?"),
        (("push", "--level", "99"), "push has levels 1 to "),
        (("push", "--policy", "exprt"), "unknown policy 'exprt'; did you mean 'expert'?"),
        (("push", "--policy", "json:nothing"), "policy 'json:nothing' does not import"),
        (("push", "--policy", "random", "--noise", "0.1"), "--noise is for the policy 'expert'"),
        (("push", "--noise", "3"), "--noise should be in [0, 2], is 3"),
        (("push", "--seeds", "0"), "--seeds should be in [1, 24], is 0"),
        (("push", "--first-seed", "-1"), "--first-seed should be in [0, 2^63), is -1"),
        (("push", "--size", "1"), "--size should be in [2, 512], is 1"),
        (("push", "--output", "nowhere://x"), "nowhere://x: Protocol not known: nowhere"),
    ],
)
def test_wrong_words_are_named(
    run: Run, words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, errors = run("preview", *words)
    assert (code, printed) == (1, "") and len(errors.splitlines()) == 1
    assert errors.startswith(f"generate preview: error: {message}")
    assert list(tmp_path.iterdir()) == []


LONELY = """
import numpy as np
class Lonely:
    def reset(self, world, seeds): self.shape = world.nsim, 8
    def act(self, observation): return np.zeros(self.shape, np.float32)
"""


@pytest.mark.parametrize("task", MATCHES)
def test_a_policy_for_one_player_is_refused_in_a_match(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lonely.py").write_text(LONELY)
    monkeypatch.syspath_prepend(tmp_path)
    options = {"seeds": 2, "size": 8}
    with pytest.raises(RolloutError, match=f"{task} has 2 player.*should be .4, 8.*Lonely"):
        preview(task, 1, "lonely:Lonely", str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()
    done = preview("reach", 1, "lonely:Lonely", str(tmp_path / "out"), **options)
    assert [Path(url).name for url in done.urls] == [
        "reach-1-lonely-Lonely.gif", "reach-1-lonely-Lonely.png",
    ]  # fmt: skip
    assert done.outcomes == ("seed 0: not done in 256 steps", "seed 1: not done in 256 steps")


# pictures


def clip(frames: int, height: int = 8, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, 12, 3), np.uint8)
    return Clip(pixels, np.zeros(frames, bool), "a long caption that is cut", False, Pace(2, 50))


def test_a_film_holds_the_last_frame_of_what_is_shorter() -> None:
    data = film([clip(9), clip(3, seed=1)], 18, 1, 10_000_000)
    with Image.open(io.BytesIO(data)) as gif:
        assert gif.n_frames == 9 and gif.info["duration"] == 50 and gif.info["loop"] == 0
        cell = LABEL + 8 + 2 + BAR
        assert gif.size == (12, 2 * cell + GAP)
        frames = []
        for frame in range(9):
            gif.seek(frame)
            frames.append(np.asarray(gif.convert("RGB"))[cell + GAP + LABEL :][:8])
    assert all(np.array_equal(frame, frames[2]) for frame in frames[3:])
    assert not np.array_equal(frames[1], frames[2])


def test_a_film_that_is_too_large_loses_colours_then_frames() -> None:
    clips = [clip(16, 64)]
    whole = film(clips, 32, 1, 10_000_000)
    smaller = film(clips, 32, 1, len(whole) // 5)
    assert len(smaller) <= len(whole) // 5
    with Image.open(io.BytesIO(smaller)) as gif:
        assert gif.n_frames < 16
        assert gif.n_frames * gif.info["duration"] == 16 * 50  # as long as before


@pytest.mark.parametrize(
    ("period", "horizon", "expected"),
    [
        (0.025, 256, (2, 50)), (0.02, 512, (2, 40)), (0.01, 512, (5, 50)), (0.024, 256, (2, 50)),
        (0.04, 256, (1, 40)), (0.1, 256, (1, 100)), (0.025, 1024, (4, 100)),
    ],
)  # fmt: skip
def test_frames_pass_in_real_time(
    period: float, horizon: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World("reach", 1, 1, pixels=False)
    assert view.control_period(world) == pytest.approx(0.025)
    monkeypatch.setattr(type(world.task), "horizon", horizon)
    world.batch.model.opt.timestep = period / world.task.substeps
    assert pace(world) == expected


def test_a_completed_run_is_shown_a_while_longer() -> None:
    assert shown_steps(256, -1) == 256
    assert shown_steps(256, 41) == 81 and shown_steps(256, 250) == 256 and shown_steps(20, 19) == 20


# tasks


def row(printed: str, name: str) -> str:
    """The line that begins with a task's name and levels."""
    (line,) = (text for text in printed.splitlines() if re.match(rf" *{name} +1", text))
    return line


def test_the_tasks_are_listed(run: Run) -> None:
    code, printed, errors = run("tasks")
    assert (code, errors) == (0, "")
    for name, cls in task_classes().items():
        line = row(printed, name)
        levels = " ".join(f"{n}{'†' * (n in cls.held_out)}" for n in range(1, cls.levels + 1))
        words = f"{levels} {cls.players} {cls.horizon:,}"
        assert " ".join(line.split()).startswith(f"{name} {words} ")
        told = {
            text for n in range(1, cls.levels + 1) for text in make_task(name, n).instructions()
        }
        assert all(text in printed for text in told)
    assert f"in use, of {sum(slot.size for slot in SLOTS)} and 8" in printed


@pytest.mark.parametrize("width", [40, 120])
def test_the_list_fits_a_terminal(run: Run, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = console_module.Console(
        highlight=False, soft_wrap=True, force_terminal=True, width=width, color_system=None
    )
    for module in (catalogue, console_module):
        monkeypatch.setattr(module, "console", console)
    _, printed, _ = run("tasks")
    for name, cls in task_classes().items():
        line = row(printed, name)
        assert cls.instruction.split()[0] in printed and f"{cls.horizon:,}" in line
        if width == 120:
            assert len(line) <= width


def test_entries_in_use_are_those_a_task_fills() -> None:
    world = World("reach", 1, 1, pixels=False)
    world.reset([3])
    assert catalogue.state_in_use("reach", 1) >= np.count_nonzero(world.observe().state)
    filled = {slot.name: np.zeros((1, slot.size), np.float32) for slot in SLOTS}
    world.task.observe(filled)
    named = [slot.size for slot in SLOTS if filled[slot.name].any()]
    assert catalogue.state_in_use("reach", 1) <= sum(named)


# the command


def test_a_recipe_is_still_the_first_word(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'name = "r"\nsteps = 256\nimage_size = 8\nwave = 1\n'
        '[[behaviours]]\ntasks = ["reach"]\npolicy = "expert"\n'
    )
    code, printed, _ = run(str(recipe), str(tmp_path / "tasks"), "--workers", "1")
    assert code == 0 and "256 steps in 1 shards" in printed
    code, _, errors = run("--steps", "5", "nothing.toml", "preview")
    assert code == 1 and errors == "generate: error: nothing.toml: not found\n"


def test_help_tells_of_all_three(run: Run) -> None:
    code, printed, _ = run("--help")
    assert code == 0 and "generate tasks" in printed and "generate preview TASK" in printed
    for words in (("preview", "--help"), ("--help", "preview")):
        code, printed, _ = run(*words)
        assert code == 0 and "--first-seed" in printed and "module:function" in printed
    with pytest.raises(ConfigError, match="push has levels"):
        run("--debug", "preview", "push", "--level", "99")
