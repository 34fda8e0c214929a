"""Demonstrations of other libraries become corpora of ours, with the same values, or not at all."""

from __future__ import annotations

import re
import shlex
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from generate_runs import command, contents
from import_files import (
    LENGTHS,
    LEROBOT,
    MINARI,
    MINARI_STEPS,
    Rows,
    imported,
    rows_of,
    shade,
    write_images,
    write_lerobot,
    write_minari,
    write_video,
)
from palaestra.generate.importing.importer import Found, shards_of
from palaestra.generate.slots import make_schema
from palaestra.shards import storage
from palaestra.shards.audit.audit import audit
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import DifferentCorpusError, PalaestraError
from palaestra.shards.reader import Reader
from palaestra.shards.schema import EVALUATION_BIT
from palaestra.shards.segments import Source
from small_corpus import RECIPE, build
from train_runs import PRESET

DOCS = (Path(__file__).parent.parent / "docs" / "importing.md").read_text()
SLICES = make_schema(64, (0, 1)).slices()
VERSIONS = ("v2.1", "v3.0")
HUB = LEROBOT.replace('format = "lerobot"', 'format = "datasets"').replace(
    'instruction = { column = "task" }', 'instruction = { value = "fold" }'
)
BLIND = re.sub("pixels = .*\n", "", HUB)


@pytest.fixture(name="minari", scope="module")
def minari_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minari")
    write_minari(folder)
    return folder


@pytest.fixture(name="lerobot", scope="module", params=VERSIONS)
def lerobot_folder(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Path:
    folder = tmp_path_factory.mktemp("lerobot")
    write_lerobot(folder / "demos", request.param)
    return folder


def read(corpus: Corpus) -> dict[str, Any]:
    """Every segment, as the reader delivers them, by key."""
    count = len(corpus.index)
    reader = Reader([Source(corpus, 1)], batch_size=count, micro_batch=1, seed=0)
    batches = [batch for part in reader.batches(0, 1) for batch in part]
    found = dict(zip(reader.keys(0), batches, strict=True))
    reader.close()
    return found


def failed(corpus: Corpus) -> list[str]:
    return audit(corpus, deep=True).failed


def write_rows(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(rows)), path)


# what comes out is what went in


def test_a_minari_dataset_becomes_a_corpus(minari: Path, tmp_path: Path) -> None:
    buffers = write_minari(tmp_path)
    corpus = imported(tmp_path, MINARI.replace("image_size = 16", "image_size = 32"))
    assert failed(corpus) == []
    found = read(corpus)
    assert sorted(found) == [f"{match:012d}-0-00" for match in range(len(buffers))]
    for (_, batch), buffer in zip(sorted(found.items()), buffers, strict=True):
        assert batch.steps[0] == MINARI_STEPS and not batch.terminated[0]
        observations: Any = buffer.observations
        action = batch.action[0, :MINARI_STEPS]
        np.testing.assert_allclose(action[:, :7], np.stack(buffer.actions), atol=1e-6)
        assert not action[:, 7:].any()
        state = np.stack(observations["state"])[:-1]
        got = batch.state[0, :MINARI_STEPS]
        assert np.array_equal(got[:, SLICES["joint_position"]], state[:, :8])
        assert np.count_nonzero(got) == np.count_nonzero(state[:, :8]) > 0
        np.testing.assert_allclose(batch.reward[0, :MINARI_STEPS], buffer.rewards, rtol=1e-6)
        assert np.array_equal(batch.pixels[0, :MINARI_STEPS], np.stack(observations["pixels"])[:-1])
    assert set(corpus.index["policy"]) == {"expert"} and not corpus.index["success"].any()
    assert corpus.manifest.recipe["imported"]["fps"] is None


def test_minaris_jpegs_are_decoded_and_infos_belong_to_the_step_before(tmp_path: Path) -> None:
    (buffer,) = write_minari(tmp_path, episodes=1, jpeg=True)
    text = MINARI.replace("image_size = 16", "image_size = 32")
    corpus = imported(tmp_path, text.replace("infos/success", "infos/late"))
    # info 31 comes with the observation after action 30
    assert corpus.index["completion_step"].to_list() == [30]
    ((_, batch),) = read(corpus).items()
    observations: Any = buffer.observations
    sent = np.stack(observations["pixels"])[:-1].astype(float)
    assert np.abs(batch.pixels[0, :MINARI_STEPS] - sent).mean() < 8


