"""The command that makes a corpus: refusals, plans, equal bytes, and every way to be killed."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from palaestra.generate import registry, work
from palaestra.generate.plan import MATCHES_PER_SHARD, Wave, cells, episode_seed, plan
from palaestra.generate.recipe import Behaviour, Recipe, load_recipe
from palaestra.generate.tasks.reach import Reach
from palaestra.shards import storage
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import ConfigError, DifferentCorpusError, PalaestraError
from palaestra.shards.schema import EVALUATION_BIT

RECIPE = """name = "tiny"
steps = 6144
shard_steps = 1024
wave = 2
seed = 5

[[behaviours]]
tasks = ["reach", "push"]
policy = "expert"
noise = 0.2

[[behaviours]]
tasks = ["reach"]
policy = "random"
weight = 0.25
"""
STEPS, SHARDS = 6144, 6
PATIENCE_S = 60  # for things that happen by themselves; a hang fails instead of blocking the suite


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def contents(url: str) -> dict[str, bytes]:
    """Every shard's tar and index, and everything else that a corpus is made of."""
    names = [name for name in storage.names(url) if name not in ("data", "index")]
    for folder in ("data", "index"):
        names += [f"{folder}/{name}" for name in storage.names(storage.join(url, folder))]
    return {name: storage.read_bytes(storage.join(url, name)) for name in names}


def shard_files(found: dict[str, bytes]) -> dict[str, bytes]:
    """Tars and indexes, without what a killed process left half-written."""
    return {name: data for name, data in found.items() if "/shard-" in name}


def shard_names(shard: int) -> tuple[str, str]:
    return f"data/shard-{shard:06d}.tar", f"index/shard-{shard:06d}.parquet"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The corpus as this process writes it, shard by shard, into memory."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    recipe = load_recipe(str(path))
    corpus = Corpus.create(f"memory://{uuid.uuid4().hex}", work.manifest_of(recipe))
    for shard in reversed(range(SHARDS)):
        work.write_shard(corpus, recipe, shard)
    return contents(corpus.url)


def assert_holds(url: str, expected: dict[str, bytes]) -> None:
    """The same bytes in every tar and index, and a merged index over all of them."""
    found = contents(url)
    assert len(shard_files(expected)) == 2 * SHARDS
    assert shard_files(found) == shard_files(expected)
    assert found["corpus.json"] == expected["corpus.json"]
    assert {"README.md", "index.parquet"} <= set(found)
    index = Corpus.open(url).index
    assert index["steps"].sum() == STEPS and index["key"].is_unique().all()


def command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "palaestra.generate", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, **options)


def refusal(*arguments: object, **options: Any) -> str:
    """The one line on stderr with which a command exits 1."""
    done = command(*arguments, **options)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("generate: error: ")
    return line


@pytest.fixture
def start(recipe_file: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in a session of its own, as a shell does, with its errors in a file."""
    begun: list[subprocess.Popen[str]] = []

    def launch(*arguments: object) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "palaestra.generate", str(recipe_file), *map(str, arguments)]
        with (tmp_path / "stderr").open("w") as errors:
            process = subprocess.Popen(
                words, stdout=subprocess.DEVNULL, stderr=errors, text=True, start_new_session=True
            )
        begun.append(process)
        return process

    yield launch
    for process in begun:
        for member in family(process.pid):
            os.kill(member, signal.SIGKILL)
        process.wait()


def family(session: int) -> dict[int, str]:
    """Living processes of a session, with their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, number = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(number) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return found


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.rglob("*")}


# Recipes


