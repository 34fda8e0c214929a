"""Trained policies in recipes: what their corpora record, replay of them, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from palaestra.generate.generation import Options, generate
from palaestra.generate.recipe import Recipe
from palaestra.generate.recipe_file import load_recipe
from palaestra.generate.replay import draw, replay
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import (
    CheckpointError,
    ConfigError,
    DifferentCorpusError,
    SchemaMismatchError,
)
from test_agent import export

RECIPE = """name = "learned"
steps = 4096
shard_steps = 2048
wave = 2
seed = 9
image_size = {size}

[policies.learner]
policy = "palaestra.train.agent:load"
arguments = {{ url = "{{learner}}", temperature = 1.0 }}
rating = 1200.0

[[behaviours]]
tasks = ["reach", "sumo"]
policy = "learner"
opponents = ["self", "expert"]
"""
OPTIONS = Options(workers=1)


@pytest.fixture(name="weights", scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(export(tmp_path_factory.mktemp("weights") / "learner.safetensors"))


def recipe_of(folder: Path, weights: Path, size: int = 16) -> Recipe:
    path = folder / "learned.toml"
    path.write_text(RECIPE.format(size=size))
    return load_recipe(str(path), values={"learner": str(weights)})


@pytest.fixture(name="corpus", scope="module")
def learned_corpus(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("learned")
    outcome = generate(recipe_of(folder, weights), str(folder / "corpus"), OPTIONS)
    assert not outcome.missing and not outcome.failures
    return outcome.corpus


def test_the_manifest_tells_what_played(corpus: Corpus, weights: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert corpus.manifest.dependencies == {str(weights): digest}
    assert {"torch", "device"} <= corpus.manifest.versions.keys()
    assert corpus.manifest.versions["torch_threads"] == "1"  # a worker's, not this process's
    rows = corpus.index.filter(policy="learner")
    assert set(rows["opponent"]) == {"", "learner", "expert"}
    assert set(rows["rating"]) == {1200.0}


def test_its_episodes_replay_from_their_actions(corpus: Corpus) -> None:
    """Without the policy."""
    found = replay(corpus, *draw(corpus, None), workers=1)
    assert len(found.outcomes) == len(corpus.index.unique(["match", "player"]))
    assert not found.failed


def test_the_same_machine_plays_the_same(corpus: Corpus, weights: Path, tmp_path: Path) -> None:
    again = generate(recipe_of(tmp_path, weights), str(tmp_path / "again"), OPTIONS).corpus
    assert again.index.equals(corpus.index)


def test_a_checkpoint_of_another_schema_is_refused_before_work(
    weights: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path, weights, size=24)
    with pytest.raises(SchemaMismatchError, match=r"learner\.safetensors: schema differs in image"):
        generate(recipe, str(tmp_path / "corpus"), OPTIONS)
    assert not (tmp_path / "corpus").exists()


def test_a_policy_that_does_not_import_is_refused_before_work(
    weights: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path, weights)
    path = tmp_path / "learned.toml"
    path.write_text(path.read_text().replace("agent:load", "agent:laod"))
    recipe = load_recipe(str(path), values={"learner": str(weights)})
    with pytest.raises(ConfigError, match=r"does not import: .*laod"):
        generate(recipe, str(tmp_path / "corpus"), OPTIONS)
    with pytest.raises(CheckpointError, match="nowhere: expected a run"):
        generate(recipe_of(tmp_path, Path("nowhere")), str(tmp_path / "corpus"), OPTIONS)
    assert not (tmp_path / "corpus").exists()


def test_a_checkpoint_that_changes_meanwhile_is_not_mixed_in(tmp_path: Path) -> None:
    """A run that trains on has another newest checkpoint."""
    weights = Path(export(tmp_path / "learner.safetensors"))
    recipe, url = recipe_of(tmp_path, weights), str(tmp_path / "corpus")
    begun = generate(recipe, url, Options(workers=1, shards=(0,)))
    assert begun.missing == begun.corpus.manifest.shards - 1
    export(weights, flat=True)
    with pytest.raises(DifferentCorpusError, match="its dependencies is"):
        generate(recipe, url, OPTIONS)