def test_a_lerobot_dataset_becomes_a_corpus(lerobot: Path, tmp_path: Path) -> None:
    corpus = imported(lerobot, LEROBOT, dest=tmp_path.name)
    assert failed(corpus) == []
    rows, found = rows_of(), read(corpus)
    parts = [(0, 0, 12), (1, 0, 256), (1, 1, 44), (2, 0, 20)]
    assert sorted(found) == [f"{episode:012d}-0-{segment:02d}" for episode, segment, _ in parts]
    for episode, segment, steps in parts:
        batch = found[f"{episode:012d}-0-{segment:02d}"]
        start = sum(LENGTHS[:episode]) + 256 * segment
        sent = slice(start, start + steps)
        action = np.stack(rows["action"])[sent][:, [2, 0, 1]] * (1 / 90, 2, 2) - (0, 1, 1)
        np.testing.assert_allclose(batch.action[0, :steps, :3], action, atol=1e-6)
        state = np.stack(rows["observation.state"])[sent]
        got = batch.state[0, :steps]
        np.testing.assert_allclose(got[:, SLICES["joint_position"]][:, :2], state[:, :2] / 2)
        np.testing.assert_allclose(got[:, SLICES["gripper"]], state[:, 2:])
        # the middle of each frame, of that step
        greys = np.array([shade(episode, 256 * segment + t) + 30 for t in range(steps)])
        assert np.abs(batch.pixels[0, :steps] - greys[:, None, None, None].astype(float)).max() <= 2
        words = bytes(batch.instruction[0]).rstrip(b"\0").decode()
        assert words == ("fold the towel" if episode % 2 else "fold the shirt")
        success = np.arange(256 * segment, 256 * segment + steps) >= LENGTHS[episode] - 10
        assert np.array_equal(batch.reward[0, :steps], success)
    ends = corpus.index.sort("key").select("completion_step", "truncated", "terminated").rows()
    assert ends == [(2, True, False), (None, False, False), (290, True, False), (10, True, False)]


def test_a_task_column_of_the_sources_own_is_read(tmp_path: Path) -> None:
    def add(rows: Rows) -> None:
        rows["task"] = ["fold it"] * len(rows["index"])

    write_lerobot(tmp_path / "own" / "demos", change=add, lengths=(12,))
    assert set(imported(tmp_path / "own", LEROBOT).index["instruction"]) == {"fold it"}
    write_lerobot(tmp_path / "demos", change=lambda rows: rows.pop("task_index"), lengths=(12,))
    assert "instruction: unknown column 'task'" in refusal(tmp_path, LEROBOT)


def test_images_may_be_files_of_the_source(tmp_path: Path) -> None:
    """By paths within a LeRobot dataset, and in a folder of images; nothing else is read."""
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    column, text = "observation.images.wrist", LEROBOT.replace("images.top", "images.wrist")

    def made(name: str, last: str) -> Path:
        paths = [*(f"images/{t:02d}.png" for t in range(11)), last]
        rows: Rows = {column: [{"bytes": None, "path": path} for path in paths]}
        write_lerobot(tmp_path / name / "demos", change=lambda r: r.update(rows), lengths=(12,))
        write_images(tmp_path / name / "demos" / "images", image)
        return tmp_path / name

    corpus = imported(made("within", "./images/../images/11.png"), text)
    ((_, batch),) = read(corpus).items()
    assert np.array_equal(batch.pixels[0, :12], image)
    assert any(file.endswith("images/11.png") for file in corpus.manifest.dependencies)
    write_images(tmp_path / "outside", image)
    outside = (str(tmp_path / "outside" / "11.png"), "../../outside/11.png")
    for number, path in enumerate(outside):
        line = imported_error(made(str(number), path), text)
        assert f"row 11: column '{column}': expected an image, found" in line
        assert f"{path} is no file of the source's folder" in line
    rows = rows_of((12,))
    kept = ("episode_index", "frame_index", "action", "observation.state")
    folder = datasets.Dataset.from_dict(
        {"file_name": [f"{t:02d}.png" for t in range(12)]} | {name: rows[name] for name in kept}
    )
    write_images(tmp_path / "folder", image)
    folder.to_json(tmp_path / "folder" / "metadata.jsonl")
    named = HUB.replace('url = "demos"', 'url = "folder"')
    named = named.replace("observation.images.top", "image")
    ((_, batch),) = read(imported(tmp_path, named)).items()
    assert np.array_equal(batch.pixels[0, :12], image)


