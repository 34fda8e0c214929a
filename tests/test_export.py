"""`generate export`: each format read back by its own library, and compared with the corpus."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_filesystem import Script, register
from numpy.typing import NDArray
from palaestra.generate.__main__ import main
from palaestra.generate.exporting.export import FORMATS, export
from palaestra.generate.exporting.minari_writer import dataset_id
from palaestra.generate.exporting.selection import select
from palaestra.generate.recipe_file import load_recipe
from palaestra.shards import storage
from palaestra.shards.codec import decode_sample
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import ARRAYS, Episode
from palaestra.shards.errors import (
    ConfigError,
    CorpusError,
    CorruptionError,
    StorageError,
    UnknownNameError,
)
from small_corpus import build
from waiting import PATIENCE_S, wait_for

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/exporting.md").read_text()
COMMAND = [sys.executable, "-W", "error", "-m", "palaestra.generate", "export"]
LOSS_DB = {32: (23.5, 26.0), 64: (27.5, 32.0)}  # worst, mean; measured 24.3, 26.6 and 28.2, 32.6

Lane = list[Episode]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Reaching, and two matches: one ends early, the other is two segments long."""
    return build(str(tmp_path_factory.mktemp("export") / "corpus"))


@pytest.fixture(scope="module")
def lanes(corpus: Corpus) -> list[Lane]:
    return read_lanes(corpus)


def read_lanes(corpus: Corpus) -> list[Lane]:
    """Every episode's segments, read from the tars without the code under test."""
    segments = []
    for shard in range(corpus.manifest.shards):
        _, rows = corpus.read_index(shard)
        data = memoryview(storage.read_bytes(corpus.tar_url(shard)))
        for key, offset, size in rows.select("key", "offset", "bytes").iter_rows():
            segments.append(decode_sample(data[offset : offset + size], key, key))
    segments.sort(key=lambda segment: segment.key)
    return [list(lane) for _, lane in groupby(segments, lambda s: (s.match, s.player))]


def whole(lane: Lane, name: str) -> NDArray[Any]:
    return np.concatenate([getattr(segment, name) for segment in lane])


def by_name(lanes: list[Lane]) -> dict[tuple[int, int], Lane]:
    return {(lane[0].match, lane[0].player): lane for lane in lanes}


def test_the_corpus_has_every_kind_of_episode(lanes: list[Lane]) -> None:
    assert {(lane[0].task, lane[0].player) for lane in lanes} == {
        ("reach", 0), ("sumo", 0), ("sumo", 1), ("tag", 0), ("tag", 1)
    }  # fmt: skip
    assert {len(lane) for lane in lanes} == {1, 2}
    assert {lane[-1].terminated for lane in lanes} == {False, True}
    assert {lane[-1].completion_step is None for lane in lanes} == {False, True}


