"""Small datasets as other libraries write them, and mappings of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import gymnasium
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from minari.data_collector import EpisodeBuffer
from numpy.typing import NDArray
from palaestra.generate.importing.importer import import_corpus
from palaestra.generate.importing.mapping import load_mapping
from palaestra.shards.corpus import Corpus
from PIL import Image

Rows = dict[str, list[Any]]
MINARI_STEPS, LENGTHS = 40, (12, 300, 20)
HEIGHT, WIDTH = 32, 48
MINARI = """name = "reaching"
image_size = 16
source = { url = "demos-v0", format = "minari" }
task = { value = "reach" }
instruction = { value = "touch the ball" }
action = { column = "actions", low = [-1, -1, -1, -1, -1, -1, -1], high = [1, 1, 1, 1, 1, 1, 1] }
pixels = { column = "observations/pixels" }
reward = { column = "rewards" }
success = { column = "infos/success" }
terminated = { column = "terminations" }
truncated = { column = "truncations" }

[state]
joint_position = { column = "observations/state", entries = [0, 1, 2, 3, 4, 5, 6, 7] }
"""
LEROBOT = """name = "folding"
image_size = 16
source = { url = "demos", format = "lerobot" }
task = { value = "lab/fold" }
level = { value = 2 }
instruction = { column = "task" }
pixels = { column = "observation.images.top" }

[action]
column = "action"
entries = [2, 0, 1]
low = [-90, 0, 0]
high = [90, 1, 1]

[state]
joint_position = { column = "observation.state", entries = [0, 1], scale = 0.5 }
gripper = { column = "observation.state", entries = [2] }
"""


def write_minari(folder: Path, episodes: int = 3, jpeg: bool = False) -> list[EpisodeBuffer]:
    """Random play of one of our environments, in the dataset `demos-v0` in a folder."""
    env = gymnasium.make(
        "palaestra.generate.gym:palaestra/Reach-1-v0", pixels=True, image_size=32,
        max_episode_steps=MINARI_STEPS,
    )  # fmt: skip
    buffers = [_played(env, number) for number in range(episodes)]
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        warnings.simplefilter("ignore")  # it wants an author, a link to the code and more
        minari.create_dataset_from_buffers("demos-v0", buffers, env=env, jpeg_encoding=jpeg)
    return buffers


def _played(env: gymnasium.Env[Any, Any], number: int) -> EpisodeBuffer:
    env.action_space.seed(number)
    observation, info = env.reset(seed=number)
    seen, infos, steps, ended = [observation], [info["success"]], [], False
    while not ended:
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append(observation)
        infos.append(info["success"])
        steps.append((action, reward, terminated, truncated))
        ended = terminated or truncated
    actions, rewards, terminations, truncations = (list(x) for x in zip(*steps, strict=True))
    return EpisodeBuffer(
        id=number, observations={k: [x[k] for x in seen] for k in seen[0]}, actions=actions,
        rewards=rewards, terminations=terminations, truncations=truncations,
        infos={"success": infos, "late": [t > 30 for t in range(len(infos))]},
    )  # fmt: skip


def shade(episode: int, step: int) -> int:
    """Grey of an episode's frame: five apart, so that a lossy video tells them apart."""
    return 20 + 5 * ((step + 11 * episode) % 40)


def rows_of(lengths: Sequence[int] = LENGTHS) -> Rows:
    """Rows as LeRobot has them; actions are 0 … 1, 0 … 1 and -90 … 90."""
    pairs = [(e, t) for e, length in enumerate(lengths) for t in range(length)]
    rng = np.random.default_rng(len(pairs))
    state, action = (rng.uniform((0, 0, -90), (1, 1, 90), (len(pairs), 3)) for _ in range(2))
    return {
        "observation.state": list(state.astype(np.float32)),
        "action": list(action.astype(np.float32)),
        "next.reward": [float(t % 2) for _, t in pairs],
        "next.done": [t == lengths[e] - 1 for e, t in pairs],
        "timestamp": [t / 10 for _, t in pairs],
        "frame_index": [t for _, t in pairs],
        "episode_index": [e for e, _ in pairs],
        "index": list(range(len(pairs))),
        "task_index": [e % 2 for e, _ in pairs],
    }


def write_video(path: Path, shades: Sequence[int], width: int = WIDTH) -> None:
    """A video of grey frames whose middle square is lighter by 30."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, HEIGHT, "yuv444p"
        for grey in shades:
            image = np.full((HEIGHT, width, 3), grey, np.uint8)
            image[:, (width - HEIGHT) // 2 : (width + HEIGHT) // 2] += 30
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def write_images(folder: Path, images: NDArray[np.uint8]) -> None:
    """As 00.png, 01.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02d}.png")


def write_lerobot(
    folder: Path, version: str = "v2.1", change: Callable[[Rows], object] = lambda rows: None,
    lengths: Sequence[int] = LENGTHS,
) -> Rows:  # fmt: skip
    """A dataset of version 2.1 or 3.0; `change` may alter its rows, never its videos."""
    rows = rows_of(lengths)
    change(rows)
    dtypes = {name: {"dtype": "float32"} for name in rows}
    two, key = version.startswith("v2"), "observation.images.top"
    table = pa.table({name: pa.array(values) for name, values in rows.items()})
    paths = {
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    } if two else {
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    }  # fmt: skip
    meta = folder / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    info = {
        "codebase_version": version, "fps": 10, "total_episodes": len(lengths),
        "chunks_size": 1000, "features": dtypes | {key: {"dtype": "video"}}, **paths,
    }  # fmt: skip
    (meta / "info.json").write_text(json.dumps(info))
    words = ["fold the shirt", "fold the towel"]
    shades = [[shade(e, t) for t in range(length)] for e, length in enumerate(lengths)]
    if two:
        lines = [json.dumps({"task_index": i, "task": word}) for i, word in enumerate(words)]
        (meta / "tasks.jsonl").write_text("\n".join(lines))
        start = 0
        for e, length in enumerate(lengths):
            name = f"chunk-000/episode_{e:06d}.parquet"
            pq.write_table(table.slice(start, length), folder / "data" / name)
            start += length
            write_video(folder / f"videos/chunk-000/{key}/episode_{e:06d}.mp4", shades[e])
        return rows
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": words})
    pq.write_table(tasks, meta / "tasks.parquet")
    pq.write_table(table, folder / "data" / "chunk-000" / "file-000.parquet", row_group_size=100)
    starts = np.cumsum([0, *lengths[:-1]])
    places = pa.table({
        "episode_index": list(range(len(lengths))), f"videos/{key}/chunk_index": [0] * len(lengths),
        f"videos/{key}/file_index": [0] * len(lengths),
        f"videos/{key}/from_timestamp": (starts / 10).tolist(),
    })  # fmt: skip
    pq.write_table(places, meta / "episodes" / "chunk-000" / "file-000.parquet")
    write_video(folder / f"videos/{key}/chunk-000/file-000.mp4", [g for s in shades for g in s])
    return rows


def imported(folder: Path, text: str, dest: str = "corpus") -> Corpus:
    """The corpus of a mapping whose source lies in the folder."""
    path = folder / "mapping.toml"
    path.write_text(text.replace('url = "', f'url = "{folder}/'))
    return import_corpus(load_mapping(str(path)), str(path), str(folder / dest))