def test_whatever_datasets_reads_becomes_a_corpus(tmp_path: Path) -> None:
    """A Hub layout with encoded images, a Parquet file and a JSON file: the same values."""
    rows = rows_of()
    number = len(rows["index"])
    image = np.random.default_rng(0).integers(0, 256, (number, 16, 16, 3), np.uint8)
    features = datasets.Features({
        "episode_index": datasets.Value("int64"), "frame_index": datasets.Value("int64"),
        "action": datasets.List(datasets.Value("float32")),
        "observation.state": datasets.List(datasets.Value("float32"), length=3),
        "observation.images.top": datasets.Image(),
    })  # fmt: skip
    data = {name: rows[name] for name in features if name in rows}
    table = datasets.Dataset.from_dict(data | {"observation.images.top": image}, features)
    (tmp_path / "demos" / "data").mkdir(parents=True)
    pq.write_table(
        datasets.table.embed_table_storage(table.data.table),
        tmp_path / "demos" / "data" / "train-00000-of-00001.parquet",
    )
    corpus = imported(tmp_path, HUB)
    assert failed(corpus) == []
    found = read(corpus)
    assert np.array_equal(found["000000000001-0-01"].pixels[0, :44], image[268:312])
    path = "demos/data/*.parquet"
    again = imported(tmp_path, HUB.replace('url = "demos"', f'url = "{path}"'), "pattern")
    assert again.index["final_state_xxh3"].equals(corpus.index["final_state_xxh3"])
    lines = tmp_path / "rows.jsonl"
    table.select_columns(["episode_index", "frame_index", "action", "observation.state"]).to_json(
        lines
    )
    blind = imported(tmp_path, BLIND.replace('url = "demos"', 'url = "rows.jsonl"'), "blind")
    for key, batch in read(blind).items():
        np.testing.assert_allclose(batch.action, found[key].action, atol=1e-6)
        np.testing.assert_allclose(batch.state, found[key].state, rtol=1e-6)
        assert batch.pixels is not None and not batch.pixels.any()
    assert failed(blind) == ["frozen videos"]


def test_columns_may_tell_task_level_reward_and_ending(tmp_path: Path) -> None:
    rows = rows_of() | {"kind": ["reach"] * 12 + ["lab/pour"] * 320, "hard": [1] * 12 + [3] * 320}
    write_rows(tmp_path / "demos.parquet", rows)
    text = BLIND.replace('url = "demos"', 'url = "demos.parquet"')
    text = text.replace('task = { value = "lab/fold" }', 'task = { column = "kind" }')
    text = text.replace("level = { value = 2 }", 'level = { column = "hard" }')
    text = 'reward = { column = "next.reward", low = -1, high = 1 }\n' + text
    text = 'terminated = { column = "next.done" }\nreward_range = [-1, 1]\n' + text
    corpus = imported(tmp_path, text)
    assert failed(corpus) == ["frozen videos"]
    pairs = corpus.index.sort("key").select("task", "level", "terminated").rows()
    assert pairs == [("reach", 1, True), ("lab/pour", 3, False), ("lab/pour", 3, True),
                     ("lab/pour", 3, True)]  # fmt: skip
    assert corpus.index["reward_max"].to_list() == [1.0] * 4
    assert corpus.index["reward_min"].to_list() == [0.0] * 4
    # a real ending completes where success has held so far
    assert corpus.index.sort("key")["completion_step"].to_list() == [2, None, 290, 10]


def test_actions_are_clipped_and_instructions_cut_if_so_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "demos.parquet", rows_of())
    text = BLIND.replace('url = "demos"', 'url = "demos.parquet"')
    text = text.replace("low = [-90, 0, 0]", "low = [-45, 0, 0]\nclip = true")
    text = text.replace('{ value = "fold" }', f'{{ value = "{40 * "é"}", cut = true }}')
    corpus = imported(tmp_path, text)
    assert set(corpus.index["instruction"]) == {32 * "é"}
    action = read(corpus)["000000000001-0-00"].action[0, :, 0]
    sent = np.stack(rows_of()["action"])[12:268, 2]
    assert action.min() == -1 and np.array_equal(action == -1, sent <= -45)


def test_a_source_elsewhere_is_copied(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "demos", lengths=(12, 13))
    here = imported(tmp_path, LEROBOT)
    storage.upload_folder(tmp_path / "demos", f"memory://{tmp_path.name}/demos")
    text = LEROBOT.replace('url = "demos"', f'url="memory://{tmp_path.name}/demos"')
    there = imported(tmp_path, text, "there")
    assert there.index["final_state_xxh3"].equals(here.index["final_state_xxh3"])
    (digest,) = {m.dependencies[next(u for u in m.dependencies if u.endswith("info.json"))]
                 for m in (here.manifest, there.manifest)}  # fmt: skip
    assert len(digest) == 64 and all(u.startswith("memory://") for u in there.manifest.dependencies)
    with pytest.raises(PalaestraError, match="a pattern is for local files"):
        imported(tmp_path, text.replace("/demos", "/*"), "pattern")