def test_minari_reads_it(
    corpus: Corpus, lanes: list[Lane], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import minari

    export(corpus.url, str(tmp_path / "small-v0"), "minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = minari.load_dataset("small-v0")
    assert dataset.spec.dataset_id == "small-v0"
    assert dataset.total_steps == sum(segment.steps for lane in lanes for segment in lane)
    expected = by_name(lanes)
    assert dataset.total_episodes == len(expected)
    about = list(dataset.storage.get_episode_metadata(range(len(expected))))
    for episode, fields in zip(dataset.iterate_episodes(), about, strict=True):
        check_minari(episode, fields, expected.pop((fields["match"], fields["player"])))
        for step in (0, len(episode.actions)):
            assert dataset.observation_space.contains(
                {name: array[step] for name, array in episode.observations.items()}
            )
        assert dataset.action_space.contains(episode.actions[0])
    assert not expected


def check_minari(episode: Any, fields: dict[str, Any], lane: Lane) -> None:
    """An episode as Minari gives it against the segments it is from."""
    last, steps = lane[-1], sum(segment.steps for segment in lane)
    for name in ("state", "pixels"):
        observed, stored = episode.observations[name], whole(lane, name)
        assert observed.dtype == stored.dtype
        assert np.array_equal(observed, np.concatenate([stored, stored[-1:]]))
    assert np.array_equal(episode.actions, whole(lane, "action"))
    assert np.array_equal(episode.rewards, whole(lane, "reward"))
    assert np.array_equal(episode.infos["success"], [False, *(whole(lane, "success") > 0)])
    ends = np.arange(steps) == steps - 1
    assert np.array_equal(episode.terminations, ends & last.terminated)
    assert np.array_equal(episode.truncations, ends & last.truncated)
    assert fields["options"] == {"seed": last.seed} and fields["total_steps"] == steps
    for name in ("task", "level", "policy", "instruction", "opponent", "cause"):
        assert fields[name] == getattr(last, name)
    assert fields.get("outcome") == last.outcome
    assert fields.get("completion_step") == last.completion_step
    assert fields["success"] == (last.completion_step is not None)


def test_a_minari_folder_without_a_version_gets_one() -> None:
    assert dataset_id("reach") == "reach-v0"
    assert dataset_id("my reach.2") == "my-reach-2-v0"
    assert dataset_id("reach-v12") == "reach-v12"


def test_lerobot_is_read_by_datasets_and_av(
    corpus: Corpus, lanes: list[Lane], tmp_path: Path
) -> None:
    import datasets

    done = export(corpus.url, str(tmp_path / "out"), "lerobot", "task != 'reach'")
    datasets.disable_progress_bars()
    files = str(tmp_path / "out/data/*/*.parquet")
    frames = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    ).with_format("numpy")[:]
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    rows = json_lines(tmp_path / "out/meta/episodes.jsonl")
    texts = json_lines(tmp_path / "out/meta/tasks.jsonl")
    tasks = {row["task_index"]: row["task"] for row in texts}
    expected = by_name([lane for lane in lanes if lane[0].task != "reach"])
    assert info["fps"] == 25  # a control step of 40 ms
    assert info["codebase_version"] == "v2.1" and info["total_tasks"] == len(tasks) == 3
    assert info["total_episodes"] == len(rows) == len(expected) == done.episodes
    assert info["total_frames"] == len(frames["index"]) == done.steps
    assert frames["index"].tolist() == list(range(done.steps))
    assert set(frames) == set(info["features"]) - {"observation.images.front"}
    assert len(info["features"]["observation.state"]["names"]) == corpus.schema.state_size
    noise = []
    for row in rows:
        about, number = row["palaestra"], row["episode_index"]
        lane = expected.pop((about["match"], about["player"]))
        here = frames["episode_index"] == number
        check_lerobot({name: column[here] for name, column in frames.items()}, lane)
        assert {tasks[int(k)] for k in frames["task_index"][here]} == {lane[0].instruction}
        assert row["tasks"] == [lane[0].instruction] and row["length"] == here.sum()
        names = {"episode_chunk": 0, "episode_index": number}
        path = info["video_path"].format(**names, video_key="observation.images.front")
        noise.append(loss_of(tmp_path / "out" / path, whole(lane, "pixels"), info["fps"]))
    check_loss(np.concatenate(noise), 32)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_lerobot(rows: dict[str, NDArray[Any]], lane: Lane) -> None:
    """An episode's rows against the segments they are from."""
    steps = len(rows["frame_index"])
    assert np.array_equal(rows["observation.state"], whole(lane, "state"))
    assert np.array_equal(rows["action"], whole(lane, "action"))
    assert np.array_equal(rows["next.reward"], whole(lane, "reward"))
    assert np.array_equal(rows["next.success"], whole(lane, "success") > 0)
    assert rows["next.done"].nonzero()[0].tolist() == [steps - 1]
    ends = np.arange(steps) == steps - 1
    assert np.array_equal(rows["next.terminated"], ends & lane[-1].terminated)
    assert np.array_equal(rows["next.truncated"], ends & lane[-1].truncated)
    assert rows["frame_index"].tolist() == list(range(steps))
    assert np.allclose(rows["timestamp"], np.arange(steps) / 25)


def loss_of(path: Path, frames: NDArray[np.uint8], fps: int) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each frame of a video, in dB."""
    import av

    with av.open(str(path)) as video:
        found = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in video.decode(video=0)]
        assert video.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert np.allclose([time for time, _ in found], np.arange(len(frames)) / fps)
    errors = np.stack([image for _, image in found]).astype(float) - frames
    return 10 * np.log10(255**2 / np.square(errors).mean(axis=(1, 2, 3)))


def check_loss(found: NDArray[np.float64], size: int) -> None:
    worst, mean = LOSS_DB[size]
    assert found.min() > worst and found.mean() > mean, (found.min(), found.mean())


def test_lerobots_statistics_are_the_arrays(
    corpus: Corpus, lanes: list[Lane], tmp_path: Path
) -> None:
    export(corpus.url, str(tmp_path / "out"), "lerobot", "task = 'reach' and match < 4")
    (rows, stats) = (json_lines(tmp_path / f"out/meta/{name}.jsonl")
                     for name in ("episodes", "episodes_stats"))  # fmt: skip
    for row, found in zip(rows, stats, strict=True):
        lane = by_name(lanes)[row["palaestra"]["match"], 0]
        state, frames = whole(lane, "state").astype(float), whole(lane, "pixels") / 255
        video = "observation.images.front"
        for name, array, axes in (("observation.state", state, (0,)), (video, frames, (0, 1, 2))):
            values = {key: np.array(value).ravel() for key, value in found["stats"][name].items()}
            assert values["count"] == len(array)
            for key, function in (("min", np.min), ("max", np.max), ("mean", np.mean)):
                assert np.allclose(values[key], function(array, axis=axes)), (name, key)
            assert np.allclose(values["std"], array.std(axis=axes), atol=1e-9), name


# webdataset leaves closing the tar to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_npz(corpus: Corpus, lanes: list[Lane], tmp_path: Path) -> None:
    import webdataset

    export(corpus.url, str(tmp_path / "out"), "npz")
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert about["shards"] == corpus.manifest.shards
    urls = f"{tmp_path}/out/shard-{{000000..{about['shards'] - 1:06d}}}.tar"
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    gc.collect()
    expected = {segment.key: segment for lane in lanes for segment in lane}
    for sample in samples:
        segment = expected.pop(sample["__key__"])
        assert sample["json"]["seed"] == segment.seed
        assert sample["json"]["outcome"] == segment.outcome
        assert set(sample["npz"]) == set(ARRAYS)
        for name in ARRAYS:
            stored = getattr(segment, name)
            assert sample["npz"][name].dtype == stored.dtype
            assert np.array_equal(sample["npz"][name], stored)
    assert not expected


def test_a_condition_sees_whole_episodes(corpus: Corpus, lanes: list[Lane]) -> None:
    def chosen(where: str) -> set[tuple[int, int]]:
        rows = select(corpus.url, where).segments
        for _, lane in rows.group_by("match", "player"):
            assert lane["segment"].to_list() == list(range(len(lane)))
        return set(rows.select("match", "player").rows())

    def those(test: Callable[[Lane], bool]) -> set[tuple[int, int]]:
        found = {name for name, lane in by_name(lanes).items() if test(lane)}
        assert 0 < len(found) < len(lanes)
        return found

    assert chosen("success") == those(lambda lane: lane[-1].completion_step is not None)
    assert chosen("steps > 256") == those(lambda lane: len(lane) > 1)
    assert chosen("outcome = 'win'") == those(lambda lane: lane[-1].outcome == "win")
    low = min(whole(lane, "state").min() for lane in lanes)
    assert chosen(f"state_min <= {low}") == those(lambda lane: whole(lane, "state").min() <= low)
    longest = [lane for lane in lanes if len(lane) > 1]
    bound = float(np.median([whole(lane, "reward").sum() for lane in longest]))
    assert chosen(f"return >= {bound} and task = 'tag'") == those(
        lambda lane: len(lane) > 1 and whole(lane, "reward").sum(dtype=np.float64) >= bound
    )
    assert chosen("player = 1 and task = 'sumo'") == those(
        lambda lane: (lane[0].task, lane[0].player) == ("sumo", 1)
    )


def test_an_aggregate_is_over_all_episodes(
    corpus: Corpus, lanes: list[Lane], tmp_path: Path
) -> None:
    """However the index is cut into files."""
    returns = {n: whole(lane, "reward").sum(dtype=float) for n, lane in by_name(lanes).items()}
    expected = {name for name, value in returns.items() if value > np.mean([*returns.values()])}
    pieces = shutil.copytree(corpus.url, tmp_path / "pieces")
    (pieces / "index.parquet").unlink()
    for url in (corpus.url, str(pieces)):
        rows = select(url, "return > avg(return)").segments
        assert set(rows.select("match", "player").rows()) == expected
    assert 0 < len(expected) < len(lanes)


def test_saturation_is_of_the_whole_episode(
    make_corpus: Callable[..., Corpus], episode: Callable[..., Episode]
) -> None:
    lanes = []
    for match in (0, 1):  # in the first 64 of 320 steps, in the second all of them
        early = episode(256, match, truncated=False)
        early = replace(early, action=np.full_like(early.action, match))
        late = episode(64, match, segment=1)
        lanes += [early, replace(late, action=np.ones_like(late.action))]
    corpus = make_corpus([lanes])
    for condition, match in (("saturation between 0.199 and 0.201", 0), ("saturation = 1", 1)):
        assert select(corpus.url, condition).segments["match"].to_list() == [match, match]


@pytest.mark.parametrize("format_", FORMATS)
def test_frames_may_be_left_out(corpus: Corpus, tmp_path: Path, format_: str) -> None:
    for name, pixels in (("with", True), ("without", False)):
        export(corpus.url, str(tmp_path / name), format_, "task = 'reach'", pixels=pixels)
    files = [path for path in (tmp_path / "without").rglob("*") if path.is_file()]
    assert not any(b"pixels" in path.read_bytes() or path.suffix == ".mp4" for path in files)
    sizes = [sum(p.stat().st_size for p in (tmp_path / n).rglob("*")) for n in ("with", "without")]
    assert sizes[0] > 1.2 * sizes[1]


@pytest.mark.parametrize(
    ("format_", "marker"),
    [("minari", "data/metadata.json"), ("lerobot", "meta/info.json"), ("npz", "export.json")],
)
def test_any_url_will_do(corpus: Corpus, tmp_path: Path, format_: str, marker: str) -> None:
    url, where = f"memory://export/{format_}/small-v0", "task = 'reach' and match < 4"
    export(corpus.url, url, format_, where)
    export(corpus.url, str(tmp_path / "small-v0"), format_, where)
    storage.download_folder(url, tmp_path / "copy")
    assert contents(tmp_path / "copy").keys() == contents(tmp_path / "small-v0").keys()
    about = storage.read_json(storage.join(url, marker))
    about = about if format_ == "npz" else about["palaestra"]
    assert (about["corpus"], about["where"]) == (corpus.url, where)
    assert about["fingerprint"] == corpus.manifest.fingerprint
    with pytest.raises(ConfigError, match=f"^{url}: expected a new destination, found "):
        export(corpus.url, url, format_)


def test_an_upload_ends_with_what_makes_it_a_dataset(corpus: Corpus) -> None:
    register()
    Script.clear()
    try:
        Script.faults["put_file"] = ["", "", "", PermissionError("no such right")]
        with pytest.raises(StorageError, match=r"^faulty://out/.*: no such right$"):
            export(corpus.url, "faulty://out", "lerobot", "match < 4", fps=40)
        assert not storage.exists("faulty://out/meta/info.json")
        assert storage.names("faulty://out")
        with pytest.raises(ConfigError, match=r"^faulty://out: expected a new destination, found "):
            export(corpus.url, "faulty://out", "lerobot")
        Script.clear()
        export(corpus.url, "faulty://out", "lerobot", "match < 4", fps=40)
        uploaded = [path for method, path in Script.calls if method == "put_file"]
        assert uploaded[-1].endswith("/meta/info.json")
        assert sum(path.endswith(".parquet") for path in uploaded) > 1
    finally:
        Script.clear()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("format_", ["lerobot", "npz"])
def test_the_same_export_has_the_same_bytes(corpus: Corpus, tmp_path: Path, format_: str) -> None:
    for name in ("a", "b"):
        export(corpus.url, str(tmp_path / name), format_, "task = 'reach'")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_refusal_is_one_line_and_leaves_nothing(corpus: Corpus, tmp_path: Path) -> None:
    dest = str(tmp_path / "new")

    def refused(kind: type[Exception], message: str, *arguments: Any, **options: Any) -> None:
        with pytest.raises(kind, match=message) as found:
            export(corpus.url, dest, *arguments, **options)
        assert "\n" not in str(found.value)
        assert list(tmp_path.iterdir()) == []

    refused(UnknownNameError, "^--format: unknown format 'minary'; did you mean 'minari'", "minary")
    refused(UnknownNameError, "^--where: unknown column 'tsk'", "npz", "tsk = 'reach'")
    refused(ConfigError, "^--where 'steps': expected a condition", "npz", "steps")
    refused(CorpusError, f"^{corpus.url}: no episode meets --where \"task = 'push'\"", "npz",
            "task = 'push'")  # fmt: skip
    refused(ConfigError, "^--fps is for --format lerobot, not npz", "npz", fps=20)
    refused(ConfigError, "^--fps should be positive, is 0", "lerobot", fps=0)
    refused(ConfigError, "expected tasks of one rate, found sumo 25, reach 40 frames", "lerobot")


def test_one_rate_may_be_given_for_all(corpus: Corpus, tmp_path: Path) -> None:
    export(corpus.url, str(tmp_path / "out"), "lerobot", "segment = 0 and match < 4", fps=30)
    assert json.loads((tmp_path / "out/meta/info.json").read_text())["fps"] == 30


def test_what_is_there_is_left_alone(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    export(corpus.url, str(tmp_path / "mine"), "npz", "match < 4", pixels=False)  # it was empty
    before = contents(tmp_path)
    for dest in (tmp_path / "mine", tmp_path / "mine/export.json"):
        with pytest.raises(ConfigError, match=f"^{dest}: expected a new destination, found "):
            export(corpus.url, str(dest), "npz")
    assert contents(tmp_path) == before


def test_an_incomplete_or_odd_corpus_is_refused(
    make_corpus: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus, dest = make_corpus(), str(tmp_path / "out")
    Path(corpus.index_url(1)).unlink()
    expected = "incomplete corpus: expected 2 shards, 1 are missing, the first is 1"
    with pytest.raises(CorpusError, match=f"^{corpus.url}: {expected}$"):
        export(corpus.url, dest, "npz")
    with pytest.raises(CorpusError, match=r"no corpus here"):
        export(str(tmp_path / "nowhere"), dest, "npz")
    assert not Path(dest).exists()


def test_an_episode_that_lacks_segments_is_refused(
    make_corpus: Callable[..., Corpus], episode: Callable[..., Episode], tmp_path: Path
) -> None:
    corpus = make_corpus([[episode(number=0), episode(number=7, segment=1)]])
    with pytest.raises(CorpusError, match=f"^{corpus.url}: match 7: its index lacks segments$"):
        export(corpus.url, str(tmp_path / "out"), "npz")


def test_a_task_of_another_suite_needs_its_rate(
    make_corpus: Callable[..., Corpus], episode: Callable[..., Episode], tmp_path: Path
) -> None:
    corpus, dest = make_corpus([[episode(9, task="juggle")]]), str(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"^--fps is missing: juggle is no task of this suite$"):
        export(corpus.url, dest, "lerobot")
    assert export(corpus.url, dest, "lerobot", fps=10).steps == 9


def test_an_imported_corpus_has_the_rate_of_its_source(
    make_corpus: Callable[..., Corpus], episode: Callable[..., Episode], tmp_path: Path
) -> None:
    """Whatever its task is called: `reach` has 40 control steps a second here."""
    silent = make_corpus([[episode(9)]], "silent", imported={"mapping": {}})
    with pytest.raises(ConfigError, match=r"^--fps is missing: this corpus was imported, at a"):
        export(silent.url, str(tmp_path / "out"), "lerobot")
    told = make_corpus([[episode(9)]], "told", imported={"mapping": {}, "fps": 9.99})
    for fps, expected in ((None, 10), (30, 30)):
        dest = tmp_path / f"at-{expected}"
        export(told.url, str(dest), "lerobot", fps=fps)
        assert json.loads((dest / "meta/info.json").read_text())["fps"] == expected


def test_an_imported_episode_has_no_seed_to_reset_with(
    make_corpus: Callable[..., Corpus], episode: Callable[..., Episode], tmp_path: Path
) -> None:
    import minari

    for name, recipe in (("simulated", {}), ("imported", {"imported": {"mapping": {}}})):
        corpus = make_corpus([[episode(9)]], name, **recipe)
        export(corpus.url, str(tmp_path / "out" / name), "minari")
        dataset = minari.MinariDataset(tmp_path / "out" / name / "data")
        (about,) = dataset.storage.get_episode_metadata([0])
        assert ("options" in about) == (name == "simulated")
        assert about["task"] == "reach"


def test_a_flipped_bit_is_named_and_nothing_is_left(
    make_corpus: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus = make_corpus()
    tar = Path(corpus.tar_url(1))
    data = bytearray(tar.read_bytes())
    data[-3000] ^= 1
    tar.write_bytes(data)
    for format_, fps in (("npz", None), ("minari", None), ("lerobot", 25)):
        with pytest.raises(CorruptionError, match=f"^{tar}: sample .*checksum differs"):
            export(corpus.url, str(tmp_path / "out"), format_, fps=fps)
        assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize(("format_", "module"), [("minari", "h5py"), ("lerobot", "av")])
def test_a_missing_library_is_named(
    corpus: Corpus, tmp_path: Path, format_: str, module: str
) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; import palaestra.generate.__main__ as m"
    words = ["generate", "export", corpus.url, str(tmp_path / "out"), "--format", format_]
    run = [sys.executable, "-W", "error", "-c", f"{code}; sys.argv = {words}; m.main()"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 1
    expected = f"--format {format_} needs {module}: pip install 'palaestra[{format_}]'"
    assert done.stderr == f"generate export: error: {expected}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_nothing_that_looks_complete(corpus: Corpus, tmp_path: Path) -> None:
    dest, partial = tmp_path / "out", tmp_path / ".out.exporting"
    words = [*COMMAND, corpus.url, str(dest), "--format", "lerobot", "--fps", "25"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: list(partial.glob("data/*/*.parquet")), every_s=0.001)
    finally:
        process.kill()
        process.wait()
    assert not dest.exists() and not (partial / "meta/info.json").exists()
    (partial / "meta/left.jsonl").write_text("from before")
    subprocess.run(words, check=True, capture_output=True, timeout=PATIENCE_S)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    rows = json_lines(dest / "meta/episodes.jsonl")
    assert sum(row["length"] for row in rows) == corpus.select("steps")["steps"].sum()
    assert not (dest / "meta/left.jsonl").exists()


def test_ctrl_c_leaves_nothing_and_says_that_it_starts_over(corpus: Corpus, tmp_path: Path) -> None:
    words = [*COMMAND, corpus.url, str(tmp_path / "out"), "--format", "lerobot", "--fps", "25"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, text=True, **pipes)
    try:
        wait_for(lambda: list(tmp_path.glob(".out.exporting/data/*/*.parquet")), every_s=0.001)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert told == "generate export: error: interrupted; the same command starts over\n"
    assert list(tmp_path.iterdir()) == []


def test_two_exports_to_one_place_do_not_mix(corpus: Corpus, tmp_path: Path) -> None:
    partial = tmp_path / ".out.exporting"
    partial.mkdir()
    (partial / "theirs").touch()
    handle = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=f"^{partial}: another export is writing there$"):
            export(corpus.url, str(tmp_path / "out"), "npz")
    finally:
        os.close(handle)
    assert (partial / "theirs").exists()


def test_the_page_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands on a smaller demo, then its programs, one after another."""
    recipe = load_recipe(str(ROOT / "recipes/demo.toml"))
    recipe = replace(recipe, steps=8192, wave=4, shard_steps=4096)
    corpus = build(str(tmp_path / "runs/demo/corpus"), recipe)
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in commands.splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
    assert f"{corpus.select('steps')['steps'].sum():,} steps" in capsys.readouterr().out
    videos = sorted(tmp_path.glob("runs/demo/lerobot/videos/*/*/*.mp4"))
    pairs = zip(videos, read_lanes(corpus), strict=True)  # one shard after another, in order
    check_loss(np.concatenate([loss_of(v, whole(lane, "pixels"), 40) for v, lane in pairs]), 64)
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(programs) == len(FORMATS)
    run = [sys.executable, "-c", "\n".join(programs)]
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
