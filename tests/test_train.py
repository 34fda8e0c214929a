"""Training for real: ranks sum to one process, faults are named, bad input writes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import RECIPE, SCHEMA, default_shards, make_episode
from numpy.typing import NDArray
from palaestra.shards import index, order
from palaestra.shards.corpus import Corpus, Manifest
from palaestra.shards.errors import CheckpointError, RolloutError, SchemaMismatchError
from palaestra.shards.schema import Slot
from palaestra.shards.segments import encode_instruction
from palaestra.train.agent import Agent
from palaestra.train.arguments import Arguments, resolve
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.engine import _parameter_groups
from palaestra.train.export import export_metadata, read_weights, shapes_of, write_weights
from palaestra.train.loss import mean_action
from palaestra.train.model import PolicyValueNetwork
from palaestra.train.places import complete_checkpoints
from palaestra.train.schedule import learning_rate
from train_runs import (
    PRESET,
    UPDATES,
    assert_close,
    failure,
    finish,
    metrics,
    prepare,
    started,
    train,
    words,
    write_corpus,
)
from waiting import PATIENCE_S


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds preset.toml and corpus: 8 segments of 4 matches."""
    return prepare(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """A run to the end without a pause."""
    train(folder, "finished")
    return folder / "finished"


# Ranks and micro-batches


@pytest.mark.parametrize(("inputs", "batch"), [("pixels+state", 4), ("state", 5)])
def test_two_processes_and_accumulation_equal_one_process(
    inputs: str, batch: int, folder: Path
) -> None:
    def flags(*more: object) -> tuple[object, ...]:
        return ("inputs", inputs, "batch", batch, "updates", 5, "validate-every", 4, *more)

    whole, apart, slow = (f"{name}-{batch}" for name in ("whole", "apart", "slow"))
    with (
        started(words(folder, whole, *flags("micro-batch", batch))) as first,
        started(words(folder, slow, *flags("micro-batch", 2))) as second,
    ):
        for process in (first, second):
            finish(process)
    out = train(folder, apart, *flags("micro-batch", 2, "ranks", 2))
    assert out.count(" parameters, ") == 1  # one rank speaks
    assert_close(folder / whole, folder / slow, 5)
    assert_close(folder / whole, folder / apart, 5)
    assert metrics(folder / whole)[0]["gradient_norm"] > 1e-3


def test_random_draws_of_a_slot_do_not_depend_on_the_number_of_slots() -> None:
    few, many = (torch.rand(n, 5, generator=torch.Generator().manual_seed(3)) for n in (7, 2048))
    assert torch.equal(few, many[:7])


# Faults while training


def test_nan_stops_the_run_naming_update_batch_and_last_good_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    spoilt = np.full(256, 0.5, np.float32)
    spoilt[100] = np.nan
    shards = [[make_episode(256, n, **({"reward": spoilt} if n == 2 else {})) for n in range(4)]]
    corpus = write_corpus(tmp_path / "corpus", shards)
    (tmp_path / "preset.toml").write_text(PRESET)
    expected = f"{corpus.url}: sample {corpus.index['key'][2]}: expected no NaN, found 1"
    assert expected in failure(words(tmp_path, "told", "validation-share", 0))
    info, rows = corpus.read_index(0)  # what its index does not tell shows in training
    untold = rows.with_columns(reward_nan=pl.lit(0, pl.Int64))
    for url in (corpus.index_url(0), corpus.merged_url):
        Path(url).write_bytes(index.to_parquet([untold], info))
    batches = [order.global_batch(update, 1, (4,), (1000,), 0) for update in range(4)]
    bad = next(update for update, (_, segment) in enumerate(batches) if segment[0] == 2)
    flags = ("batch", 1, "micro-batch", 1, "checkpoint-every", "1u", "validation-share", 0)
    line = failure(words(tmp_path, "run", *flags))
    assert f"not finite at update {bad} (batch {corpus.index['key'][2]}" in line
    last = f"{tmp_path}/run/checkpoints/update-{bad:08d}" if bad else "none"
    assert line.endswith(f"last good checkpoint: {last}")


def test_what_is_held_out_is_not_trained_on(
    folder: Path, tmp_path: Path, refusal: Callable[[list[str]], str]
) -> None:
    shards = [[make_episode(256, n, level=1 + n % 2) for n in range(8)]]
    write_corpus(tmp_path / "corpus", shards, held_out=(("reach", 2), ("push", 1)))
    shutil.copy(folder / "preset.toml", tmp_path)
    line = refusal(words(tmp_path, "run"))
    assert f"{tmp_path}/corpus: holds reach level 2, which is held out of training" in line
    assert not (tmp_path / "run").exists()
    some = [*words(tmp_path, "run", "updates", 1, "validation-share", 0), "--where", "level = 1"]
    all_of_it = [*words(tmp_path, "reference", "updates", 1), "--on-held-out"]
    for command in (some, all_of_it):
        with started(command) as process:
            assert "updates 0 to 1" in finish(process)
    for run, known in (("run", False), ("reference", True)):
        settings = json.loads((tmp_path / run / "run.json").read_text())
        assert settings["on_held_out"] is known


def test_other_tasks_are_validated_on(
    folder: Path, tmp_path: Path, refusal: Callable[[list[str]], str]
) -> None:
    """Losses, calibration and attention entropy of a corpus of other tasks, beside the split's."""
    shards = [[make_episode(256, n, task="lever") for n in range(3)]]
    write_corpus(tmp_path / "lever", shards, held_out=(("lever", 1),))
    flags = ("heldout", tmp_path / "lever", "updates", 2, "validate-every", 2)
    train(folder, "heldout", *flags)
    first, last = metrics(folder / "heldout")
    assert not any("/" in name and not name.startswith("kept/") for name in first)
    assert last["heldout/steps"] == 4 * 256  # one batch of four: a segment comes twice
    assert last["heldout/policy_loss"] > 0 and "heldout/value_bias" in last
    for part in ("validation", "heldout"):
        assert 0 < last[f"{part}/attention/encoder.0.temporal"] <= 1
    other = replace(SCHEMA, action_size=3)
    corpus = Corpus.create(str(tmp_path / "other"), Manifest(other, RECIPE, 3, 0, {}))
    line = refusal(words(folder, "refused", "heldout", corpus.url))
    assert "other: schema differs in action_size: expected 2, found 3" in line


def test_ranks_that_fail_report_once(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    tar = Path(corpus.tar_url(1))
    data = bytearray(tar.read_bytes())
    data[int(corpus.index.filter(shard=1)["offset"][0]) + 1000] ^= 1
    tar.write_bytes(data)
    (tmp_path / "preset.toml").write_text(PRESET)
    flags = ("ranks", 2, "batch", 8, "micro-batch", 4, "validation-share", 0)
    line = failure(words(tmp_path, "run", *flags))
    assert f"{tar}: sample" in line and "checksum differs" in line


# Refusals


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("preset", "tinny"), "unknown preset 'tinny'; did you mean 'tiny'?"),
        (("preset", "nowhere.toml"), "nowhere.toml: not found"),
        (("inputs", "pixel"), "--inputs: unknown inputs 'pixel'; did you mean 'pixels'?"),
        (("loss.policy", "binaries"), "--loss.policy: unknown loss 'binaries'; did you mean"),
        (("precision", "fp8"), "--precision should be bf16, fp32 or auto, is 'fp8'"),
        (("checkpoint-every", "12x"), "--checkpoint-every should look like 12h, 30m or 500u"),
        (("checkpoint-every", "0u"), "--checkpoint-every should look like"),
        (("checkpoint-every", "0.5u"), "--checkpoint-every should look like"),
        (("updates", 0), "--updates should be at least 1, is 0"),
        (("batch", 0), "--batch should be at least 1, is 0"),
        (("micro-batch", 0), "--micro-batch should be at least 1, is 0"),
        (("peak-rate", "nan"), "--peak-rate should be in [0, 1], is nan"),
        (("warm-up", -1), "--warm-up should be at least 0, is -1"),
        (("history-dropout", 1.5), "--history-dropout should be in [0, 1], is 1.5"),
        (("seed", -1), "--seed should be in"),
        (("ranks", 0), "--ranks should be positive, is 0"),
        (("ranks", 2, "batch", 1), "--batch 1 is smaller than the 2 ranks"),
        (("validation-share", 1), "--validation-share should be in [0, 1), is 1"),
        (("validation-share", 0.9), "--validation-share 0.9 leaves no training match"),
        (("preset", "tiny", "inputs", "pixels"), "patch 16 does not divide the corpus's image"),
    ],
)  # fmt: skip
def test_bad_flags_are_refused_by_name_and_write_nothing(
    flags: tuple[object, ...], message: str, folder: Path, refusal: Callable[[list[str]], str]
) -> None:
    assert message in refusal(words(folder, "refused", *flags))
    assert not (folder / "refused").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("warm_up = 2", "warm_up = = 2", "preset.toml: malformed TOML"),
        ("warm_up = 2\n", "", "key 'warm_up' is missing"),
        ("width = 16\nh", "widht = 16\nh", "unknown key 'widht'; did you mean 'width'"),
        ("heads = 2\nkv", "heads = 3\nkv", "width 16 is no multiple of 2 × heads 3"),
        ("kv_heads = 1", "kv_heads = 0", "kv_heads should be positive, is 0"),
        ("patch = 4", "policy_bins = 20\npatch = 4", "policy_bins should be odd, is 20"),
    ],
)
def test_a_preset_that_cannot_be_built_is_refused(
    old: str, new: str, message: str, folder: Path, tmp_path: Path,
    refusal: Callable[[list[str]], str],
) -> None:  # fmt: skip
    assert old in PRESET
    path = tmp_path / "preset.toml"
    path.write_text(PRESET.replace(old, new))
    line = refusal(words(folder, "refused", "preset", path))
    assert message in line and str(path) in line


