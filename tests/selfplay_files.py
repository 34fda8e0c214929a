"""Rounds of self-play made by hand: real corpora, untrained networks, real evaluations."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluate_runs import write_checkpoint
from palaestra.evaluate.__main__ import Arguments, settings_of
from palaestra.evaluate.evaluation import assemble, record
from palaestra.evaluate.output import write
from palaestra.evaluate.standings import update_league
from palaestra.generate import work
from palaestra.generate.players import provenance_of
from palaestra.generate.recipe_file import load_recipe
from palaestra.shards import storage
from palaestra.shards.corpus import Corpus
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.places import checkpoint_url
from small_corpus import finish

RUNS = 4
PAIRS = (("sumo", 1), ("reach", 1))
RECIPE = """name = "tiny"
steps = 40_000
shard_steps = 8192
wave = 2
seed = 5
image_size = 16
league = "{league}"

[parts.demonstrations]
weight = 0.1

[parts.round-0]
weight = 0.1

[parts.round-1]
weight = 0.8
round = 1

[[behaviours]]
tasks = ["reach", "sumo"]
policy = "expert"
noise = 0.2
parts = ["demonstrations"]

[[behaviours]]
tasks = ["sumo"]
policy = "expert"
noise = 0.4
opponents = ["random"]
parts = ["round-0"]

[[behaviours]]
tasks = ["sumo"]
policy = "latest"
opponents = ["league"]
parts = ["round-1"]
"""
MIXES = (
    {"round-0": 850, "demonstrations": 150},
    {"round-1": 500, "round-0": 350, "demonstrations": 150},
)
SECONDS = {"generate": 100.0, "audit": 5.0, "train": 200.0, "evaluate": 60.0}


def write_rounds(one: Path, two: Path) -> tuple[str, str]:
    """What `evaluate selfplay` leaves after one round, and after two; returns the URLs."""
    one.mkdir(parents=True)
    (one / "recipe.toml").write_text(RECIPE)
    write_corpus(one, "demonstrations")
    write_round(one, 0)
    shutil.copytree(one, two)
    write_round(two, 1)
    write_journal(one, ("demonstrations", "round-0"))
    write_journal(two, ("demonstrations", "round-0", "round-1"))
    return str(one), str(two)


def write_round(dest: Path, number: int) -> None:
    """A round's files, and the league with what came of it."""
    folder, league = dest / f"round-{number}", dest / "league.json"
    if number:
        storage.write_bytes(str(folder / league.name), league.read_bytes())
    write_corpus(dest, folder.name)
    write_checkpoint(Path(checkpoint_url(str(folder / "run"), 7)), seed=number, tasks=PAIRS)
    write_settings(dest, number)
    arguments = Arguments(
        (f"{folder.name}={folder / 'run'}",), str(folder / "evaluation"), runs=RUNS, width=RUNS,
        tasks=tuple(task for task, _ in PAIRS), levels=(1,), history="on", league=str(league),
        update_league=True,
    )  # fmt: skip
    settings = settings_of(arguments, None)
    evaluation = assemble(settings, record(settings, workers=1))
    write(str(arguments.output), evaluation, "")
    update_league(str(league), settings, evaluation.matches)


def write_corpus(dest: Path, part: str) -> None:
    """A part's corpus; of a later round with the league as it began."""
    league = dest / part / "league.json"
    values = {"league": str(league)} if league.exists() else {}
    recipe = load_recipe(str(dest / "recipe.toml"), part=part, values=values)
    manifest = work.manifest_of(recipe, provenance_of(recipe))
    corpus = Corpus.create(str(dest / part / "corpus"), manifest)
    for shard in range(manifest.shards):
        work.write_shard(corpus, recipe, shard)
    finish(corpus)


def write_settings(dest: Path, number: int) -> None:
    """A run's run.json."""
    mix = MIXES[number]
    config = TrainConfig(
        corpora=tuple(str(dest / part / "corpus") for part in mix), weights=tuple(mix.values()),
        preset="tiny", model=load_preset("tiny").model, inputs="state", updates=7, batch=4,
        peak_rate=1e-3, end_rate=1e-5, warm_up=1, precision="fp32",
    )  # fmt: skip
    storage.write_json(str(dest / f"round-{number}" / "run" / "run.json"), config.to_json())


def write_journal(dest: Path, parts: Sequence[str]) -> None:
    """selfplay.json."""
    stages = [stage for part in parts for stage in stages_of(dest, part)]
    found = {"format": "palaestra-selfplay", "stages": stages}
    storage.write_json(str(dest / "selfplay.json"), found)


def stages_of(dest: Path, part: str) -> list[dict[str, Any]]:
    """What selfplay.json has of a part."""
    names = ("generate", "audit") if part == "demonstrations" else tuple(SECONDS)
    return [
        {
            "name": f"{part}/{name}", "command": shlex.split(f"{name} {dest}/{part} --words"),
            "seconds": SECONDS[name], "finished": "2026-11-29T12:00:00Z",
        }
        for name in names
    ]  # fmt: skip


def read(dest: str, name: str) -> dict[str, Any]:
    """One of the JSON files."""
    found: dict[str, Any] = storage.read_json(storage.join(dest, name))
    return found