def test_a_single_file_elsewhere_is_copied(tmp_path: Path) -> None:
    write_rows(tmp_path / "demos.parquet", rows_of((12, 13)))
    here = imported(tmp_path, BLIND.replace('url = "demos"', 'url = "demos.parquet"'))
    url = f"memory://{tmp_path.name}/demos.parquet"
    storage.write_bytes(url, (tmp_path / "demos.parquet").read_bytes())
    there = imported(tmp_path, BLIND.replace('url = "demos"', f'url="{url}"'), "there")
    assert there.index["final_state_xxh3"].equals(here.index["final_state_xxh3"])
    assert list(there.manifest.dependencies) == [url]
    assert [*there.manifest.dependencies.values()] == [*here.manifest.dependencies.values()]


def test_frames_are_averaged_over_areas(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "demos", lengths=(12,))
    small = imported(tmp_path, LEROBOT.replace("image_size = 16", "image_size = 8"))
    pixels = next(iter(read(small).values())).pixels
    assert pixels is not None and pixels.shape[2:] == (8, 8, 3)
    assert abs(int(pixels[0, 3, 4, 4, 0]) - shade(0, 3) - 30) <= 2


# what it is then


def test_provenance_and_seeds(lerobot: Path, tmp_path: Path) -> None:
    corpus = imported(lerobot, LEROBOT, dest=tmp_path.name)
    manifest = corpus.manifest
    told = manifest.recipe["imported"]
    assert (told["episodes"], told["rows"], told["fps"]) == (3, sum(LENGTHS), 10)
    assert told["mapping"]["action"]["low"] == [-90, 0, 0]
    assert told["mapping"]["source"]["url"] == str(lerobot / "demos")
    files = [path for path in (lerobot / "demos").rglob("*") if path.is_file()]
    assert sorted(manifest.dependencies) == sorted(map(str, files))
    assert all(len(digest) == 64 for digest in manifest.dependencies.values())
    assert {"av", "pillow", "pyarrow", "palaestra"} <= set(manifest.versions)
    seeds = set(corpus.index["seed"])
    assert len(seeds) == 3 and max(seeds) < EVALUATION_BIT


def test_replay_and_repair_refuse_it(minari: Path, tmp_path: Path) -> None:
    imported(minari, MINARI, dest=tmp_path.name)
    for flags in ([], ["--repair"]):
        done = command("replay", minari / tmp_path.name, *flags)
        assert done.returncode == 2 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert "were imported, not simulated" in line


def test_train_mixes_it_with_what_was_simulated(minari: Path, tmp_path: Path) -> None:
    text = MINARI.replace("image_size = 16", "image_size = 32\nreward_range = [-1, 1]")
    text = text.replace('value = "reach"', 'value = "lab/reach"')  # else ranked with ours
    imported(minari, text, dest=tmp_path.name)
    ours = build(str(tmp_path / "ours"), replace(RECIPE, steps=1024, shard_steps=1024))
    assert ours.schema.reward_range == (-1, 1)
    (tmp_path / "preset.toml").write_text(PRESET)
    words = [
        f"{ours.url}:0.75", f"{minari / tmp_path.name}:0.25", "--run", str(tmp_path / "run"),
        "--preset", str(tmp_path / "preset.toml"),
        "--updates", "2", "--batch", "4", "--validation-share", "0", "--validate-every", "0",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "palaestra.train", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2 and all("kept/expert" in line for line in lines)


# whole or not at all


KILLED = """import os, runpy, signal, sys

def watch(event, arguments):
    if event == "os.rename" and arguments[1].endswith("index/shard-000002.parquet"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
runpy.run_module("palaestra.generate", run_name="__main__")
"""  # the moment before the third shard is complete


def test_a_killed_import_goes_on(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "demos", "v3.0", lengths=(20,) * 5)
    text = "shard_steps = 20\n" + LEROBOT
    whole = imported(tmp_path, text, "whole")
    words = ["import", str(tmp_path / "mapping.toml"), str(tmp_path / "corpus")]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    index = tmp_path / "corpus" / "index"
    there = {path: path.stat().st_mtime_ns for path in index.glob("shard*")}
    assert len(there) == 2 and not (tmp_path / "corpus" / "index.parquet").exists()
    assert "complete" in audit(Corpus.open(str(tmp_path / "corpus"))).failed
    again = command(*words)
    assert again.returncode == 0 and "100 steps of 5 episodes in 5 shards" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert contents(str(tmp_path / "corpus")) == contents(whole.url)


def test_another_mapping_or_source_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "demos.parquet", rows_of())
    text = BLIND.replace('url = "demos"', 'url = "demos.parquet"')
    before = contents(imported(tmp_path, text).url)
    expected = r"its state\.joint_position\.scale is 0\.5, this one's 0\.25"
    with pytest.raises(DifferentCorpusError, match=expected):
        imported(tmp_path, text.replace("scale = 0.5", "scale = 0.25"))
    with pytest.raises(DifferentCorpusError, match=r"its reward is null, this one's \{"):
        imported(tmp_path, 'reward = { column = "next.reward" }\n' + text)
    write_rows(tmp_path / "demos.parquet", rows_of((12, 300, 21)))
    with pytest.raises(DifferentCorpusError, match=r"demos\.parquet changed since .*/corpus was"):
        imported(tmp_path, text)
    assert contents(str(tmp_path / "corpus")) == before
    write_rows(tmp_path / "demos.parquet", rows_of())
    manifest = storage.read_json(str(tmp_path / "corpus" / "corpus.json"))
    del manifest["recipe"]["imported"]["mapping"]["reward"]  # as if the key were a later one
    storage.write_json(str(tmp_path / "corpus" / "corpus.json"), manifest)
    with pytest.raises(DifferentCorpusError, match="its recipe has imported"):
        imported(tmp_path, text)
    build(str(tmp_path / "ours"), replace(RECIPE, steps=1024, shard_steps=1024))
    with pytest.raises(DifferentCorpusError, match="it was not imported"):
        imported(tmp_path, text, "ours")


