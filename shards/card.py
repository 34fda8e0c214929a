"""The dataset card: tells `datasets` each field's type, so that uint8 frames stay uint8."""

from __future__ import annotations

from . import storage
from .corpus import Corpus

CARD = """---
configs:
- config_name: default
  data_files: data/*.tar
dataset_info:
  features:
  - name: __key__
    dtype: string
  - name: __url__
    dtype: string
  - name: json
    struct:
{fields}
  - name: action.npy.zst
    dtype:
      array2_d:
        shape: [null, {action}]
        dtype: float32
  - name: reward.npy.zst
    sequence: float32
  - name: success.npy.zst
    sequence: uint8
  - name: state.npy.zst
    dtype:
      array2_d:
        shape: [null, {state}]
        dtype: float32
  - name: pixels.npy.zst
    dtype:
      array4_d:
        shape: [null, {image}, {image}, 3]
        dtype: uint8
---
# {name}

{steps:,} interaction steps of {origin}: {tasks}.

Each sample is at most 256 steps of one player's episode: `json` (metadata) and the arrays
`action`, `reward`, `success`, `state` and `pixels`, each one zstd frame around a plain `.npy`.
The state's slots, in order: {slots}. `corpus.json` holds {recipe},
`index.parquet` one row per sample.

```python
from datasets import load_dataset
samples = load_dataset(FOLDER, split="train", streaming=True)  # this card's types: uint8 frames
# a downloaded copy keeps them with .with_format("numpy", dtype=None); "numpy" alone gives int64

import webdataset
from palaestra.shards.codec import decode
samples = webdataset.WebDataset("data/shard-000000.tar", shardshuffle=False).decode(decode)
```
"""
ORIGINS = {
    False: "MuJoCo episodes, made by Palaestra", True: "demonstrations, imported by Palaestra",
}  # fmt: skip
RECIPES = {
    False: "the recipe that regenerates every byte",
    True: "the mapping by which they were imported, and the checksum of every source file",
}
JSON_TYPES = {
    "task": "string", "level": "int64", "instruction": "string", "match": "int64",
    "player": "int64", "segment": "int64", "policy": "string", "opponent": "string",
    "rating": "float64", "opponent_rating": "float64", "sampling": "string",
    "sampling_probability": "float64", "round": "int64", "outcome": "string",
    "seed": "uint64", "terminated": "bool", "truncated": "bool", "cause": "string",
    "completion_step": "int64", "final_state_xxh3": "string",
}  # fmt: skip


def write_card(corpus: Corpus) -> None:
    """Write README.md with the declared features."""
    schema, index = corpus.schema, corpus.index
    fields = "\n".join(f"    - name: {n}\n      dtype: {t}" for n, t in JSON_TYPES.items())
    pairs = sorted(set(index.select("task", "level").rows()))
    tasks = ", ".join(f"{task} level {level}" for task, level in pairs)
    imported = "imported" in corpus.manifest.recipe
    text = CARD.format(
        origin=ORIGINS[imported], recipe=RECIPES[imported],
        fields=fields, action=schema.action_size, state=schema.state_size,
        image=schema.image_size, name=corpus.manifest.recipe["name"], tasks=tasks,
        steps=index["steps"].sum(),
        slots=", ".join(f"{slot.name} ({slot.size})" for slot in schema.slots),
    )  # fmt: skip
    storage.write_bytes(storage.join(corpus.url, "README.md"), text.encode())