def test_bad_corpora_are_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path, refusal: Callable[[list[str]], str]
) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(folder / "corpus", tmp_path / "newer")
    manifest = tmp_path / "newer" / "corpus.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 99'))
    state = make_episode(9).state.copy()
    state[3, 4] = np.nan
    write_corpus(tmp_path / "nan", [[make_episode(9, n, state=state) for n in range(40)]])
    write_corpus(tmp_path / "small", [[make_episode(9, 1)]])
    for name, message in {
        "small": "--validation-share 0.1 leaves no validation match",
        "missing": "no corpus here: expected corpus.json, nothing there",
        "empty": "no corpus here: expected corpus.json, found an empty folder",
        "newer": "format version 99 is newer than this program's 1",
        "nan": "state goal holds NaN or infinity",
        "corpus:0": "the weight should be at least 0.001",
    }.items():
        _, *rest = words(folder, "refused", "validation-share", 0.1)
        line = refusal([str(tmp_path / name), *rest])
        assert message in line and str(tmp_path) in line
        assert not (folder / "refused").exists()


def test_a_folder_that_holds_something_else_is_refused(
    folder: Path, refusal: Callable[[list[str]], str]
) -> None:
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").touch()
    for ranks in (1, 2):
        line = refusal(words(folder, "foreign", "ranks", ranks))
        assert line.endswith("foreign: expected an empty folder or a run, found thesis.tex")
    assert [path.name for path in (folder / "foreign").iterdir()] == ["thesis.tex"]