def load(tmp_path: Path, text: str, **options: Any) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return load_recipe(str(path), **options)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 6144", "steps = = 3", "malformed TOML: .*line 2"),
        ("steps = 6144", "stepps = 6144", "unknown key 'stepps'; did you mean 'steps'"),
        ("noise", "nose", r"behaviours\[0\]: unknown key 'nose'; did you mean 'noise'"),
        ('name = "tiny"\n', "", "key 'name' is missing"),
        ('policy = "random"\n', "", r"behaviours\[1\]: key 'policy' is missing"),
        ("steps = 6144", 'steps = "many"', "steps: expected int, found 'many'"),
        ("steps = 6144", "steps = 1.5", "steps: expected int, found 1.5"),
        ("steps = 6144", "steps = true", "steps: expected int, found True"),
        ('["reach"]', '"reach"', r"behaviours\[1\]: tasks: expected a list, found 'reach'"),
        ('["reach"]', "[1]", r"behaviours\[1\]: tasks\[0\]: expected str, found 1"),
        ('["reach"]', "[]", r"behaviours\[1\]: tasks and levels should not be empty"),
        ('["reach"]', '["raech"]', r"behaviours\[1\]: unknown task 'raech'; did you mean 'reach'"),
        ('"random"', '"radnom"', r"behaviours\[1\]: unknown policy .*; did you mean 'random'"),
        ('"random"', '"random"\nlevels = [99]', r"\[1\]: reach has levels 1 to \d, not 99"),
        ('"random"', '"os:getcwd"', r"behaviours\[1\]: policy 'os:getcwd' .* --allow-code"),
        ('"random"', '"palaestrae:x"', r"policy 'palaestrae:x' .* --allow-code"),
        ('"random"', '"random"\nnoise = 0.1', "noise is for policy 'expert', not 'random'"),
        ('"random"', '"random"\narguments = {a = 1}', "arguments are for 'module:function'"),
        ("weight = 0.25", "weight = 0", r"behaviours\[1\]: weight should be positive, is 0"),
        ("weight = 0.25", "weight = nan", "weight should be positive, is nan"),
        ("weight = 0.25", "weight = inf", "weight should be positive, is inf"),
        ("noise = 0.2", "noise = -0.2", r"behaviours\[0\]: noise should be in \[0, 2\], is -0.2"),
        ("wave = 2", "wave = 0", "wave should be positive, is 0"),
        ("wave = 2", "image_size = 1", "image_size should be at least 2, is 1"),
        ("seed = 5", "seed = -1", "seed should be in"),
        ('["reach"]', '["lever"]', r"behaviours\[1\]: lever level 1 is held out .*heldout = true"),
        (RECIPE[RECIPE.index("[[") :], "behaviours = []", "behaviours: expected at least one"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_met_is_refused_by_name(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in RECIPE
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, RECIPE.replace(old, new))
    assert str(caught.value).startswith(f"{tmp_path}/recipe.toml: ")
    assert "\n" not in str(caught.value)


def test_a_recipe_for_evaluation_may_hold_what_is_held_out(tmp_path: Path) -> None:
    text = RECIPE.replace('["reach"]', '["lever"]')
    recipe = load(tmp_path, f"heldout = true\n{text}")
    assert recipe.heldout and work.manifest_of(recipe).recipe["heldout"] is True
    assert ("lever", 1) in work.manifest_of(recipe).held_out
    assert ("maze", 3) in work.manifest_of(recipe).held_out
    assert ("maze", 2) not in work.manifest_of(recipe).held_out


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"recipe\.toml: malformed TOML"):
        load_recipe(str(tmp_path / "recipe.toml"))
    with pytest.raises(PalaestraError, match=r"none\.toml: not found"):
        load_recipe(str(tmp_path / "none.toml"))


def test_a_recipe_says_what_it_says(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE)
    assert (recipe.steps, recipe.wave, recipe.image_size) == (STEPS, 2, 64)
    assert recipe.behaviours == (
        Behaviour(("reach", "push"), "expert", noise=0.2),
        Behaviour(("reach",), "random", weight=0.25),
    )
    assert [b.label for b in recipe.behaviours] == ["expert+noise0.2", "random"]
    assert load(tmp_path, RECIPE, steps=7).steps == 7
    with pytest.raises(ConfigError, match="steps should be positive, is 0"):
        load(tmp_path, RECIPE, steps=0)
    text = RECIPE.replace('"random"', '"os:getcwd"')
    assert load(tmp_path, text, allow_code=True).behaviours[1].policy == "os:getcwd"


