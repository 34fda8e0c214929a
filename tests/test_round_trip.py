"""What `generate export` takes out, `generate import` brings back in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from palaestra.generate.exporting.export import export
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
MAPPING = """name = "back"
source = {{ url = "{url}", format = "{format}" }}
task = {{ value = "reach" }}
instruction = {{ value = "touch the ball" }}
pixels = {{ column = "{pixels}" }}
reward = {{ column = "{reward}" }}
success = {{ column = "{success}" }}
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
}  # fmt: skip
LEROBOT = {
    "format": "lerobot", "pixels": "observation.images.front", "reward": "next.reward",
    "success": "next.success", "action": "action", "observed": "observation.state",
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build(str(tmp_path_factory.mktemp("corpus") / "reaching"), REACHING)


def samples(corpus: Corpus) -> list[Episode]:
    """All segments, in order of episodes."""
    found = []
    for shard in range(corpus.manifest.shards):
        data = memoryview(storage.read_bytes(corpus.tar_url(shard)))
        _, rows = corpus.read_index(shard)
        for key, offset, size in rows.select("key", "offset", "bytes").iter_rows():
            found.append(decode_sample(data[offset : offset + size], key, key))
    return found


def bring_back(corpus: Corpus, folder: Path, columns: dict[str, str]) -> Corpus:
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
    mapping.write_text(
        MAPPING.format(url=out, low=[-1] * size, high=[1] * size, state=state, **columns)
    )
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