def test_another_runs_folder_is_refused_naming_what_differs(
    finished: Path, folder: Path, refusal: Callable[[list[str]], str]
) -> None:
    before = sorted((str(p), p.stat().st_mtime_ns) for p in finished.rglob("*"))
    line = refusal(words(folder, "finished", "seed", 5))
    assert "holds a run with seed = 0, this one has 5" in line
    line = refusal(words(folder, "finished", "loss.floor", 0.5))
    assert "loss.floor = 0.1, this one has 0.5" in line
    assert sorted((str(p), p.stat().st_mtime_ns) for p in finished.rglob("*")) == before


def test_a_corpus_that_changed_since_the_checkpoint_is_refused(
    finished: Path, folder: Path, refusal: Callable[[list[str]], str]
) -> None:
    other, run = folder / "other", folder / "changed"
    write_corpus(other, [*default_shards(), [make_episode(32, 77)]])
    shutil.copytree(finished, run)
    settings = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(settings | {"corpora": [str(other)]}))
    _, *rest = words(folder, "changed")
    assert "changed since the checkpoint" in refusal([str(other), *rest])


def test_debug_shows_the_traceback(folder: Path) -> None:
    with started([*words(folder, "refused", "updates", 0), "--debug"]) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.startswith("Traceback") and "ConfigError: --updates" in errors


