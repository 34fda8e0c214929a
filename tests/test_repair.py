"""Repairing a corpus: the same bytes come back, or the file is left alone and the reason named."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from palaestra.generate import __main__ as command
from palaestra.generate import repair as module
from palaestra.generate import work
from palaestra.generate.damage import find_damage
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.generate.repair import Repairs, repair
from palaestra.shards import index, storage
from palaestra.shards.audit.audit import audit
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from palaestra.shards.errors import ConfigError, CorruptionError, PalaestraError, StorageError
from small_corpus import RECIPE, build, contents, made_elsewhere, rewritten

PATIENCE_S = 60  # for a process; a hang fails instead of blocking the suite
TAR, INDEX, MERGED = "data/shard-000001.tar", "index/shard-000001.parquet", "index.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build(str(tmp_path_factory.mktemp("whole") / "corpus"))


@pytest.fixture
def corpus(whole: Corpus, tmp_path: Path) -> Corpus:
    """A copy to damage."""
    return Corpus.open(str(shutil.copytree(whole.url, tmp_path / "corpus")))


def mend(corpus: Corpus, allow_code: bool = False) -> Repairs:
    return repair(corpus, find_damage(corpus), allow_code, workers=1)


Damager = Callable[[Path], None]


def remove(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    # in Parquet a page's values; much of the footer of a small file may change without effect
    data[100 if path.suffix == ".parquet" else len(data) // 3] ^= 16
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.write_bytes(b"not what it was" * 100)


def restamp(**info: object) -> Damager:
    """An index whose pages are right and whose metadata is not."""

    def change(path: Path) -> None:
        known, rows = index.from_parquet(path.read_bytes(), str(path))
        path.write_bytes(index.to_parquet([rows], dataclasses.replace(known, **info)))

    return change


stale = restamp(fingerprint="of another")


def test_a_whole_corpus_is_left_alone(corpus: Corpus) -> None:
    def stamps() -> dict[str, tuple[int, int]]:
        paths = Path(corpus.url).rglob("*")
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in paths}

    before, told = stamps(), list[float]()
    damages = find_damage(corpus, lambda amount, note="": told.append(amount))
    assert damages == [] and sum(told) == corpus.manifest.shards
    assert mend(corpus) == Repairs(corpus.url, corpus.manifest.shards, (), ())
    assert stamps() == before


@pytest.mark.parametrize(
    ("damage", "written", "fault"),
    [
        ({TAR: remove}, [TAR], r"shard-000001\.tar: missing"),
        ({TAR: shorten}, [TAR], r"shard-000001\.tar: expected [\d,]+ bytes, found [\d,]+"),
        ({TAR: empty}, [TAR], r"shard-000001\.tar: expected [\d,]+ bytes, found 0"),
        ({TAR: flip}, [TAR], r"shard-000001\.tar: checksum differs from its index"),
        ({INDEX: remove}, [INDEX], r"shard-000001\.parquet: missing"),
        ({INDEX: shorten}, [INDEX], r"shard-000001\.parquet: damaged index"),
        ({INDEX: empty}, [INDEX], r"shard-000001\.parquet: damaged index"),
        ({INDEX: flip}, [INDEX], r"shard-000001\.parquet: damaged index"),
        ({INDEX: foreign}, [INDEX], r"shard-000001\.parquet: damaged index"),
        ({INDEX: stale}, [INDEX], r"shard-000001\.parquet: stale index"),
        ({INDEX: restamp(tar_xxh3=1)}, [INDEX], r"000001\.tar: checksum differs from its index"),
        ({INDEX: restamp(tar_bytes=1)}, [INDEX], r"000001\.tar: expected 1 bytes, found"),
        ({TAR: remove, INDEX: remove}, [TAR, INDEX], r"shard-000001\.parquet: missing"),
        ({TAR: flip, INDEX: stale}, [TAR, INDEX], r"shard-000001\.parquet: stale index"),
        ({TAR: flip, INDEX: remove, MERGED: remove}, [TAR, INDEX], "missing"),
        ({TAR: remove, INDEX: flip, MERGED: flip}, [TAR, INDEX], "damaged index"),
    ],
)
def test_the_same_bytes_come_back(
    damage: dict[str, Damager], written: list[str], fault: str, corpus: Corpus, whole: Corpus
) -> None:
    for name, change in damage.items():
        change(Path(corpus.url) / name)
    found = mend(corpus)
    (done,) = found.repairs
    assert done.refused is None and [*done.written] == [f"{corpus.url}/{name}" for name in written]
    assert done.shard == 1 and re.search(fault, done.fault) and "\n" not in done.fault
    assert found.rebuilt == ((corpus.merged_url,) if MERGED in damage else ())
    assert contents(corpus.url) == contents(whole.url)


@pytest.mark.parametrize("change", [remove, shorten, empty, flip, foreign, stale])
def test_a_lost_merged_index_comes_back(change: Damager, corpus: Corpus, whole: Corpus) -> None:
    change(Path(corpus.merged_url))
    found = mend(corpus)
    assert (found.repairs, found.rebuilt) == ((), (corpus.merged_url,))
    assert contents(corpus.url) == contents(whole.url)


def test_a_lost_card_comes_back(corpus: Corpus, whole: Corpus) -> None:
    (Path(corpus.url) / "README.md").unlink()
    assert mend(corpus).rebuilt == (f"{corpus.url}/README.md",)
    assert contents(corpus.url) == contents(whole.url)


def test_an_unfinished_corpus_is_finished(whole: Corpus, tmp_path: Path) -> None:
    begun = Corpus.create(str(tmp_path / "begun"), whole.manifest)
    found = repair(begun, find_damage(begun), workers=2)
    assert [done.shard for done in found.repairs] == [0, 1, 2] and len(found.rebuilt) == 2
    assert contents(begun.url) == contents(whole.url)
    before, after = (audit(Corpus.open(c.url), deep=True).checks for c in (whole, begun))
    assert before == after and {c.name for c in after if c.passed is False} <= {"steps"}


# What cannot be vouched for


def without(corpus: Corpus, *names: str) -> Corpus:
    for name in names:
        (Path(corpus.url) / name).unlink()
    return corpus


def left_alone(corpus: Corpus, reason: str, allow_code: bool = False) -> None:
    """The only damaged shard is refused for that reason, and no file is another."""
    before = contents(corpus.url)
    found = mend(corpus, allow_code)
    (refused,) = found.refused
    assert isinstance(refused.refused, CorruptionError) and refused.written == ()
    line = str(refused.refused)
    assert re.search(reason, line) and line.endswith("; left as it is") and "\n" not in line
    assert found.rebuilt == () and contents(corpus.url) == before


def test_a_shard_that_is_another_now_is_refused(whole: Corpus, tmp_path: Path) -> None:
    """As after a change of a task's code: all versions are the same, the bytes are not."""

    def change(episode: Episode) -> Episode:
        return dataclasses.replace(episode, reward=episode.reward * 0)

    def other(name: str) -> Corpus:
        return rewritten(whole, str(tmp_path / name), change)

    reason = r"000001\.tar: made again, it differs from {}: the code of its tasks has changed"
    left_alone(without(other("a"), TAR), reason.format("its index"))
    left_alone(without(other("b"), TAR, INDEX), reason.format(r"its rows in index\.parquet"))
    corpus = other("c")
    flip(Path(corpus.tar_url(1)))
    left_alone(corpus, reason.format("its index"))
    # and with nothing that says how it was, it is what the recipe makes
    (made,) = mend(without(other("d"), TAR, INDEX, MERGED)).repairs
    assert len(made.written) == 2


