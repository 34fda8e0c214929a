"""The command that makes a corpus: refusals, equal bytes, and every way to be killed."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import generate_runs as runs
import pytest
import waiting
from fault_proxy import Fault, FaultProxy
from palaestra.generate import work
from palaestra.generate.generation import Options, generate
from palaestra.generate.plan import episode_seed, plan
from palaestra.generate.recipe_file import load_recipe
from palaestra.shards import storage
from palaestra.shards.corpus import Corpus

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(runs.RECIPE)
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of the corpus as this process writes it, shard by shard, into memory."""
    found = runs.built(runs.load_text(tmp_path_factory.mktemp("recipe"), runs.RECIPE))
    assert set(found) == {"corpus.json", "README.md", "index.parquet"} | {
        name for shard in range(runs.SHARDS) for name in runs.shard_names(shard)
    }
    return found


@pytest.fixture
def start(recipe_file: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the command on the recipe, with its errors in the file `stderr`."""
    with runs.starter(tmp_path / "stderr") as launch:
        yield lambda *words: launch(recipe_file, *words)


# Shards


def test_a_shard_is_the_same_bytes_each_time(recipe_file: Path, expected: dict[str, bytes]) -> None:
    recipe = load_recipe(str(recipe_file))
    corpus = runs.in_memory(recipe)
    told: list[int] = []
    for shard in (2, 0, 2):
        report = work.write_shard(corpus, recipe, shard, told.append)
        assert report.steps == sum(told) == 1024
        assert sum(episodes for episodes, _ in report.scores.values()) == 4
        told.clear()
        found = runs.contents(corpus.url)
        for name in runs.shard_names(shard):
            assert found[name] == expected[name]
    assert corpus.complete_shards() == [0, 2]
    assert work.is_complete(corpus, 0) and work.is_complete(corpus, 2)


def test_a_shard_holds_its_waves(recipe_file: Path, expected: dict[str, bytes]) -> None:
    recipe = load_recipe(str(recipe_file))
    url = f"memory://{uuid.uuid4().hex}"
    for name, data in expected.items():
        storage.write_bytes(storage.join(url, name), data)
    planned = Counter(
        (shard, wave.task, wave.behaviour.label)
        for shard, waves in enumerate(plan(recipe))
        for wave in waves
        for _ in range(wave.nsim)
    )
    index = Corpus.open(url).index
    assert Counter(index.select("shard", "task", "policy").iter_rows()) == planned
    assert index["seed"].n_unique() == index["match"].n_unique() == sum(planned.values())
    for match, seed in index.select("match", "seed").iter_rows():
        assert seed == episode_seed(recipe.seed, match)


def test_a_damaged_or_foreign_shard_is_not_complete(
    recipe_file: Path, expected: dict[str, bytes]
) -> None:
    corpus = runs.in_memory(load_recipe(str(recipe_file)))
    assert not work.is_complete(corpus, 0)
    tar, index = (expected[name] for name in runs.shard_names(0))
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
    done = runs.command(recipe_file.name, "corpus", "--workers", workers, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert f"{runs.STEPS:,} steps in {runs.SHARDS} shards" in done.stdout.splitlines()[-1]
    assert runs.contents(str(tmp_path / "corpus")) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "tiny.toml"]

    before = runs.stamps(tmp_path)
    again = runs.command(recipe_file.name, "corpus", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.splitlines() == done.stdout.splitlines()[-1:]
    assert runs.stamps(tmp_path) == before


def test_another_recipe_or_foreign_files_are_refused(recipe_file: Path, tmp_path: Path) -> None:
    dest = tmp_path / "corpus"
    assert runs.command(recipe_file, dest, "--steps", 2048, "--workers", 1).returncode == 0
    assert Corpus.open(str(dest)).index["steps"].sum() == 2048  # --steps overrides the recipe's
    other = tmp_path / "other.toml"
    other.write_text(runs.RECIPE.replace("noise = 0.2", "noise = 0.3"))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    before = runs.stamps(tmp_path)
    assert "different corpus: its recipe has steps = 2048" in runs.refusal(recipe_file, dest)
    line = runs.refusal(other, dest, "--steps", 2048)
    assert "different corpus: its recipe has behaviours" in line
    assert "found thesis.tex" in runs.refusal(recipe_file, foreign)
    assert runs.stamps(tmp_path) == before


def test_an_array_of_jobs_makes_it_together(
    recipe_file: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks 5 and 6 under Slurm, the former at first for a part: who finishes last ends it."""
    dest = tmp_path / "corpus"
    for name, value in {"COUNT": 2, "MIN": 5, "MAX": 6, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "6")
    done = runs.command(recipe_file, dest, "--array", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{dest}: 2 of 4 shards are still missing"
    assert Corpus.open(str(dest)).complete_shards() == [1, 3]
    assert not (dest / "index.parquet").exists() and not (dest / "README.md").exists()
    runs.assert_whole_shards_only(str(dest), expected)

    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    done = runs.command(recipe_file, dest, "--array", "--shards", "2,3", "--workers", 1)
    assert done.stdout.splitlines()[-1] == f"{dest}: 1 of 4 shards are still missing"
    assert Corpus.open(str(dest)).complete_shards() == [1, 2, 3]
    done = runs.command(recipe_file, dest, "--array", "--workers", 1)
    assert done.stdout.splitlines()[-1].startswith(f"{dest}: {runs.STEPS:,} steps in 4 shards")
    assert runs.contents(str(dest)) == expected


def test_two_commands_at_once_make_one_corpus(
    recipe_file: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    dest = tmp_path / "corpus"
    one, other = tmp_path / "one", tmp_path / "other"
    with runs.starter(one) as start_one, runs.starter(other) as start_other:
        both = [start(recipe_file, dest, "--workers", 1) for start in (start_one, start_other)]
        codes = [process.wait(waiting.PATIENCE_S) for process in both]
    assert codes == [0, 0] and one.read_text() == other.read_text() == ""
    assert runs.contents(str(dest)) == expected


# Kills


def test_killed_outright_it_goes_on(
    start: Start, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """kill -9 of the parent: its workers end too, and nothing half-written counts."""
    dest = tmp_path / "corpus"
    process = start(dest, "--workers", 2)
    waiting.wait_for(lambda: list(dest.glob("index/shard-*")))
    process.kill()
    process.wait()
    waiting.wait_for(lambda: not runs.family(process.pid))
    runs.assert_whole_shards_only(str(dest), expected)
    assert not (dest / "index.parquet").exists()
    begun = Corpus.open(str(dest)).complete_shards()
    names = [str(dest / name) for shard in begun for name in runs.shard_names(shard)]
    before = runs.stamps(dest)

    process = start(dest, "--workers", 2)
    assert process.wait(waiting.PATIENCE_S) == 0
    assert runs.contents(str(dest)) == expected
    after = runs.stamps(dest)
    assert all(after[name] == before[name] for name in names)  # none was made again


def test_a_killed_worker_is_replaced(
    start: Start, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    dest = tmp_path / "corpus"
    process = start(dest, "--workers", 1)
    waiting.wait_for(lambda: list(dest.glob("index/shard-*")))
    (worker,) = runs.workers_of(process.pid)
    assert runs.kill(worker)
    assert process.wait(waiting.PATIENCE_S) == 0
    assert (tmp_path / "stderr").read_text() == ""
    assert runs.contents(str(dest)) == expected
    waiting.wait_for(lambda: not runs.family(process.pid))


def test_what_the_dead_left_half_written_is_removed(tmp_path: Path) -> None:
    """Of this machine alone; of the living nothing, even where a zombie still has its number."""
    here = os.uname().nodename.replace(".", "-")
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    zombie = subprocess.Popen(["true"])
    waiting.wait_for(lambda: ") Z " in Path(f"/proc/{zombie.pid}/stat").read_text())
    living = subprocess.Popen(["sleep", "1000"])
    try:
        data = tmp_path / "data"
        data.mkdir()
        dead = [f".shard-000000.tar.{here}.{pid}.ab" for pid in (gone.pid, zombie.pid, 9**99)]
        left = [
            f".shard-000000.tar.{here}.{living.pid}.ab", f".a.tar.{here}.{os.getpid()}.ab",
            f".shard-000001.tar.elsewhere.{gone.pid}.ab", ".hidden", "shard-000000.tar",
            f"shard-000001.tar.{here}.{gone.pid}.ab",
        ]  # fmt: skip
        for name in (*dead, *left):
            (data / name).touch()
            (tmp_path / name).touch()
        storage.remove_leftovers(str(tmp_path), str(data), str(tmp_path / "nothing"))
    finally:
        living.kill()
        living.wait()
        zombie.wait()
    assert sorted(path.name for path in data.iterdir()) == sorted(left)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*left, "data"])


def test_leftovers_go_when_it_goes_on(
    recipe_file: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """From the manifest's on, which must not pass for a foreign file."""
    dest, here = tmp_path / "corpus", os.uname().nodename.replace(".", "-")
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    names = [".corpus.json", ".index.parquet", "data/.shard-000003.tar", "index/.shard-1.parquet"]
    recipe, url = load_recipe(str(recipe_file)), str(dest)
    dest.mkdir()
    (dest / f".corpus.json.{here}.{gone.pid}.0123").touch()
    generate(recipe, url, Options(shards=()))
    assert list(runs.contents(url)) == ["corpus.json"]
    for name, data in expected.items():
        storage.write_bytes(storage.join(url, name), data)
    for name in names:
        (dest / f"{name}.{here}.{gone.pid}.0123").touch()
    generate(recipe, url)
    assert runs.contents(url) == expected


INTERRUPTED = "generate: error: interrupted; the same command goes on from here"


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, as a terminal sends it: to every process of the group."""
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(waiting.PATIENCE_S) == 130
    waiting.wait_for(lambda: not runs.family(process.pid))


def deaf_workers(session: int) -> list[bool]:
    """Per worker, whether it holds SIGINT back, and so cannot answer it with a traceback."""
    masks = [re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
             for pid in runs.workers_of(session)]  # fmt: skip
    return [bool(mask and int(mask[1], 16) >> signal.SIGINT - 1 & 1) for mask in masks]


def test_ctrl_c_while_workers_start(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "corpus", "--workers", 2)
    waiting.wait_for(lambda: len(deaf_workers(process.pid)) == 2)
    assert all(deaf_workers(process.pid))
    interrupt(process)
    assert (tmp_path / "stderr").read_text().splitlines() == [INTERRUPTED]
    runs.assert_whole_shards_only(str(tmp_path / "corpus"))


STUCK = """
import pathlib, time
class Policy:
    def reset(self, world, seeds):
        pathlib.Path("playing").touch()
        time.sleep(3600)
"""


def test_ctrl_c_does_not_wait_for_the_shards_in_progress(
    start: Start, tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    recipe_file.write_text(runs.RECIPE.replace('"random"', '"stuck:Policy"'))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    process = start("corpus", "--workers", 1, "--allow-code")
    waiting.wait_for((tmp_path / "playing").exists)
    interrupt(process)
    assert (tmp_path / "stderr").read_text().splitlines() == [INTERRUPTED]
    runs.assert_whole_shards_only(str(tmp_path / "corpus"))
    assert not (tmp_path / "corpus" / "index.parquet").exists()


@pytest.mark.xdist_group("s3")
def test_a_bucket_holds_the_same_bytes(
    bucket: str, store: FaultProxy, recipe_file: Path, expected: dict[str, bytes]
) -> None:
    """Though the store is busy now and then."""
    url = f"{bucket}/corpus"
    store.faults = [Fault("503", 3, "PUT"), Fault("503", 2, "PUT", r"index\.parquet"), Fault("503")]
    done = runs.command(recipe_file, url, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert runs.contents(url) == expected