def test_shards_hold_whole_episodes() -> None:
    found = [Found(steps, "reach", 1) for steps in (300, 100, 200, 50, 400)]
    assert shards_of(found, 300) == [0, 1, 1, 2, 3]


# bad input: one line that names key or column and row, and nothing left that looks complete


def refusal(folder: Path, text: str) -> str:
    """The one line with which an import is refused that leaves nothing."""
    with pytest.raises(PalaestraError) as caught:
        imported(folder, text)
    assert not (folder / "corpus").exists()
    (line,) = str(caught.value).splitlines()
    return line


MAPPINGS = {
    "nothing = 1": "unknown key 'nothing'",
    'policy = ""': "policy should be a name",
    'level = { value = 1, column = "hard" }': "level: expected either value or column",
    'instruction = { value = "' + 65 * "x" + '" }': "expected at most 64 bytes, found 65",
    'task = { value = "raech" }': "unknown task 'raech'; did you mean 'reach'",
    'task = { value = "lever" }': "lever level 2 is held out of training",
    'task = { value = "sumo" }': "sumo is a match of two players",
    "level = { value = 0 }": "level should be positive, is 0",
    "image_size = 1": "image_size should be from 2 to 1,024",
    "reward_range = [1, 0]": "reward_range: expected a finite low below high",
    "reward_range = [-1, 0]": "reward_range should hold 0 and 1",
    'reward = { column = "next.reward", low = 0 }': "expected both of low and high",
    'reward = { column = "reward" }': "reward: unknown column 'reward'; did you mean 'next.reward'",
    'reward = { column = "timestamp" }': "row 11: column 'timestamp': expected a reward that",
    'reward = { column = "action" }': "row 0: column 'action': expected one number, found 3",
    'success = { assume = "sometimes" }': "success: unknown value of assume",
    'success = { column = "timestamp" }': "row 1: column 'timestamp': expected true or false",
    'terminated = { column = "next.reward" }': "row 1: column 'next.reward': expected true at",
    'instruction = { column = "action" }': "column 'action': expected text, found",
    'level = { column = "frame_index" }': "row 1: column 'frame_index': expected 0 throughout",
    "low = [-90, 0]": "expected 1 to 8 of low and as many of high, found 2 and 3",
    "low = [90, 0, 0]": "action: entry 0: expected a finite low below high",
    "low = [-1, 0, 0]": r"column 'action': expected numbers from low to high .* found -\d+",
    "entries = [3, 0, 1]": "column 'action': expected an entry 3, found 3 entries",
    "entries = [-1, 0, 1]": "entries should not be negative",
    'column = "actions"': "action: unknown column 'actions'; did you mean 'action'",
    'wrist = { column = "action" }': "state: unknown slot 'wrist'",
    'target_speed = { column = "action" }': "at most 1 entries for slot 'target_speed', found 3",
    'phase = { column = "action", entries = [0, 1, 2] }': "expected at most 2 entries, found 3",
}  # fmt: skip


@pytest.mark.parametrize("line", MAPPINGS)
def test_a_bad_mapping_is_refused(line: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "demos.parquet", rows_of() | {"hard": [1] * sum(LENGTHS)})
    text = BLIND.replace('url = "demos"', 'url = "demos.parquet"')
    key = re.escape(line.partition(" = ")[0])
    text, replaced = re.subn(f"^{key} = .*$", line.replace("\\", r"\\"), text, flags=re.M)
    if not replaced:
        text = text + line if "wrist" in line or " entries" in MAPPINGS[line] else f"{line}\n{text}"
    assert re.search(MAPPINGS[line], refusal(tmp_path, text))


def put(column: str, row: int, value: Any) -> Callable[[Rows], object]:
    def change(rows: Rows) -> None:
        rows[column][row] = value

    return change


