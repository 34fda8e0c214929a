"""Frames out of a corpus: how some episodes of each task begin, go on and end."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from .. import storage
from ..codec import decode_sample
from ..corpus import Corpus
from ..errors import CorruptionError, PalaestraError

EPISODES = 3  # of each task and level
GAP = 2  # pixels between two frames


@dataclass(frozen=True)
class Strip:
    """The first, the middle and the last frame of one player's episode."""

    episode: Mapping[str, Any]
    """Its row of `by_episode`."""
    png: bytes
    fault: str
    """Why there is no picture; empty if there is one."""


def contact_sheet(corpus: Corpus, episodes: pl.DataFrame, seed: int) -> list[Strip]:
    """Strips of some episodes of each task and level, drawn by `seed`."""
    rows = choose(episodes, seed).iter_rows(named=True)
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda row: _strip(corpus, row), rows))


def choose(episodes: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Up to EPISODES of each task and level, of as many policies and ends as there are."""
    rng, pair = np.random.Generator(np.random.Philox(seed)), ["task", "level"]
    kinds = episodes.select(*pair, "policy", "success", row=pl.int_range(pl.len()))
    mixed = kinds[rng.permutation(len(kinds))]
    turn = pl.int_range(pl.len()).over(*pair, "policy", "success")
    ordered = mixed.with_columns(turn=turn).sort(*pair, "turn", "policy", "success")
    return episodes[ordered.group_by(pair, maintain_order=True).head(EPISODES)["row"]]


def _strip(corpus: Corpus, episode: Mapping[str, Any]) -> Strip:
    try:
        frames = moments(corpus, episode["file"], episode["match"], episode["player"])
    except PalaestraError as error:  # a check has named the fault already: the sheet goes on
        return Strip(episode, b"", str(error))
    size = frames.shape[1]
    picture = np.full((size, 3 * size + 2 * GAP, 3), 255, np.uint8)
    for place, frame in enumerate(frames):
        picture[:, place * (size + GAP) :][:, :size] = frame
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return Strip(episode, buffer.getvalue(), "")


def moments(corpus: Corpus, shard: int, match: int, player: int) -> NDArray[np.uint8]:
    """The episode's first, middle and last frame, (3, H, H, 3); raises whatever is wrong."""
    _, rows = corpus.read_index(shard)
    rows = rows.filter(match=match, player=player).sort("segment")
    ends, found = np.cumsum(rows["steps"]), []
    for step in (0, ends[-1] // 2, ends[-1] - 1):
        place = int(np.searchsorted(ends, step, "right"))
        pixels = _pixels(corpus, shard, rows.row(place, named=True))
        found.append(pixels[step - ends[place]])  # counted from its end
    return np.stack(found)


def _pixels(corpus: Corpus, shard: int, row: Mapping[str, Any]) -> NDArray[np.uint8]:
    url, start = corpus.tar_url(shard), row["offset"]
    place = f"{url}: sample {row['key']}"
    data = storage.read_range(url, start, start + row["bytes"])
    episode = decode_sample(memoryview(data), row["key"], place)
    episode.validate(corpus.schema)
    if episode.steps != row["steps"]:
        raise CorruptionError(f"{place}: expected {row['steps']} steps, found {episode.steps}")
    return episode.pixels