def test_other_shards_are_repaired_all_the_same(whole: Corpus, tmp_path: Path) -> None:
    def change(episode: Episode) -> Episode:
        return dataclasses.replace(episode, round=int(episode.match >= 2_000_000))

    corpus = rewritten(whole, str(tmp_path / "corpus"), change)
    damaged = without(corpus, TAR, "data/shard-000002.tar", MERGED)
    found = mend(damaged)
    assert [done.shard for done in found.repairs if not done.refused] == [1]
    assert [done.shard for done in found.refused] == [2] and found.rebuilt == ()
    assert Path(corpus.tar_url(1)).read_bytes() == Path(whole.tar_url(1)).read_bytes()


def test_other_versions_must_be_vouched_for(
    whole: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(name: str, reward: float = 1.0) -> Corpus:
        def change(episode: Episode) -> Episode:
            return dataclasses.replace(episode, reward=episode.reward * np.float32(reward))

        return rewritten(whole, str(tmp_path / name), change, made_elsewhere(whole))

    for name, lost in {"a": [TAR], "b": [INDEX], "c": [TAR, INDEX], "d": [INDEX, MERGED]}.items():
        corpus = other(name)
        expected = contents(corpus.url)
        assert mend(without(corpus, *lost)).refused == []  # its bytes are what they were
        assert contents(corpus.url) == expected
    versions = r"it was made with mujoco 3\.9\.9 \(here .*\), libc glibc 2\.17 \(here"
    left_alone(without(other("e", 0.5), TAR), rf"differs from its index: {versions}")
    corpus = without(other("f", 0.5), INDEX, MERGED)
    left_alone(corpus, rf"differs from the tar that is there: {versions}")

    def play(*arguments: object) -> None:
        raise AssertionError("simulated in vain")

    monkeypatch.setattr(module, "play_shard", play)
    corpus = without(other("g"), TAR, INDEX, MERGED)
    left_alone(corpus, rf"nothing is left to check it against, and {versions}")


POLICIES = """
import numpy as np
class Steady:
    def reset(self, world, seeds):
        self.action = np.full((world.nlane, 8), 0.25, np.float32)
    def act(self, observation):
        return self.action
class Moody(Steady):
    mood = 0.0
    def reset(self, world, seeds):
        Moody.mood += 0.01
        self.action = np.full((world.nlane, 8), Moody.mood, np.float32)
"""


@pytest.mark.parametrize("against", [False, True], ids=["plays", "is played against"])
@pytest.mark.parametrize("policy", ["Steady", "Moody"])
def test_policies_from_elsewhere(
    policy: str, against: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{policy.lower()}_{against}:{policy}"  # a module of its own: one imports once
    (tmp_path / f"{name.split(':')[0]}.py").write_text(POLICIES)
    monkeypatch.syspath_prepend(tmp_path)
    behaviour = Behaviour(("reach",), name)
    if against:
        behaviour = Behaviour(("sumo",), "random", opponents=(name,))
    recipe = Recipe("r", 2048, (behaviour,), shard_steps=1024, wave=2, image_size=16)
    corpus = build(str(tmp_path / "corpus"), recipe)
    expected = contents(corpus.url)
    flip(Path(corpus.tar_url(1)))
    with pytest.raises(ConfigError, match=r"json: behaviours\[0\]: .*policy .* --allow-code"):
        mend(corpus)
    reason = rf"differs from its index: policy '{name}' need not act the same twice"
    if policy == "Moody":
        left_alone(corpus, reason, allow_code=True)
        (Path(corpus.url) / TAR).write_bytes(expected[TAR])
        left_alone(without(corpus, INDEX), "differs from its rows in index", allow_code=True)
        left_alone(without(corpus, TAR, MERGED), "nothing is left to check", allow_code=True)
    else:
        assert mend(corpus, allow_code=True).refused == []
        assert contents(corpus.url) == expected


def test_what_was_kept_of_matches_comes_back(tmp_path: Path) -> None:
    behaviours = (Behaviour(("sumo",), "random"),)
    recipe = Recipe("won", 8192, behaviours, seed=7, shard_steps=4096, wave=8, image_size=16)
    corpus = build(str(tmp_path / "corpus"), dataclasses.replace(recipe, keep="success"))
    expected, outcomes = contents(corpus.url), corpus.index["outcome"]
    assert set(outcomes) == {"win", "loss"}
    played = build(str(tmp_path / "all"), recipe).index
    assert "draw" in set(played["outcome"]), "there is something not to keep"
    assert mend(without(corpus, TAR, INDEX, MERGED)).refused == []
    assert contents(corpus.url) == expected


def test_frames_of_a_driver_must_be_vouched_for(whole: Corpus, tmp_path: Path) -> None:
    recipe = whole.manifest.recipe | {"renderer": "egl"}
    manifest = dataclasses.replace(whole.manifest, recipe=recipe)
    corpus = without(rewritten(whole, str(tmp_path / "a"), manifest=manifest), TAR, INDEX, MERGED)
    reason = "nothing is left to check it against, and renderer 'egl' need not draw the same else"
    left_alone(corpus, reason)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"shards": 4}, r"corpus\.json: its recipe makes 3 shards here, it has 4"),
        ({"recipe": RECIPE.to_json() | {"wavve": 3}}, r"corpus\.json: unknown key 'wavve'"),
        ({"recipe": RECIPE.to_json() | {"image_size": 16}}, "schema differs in image_size"),
        ({"recipe": RECIPE.to_json() | {"steps": "many"}}, r"corpus\.json: steps: expected int"),
    ],
)
def test_a_recipe_that_makes_another_corpus_is_refused(
    manifest: dict[str, Any], message: str, whole: Corpus, tmp_path: Path
) -> None:
    other = dataclasses.replace(whole.manifest, **manifest)
    corpus = Corpus.create(str(tmp_path / "corpus"), other)
    with pytest.raises(PalaestraError, match=message):
        mend(corpus)
    assert list(contents(corpus.url)) == ["corpus.json"]