# Checkpoints


def test_old_checkpoints_go_and_exports_hold_all_that_is_needed(finished: Path) -> None:
    assert complete_checkpoints(str(finished)) == [8, 12]
    assert len(list((finished / "checkpoints").iterdir())) == 2
    path = finished / "checkpoints" / "update-00000012" / "weights.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])  # JSON and raw arrays: no place for a pickle
    metadata = json.loads(header.pop("__metadata__")["palaestra"])
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(data) - 8 - length
    assert set(metadata) == {"config", "schema", "tasks", "update"}
    exported = read_weights(str(path))
    assert exported.schema == SCHEMA and exported.tasks == (("reach", 1),)
    assert exported.update == UPDATES and exported.config.inputs == "state"
    assert exported.config.to_json() == TrainConfig.from_json(
        json.loads((finished / "run.json").read_text()), "run.json"
    ).to_json()
    assert "state.mean" in exported.weights


def test_norms_and_embeddings_do_not_decay(folder: Path) -> None:
    network = drawn_network(folder, "pixels+state")
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decayed, plain = _parameter_groups(network, 0.01)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    matrices = {names[id(p)] for p in decayed["params"]}
    others = {names[id(p)] for p in plain["params"]}
    assert matrices | others == set(names.values()) and not matrices & others
    learned = {"letters", "letter_places", "kinds", "bos", "row", "column", "queries"}
    for name in names.values():
        special = "norm" in name or any(part in learned for part in name.split("."))
        assert (name in others) == special, name


def test_the_rate_warms_up_and_decays_quadratically() -> None:
    rates = [learning_rate(u, peak=1.0, end=0.1, warm_up=4, updates=24) for u in range(25)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[14] == pytest.approx(0.1 + 0.9 * 0.25)
    assert rates[24] == pytest.approx(0.1)
    assert learning_rate(0, peak=1.0, end=0.1, warm_up=0, updates=1) == 1.0


def test_a_policy_is_learned(tmp_path: Path) -> None:
    episodes = []
    for number in range(4):
        episode = make_episode(64, number)
        action = np.tanh(episode.state[:, :2] - episode.state[:, 2:4])
        episodes.append(replace(episode, action=action))
    prepare(tmp_path, [episodes])
    train(tmp_path, "run", "updates", 60, "validation-share", 0, "loss.policy", "bc",
          "checkpoint-every", "1h")  # fmt: skip
    losses = [line["policy_loss"] for line in metrics(tmp_path / "run")]
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert complete_checkpoints(str(tmp_path / "run")) == [60]


# Agents


@dataclass(frozen=True)
class Seen:
    state: NDArray[np.float32]
    pixels: NDArray[np.uint8] | None = None
    instruction: tuple[str, ...] = ("touch the ball", "push the box")


@dataclass(frozen=True)
class Lanes:
    schema: Any
    nlane: int = 2

    @property
    def task(self) -> SimpleNamespace:
        """One that uses every entry of an action."""
        return SimpleNamespace(action_size=SCHEMA.action_size)


def observe(step: int) -> Seen:
    return Seen(np.random.default_rng(step).standard_normal((2, SCHEMA.state_size), np.float32))


def drawn_network(folder: Path, inputs: str = "state") -> PolicyValueNetwork:
    """Every weight drawn, zero-initialised ones too."""
    config = load_preset(str(folder / "preset.toml")).model
    network = PolicyValueNetwork(config, shapes_of(SCHEMA), inputs.split("+"))
    generator = torch.Generator().manual_seed(3)
    network.initialise(generator)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    return network.eval()


def export(folder: Path, path: Path, inputs: str = "state") -> str:
    """The drawn network as a weights file."""
    arguments = Arguments(
        ("corpus",), "run", preset=str(folder / "preset.toml"), inputs=inputs, precision="fp32"
    )
    metadata = export_metadata(resolve(arguments)[0], SCHEMA, (("reach", 1),))
    network = drawn_network(folder, inputs)
    write_weights(path, network.state_dict(), metadata | {"update": 7})
    return str(path)


def test_an_agent_loads_from_run_checkpoint_or_file(finished: Path) -> None:
    folder = finished / "checkpoints" / f"update-{UPDATES:08d}"
    actions = []
    for url in (finished, folder, folder / "weights.safetensors"):
        agent = Agent.load(str(url))
        agent.reset(Lanes(SCHEMA))
        actions.append([agent.act(observe(step)) for step in range(3)])
    assert np.array_equal(actions[0], actions[1]) and np.array_equal(actions[0], actions[2])
    assert agent.schema == SCHEMA and not agent.needs_pixels


def test_an_incomplete_or_foreign_checkpoint_is_refused(finished: Path, tmp_path: Path) -> None:
    half = tmp_path / "checkpoints" / "update-00000012"
    shutil.copytree(finished / "checkpoints" / "update-00000012", half)
    (half / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match=r"incomplete checkpoint: checkpoint\.json"):
        Agent.load(str(half))
    with pytest.raises(CheckpointError, match="expected a run with a complete checkpoint, found"):
        Agent.load(str(tmp_path))
    with pytest.raises(CheckpointError, match="nothing there"):
        Agent.load(str(tmp_path / "nowhere"))
    whole = (half / "weights.safetensors").read_bytes()
    for name, data in {"cut": whole[:-100], "text": b"no weights", "empty": b""}.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"{name}\.safetensors: not weights of ours"):
            Agent.load(str(path))


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("action_size", replace(SCHEMA, action_size=3)),
        ("image_size", replace(SCHEMA, image_size=16)),
        ("slots", replace(SCHEMA, slots=(Slot("goal", 2), Slot("joint_positions", 3)))),
    ],
)
def test_a_world_of_another_schema_is_refused(field: str, changed: Any, finished: Path) -> None:
    agent = Agent.load(str(finished))
    with pytest.raises(SchemaMismatchError, match=f"schema differs in {field}"):
        agent.reset(Lanes(changed))
    agent.reset(Lanes(replace(SCHEMA, reward_range=(0.0, 9.0))))  # no matter to a policy


