"""What a generation says, leaves and makes good when policies, disks or flags fail it."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import generate_runs as runs
import pytest
from fault_proxy import Fault, FaultProxy
from palaestra.generate import players, work
from palaestra.generate.generation import Options, check_options, check_room, generate
from palaestra.generate.plan import MATCHES_PER_SHARD, episode_seed, plan
from palaestra.generate.recipe import Recipe
from palaestra.shards import storage
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import (
    CheckpointError,
    ConfigError,
    DifferentCorpusError,
    StorageError,
    UnknownNameError,
)

# Policies

OWN = """name = "own"
steps = 2048
shard_steps = 512
wave = 2
image_size = 8
seed = 9

[[behaviours]]
tasks = ["reach"]
policy = "own:Policy"
weight = 3

[[behaviours]]
tasks = ["push"]
policy = "own:Policy"
"""
MODULE = """
from pathlib import Path
from palaestra.generate.policies import Expert

class Odd(Exception):
    def __init__(self, task, what):
        super().__init__(f"{{task}} {{what}}")

class Policy(Expert):
    def reset(self, world, seeds):
        super().reset(world, seeds)
        {trouble}
"""
ONCE = """
        if world.task.name == "push" and not Path("tried").exists():
            Path("tried").touch()
            raise OSError(28, "No space left on device")  # of its own, and none of ours
"""
PUSHING = """
        if world.task.name == "push":
            raise Odd("push", "is\\n too hard")
"""
NOTHING = """
        with open("attempts", "a") as file:
            file.write("x")
        raise ValueError("nothing works")
