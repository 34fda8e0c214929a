"""A new run begins with another's weights, and with nothing else of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
import waiting
from conftest import SCHEMA, make_episode
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import CheckpointError, SchemaMismatchError
from palaestra.shards.schema import Slot
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.export import (
    build_network,
    export_metadata,
    read_metadata,
    read_weights,
    shapes_of,
    write_weights,
)
from palaestra.train.learner import hidden_state
from palaestra.train.model import PolicyValueNetwork
from palaestra.train.schedule import learning_rate
from palaestra.train.warm_start import check_start, settle_start
from train_runs import (
    EVERY,
    PRESET,
    UPDATES,
    assert_same,
    failure,
    finish,
    metrics,
    prepare,
    started,
    train,
    weights,
    words,
    write_corpus,
)

wait_for = partial(waiting.wait_for, every_s=0.005)
STILL = ("peak-rate", 0, "end-rate", 0, "updates", 1, "validate-every", 1)  # moves no weight
CONSTANT = 4  # entry of the state that never varies in the source's corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds preset.toml, corpus, in which an entry of the state is constant, and other, of other
    statistics.
    """
    folder = tmp_path_factory.mktemp("warm")
    states = [make_episode(256, n).state.copy() for n in range(8)]
    for state in states:
        state[:, CONSTANT] = 0.5
    prepare(folder, [[make_episode(256, n, state=s) for n, s in enumerate(states)]])
    write_corpus(
        folder / "other", [[make_episode(256, n, state=3 * make_episode(256, n).state + 1)
                            for n in range(20, 28)]]
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """A run to the end."""
    train(folder, "source")
    return folder / "source"


def elsewhere(folder: Path, run: str, *more: object) -> list[str]:
    """The command's arguments, on the other corpus."""
    _, *rest = words(folder, run, "seed", 7, *more)
    return [str(folder / "other"), *rest]


@pytest.fixture(scope="module")
def whole(source: Path, folder: Path) -> Path:
    """A warm-started run on other data, to the end without a pause."""
    with started(elsewhere(folder, "whole", "warm-start", source)) as process:
        finish(process)
    return folder / "whole"


def file_of(run: Path, update: int = UPDATES) -> Path:
    return run / "checkpoints" / f"update-{update:08d}" / "weights.safetensors"


def outputs(url: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the exported network for states such as both corpora hold."""
    network = build_network(read_weights(str(url)), str(url))
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(2, 9, SCHEMA.state_size, generator=generator)
    state[..., CONSTANT] = 0.5
    action = torch.rand(2, 9, SCHEMA.action_size, generator=generator)
    words = torch.full((2, shapes_of(SCHEMA).instruction_bytes), 97, dtype=torch.uint8)
    policy, value = network(state, None, words, action, torch.tensor([True, False]))
    return policy, value


# What is taken over


@pytest.mark.parametrize(
    ("stage", "ranks", "precision"),
    [(3, 2, "fp32"), (1, 1, "fp32"), pytest.param(1, 2, "bf16", marks=pytest.mark.slow)],
)
def test_a_new_run_begins_as_the_same_function(
    stage: int, ranks: int, precision: str, source: Path, folder: Path
) -> None:
    name = f"begun-{stage}-{precision}"
    flags = ("warm-start", source, "zero-stage", stage, "ranks", ranks, "precision", precision)
    out = train(folder, name, *STILL, *flags, "seed", 7)
    assert f"updates 0 to 1 of 4 segments, {ranks} ×" in out
    assert f"weights from {file_of(source)}" in out.replace("\n", "")
    mine, theirs = weights(folder / name, 1), weights(source)
    assert set(mine) == set(theirs)
    for key, value in theirs.items():
        assert torch.equal(mine[key], value.to(mine[key].dtype)), key
    (line,), last = metrics(folder / name), metrics(source)[-1]
    if precision == "fp32":  # what the engine computed with them, on the same held-out matches
        for got, expected in zip(outputs(file_of(folder / name, 1)), outputs(file_of(source)),
                                 strict=True):  # fmt: skip
            assert torch.equal(got, expected) and expected.std() > 1e-3
        assert line["validation/policy_loss"] == pytest.approx(
            last["validation/policy_loss"], rel=1e-5
        )


def test_the_optimiser_and_the_schedule_begin_anew(source: Path, folder: Path) -> None:
    train(folder, "anew", "warm-start", source, "updates", 3, "checkpoint-every", "1u",
          "keep", 3)  # fmt: skip
    rates = [line["rate"] for line in metrics(folder / "anew")]
    assert rates == [
        learning_rate(update, peak=4e-3, end=1e-5, warm_up=2, updates=3) for update in range(3)
    ]
    state = safetensors.torch.load_file(
        folder / "anew" / "checkpoints" / "update-00000001" / "state" / "rank-00000.safetensors"
    )
    before, moved = weights(source), 0
    for name, value in weights(folder / "anew", 1).items():
        if name in ("state.mean", "state.scale"):
            continue
        gradient, squares = (state[f"{kind}/{name}"] for kind in ("exp_avg", "exp_avg_sq"))
        # after one update from zero: m = 0.1 g and v = 0.05 g²
        torch.testing.assert_close(squares, 0.05 * (gradient / 0.1).square(), rtol=1e-4, atol=1e-12)
        assert (value - before[name]).abs().max() < 1.1 * rates[0]  # AdamW's first step at most
        moved += bool((value - before[name]).abs().max() > 0.9 * rates[0])
    assert moved > 10


def test_statistics_are_kept_but_for_what_never_varied(
    source: Path, whole: Path, folder: Path
) -> None:
    theirs, kept = weights(source), weights(whole)
    mean, deviation = Corpus.open(str(folder / "other")).moments.mean_and_deviation()
    own = {"state.mean": torch.tensor(mean), "state.scale": torch.tensor(1 / deviation)}
    assert theirs["state.scale"][CONSTANT] == 0
    for key, values in own.items():
        assert not torch.isclose(theirs[key], values.float(), rtol=0.1).any()
        expected = theirs[key].clone()
        if key == "state.scale":
            expected[CONSTANT] = values[CONSTANT]
        assert torch.equal(kept[key], expected)


def test_what_pixels_hide_stays_hidden(folder: Path) -> None:
    config = load_preset(str(folder / "preset.toml")).model
    schema = replace(SCHEMA, slots=(Slot("joint_position", 3), Slot("goal", 2)))
    network = PolicyValueNetwork(config, shapes_of(schema), ["pixels"])
    hidden = hidden_state(schema, "pixels")
    assert hidden.tolist() == [False] * 3 + [True] * 2
    mean, deviation = torch.arange(5.0), torch.full((5,), 2.0)
    network.normalise_by(mean, deviation, hidden)
    network.keep_statistics(torch.full((5,), 9.0), torch.tensor([4.0, 0.0, 4.0, 0.0, 0.0]))
    assert network.state.scale.tolist() == [4.0, 0.5, 4.0, 0.0, 0.0]
    assert network.state.mean.tolist() == [9.0] * 5


# Going on


@pytest.mark.parametrize("kind", ["checkpoints", "rolling"])
def test_a_killed_run_goes_on_bit_for_bit_without_its_source(
    kind: str, source: Path, whole: Path, folder: Path
) -> None:
    """Which had trained on, and then went."""
    parent = folder / f"parent-{kind}"
    shutil.copytree(source, parent)
    every = {"checkpoints": f"{EVERY}u", "rolling": "1h"}[kind]
    run = folder / f"killed-{kind}"
    arguments = elsewhere(
        folder, run.name, "warm-start", parent, "checkpoint-every", every, "rolling-every", "1u"
    )
    with started(arguments) as process:
        wait_for(lambda: any((run / kind).glob("*/checkpoint.json")))
        process.kill()
        process.wait()
    assert json.loads((run / "run.json").read_text())["warm_start"] == str(file_of(parent))
    shutil.rmtree(parent)
    with started(arguments) as process:
        out = finish(process)
    assert f"from {run}/" in out and "updates 0 to" not in out
    assert_same(run, whole)


def test_a_run_keeps_to_the_weights_that_it_began_with(source: Path, tmp_path: Path) -> None:
    parent, run = tmp_path / "parent", tmp_path / "run"
    shutil.copytree(source, parent)
    settings = json.loads((source / "run.json").read_text())
    first, newer = (file_of(parent, update) for update in (UPDATES, UPDATES + 1))
    assert settle_start(str(parent), str(run)) == str(first)
    run.mkdir()
    (run / "run.json").write_text(json.dumps(settings | {"warm_start": str(first)}))
    shutil.copytree(first.parent, newer.parent)
    assert settle_start(str(parent), str(tmp_path / "another")) == str(newer)
    for given in (parent, first.parent, first, f"{parent}/"):
        assert settle_start(str(given), str(run)) == str(first)
    assert settle_start(str(newer), str(run)) == str(newer)
    assert settle_start(f"{tmp_path}/par", str(run)) == f"{tmp_path}/par"
    assert settle_start("", str(run)) == ""


def test_a_run_of_before_has_no_warm_start(source: Path) -> None:
    settings = json.loads((source / "run.json").read_text())
    del settings["warm_start"]
    assert TrainConfig.from_json(settings, "run.json").warm_start == ""


def test_a_run_goes_on_from_a_warm_started_ones_checkpoint(whole: Path, folder: Path) -> None:
    """With the statistics that its weights belong to."""
    fork = elsewhere(folder, "fork", "resume", file_of(whole).parent, "updates", UPDATES + 1)
    with started(fork) as process:
        finish(process)
    for key in ("state.mean", "state.scale"):
        assert torch.equal(weights(folder / "fork", UPDATES + 1)[key], weights(whole)[key])


# Refusals


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("warm-start", "{folder}/nowhere"),
         "nowhere: expected a run with a complete checkpoint, nothing there"),
        (("warm-start", "{folder}/nowhere.safetensors"),
         "nowhere.safetensors: expected weights to begin with, nothing there"),
        (("warm-start", "{folder}/half"), "half: incomplete checkpoint: checkpoint.json is"),
        (("warm-start", "{folder}/cut.safetensors"), "cut.safetensors: not weights of ours"),
        (("warm-start", "{source}", "inputs", "pixels+state"),
         "weights.safetensors is of inputs state, this run has inputs pixels+state"),
        (("warm-start", "{source}", "preset", "{folder}/wide.toml"),
         "weights.safetensors is of model.width 16, this run has model.width 32"),
        (("warm-start", "{source}", "resume", "{source}/checkpoints/update-00000012"),
         "expected one of --warm-start and --resume URL, found both"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_begun_with_are_refused(
    flags: tuple[str, ...], message: str, source: Path, folder: Path,
    refusal: Callable[[list[str]], str],
) -> None:  # fmt: skip
    (folder / "wide.toml").write_text(PRESET.replace("width = 16\nh", "width = 32\nh"))
    (folder / "cut.safetensors").write_bytes(file_of(source).read_bytes()[:-100])
    shutil.copytree(file_of(source).parent, folder / "half", dirs_exist_ok=True)
    (folder / "half" / "checkpoint.json").unlink()
    given = [flag.format(source=source, folder=folder) for flag in flags]
    assert message in refusal(words(folder, "refused", *given))
    assert not (folder / "refused").exists()


def test_a_preset_of_another_name_and_the_same_sizes_will_do(source: Path, folder: Path) -> None:
    shutil.copy(folder / "preset.toml", folder / "same.toml")
    config = replace(
        read_metadata(str(file_of(source))).config, preset="same.toml",
        warm_start=str(file_of(source)),
    )  # fmt: skip
    check_start(str(folder / "new"), config, SCHEMA)
    other = replace(SCHEMA, slots=(Slot("joint_positions", 2), Slot("goal", 3)))
    with pytest.raises(SchemaMismatchError, match=r"weights\.safetensors: schema differs in slots"):
        check_start(str(folder / "new"), config, other)
    with pytest.raises(CheckpointError, match=r"model\.hidden 24, this run has model\.hidden 8"):
        check_start(
            str(folder / "new"), replace(config, model=replace(config.model, hidden=8)), SCHEMA
        )


def test_a_begun_run_is_not_begun_with_others(
    source: Path, whole: Path, folder: Path, refusal: Callable[[list[str]], str]
) -> None:
    """Nor may a run without a checkpoint of its own lack the weights it is to begin with."""
    line = refusal(elsewhere(folder, "whole", "warm-start", folder / "stranger"))
    assert f"whole holds a run with warm_start = {file_of(source)}, this one has" in line
    assert "warm_start = , this one has" in refusal(words(folder, "source", "warm-start", whole))
    gone, settings = folder / "gone", json.loads((whole / "run.json").read_text())
    gone.mkdir()
    lost = str(file_of(folder / "lost"))
    (gone / "run.json").write_text(json.dumps(settings | {"warm_start": lost}))
    line = failure(elsewhere(folder, "gone", "warm-start", folder / "lost"))
    assert line.endswith(f"{lost}: expected weights to begin with, nothing there")


def test_weights_that_do_not_fit_their_own_config_are_named(source: Path, folder: Path) -> None:
    exported = read_weights(str(file_of(source)))
    lacking = {n: w.clone() for n, w in exported.weights.items() if n != "value_out.weight"}
    told = export_metadata(exported.config, exported.schema, exported.tasks)
    write_weights(folder / "lacking.safetensors", lacking, told | {"update": 3})
    line = failure(words(folder, "lacking", "warm-start", folder / "lacking.safetensors"))
    assert "lacking.safetensors: weights do not fit their own config" in line
    assert "value_out.weight" in line
