"""Replaying a corpus: what is as it was passes to the last bit, whatever was changed is named."""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import SCHEMA
from numpy.typing import NDArray
from palaestra.generate import __main__ as command
from palaestra.generate import replay as module
from palaestra.generate.compare import EARLY_STEPS, compare
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.generate.replay import draw, replay
from palaestra.generate.replay_report import Outcome, Replay, rows
from palaestra.generate.world import Observation, Step, World
from palaestra.shards import storage
from palaestra.shards.console import Advance, no_progress
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import ARRAYS, Episode
from palaestra.shards.errors import CorpusError, CorruptionError, SchemaMismatchError
from small_corpus import Change, build, contents, made_elsewhere, rewritten
from test_opengl import egl  # noqa: F401, a fixture

MATCHES = 14


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build(str(tmp_path_factory.mktemp("small") / "corpus"))


def replay_all(corpus: Corpus, advance: Advance = no_progress) -> Replay:
    return replay(corpus, *draw(corpus, None), advance=advance)


def by_player(found: Replay) -> dict[tuple[int, int], Outcome]:
    return {(outcome.match, outcome.player): outcome for outcome in found.outcomes}


# What is as it was


def test_every_task_replays_to_the_last_bit(corpus: Corpus) -> None:
    told: list[float] = []
    found = replay_all(corpus, advance=lambda amount, note="": told.append(amount))
    index = corpus.index
    assert index["segment"].max() == 1 and index["terminated"].any(), "long and cut short"
    assert found.versions == () and found.failed == []
    assert found.total == found.matches == MATCHES
    assert list(by_player(found)) == index.select("match", "player").unique().sort(pl.all()).rows()
    assert {outcome.task for outcome in found.outcomes} == {"reach", "sumo", "tag"}
    assert all(outcome.differences == () for outcome in found.outcomes)
    assert sum(outcome.steps for outcome in found.outcomes) == index["steps"].sum() == sum(told)


def test_processes_find_the_same(corpus: Corpus) -> None:
    drawn = draw(corpus, 5)
    assert replay(corpus, *drawn, workers=2) == replay(corpus, *drawn, workers=1)