def put_episode(column: str, value: Any) -> Callable[[Rows], object]:
    """At every row of episode 1."""
    return lambda rows: rows[column].__setitem__(slice(12, 312), [value] * 300)


def cut(row: int) -> Callable[[Rows], object]:
    def change(rows: Rows) -> None:
        for values in rows.values():
            del values[row]

    return change


ROWS = {
    "NaN": (put("action", 20, [0.0, np.nan, 0.0]), "episode 1: row 20: column 'action': expected "
            "finite numbers, found nan"),
    "infinity": (put("observation.state", 3, [0.0, 0.0, np.inf]), "row 3: column "
                 "'observation.state': expected finite numbers, found inf"),
    "ragged": (put("action", 20, [0.0, 0.0]), "row 20: column 'action': expected 3 entries as "
               "before, found 2"),
    "null list": (put("action", 20, None), "row 20: column 'action': expected a list, found none"),
    "null first": (put("action", 0, None), "row 0: column 'action': expected a list, found none"),
    "no list": (put_episode("observation.state", None),
                "row 12: column 'observation.state': expected a list, found none"),
    "no entry": (put_episode("observation.state", []),
                 "row 12: column 'observation.state': expected at least one entry, found none"),
    "no entries": (lambda rows: rows.update(action=[[[]]] * sum(LENGTHS)),
                   "row 0: column 'action': expected at least one entry, found none"),
    "narrower": (put_episode("observation.state", [0.0]), "row 12: column 'observation.state': "
                 "expected 3 entries as in the episodes before, found 1"),
    "null": (put("next.done", 5, None), "row 5: column 'next.done': expected a value, found none"),
    "words": (lambda rows: rows.update(action=["x"] * sum(LENGTHS)), "row 0: column 'action': "
              "expected a number or a list of numbers"),
    "too large": (put("observation.state", 1, [1e300, 0.0, 0.0]), "numbers that float32 holds"),
    "lost step": (cut(15), "episode 1: row 15: column 'frame_index': expected step 3, found 4"),
    "episode jumps": (lambda rows: rows["episode_index"].__setitem__(slice(12, None), [2] * 320),
                      "row 12: column 'episode_index': expected episode 0 or 1, found 2"),
    "episode again": (lambda rows: rows["episode_index"].__setitem__(slice(312, None), [0] * 20),
                      "row 312: column 'episode_index': expected episode 1 or 2, found 0"),
    "fractions": (put("episode_index", 0, 0.5), "column 'episode_index': expected whole numbers"),
    "ended early": (put("next.done", 20, True), "row 20: column 'next.done': expected true at the "
                    "last step of 300 only"),
    "empty": (lambda rows: [values.clear() for values in rows.values()], "expected at least one "
              "episode, found none"),
}  # fmt: skip


@pytest.mark.parametrize("fault", ROWS)
def test_bad_rows_are_refused(fault: str, tmp_path: Path) -> None:
    change, expected = ROWS[fault]
    rows = rows_of()
    kinds = pa.table(dict(rows)).schema
    rows["observation.state"] = [row.astype(float) for row in rows["observation.state"]]
    change(rows)
    if fault == "empty":
        pq.write_table(kinds.empty_table(), tmp_path / "demos.parquet")
    else:
        write_rows(tmp_path / "demos.parquet", rows)
    text = BLIND.replace('url = "demos"', 'url = "demos.parquet"')
    line = refusal(tmp_path, 'terminated = { column = "next.done" }\n' + text)
    assert expected in line and str(tmp_path / "demos.parquet") in line


def test_an_episode_longer_than_keys_can_number_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "demos.parquet", rows_of((3, 25_601)))
    line = refusal(tmp_path, BLIND.replace('url = "demos"', 'url = "demos.parquet"'))
    assert "episode 1: expected 1 to 25,600 steps, found 25,601" in line


def without(rows: Rows, column: str) -> Rows:
    return {name: values for name, values in rows.items() if name != column}


def parquet_pair(first: Rows, second: Rows) -> Callable[[Path], object]:
    """The second file holds episode 1."""

    def write(folder: Path) -> None:
        write_rows(folder / "a.parquet", first)
        write_rows(folder / "b.parquet", second | {"episode_index": [1] * 12})

    return write


def json_pair(folder: Path) -> None:
    rows = {name: np.asarray(values).tolist() for name, values in rows_of((12,)).items()}
    later = without(rows, "observation.state") | {"episode_index": [1] * 12}
    datasets.Dataset.from_dict(rows).to_json(folder / "a.jsonl")
    datasets.Dataset.from_dict(later).to_json(folder / "b.jsonl")