# Plans


class Long(Reach):
    name = "long"
    horizon = 1024


class Duel(Reach):
    name = "duel"
    players = 2
    horizon = 512


@pytest.fixture
def more_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = registry.task_classes() | {"long": Long, "duel": Duel}
    monkeypatch.setattr(registry, "task_classes", lambda: classes)


MIXTURES = [
    ((("reach",), 1.0),),
    ((("reach", "push"), 0.7), (("reach", "push"), 0.2), (("reach", "push"), 0.1)),
    ((("reach", "long"), 1.0), (("duel",), 0.001), (("push",), 3.0)),
    ((("long",), 1.0), (("reach",), 1.0), (("duel", "push"), 0.5)),
    tuple((("reach",), float(weight)) for weight in range(1, 12)),
]


@pytest.mark.usefixtures("more_tasks")
@pytest.mark.parametrize("mixture", MIXTURES, ids=len)
@pytest.mark.parametrize("shard_steps", [1, 5000, 60_000])
def test_a_plan_holds_the_mixture(
    mixture: tuple[tuple[tuple[str, ...], float], ...], shard_steps: int
) -> None:
    behaviours = tuple(Behaviour(tasks, "expert", weight=weight) for tasks, weight in mixture)
    recipe = Recipe("r", 300_000, behaviours, shard_steps=shard_steps, wave=4)
    shards = plan(recipe)
    assert shards == plan(recipe)
    assert all(shards)
    for waves in shards:
        assert len(waves) == 1 or sum(wave.steps for wave in waves) <= shard_steps
        assert sum(wave.nsim for wave in waves) < MATCHES_PER_SHARD

    waves = [wave for shard in shards for wave in shard]
    total = sum(wave.steps for wave in waves)
    longest = max(wave.steps for wave in waves)
    assert 300_000 <= total < 300_000 + longest
    assert sum(share for _, share in cells(recipe)) == pytest.approx(1)
    for cell, share in cells(recipe):
        written = sum(wave.steps for wave in waves if wave == cell)
        assert abs(written - share * total) <= longest


@pytest.mark.usefixtures("more_tasks")
def test_a_wave_counts_every_players_steps() -> None:
    behaviour = Behaviour(("duel",), "expert")
    ((wave, share),) = cells(Recipe("r", 1, (behaviour,), wave=8))
    assert (wave, share) == (Wave("duel", 1, behaviour, 4), 1.0)
    assert wave.steps == 8 * 512
    ((single, _),) = cells(Recipe("r", 1, (behaviour,), wave=1))
    assert single.nsim == 1


def test_seeds_are_unique_and_leave_evaluation_its_own() -> None:
    matches = [shard * MATCHES_PER_SHARD + n for shard in range(50) for n in range(1000)]
    seeds = {episode_seed(1, match) for match in matches}
    assert len(seeds) == len(matches)
    assert not any(seed & EVALUATION_BIT for seed in seeds)
    assert not seeds & {episode_seed(2, match) for match in matches}


# Shards


def test_a_shard_is_the_same_bytes_each_time(recipe_file: Path, expected: dict[str, bytes]) -> None:
    """Here with worlds that have played the other shards; the first time they were new."""
    recipe = load_recipe(str(recipe_file))
    corpus = Corpus.create(f"memory://{uuid.uuid4().hex}", work.manifest_of(recipe))
    told: list[int] = []
    for shard in (2, 0, 2):
        report = work.write_shard(corpus, recipe, shard, told.append)
        assert report.steps == sum(told) == 1024 and report.episodes == 4
        told.clear()
        found = contents(corpus.url)
        for name in shard_names(shard):
            assert found[name] == expected[name]
    assert corpus.complete_shards() == [0, 2]
    assert work.is_complete(corpus, 0) and work.is_complete(corpus, 2)