def test_the_width_of_a_wave_does_not_matter(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lanes in (1, 3, 1000):
        monkeypatch.setattr(module, "LANES", lanes)
        assert replay(corpus, *draw(corpus, 5)).failed == []


class Whim:
    """Acts as it likes, another time otherwise: like a learned policy on another machine."""

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        self.shape, self.rng = (world.nlane, world.schema.action_size), np.random.default_rng()

    def act(self, observation: Observation) -> NDArray[np.float32]:
        return self.rng.uniform(-1, 1, self.shape).astype(np.float32)


def test_what_no_script_played_replays_from_its_actions(tmp_path: Path) -> None:
    whim = f"{__name__}:Whim"
    behaviours = (
        Behaviour(("reach",), whim), Behaviour(("tag",), whim, opponents=("expert",)),
    )  # fmt: skip
    recipe = Recipe("whims", 1024, behaviours, wave=2, image_size=16)
    corpora = [build(str(tmp_path / name), recipe) for name in ("one", "two")]
    hashes = [set(corpus.index["final_state_xxh3"].drop_nulls()) for corpus in corpora]
    assert not hashes[0] & hashes[1], "a whim is not a script"
    for corpus in corpora:
        found = replay_all(corpus)
        assert {outcome.task for outcome in found.outcomes} == {"reach", "tag"}
        assert found.versions == () and all(o.differences == () for o in found.outcomes)


@pytest.mark.usefixtures("egl")
def test_frames_are_drawn_by_the_recipes_renderer(tmp_path: Path) -> None:
    recipe = Recipe(
        "egl", 256, (Behaviour(("push",), "random"),), wave=1, image_size=32, renderer="egl"
    )
    corpus = build(str(tmp_path / "egl"), recipe)
    found = replay_all(corpus)
    assert all(outcome.differences == () for outcome in found.outcomes)
    manifest = replace(corpus.manifest, recipe=corpus.manifest.recipe | {"renderer": "raster"})
    (outcome,) = replay_all(rewritten(corpus, str(tmp_path / "raster"), manifest=manifest)).outcomes
    assert outcome.state_identical and not outcome.frames_identical


def test_an_outcome_of_another_match_is_named(corpus: Corpus, tmp_path: Path) -> None:
    ended = corpus.index.filter(pl.col("terminated") & (pl.col("task") == "sumo"))
    key, match, player, outcome = ended.select("key", "match", "player", "outcome").row(0)
    other = {"win": "loss", "loss": "draw", "draw": "win"}[outcome]

    def change(episode: Episode) -> Episode:
        return replace(episode, outcome=other) if episode.key == key else episode

    (found,) = replay_all(rewritten(corpus, str(tmp_path / "corpus"), change)).failed
    (difference,) = found.differences
    assert (found.match, found.player) == (match, player)
    assert difference.told == f"outcome is '{other}' in the corpus, '{outcome}' replayed"


def test_a_corpus_anywhere_replays(corpus: Corpus) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    for name, data in contents(corpus.url).items():
        storage.write_bytes(storage.join(url, name), data)
    drawn = draw(Corpus.open(url), 3)
    assert drawn[0].equals(draw(corpus, 3)[0])
    assert replay(Corpus.open(url), *drawn).failed == []


def test_a_sample_is_whole_matches_by_its_seed(corpus: Corpus) -> None:
    drawn = [draw(corpus, 5, seed)[0] for seed in (0, 0, 1)]
    assert drawn[0].equals(drawn[1]) and not drawn[0].equals(drawn[2])
    for sample in drawn:
        assert sample["match"].n_unique() == 5
        everything, total = draw(corpus, None)
        assert sample.equals(everything.filter(pl.col("match").is_in(sample["match"].implode())))
        assert total == MATCHES
    assert draw(corpus, MATCHES + 1)[0].equals(everything)
    often = [draw(corpus, 1, seed)[0]["match"][0] for seed in range(200)]
    assert len(set(often)) == MATCHES
    found = replay(corpus, *draw(corpus, 3, 2))
    assert (found.matches, found.total) == (3, MATCHES)


# What was changed


def put(name: str, place: Any, value: Any) -> Change:
    """Another entry in an array: a value, or what a function makes of the old one."""

    def change(episode: Episode) -> Episode:
        array = getattr(episode, name).copy()
        array[place] = value(array[place]) if callable(value) else value
        return replace(episode, **{name: array})

    return change


def flip(bit: int) -> Callable[[np.float32], np.float32]:
    """The same number with one bit another."""
    return lambda entry: (entry.view(np.uint32) ^ np.uint32(1 << bit)).view(np.float32)


def fields(**values: Any) -> Change:
    return lambda episode: replace(episode, **values)


def cut(episode: Episode) -> Episode:
    return replace(episode, **{name: getattr(episode, name)[:-1] for name in ARRAYS})


def swap_seeds(a: int, b: int) -> Change:
    return lambda episode: replace(episode, seed={a: b, b: a}[episode.seed])


def next_level(level: np.uint8) -> np.uint8:
    return level ^ np.uint8(1)


FAULTS: dict[str, tuple[Change, str, int, str]] = {
    # sample: the change, then what is named, at which step, and how
    "000000000000-0-00": (put("action", (10, 0), flip(20)), "reward", 10, "reward is"),
    "000000000001-0-00": (put("pixels", (40, 5, 6, 1), next_level), "pixels", 40, r"\[5, 6, 1\]"),
    "000000000002-0-00": (put("reward", 7, flip(0)), "reward", 7, r"reward is 0\.\d+ in the"),
    "000000000003-0-00": (put("success", 9, lambda x: 1 - x), "success", 9, "success is 1 in"),
    "000000000004-1-00": (put("action", (20, 1), flip(18)), "reward", 20, "reward is"),
    "000000000005-0-00": (
        fields(terminated=False, truncated=True), "terminated", 149,
        "terminated is False in the corpus, True replayed",
    ),
    "000001000000-1-01": (put("state", (44, 0), flip(3)), "state", 300, r"joint_position\[0\] is"),
    "000001000001-0-00": (
        put("action", (5, 0), 2.0), "action", 5, r"action\[0\] is 2.0 in the corpus, 1.0 replayed",
    ),
    "000001000004-0-00": (fields(final_state_xxh3=5), "final_state_xxh3", 255, "'0{15}5' in the"),
    "000001000005-0-00": (put("action", (9, 3), np.nan), "action", 9, "is nan in the corpus, 0.0"),
    "000002000000-0-00": (cut, "steps", 60, "steps is 61 in the corpus, 62 replayed"),
}  # fmt: skip
SWAPPED = "000001000002-0-00", "000001000003-0-00"  # seeds of these two


@pytest.fixture(scope="module")
def changed(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The corpus with all FAULTS planted, and every checksum right."""
    seeds = corpus.index.filter(pl.col("key").is_in(SWAPPED))["seed"]
    changes = {key: fault[0] for key, fault in FAULTS.items()}
    changes |= dict.fromkeys(SWAPPED, swap_seeds(*seeds))

    def change(episode: Episode) -> Episode:
        return changes.get(episode.key, fields())(episode)

    return rewritten(corpus, str(tmp_path_factory.mktemp("changed") / "corpus"), change)


@pytest.fixture(scope="module")
def found(changed: Corpus) -> Replay:
    return replay_all(changed)


def lane(key: str) -> tuple[int, int]:
    match, player, _ = key.split("-")
    return int(match), int(player)


@pytest.mark.parametrize("key", FAULTS)
def test_a_change_is_named(key: str, found: Replay) -> None:
    _, what, step, told = FAULTS[key]
    outcome = by_player(found)[lane(key)]
    first = outcome.differences[0]
    assert (first.what, first.step, first.key) == (what, step, key)
    line = found.fault(outcome)
    assert line.startswith(f"{key} ({outcome.task} {outcome.level}): step {step}: ")
    assert re.search(told, line) and "\n" not in line


def test_swapped_seeds_differ_from_the_first_step(found: Replay) -> None:
    for key in SWAPPED:
        first = by_player(found)[lane(key)].differences[0]
        assert (first.what, first.step, first.key) == ("state", 0, key)


def test_nothing_else_differs(found: Replay) -> None:
    opponents = {(4, 0), (1_000_001, 1), (2_000_000, 1)}  # of players with another action
    expected = {lane(key) for key in (*FAULTS, *SWAPPED)} | opponents
    assert {(o.match, o.player) for o in found.failed} == expected
    reach, sumo, tag = rows(found)
    assert (reach.episodes, reach.state_identical, reach.frames_identical) == (8, 1, 3)
    assert (sumo.episodes, sumo.state_identical) == (8, 3)
    assert (tag.episodes, tag.state_identical, tag.frames_identical) == (4, 1, 2)
    assert reach.largest["success"] == 1.0


def test_sizes_are_of_all_segments_and_firsts_of_the_first(corpus: Corpus, tmp_path: Path) -> None:
    def change(episode: Episode) -> Episode:
        if episode.match != 1_000_000 or episode.player:
            return episode
        return put("pixels", (8, 0, 0, 0), lambda x: x ^ (64 if episode.segment else 2))(episode)

    wrong = replay_all(rewritten(corpus, str(tmp_path / "corpus"), change))
    (outcome,) = wrong.failed
    (difference,) = outcome.differences
    assert (difference.step, difference.largest, difference.early) == (8, 64.0, 2.0)
    assert outcome.state_identical and not outcome.frames_identical


def test_minus_zero_is_not_zero_and_a_nan_is_itself(episode: Callable[..., Episode]) -> None:
    zeros = replace(episode(4), reward=np.zeros(4, np.float32))
    minus = put("reward", 2, np.float32(-0.0))(zeros)
    (difference,) = compare(zeros, minus, SCHEMA)
    assert (difference.what, difference.step, difference.largest) == ("reward", 2, 0.0)
    assert difference.departs is None
    nan = put("reward", 2, np.nan)(zeros)
    assert list(compare(nan, put("reward", 2, np.nan)(zeros), SCHEMA)) == []
    (difference,) = compare(nan, zeros, SCHEMA)
    assert (difference.departs, difference.largest) == (2, float("inf"))


# What cannot be replayed


def test_damaged_bytes_are_named_not_replayed(corpus: Corpus, tmp_path: Path) -> None:
    copy = rewritten(corpus, str(tmp_path / "corpus"))
    tar = Path(copy.tar_url(1))
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"000001\.tar: sample .*: checksum differs from its"):
        replay_all(copy)
    tar.unlink()
    with pytest.raises(storage.StorageError, match=r"shard-000001\.tar.*not found"):
        replay_all(copy)


@pytest.mark.parametrize("key", ["000001000000-1-01", "000001000000-1-00", "000000000004-0-00"])
def test_an_index_that_lacks_segments_is_refused(key: str, corpus: Corpus) -> None:
    drawn, total = draw(corpus, None)
    match = int(key.split("-")[0])
    with pytest.raises(CorpusError, match=f"match {match}: its index lacks segments or players"):
        replay(corpus, drawn.filter(pl.col("key") != key), total)


def test_a_corpus_of_another_suite_is_refused(corpus: Corpus) -> None:
    schema = replace(corpus.schema, action_size=9)
    other = Corpus(corpus.url, replace(corpus.manifest, schema=schema))
    with pytest.raises(SchemaMismatchError, match="differs in action_size: expected 8, found 9"):
        replay(other, *draw(corpus, None))


# Other versions


class Elsewhere(World):
    """A world whose arithmetic rounds otherwise."""

    def step(self, action: NDArray[np.float32]) -> Step:
        found = super().step(action)
        self.batch.qvel[self.ids] *= 1 + 4e-16
        return found


def test_other_versions_with_equal_bits_pass(corpus: Corpus, tmp_path: Path) -> None:
    copy = rewritten(corpus, str(tmp_path / "corpus"), manifest=made_elsewhere(corpus))
    found = replay_all(copy)
    mujoco, libc = found.versions
    assert mujoco.startswith("mujoco 3.9.9 (here ") and libc.startswith("libc glibc 2.17 (here ")
    assert found.failed == [] and all(outcome.differences == () for outcome in found.outcomes)


def test_rounding_is_tolerated_only_where_versions_differ(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = rewritten(corpus, str(tmp_path / "corpus"), manifest=made_elsewhere(corpus))
    monkeypatch.setattr(module, "World", Elsewhere)
    here, found = (replay(c, *draw(c, 6)) for c in (corpus, copy))
    assert len(here.failed) == len(here.outcomes) == len(found.outcomes) and found.failed == []
    assert all(outcome.differences for outcome in found.outcomes)
    for row in rows(found):
        assert row.state_identical == 0 and row.largest.get("state", 0.0) < 1e-5


@pytest.mark.parametrize(
    ("change", "departs", "line"),
    [
        (put("reward", 31, lambda x: x - 0.5), 31, "step 31: reward leaves the tolerance"),
        (put("reward", EARLY_STEPS, lambda x: x - 0.5), EARLY_STEPS, ""),
        (put("reward", 3, lambda x: x + np.float32(1e-4)), None, ""),
        (put("state", (2, 0), lambda x: x + 0.01), 2, "step 2: state leaves the tolerance"),
        (put("pixels", np.s_[4, :4, :], lambda x: x ^ 128), 4, "step 4: pixels leaves"),
        (put("pixels", np.s_[4, 0, :8], lambda x: x ^ 128), None, ""),  # 8 of 1024 pixels
        (put("pixels", np.s_[4], lambda x: x ^ 7), None, ""),
        (put("success", 3, lambda x: 1 - x), None, ""),
        (fields(final_state_xxh3=5, completion_step=3), None, ""),
        (fields(instruction="stand still"), 0, "step 0: instruction leaves the tolerance"),
        (put("action", (4, 0), 1.5), 4, "step 4: action leaves the tolerance"),
    ],
)  # fmt: skip
def test_what_the_tolerance_tolerates(
    change: Change, departs: int | None, line: str, corpus: Corpus, tmp_path: Path
) -> None:
    def first(episode: Episode) -> Episode:
        return change(episode) if episode.match == 2 else episode

    copy = rewritten(corpus, str(tmp_path / "corpus"), first, made_elsewhere(corpus))
    drawn, total = draw(copy, None)
    found = replay(copy, drawn.filter(pl.col("match") == 2), total)
    (outcome,) = found.outcomes
    assert outcome.differences
    assert (outcome.departure.departs if outcome.departure else None) == departs
    assert line in found.fault(outcome) and bool(line) == bool(found.failed)
    (row,) = rows(found)
    assert (row.departed, row.first_departure) == (int(departs is not None), departs)


# The command


def run(
    *words: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["generate", "replay", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert isinstance(ended.value.code, int)
    return (ended.value.code, *capsys.readouterr())


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="run")
def run_fixture(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *words: run(*words, monkeypatch=monkeypatch, capsys=capsys)


def test_the_command_says_what_is_identical(corpus: Corpus, run: Run) -> None:
    code, out, err = run(corpus.url, "--sample", 6)
    assert (code, err) == (0, "")
    assert f"{corpus.url}: 6 of 14 matches replayed: " in out
    assert "all identical, to the last bit; at 99% confidence fewer than 54% of all 14" in out
    code, out, err = run(corpus.url, "--all")
    assert (code, err) == (0, "") and out.endswith("all identical, to the last bit\n")
    assert all(word in out for word in ("reach 1", "sumo 1", "tag 1", "identical"))


def test_the_command_names_what_differs(changed: Corpus, run: Run) -> None:
    code, out, err = run(changed.url)
    assert (code, err) == (1, "")
    for key in list(FAULTS)[:5]:
        assert f"{key} (" in out
    assert "… and 6 more; --json names all" in out
    assert out.endswith("16 of 20 episodes differ\n")


def test_the_command_in_json(changed: Corpus, corpus: Corpus, run: Run) -> None:
    code, out, err = run(corpus.url, "--json", "--sample", 2, "--seed", 1)
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert (said["passed"], said["exact"], said["replayed"], said["faults"]) == (True, True, 2, [])
    code, out, err = run(changed.url, "--json")
    said = json.loads(out, parse_constant=pytest.fail)
    assert (code, err, said["passed"], len(said["faults"])) == (1, "", False, 16)


def test_the_command_names_other_versions(corpus: Corpus, tmp_path: Path, run: Run) -> None:
    copy = rewritten(corpus, str(tmp_path / "corpus"), manifest=made_elsewhere(corpus))
    code, out, err = run(copy.url, "--sample", 2)
    (line,) = [line for line in out.splitlines() if "made with" in line]
    assert "mujoco 3.9.9 (here" in line and "within a tolerance" in line
    assert (code, err) == (0, "") and "departures" in out and "in 32 steps" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--sample", -1), "--sample should be positive, is -1"),
        (("--sample", 0), "--sample should be positive, is 0"),
        (("--sample", 3, "--all"), "--all replays every match, --sample some of them"),
        (("--repair", "--all"), "--repair looks at every shard"),
        (("--repair", "--sample", 3), "--repair looks at every shard"),
        (("--seed", -1), "--seed should be in [0, 2^64), is -1"),
        (("--workers", 0), "--workers should be positive, is 0"),
    ],
)  # fmt: skip
def test_flags_that_make_no_sense_are_refused(
    words: tuple[object, ...], line: str, corpus: Corpus, run: Run
) -> None:
    code, out, err = run(corpus.url, *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"generate replay: error: {line}") and err.count("\n") == 1


@pytest.mark.parametrize("repair", [False, True])
def test_what_is_no_corpus_is_refused(repair: bool, tmp_path: Path, run: Run) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    flags = ["--repair"] if repair else []
    for url, line in (
        (tmp_path / "none", "no corpus here: expected corpus.json, nothing there"),
        (tmp_path, "no corpus here: expected corpus.json, found thesis.tex"),
        ("nowhere://x", "nowhere://x"),
    ):
        code, out, err = run(url, *flags)
        assert (code, out) == (2, "") and line in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