def text_file(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


SHORT, STATE = rows_of((12,)), "observation.state"
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "renamed": (parquet_pair(SHORT, without(SHORT, STATE) | {"state": SHORT[STATE]}),
                "Couldn't cast .* because column names don't match"),
    "added": (parquet_pair(without(SHORT, "timestamp"), SHORT), "column names don't match"),
    "lacking": (parquet_pair(SHORT, without(SHORT, STATE)),
                f"row 12: column '{STATE}': expected a list, found none"),
    "lacking in JSON": (json_pair, f"row 12: column '{STATE}': expected a list, found none"),
    "ragged CSV": (text_file("a.csv", b"x,y\n0,0\n0,1,2,3\n"), "Expected 2 fields in line 3"),
    "empty CSV": (text_file("a.csv", b""), r"demos/\*: No columns to parse"),
    "Latin CSV": (text_file("a.csv", b"x,y\n0,\xe9\n"), "can't decode byte 0xe9"),
    "empty JSON": (text_file("a.jsonl", b""), "expected at least one row, found none"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FILES)
def test_files_that_do_not_belong_together_or_are_damaged_are_refused(
    fault: str, tmp_path: Path
) -> None:
    write, expected = FILES[fault]
    (tmp_path / "demos").mkdir()
    write(tmp_path / "demos")
    line = refusal(tmp_path, BLIND.replace('url = "demos"', 'url = "demos/*"'))
    assert re.search(expected, line), line


def test_what_datasets_logs_is_not_printed_beside_the_error(tmp_path: Path) -> None:
    (tmp_path / "demos.csv").write_bytes(b"x,y\n0,0\n0,1,2,3\n")
    mapping = BLIND.replace('url = "demos"', f'url = "{tmp_path}/demos.csv"')
    (tmp_path / "mapping.toml").write_text(mapping)
    done = command("import", tmp_path / "mapping.toml", tmp_path / "corpus")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "saw 4" in line


def test_sources_that_are_not_there_are_refused(tmp_path: Path) -> None:
    assert "demos: not found: expected a file" in refusal(tmp_path, HUB)
    (tmp_path / "demos").mkdir()
    assert "demos: not found: expected a file" in refusal(tmp_path, HUB)
    (tmp_path / "demos" / "notes.txt").write_text("nothing")
    assert "expected a LeRobot dataset" in refusal(tmp_path, LEROBOT)
    assert "not a Minari dataset" in refusal(tmp_path, MINARI.replace("demos-v0", "demos"))
    text = HUB.replace('url = "demos"', 'url = "demos/notes.txt"')
    assert "expected a file ending in .parquet" in refusal(tmp_path, text)
    (tmp_path / "demos" / "notes.parquet").write_text("nothing")
    text = HUB.replace('url = "demos"', 'url = "demos/notes.parquet"')
    assert "notes.parquet" in (line := refusal(tmp_path, text)) and "split" not in line
    write_rows(tmp_path / "hub" / "train.parquet", rows_of())
    text = BLIND.replace('url = "demos"', 'url = "hub", split = "test"')
    assert "split 'test'" in refusal(tmp_path, text)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine.txt").write_text("keep")
    with pytest.raises(DifferentCorpusError, match=r"found mine\.txt"):
        imported(tmp_path, BLIND.replace('url = "demos"', 'url = "hub"'))
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["mine.txt"]


def test_a_lerobot_dataset_that_lost_files_is_refused(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "demos")
    (tmp_path / "demos" / "data" / "chunk-000" / "episode_000002.parquet").unlink()
    assert "meta/info.json tells of 3 episodes, data holds 2" in refusal(tmp_path, LEROBOT)
    info = storage.read_json(str(tmp_path / "demos" / "meta" / "info.json"))
    storage.write_json(str(tmp_path / "demos" / "meta" / "info.json"), info | {"fps": 0})
    assert "meta/info.json: fps should be positive, is 0" in refusal(tmp_path, LEROBOT)


def broken(folder: Path, text: str) -> str:
    """The one line with which an import ends early, whose shards before are left."""
    with pytest.raises(PalaestraError) as caught:
        imported(folder, "shard_steps = 12\n" + text)
    corpus = Corpus.open(str(folder / "corpus"))
    assert corpus.complete_shards() == [0]
    assert "complete" in audit(corpus).failed and not (folder / "corpus/index.parquet").exists()
    (line,) = str(caught.value).splitlines()
    return line


def test_bad_videos_are_refused(tmp_path: Path) -> None:
    column = "observation.images.top"
    cases: dict[str, Callable[[Path], object]] = {
        r"expected 300 frames, found 299$": lambda path: write_video(path, [9] * 299),
        r"expected 300 frames, found more": lambda path: write_video(path, [9] * 301),
        r"row 12: .* expected an image of 48×32 \(varying = true .*\), found 64×32":
            lambda path: write_video(path, [9] * 300, width=64),
        r"cannot be decoded": lambda path: path.write_bytes(b"nothing"),
        r"episode_000001\.mp4 is no file of the source's folder": lambda path: path.unlink(),
    }  # fmt: skip
    for number, (expected, change) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        write_lerobot(folder / "demos")
        change(folder / "demos" / "videos" / "chunk-000" / column / "episode_000001.mp4")
        line = broken(folder, LEROBOT)
        assert re.search(f"episode 1: .*column '{column}': .*{expected}|{expected}", line), line


def huge(png: bytes) -> bytes:
    """With a whole header that tells of 2^30 pixels along each side."""
    header = b"IHDR" + struct.pack(">II", 1 << 30, 1 << 30) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def shortened(png: bytes) -> bytes:
    """With a chunk of pixels that seems to end early, so that another seems to begin in it."""
    at = png.index(b"IDAT")
    return png[: at - 4] + struct.pack(">I", 20) + png[at:]


@pytest.mark.parametrize("change", [huge, shortened])
def test_damaged_images_are_refused(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    write_images(tmp_path, image[None])
    good = (tmp_path / "00.png").read_bytes()
    rows, column = rows_of((12, 13)), "observation.images.top"
    rows[column] = [{"bytes": good, "path": None}] * 25
    rows[column][17] = {"bytes": change(good), "path": None}
    write_rows(tmp_path / "demos.parquet", rows)
    line = broken(tmp_path, HUB.replace('url = "demos"', 'url = "demos.parquet"'))
    assert f"episode 1: row 17: column '{column}': expected an image, found" in line


def test_a_video_outside_the_source_is_refused(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "demos", lengths=(12,))
    write_video(tmp_path / "outside.mp4", [9] * 12)
    info = storage.read_json(str(tmp_path / "demos" / "meta" / "info.json"))
    info["video_path"] = "../outside.mp4"
    storage.write_json(str(tmp_path / "demos" / "meta" / "info.json"), info)
    line = imported_error(tmp_path, LEROBOT)
    assert line.endswith("../outside.mp4 is no file of the source's folder")


def test_images_may_vary_or_have_to_be_square_if_so_told(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "demos")
    video = tmp_path / "demos/videos/chunk-000/observation.images.top/episode_000001.mp4"
    write_video(video, [9] * 300, width=64)
    table = 'pixels = { column = "observation.images.top"'
    square = imported_error(tmp_path, LEROBOT.replace(table, f'{table}, fit = "refuse"'))
    assert "row 0: " in square and "expected a square image" in square and "found 48×32" in square
    corpus = imported(tmp_path, LEROBOT.replace(table, f"{table}, varying = true"), "varying")
    assert len(corpus.index) == 4


def imported_error(folder: Path, text: str) -> str:
    with pytest.raises(PalaestraError) as caught:
        imported(folder, text)
    return str(caught.value)


def test_bad_minari_datasets_are_refused(tmp_path: Path) -> None:
    cases: dict[str, Callable[[h5py.File], object]] = {
        "episode 1: step 0: column 'rewards': expected 40 values": ragged("rewards", 39),
        "episode 1: step 0: column 'infos/success': expected 41 values for 40":
            ragged("infos/success", 7),
        "episode 1: step 4: column 'actions': expected finite numbers, found nan": with_nan,
        "episode 2: cannot be read": lambda file: file.__delitem__("episode_2"),
        "episode 1: column 'infos/success' is missing":
            lambda file: file.__delitem__("episode_1/infos/success"),
    }  # fmt: skip
    for number, (expected, change) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        write_minari(folder)
        with h5py.File(folder / "demos-v0" / "data" / "main_data.hdf5", "a") as file:
            change(file)
        line = refusal(folder, MINARI)
        assert expected in line, line


def ragged(column: str, count: int) -> Callable[[h5py.File], object]:
    return lambda file: file[f"episode_1/{column}"].resize(count, 0)


def with_nan(file: h5py.File) -> None:
    file["episode_1/actions"][4, 2] = np.nan


# the page


def test_the_page_is_right(tmp_path: Path) -> None:
    """Its mappings and commands as they stand, on datasets of that name."""
    write_minari(tmp_path / "minari")
    write_lerobot(tmp_path / "lerobot" / "fold")
    mappings = re.findall(r"```toml\n# (\S+)\n(.*?)```", DOCS, re.S)
    for name, text in mappings:
        (tmp_path / name).write_text(text)
    (commands,) = re.findall(r"```sh\n(.*?)```", DOCS, re.S)
    assert [name for name, _ in mappings] == re.findall(r"import (\S+)", commands)
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        done = subprocess.run(
            [str(Path(sys.executable).parent / program), *words], cwd=tmp_path,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