def test_a_shard_holds_its_waves(recipe_file: Path, expected: dict[str, bytes]) -> None:
    recipe = load_recipe(str(recipe_file))
    corpus = Corpus.create(f"memory://{uuid.uuid4().hex}", work.manifest_of(recipe))
    for name, data in expected.items():
        storage.write_bytes(storage.join(corpus.url, name), data)
    planned = Counter(
        (shard, wave.task, wave.behaviour.label)
        for shard, waves in enumerate(plan(recipe))
        for wave in waves
        for _ in range(wave.nsim)
    )
    index = corpus.index
    assert Counter(index.select("shard", "task", "policy").iter_rows()) == planned
    assert index["seed"].n_unique() == index["match"].n_unique() == sum(planned.values())
    for match, seed in index.select("match", "seed").iter_rows():
        assert seed == episode_seed(recipe.seed, match)


def test_a_damaged_or_foreign_shard_is_not_complete(
    recipe_file: Path, expected: dict[str, bytes]
) -> None:
    recipe = load_recipe(str(recipe_file))
    corpus = Corpus.create(f"memory://{uuid.uuid4().hex}", work.manifest_of(recipe))
    tar, index = (expected[name] for name in shard_names(0))
    for data, rows, complete in (
        (tar, index, True), (tar[:-1], index, False), (tar, index[:-9], False), (tar, b"", False),
    ):  # fmt: skip
        storage.write_bytes(corpus.tar_url(0), data)
        storage.write_bytes(corpus.index_url(0), rows)
        assert work.is_complete(corpus, 0) == complete
    storage.write_bytes(corpus.index_url(0), index)
    storage.remove(corpus.tar_url(0))
    assert not work.is_complete(corpus, 0)
    other = dataclasses.replace(corpus.manifest, seed=6)
    elsewhere = Corpus.create(f"memory://{uuid.uuid4().hex}", other)
    storage.write_bytes(elsewhere.tar_url(0), tar)
    storage.write_bytes(elsewhere.index_url(0), index)
    assert not work.is_complete(elsewhere, 0)