"""


class Own:
    """A recipe of a policy of one's own, in a folder that Python finds it in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.module = folder, folder / "own.py"
        self.write("pass")
        self.recipe = runs.load_text(folder, OWN, allow_code=True)

    def write(self, trouble: str) -> None:
        self.module.write_text(MODULE.format(trouble=trouble.strip()))

    def generate(self, *words: object) -> subprocess.CompletedProcess[str]:
        words = ("recipe.toml", "corpus", "--workers", 1, "--allow-code", *words)
        return runs.command(*words, cwd=self.folder)

    @property
    def found(self) -> dict[str, bytes]:
        return runs.contents(str(self.folder / "corpus"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return Own(tmp_path)


@pytest.fixture(scope="module")
def expected_of_own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The corpus of the same policy without trouble."""
    folder = tmp_path_factory.mktemp("own")
    recipe = Own(folder).recipe
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "own", raising=False)  # another's of this name
        patch.setattr(players, "_loaded", {})
        return runs.built(recipe)


def test_what_fails_once_is_tried_again(own: Own, expected_of_own: dict[str, bytes]) -> None:
    own.write(ONCE)
    done = own.generate()
    assert (done.returncode, done.stderr) == (0, "")
    assert (own.folder / "tried").exists()
    assert own.found == expected_of_own


def test_what_fails_always_is_told_and_the_rest_is_there(
    own: Own, expected_of_own: dict[str, bytes]
) -> None:
    """Also if its index was there, but no tar; then the command that it names mends all."""
    (shard,) = [s for s, (wave,) in enumerate(plan(own.recipe)) if wave.task == "push"]
    tar, index = runs.shard_names(shard)
    match = shard * MATCHES_PER_SHARD
    seed = episode_seed(own.recipe.seed, match)
    again = "generate recipe.toml corpus --allow-code --shards"
    lines = [
        f"generate: shard {shard} failed 3 times: Odd: push is too hard "
        f"(push level 1, own:Policy, 2 matches from {match}, whose seed is {seed})",
        f"generate: error: 1 of 4 shards failed; again: {again} {shard}",
    ]
    own.write(PUSHING)
    for _ in range(2):
        done = own.generate()
        assert (done.returncode, done.stderr.splitlines()) == (1, lines)
        rest = set(expected_of_own) - {tar, index, "README.md", "index.parquet"}
        assert {name: own.found[name] for name in rest} == {
            name: expected_of_own[name] for name in rest
        }
        assert set(own.found) - {index} == rest
        storage.write_bytes(str(own.folder / "corpus" / index), expected_of_own[index])

    own.write("pass")
    words = shlex.split(done.stderr.splitlines()[-1].partition("again: ")[2])
    assert words[0] == "generate"
    done = runs.command(*words[1:], cwd=own.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert own.found == expected_of_own


def test_where_everything_fails_it_ends_early(own: Own) -> None:
    own.write(NOTHING)
    text = OWN.replace("steps = 2048", "steps = 8192")
    own.recipe = runs.load_text(own.folder, text, allow_code=True)
    shards = len(plan(own.recipe))
    done = own.generate()
    assert done.returncode == 1
    *lines, last = done.stderr.splitlines()
    assert len(lines) == 8
    assert all("failed 3 times: ValueError: nothing works (" in line for line in lines)
    assert last.startswith("generate: error: the first 8 shards failed, the last one with: Value")
    assert len((own.folder / "attempts").read_text()) < 3 * shards == 48
    assert set(own.found) == {"corpus.json"}


def test_a_policys_fault_is_one_line(own: Own) -> None:
    """Before any work where it can be known."""
    done = runs.command("recipe.toml", "corpus", cwd=own.folder)
    assert done.returncode == 1 and "--allow-code" in done.stderr
    own.module.write_text("import nothing_of_this_name")
    done = own.generate()
    (line,) = done.stderr.splitlines()
    assert "policy 'own:Policy' does not import: No module named 'nothing_of_this" in line
    assert not (own.folder / "corpus").exists()


FILES = """
    def dependencies(self):
        return {"run": Path("digest").read_text()}
    def versions(self):
        return {"own": "1.2"}
"""


def test_a_policy_is_read_from_the_files_that_the_corpus_was_begun_with(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.module.write_text(own.module.read_text() + FILES)
    monkeypatch.chdir(own.folder)
    monkeypatch.syspath_prepend(own.folder)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    monkeypatch.setattr(players, "_loaded", {})
    Path("digest").write_text("old")
    corpus = generate(own.recipe, "corpus", Options(shards=())).corpus
    assert corpus.manifest.dependencies == {"run": "old"}
    assert corpus.manifest.versions == work.versions() | {"own": "1.2"}
    Path("digest").write_text("new")
    with pytest.raises(DifferentCorpusError, match=r'its dependencies is \{"run": "old"\}, this'):
        generate(own.recipe, "corpus")
    with pytest.raises(CheckpointError, match="run: not the file that the corpus was begun with"):
        work.write_shard(corpus, own.recipe, 0)  # it is trained on meanwhile
    assert set(own.found) == {"corpus.json"}


# Disks and buckets


@contextmanager
def small_disk(
    folder: Path, size: int, largest: int
) -> Iterator[tuple[list[str], Callable[[], object]]]:
    """Give a new folder room for so many bytes; where it cannot be mounted, files are limited.

    Yields what commands are to run under, and what takes all limits away.
    """
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode:
        limited = ["bash", "-c", 'ulimit -f "$0" && exec "$@"', str(largest // 1024)]
        yield limited, limited.clear
        return
    try:
        more = ["mount", "-o", "remount,size=64m", str(folder)]
        yield [], lambda: subprocess.run(more, check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return runs.load_text(tmp_path_factory.mktemp("recipe"), runs.RECIPE)


@pytest.fixture(scope="module")
def expected(recipe: Recipe) -> dict[str, bytes]:
    return runs.built(recipe)


def test_a_full_disk_is_one_line_and_leaves_whole_shards(
    recipe: Recipe, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """With room for two thirds of the corpus, and for the least that it could take."""
    (tmp_path / "tiny.toml").write_text(runs.RECIPE)
    size = sum(map(len, expected.values())) * 2 // 3
    assert size > recipe.steps * 100
    largest = max(map(len, expected.values())) - 1024
    dest = tmp_path / "disk" / "corpus"
    with small_disk(tmp_path / "disk", size, largest) as (under, enlarge):
        line = runs.refusal(tmp_path / "tiny.toml", dest, "--workers", 1, under=under)
        assert str(dest) in line and ("No space left" in line or "File too large" in line)
        runs.assert_whole_shards_only(str(dest), expected)
        found = runs.contents(str(dest))
        assert set(found) < set(expected) - {"README.md", "index.parquet"}
        enlarge()
        done = runs.command(tmp_path / "tiny.toml", dest, "--workers", 1, under=under)
        assert (done.returncode, done.stderr) == (0, "")
        assert runs.contents(str(dest)) == expected


def test_a_disk_that_is_too_small_is_refused_before_any_work(
    recipe: Recipe, tmp_path: Path
) -> None:
    """Before the manifest is there, which would refuse a corpus of fewer steps."""
    steps = shutil.disk_usage(tmp_path).free // 100 + (1 << 30)
    large = dataclasses.replace(recipe, steps=steps, shard_steps=1 << 23, wave=1 << 14)
    dest = tmp_path / "folder" / "corpus"
    words = rf"{dest}: [\d,]+ steps take at least [\d,.]+ GB, [\d,.]+ GB are free"
    with pytest.raises(StorageError, match=words):
        generate(large, str(dest))
    assert list(tmp_path.iterdir()) == []
    check_room(recipe, str(dest), range(4))
    check_room(large, "memory://anywhere", range(len(plan(large))))
    some = Options(shards=())  # what is asked for counts
    assert generate(large, str(dest), some).missing == len(plan(large))
    with pytest.raises(StorageError, match=words):
        generate(large, str(dest))


@pytest.mark.xdist_group("s3")
def test_a_denied_bucket_is_one_line_before_any_work(
    bucket: str, store: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To write, by a rule of the store; and altogether, for a wrong key."""
    recipe, url = tmp_path / "tiny.toml", f"{bucket}/corpus"
    recipe.write_text(runs.RECIPE)
    store.faults = [Fault("403", 1000, "PUT")]
    store.requests.clear()
    assert f"{url}/corpus.json: HTTP 403 AccessDenied" in runs.refusal(recipe, url)
    writes = [path for method, path in store.requests if method == "PUT"]
    assert len(writes) == 1 and writes[0].endswith("corpus.json")
    store.faults.clear()
    assert storage.names(bucket) == []
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    line = runs.refusal(recipe, url)
    assert url in line and ("403" in line or "Forbidden" in line)


# Flags


def test_flags_that_cannot_be_met_are_named(recipe: Recipe, tmp_path: Path) -> None:
    dest = tmp_path / "corpus"
    for options, error, line in (
        (Options(workers=0), ConfigError, "--workers should be positive, is 0"),
        (Options(engine="rai"), UnknownNameError, "--engine: unknown engine 'rai'; did you mean"),
        (Options(ray_address="auto"), ConfigError, "--ray-address is for --engine ray"),
        (Options(shards=(0, 4)), ConfigError, "--shards: the recipe has shards 0 to 3, not 4"),
    ):
        with pytest.raises(error, match=line):
            check_options(recipe, options)
        with pytest.raises(error, match=line):
            generate(recipe, str(dest), options)
    assert not dest.exists()
    check_options(recipe, Options(2, "ray", "auto", shards=(3, 0)))


def test_another_corpus_is_left_alone(recipe: Recipe, expected: dict[str, bytes]) -> None:
    corpus = Corpus.create("memory://another", runs.in_memory(recipe).manifest)
    for name, data in expected.items():
        storage.write_bytes(storage.join(corpus.url, name), data)
    outcome = generate(recipe, corpus.url)
    assert (outcome.failures, outcome.missing) == ((), 0)
    assert outcome.corpus.index["steps"].sum() == runs.STEPS
    with pytest.raises(DifferentCorpusError, match="its recipe has wave = 2, this one 5"):
        generate(dataclasses.replace(recipe, wave=5), corpus.url)
    assert runs.contents(corpus.url) == expected
