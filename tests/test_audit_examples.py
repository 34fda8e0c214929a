"""docs/audit.md and docs/examples, run as a reader would, on a real corpus."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from palaestra.generate.recipe_file import load_recipe
from palaestra.generate.work import manifest_of, write_shard
from palaestra.shards.audit.verify import DEEP_CHECKS
from palaestra.shards.corpus import Corpus
from test_audit import CHECKS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/audit.md").read_text()
EXAMPLES = [path for path in sorted((ROOT / "docs/examples").glob("*.py")) if path.name in PAGE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's corpus, smaller, where the page says that it is."""
    root = tmp_path_factory.mktemp("docs")
    recipe = load_recipe(str(ROOT / "recipes/demo.toml"))
    recipe = replace(recipe, steps=16_384, wave=4, shard_steps=4_096, image_size=16)
    corpus = Corpus.create(str(root / "runs/demo/corpus"), manifest_of(recipe))
    for shard in range(corpus.manifest.shards):
        write_shard(corpus, recipe, shard)
    corpus.write_merged()
    return root


def run(words: list[str], folder: Path) -> str:
    """What it prints; it must print nothing on stderr."""
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_the_pages_commands_and_expectations_hold(folder: Path) -> None:
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    (expectations,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    (folder / "expectations.toml").write_text(expectations)
    outputs = {}
    for line in commands.splitlines():
        name, *words = shlex.split(line, comments=True)
        assert name == "audit"
        outputs[" ".join(words[1:])] = run(["-m", "palaestra.shards", *words], folder)
    assert "64 segments" in outputs[""] and "no check failed" in outputs[""]
    assert "0 of 64 segments are corrupt" in outputs["--deep"]
    assert outputs["--expect expectations.toml"].count("pass   expect ") == 9
    assert (folder / "report.html").stat().st_size > 50_000
    table = json.loads(outputs["--json"])["table"]
    (quantiles,) = re.findall(r"more quantiles: (.*?)\n\n", PAGE, re.S)
    parts, _, labels = quantiles.partition("each with")
    for part in re.findall(r"`(\w+)_\*`", parts):
        for label in re.findall(r"\w+", labels.replace(" and ", " ")):
            assert f"{part}_{label}" in table[0]


def test_the_page_lists_every_check() -> None:
    table = PAGE[PAGE.index("| of | check |") : PAGE.index("The last six")].strip()
    cells = (line.split("|")[2] for line in table.splitlines()[2:])
    named = [name.strip() for name in ",".join(cells).split(",")]
    assert sorted(named) == sorted((*CHECKS, "kept", *DEEP_CHECKS))


@pytest.mark.parametrize("script", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_examples_run(folder: Path, script: Path) -> None:
    assert script.name in PAGE
    text = run([str(script), "runs/demo/corpus"], folder)
    assert text.startswith("shape: ")


def load(name: str) -> dict[str, Any]:
    """An example's names."""
    path = ROOT / f"docs/examples/{name}.py"
    names: dict[str, Any] = {"__name__": name}
    exec(compile(path.read_text(), path, "exec"), names)
    return names


def test_the_examples_answers_are_right(folder: Path) -> None:
    url = str(folder / "runs/demo/corpus")
    index = Corpus.open(url).index  # every episode here is one segment
    noise = load("success_by_noise")["success_by_noise"](url)
    assert noise["noise"].unique().sort().to_list() == [0.0, 0.4, 0.8]
    assert noise["episodes"].sum() == len(index.filter(index["policy"] != "random"))
    longest = load("longest_episodes")["longest_episodes"](url, 5)
    assert longest["steps"].to_list() == [256] * 5

    example = load("failed_episodes")
    failed = example["failed_episodes"](url, "push")
    assert set(failed["key"]) == set(index.filter(~index["success"], task="push")["key"])
    worst = failed.row(0, named=True)
    arrays = example["open_sample"](url, worst)
    assert set(arrays) == {"action", "reward", "success", "state", "pixels"}
    assert arrays["reward"].sum(dtype=float) == pytest.approx(worst["return"])
    assert arrays["pixels"].shape == (256, 16, 16, 3)
