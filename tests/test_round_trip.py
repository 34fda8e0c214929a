"""What `generate export` takes out, `generate import` brings back in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from palaestra.generate.exporting.export import export
from palaestra.generate.exporting.lerobot_writer import frame_rate
from palaestra.generate.exporting.selection import select
from palaestra.generate.importing.importer import import_corpus
from palaestra.generate.importing.mapping import load_mapping
from palaestra.generate.recipe import Behaviour
from palaestra.shards import storage
from palaestra.shards.audit.audit import audit
from palaestra.shards.codec import decode_sample
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from small_corpus import RECIPE, build

REACHING = replace(
    RECIPE, steps=2048, behaviours=(Behaviour(("reach",), "expert", (1, 2), 0.2),), wave=2
)
ENDING = replace(RECIPE, steps=4096, behaviours=RECIPE.behaviours[1:])  # or cut off, in matches
MAPPING = """name = "back"
source = {{ url = "{url}", format = "{format}" }}
task = {{ value = "{task}" }}
instruction = {{ value = "touch the ball" }}
pixels = {{ column = "{pixels}" }}
reward = {{ column = "{reward}" }}
success = {{ column = "{success}" }}
terminated = {{ column = "{terminated}" }}
truncated = {{ column = "{truncated}" }}
reward_range = {reward_range}
policy = "expert"
image_size = 32

[action]
column = "{action}"
low = {low}
high = {high}

[state]
{state}
"""
MINARI = {
    "format": "minari", "pixels": "observations/pixels", "reward": "rewards",
    "success": "infos/success", "action": "actions", "observed": "observations/state",
    "terminated": "terminations", "truncated": "truncations",
}  # fmt: skip
LEROBOT = {
    "format": "lerobot", "pixels": "observation.images.front", "reward": "next.reward",
    "success": "next.success", "action": "action", "observed": "observation.state",
    "terminated": "next.terminated", "truncated": "next.truncated",
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build(str(tmp_path_factory.mktemp("corpus") / "reaching"), REACHING)


@pytest.fixture(scope="module")
def matches(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build(str(tmp_path_factory.mktemp("corpus") / "matches"), ENDING)


def samples(corpus: Corpus) -> list[Episode]:
    """All segments, episode by episode in the order in which these begin."""
    found = []
    for shard in range(corpus.manifest.shards):
        data = memoryview(storage.read_bytes(corpus.tar_url(shard)))
        _, rows = corpus.read_index(shard)
        for key, offset, size in rows.select("key", "offset", "bytes").iter_rows():
            found.append(decode_sample(data[offset : offset + size], key, key))
    began: dict[tuple[int, int], int] = {}
    for sample in found:
        began.setdefault((sample.match, sample.player), len(began))
    return sorted(found, key=lambda sample: began[sample.match, sample.player])


def bring_back(
    corpus: Corpus, folder: Path, columns: dict[str, str], task: str = "reach"
) -> Corpus:
    """The first level's episodes, out and in again."""
    out = str(folder / "out")
    export(corpus.url, out, columns["format"], "level = 1")
    size = corpus.schema.action_size
    state = "\n".join(
        f'{name} = {{ column = "{columns["observed"]}", '
        f"entries = {list(range(place.start, place.stop))} }}"
        for name, place in corpus.schema.slices().items()
    )
    mapping = folder / "back.toml"
    about = columns | {"url": out, "task": task, "state": state}
    ranges = {"low": [-1] * size, "high": [1] * size, "reward_range": [*corpus.schema.reward_range]}
    mapping.write_text(MAPPING.format(**about, **ranges))
    return import_corpus(load_mapping(str(mapping)), str(mapping), str(folder / "back"))


@pytest.mark.parametrize("columns", [MINARI, LEROBOT], ids=lambda c: c["format"])
def test_what_goes_out_comes_back(columns: dict[str, str], corpus: Corpus, tmp_path: Path) -> None:
    back = bring_back(corpus, tmp_path, columns)
    mine = [sample for sample in samples(corpus) if sample.level == 1]
    theirs = samples(back)
    assert len(theirs) == len(mine) > 2
    for own, other in zip(mine, theirs, strict=True):
        for name in ("state", "action", "reward", "success"):
            assert np.array_equal(getattr(own, name), getattr(other, name)), name
        assert own.completion_step == other.completion_step
        if columns is MINARI:
            assert np.array_equal(own.pixels, other.pixels)
        else:  # video loses some: 4:2:0 at 32 pixels
            assert np.abs(own.pixels.astype(int) - other.pixels).mean() < 12
    failed = {check.name for check in audit(back, deep=True).checks if check.passed is False}
    assert failed == set()
    assert "demonstrations, imported" in storage.read_bytes(f"{back.url}/README.md").decode()


@pytest.mark.parametrize("columns", [MINARI, LEROBOT], ids=lambda c: c["format"])
def test_an_ending_stays_an_ending(
    columns: dict[str, str], matches: Corpus, tmp_path: Path
) -> None:
    """And a time limit a time limit; whoever won completed the task with the last step."""
    back = bring_back(matches, tmp_path, columns, "lab/match")
    mine = [sample for sample in samples(matches) if sample.level == 1]
    kinds = set()
    for own, other in zip(mine, samples(back), strict=True):
        for name in ("terminated", "truncated", "completion_step"):
            assert getattr(own, name) == getattr(other, name), name
        for name in ("state", "action", "reward", "success"):
            assert np.array_equal(getattr(own, name), getattr(other, name)), name
        kinds.add((own.terminated, own.truncated, own.completion_step is not None))
    if columns is LEROBOT:  # whose rate an import keeps
        assert frame_rate(select(back.url)) == frame_rate(select(matches.url)) == 25
    assert kinds >= {(True, False, True), (True, False, False), (False, True, False)}