# The command


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_writes_the_same_bytes(
    workers: int, recipe_file: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """At a relative URL, which workers must take to mean the same folder."""
    done = command(recipe_file.name, "corpus", "--workers", workers, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert "6,144 steps in 6 shards" in done.stdout.splitlines()[-1]
    assert_holds(str(tmp_path / "corpus"), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "tiny.toml"]

    before = stamps(tmp_path)
    again = command(recipe_file.name, "corpus", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.splitlines() == done.stdout.splitlines()[-1:]
    assert stamps(tmp_path) == before


def test_another_recipe_or_foreign_files_are_refused(recipe_file: Path, tmp_path: Path) -> None:
    dest = tmp_path / "corpus"
    assert command(recipe_file, dest, "--steps", 1024).returncode == 0
    assert Corpus.open(str(dest)).index["steps"].sum() == 1024  # --steps overrides the recipe's
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace("noise = 0.2", "noise = 0.3"))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    before = stamps(tmp_path)
    assert "different corpus: its recipe has steps = 1024" in refusal(recipe_file, dest)
    assert "different corpus: its recipe has behaviours" in refusal(other, dest, "--steps", 1024)
    assert "found thesis.tex" in refusal(recipe_file, foreign)
    assert "--workers should be positive, is 0" in refusal(recipe_file, dest, "--workers", 0)
    assert stamps(tmp_path) == before


def test_the_same_recipe_goes_on_in_process(tmp_path: Path, recipe_file: Path) -> None:
    recipe = load_recipe(str(recipe_file), steps=1024)
    corpus = Corpus.create(str(tmp_path / "corpus"), work.manifest_of(recipe))
    work.write_shard(corpus, recipe, 0)
    assert work.generate(recipe, corpus.url).index["steps"].sum() == 1024
    with pytest.raises(DifferentCorpusError, match="its recipe has wave = 2, this one 5"):
        work.generate(dataclasses.replace(recipe, wave=5), corpus.url)


POLICY = """
import numpy as np
class Policy:
    def __init__(self, value):
        self.value = value
    def reset(self, world, seeds):
        self.nlane = world.nlane
    def act(self, observation):
        return np.full((self.nlane, 8), self.value, np.float32)
"""


def test_a_policys_fault_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constant.py").write_text(POLICY)
    text = RECIPE.replace('"random"', '"constant:Policy"\narguments = {value = 2.0}')
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    options = {"cwd": tmp_path}
    assert "--allow-code" in refusal("recipe.toml", "corpus", **options)
    assert not (tmp_path / "corpus").exists()
    line = refusal("recipe.toml", "corpus", "--allow-code", **options)
    assert "reach: action outside [-1, 1]" in line


def assert_whole_shards_only(dest: Path) -> None:
    corpus = Corpus.open(str(dest))
    for shard in corpus.complete_shards():
        assert work.is_complete(corpus, shard)


def test_killed_outright_it_goes_on(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """kill -9 of the parent: its workers end too, and nothing half-written counts."""
    dest = tmp_path / "corpus"
    process = start(dest, "--workers", 2)
    wait_for(lambda: list(dest.glob("index/shard-*")))
    process.kill()
    process.wait()
    wait_for(lambda: not family(process.pid))
    assert_whole_shards_only(dest)
    assert not (dest / "index.parquet").exists()

    process = start(dest, "--workers", 2)
    assert process.wait(PATIENCE_S) == 0
    assert_holds(str(dest), expected)


def test_a_killed_worker_is_reported(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    dest = tmp_path / "corpus"
    process = start(dest, "--workers", 1)
    wait_for(lambda: list(dest.glob("index/shard-*")))
    (worker,) = [pid for pid, line in family(process.pid).items() if "spawn_main" in line]
    os.kill(worker, signal.SIGKILL)
    assert process.wait(PATIENCE_S) == 1
    (line,) = (tmp_path / "stderr").read_text().splitlines()
    assert "a worker died" in line
    wait_for(lambda: not family(process.pid))
    assert_whole_shards_only(dest)


INTERRUPTED = "generate: error: interrupted; the same command goes on from here"


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, as a terminal sends it: to every process of the group."""
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    wait_for(lambda: not family(process.pid))


def deaf_workers(session: int) -> list[bool]:
    """Per worker, whether it holds SIGINT back, and so cannot answer it with a traceback."""
    workers = [pid for pid, line in family(session).items() if "spawn_main" in line]
    masks = [re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
             for pid in workers]  # fmt: skip
    return [bool(mask and int(mask[1], 16) >> signal.SIGINT - 1 & 1) for mask in masks]


def test_ctrl_c_while_workers_start(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(tmp_path / "corpus", "--workers", 2)
    wait_for(lambda: len(deaf_workers(process.pid)) == 2)
    assert all(deaf_workers(process.pid))
    interrupt(process)
    assert (tmp_path / "stderr").read_text().splitlines() == [INTERRUPTED]
    assert_whole_shards_only(tmp_path / "corpus")


STUCK = """
import pathlib, time
class Policy:
    def reset(self, world, seeds):
        pathlib.Path("playing").touch()
        time.sleep(3600)
"""


def test_ctrl_c_does_not_wait_for_the_shards_in_progress(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, recipe_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "stuck.py").write_text(STUCK)
    recipe_file.write_text(RECIPE.replace('"random"', '"stuck:Policy"'))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    process = start("corpus", "--workers", 1, "--allow-code")
    wait_for((tmp_path / "playing").exists)
    interrupt(process)
    assert (tmp_path / "stderr").read_text().splitlines() == [INTERRUPTED]
    assert_whole_shards_only(tmp_path / "corpus")
    assert not (tmp_path / "corpus" / "index.parquet").exists()