@pytest.mark.parametrize("history", [True, False])
def test_steps_equal_the_parallel_pass_and_every_256th_begins_anew(
    history: bool, folder: Path, tmp_path: Path
) -> None:
    url = export(folder, tmp_path / "drawn.safetensors")
    agent = Agent.load(url, history)
    agent.reset(2)
    played = np.stack([agent.act(observe(step)) for step in range(300)], axis=1)
    assert played.shape == (2, 300, SCHEMA.action_size) and played.dtype == np.float32
    assert np.abs(played).max() <= 1 and played.std(axis=1).min() > 1e-3

    network, state = drawn_network(folder), np.stack([observe(s).state for s in range(300)], axis=1)
    codes = torch.tensor(np.stack([encode_instruction(text) for text in observe(0).instruction]))
    for part in (slice(0, 256), slice(256, 300)):
        actions = torch.tensor(played[:, part])
        before = torch.cat((torch.zeros_like(actions[:, :1]), actions[:, :-1]), dim=1)
        with torch.no_grad():
            seen = torch.full((2,), history)
            logits, _ = network(torch.tensor(state[:, part]), None, codes, before, seen)
        np.testing.assert_allclose(mean_action(logits), actions, atol=2e-5)

    fresh = Agent.load(url, history)
    fresh.reset(2)
    assert np.array_equal(fresh.act(observe(256)), played[:, 256])
    agent.reset(2)
    assert np.array_equal(agent.act(observe(0)), played[:, 0])  # nothing left of the past


def test_an_agent_with_eyes_needs_pixels(folder: Path, tmp_path: Path) -> None:
    agent = Agent.load(export(folder, tmp_path / "eyes.safetensors", "pixels+state"))
    assert agent.needs_pixels
    agent.reset(2)
    with pytest.raises(RolloutError, match="needs pixels"):
        agent.act(observe(0))
    seen = replace(observe(0), pixels=np.zeros((2, 8, 8, 3), np.uint8))
    assert agent.act(seen).shape == (2, SCHEMA.action_size)