def test_a_file_that_cannot_be_read_is_no_damage(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is down: what it holds may be whole."""
    read = storage.read_bytes

    def unreadable(url: str) -> bytes:
        if url.endswith(TAR):
            raise StorageError(f"{url}: 503")
        return read(url)

    monkeypatch.setattr(storage, "read_bytes", unreadable)
    with pytest.raises(StorageError, match="503"):
        find_damage(corpus)


# Cut off in the middle


def test_stopped_between_tar_and_index_it_goes_on(
    corpus: Corpus, whole: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = without(corpus, TAR, INDEX, MERGED)
    write = storage.write_bytes

    def stop(url: str, data: bytes) -> None:
        if url.endswith(INDEX):
            raise KeyboardInterrupt
        write(url, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, "write_bytes", stop)
        mend(damaged)
    assert damaged.complete_shards() == [0, 2] and (Path(damaged.url) / TAR).exists()
    (done,) = mend(damaged).repairs
    assert done.written == (damaged.index_url(1),)
    assert contents(damaged.url) == contents(whole.url)


def test_killed_outright_it_goes_on(corpus: Corpus, whole: Corpus) -> None:
    lost = list(Path(corpus.url).rglob("shard-*"))
    for path in lost:
        path.unlink()
    words = [sys.executable, "-m", "palaestra.generate", "replay", corpus.url, "--repair"]
    process = subprocess.Popen([*words, "--workers", "1"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not any(path.exists() for path in lost):
        assert time.monotonic() < deadline and process.poll() is None, "waited in vain"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in lost:  # whole or not there
        name = str(path.relative_to(corpus.url))
        assert not path.exists() or path.read_bytes() == contents(whole.url)[name]
    assert mend(corpus).refused == []
    found = {n: d for n, d in contents(corpus.url).items() if not Path(n).name.startswith(".")}
    assert found == contents(whole.url)


# The command


def test_the_command_says_what_it_did(
    corpus: Corpus, whole: Corpus, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def run(*flags: str) -> tuple[int | str | None, str, str]:
        words = ["generate", "replay", corpus.url, "--repair", *flags]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            command.main()
        return (ended.value.code, *capsys.readouterr())

    without(corpus, TAR, MERGED)
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.splitlines()[-5:] == [
        f"{corpus.url}: 3 shards, 1 damaged",
        f"shard 1: {corpus.tar_url(1)}: missing",
        f"  made again: {corpus.tar_url(1)}",
        f"written: {corpus.merged_url}",
        "every shard is whole",
    ]
    assert contents(corpus.url) == contents(whole.url)
    code, out, err = run("--json")
    said = json.loads(out)
    assert (code, err, said["passed"], said["damaged"], said["rebuilt"]) == (0, "", True, [], [])

    without(corpus, INDEX)
    monkeypatch.setattr(work, "versions", lambda: {"mujoco": "5.0"})
    flip(Path(corpus.tar_url(1)))
    without(corpus, MERGED)
    code, out, err = run()
    assert (code, err) == (1, "") and "(here 5.0)" in out
    assert out.endswith("1 of 1 cannot be repaired\n")
    code, out, err = run("--json")
    (shard,) = json.loads(out)["damaged"]
    assert (code, shard["shard"], shard["written"]) == (1, 1, []) and "5.0" in shard["refused"]
