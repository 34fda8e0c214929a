"""Ways to store a sample's arrays: bytes per step, and steps/s to encode and to decode them.

A variant is an order of the array's bytes and parameters of zstd. All ratios are to the first of a
table, level 1 in C order. The columns, on one core, in thousands of steps/s:

* `encode`: from the array in memory to its frame, reordering included;
* `decode`: into a buffer that is reused, reordering undone into an array that is reused as well;
* `unchecked`: the same without the frame's checksum, as our reader decodes what it has verified;
* `plain`: as `decode`, with `ZstdDecompressor.decompress`, which allocates.

Only C order and Fortran order are plain `.npy`; others need a step after `numpy.load`. Two
corpora: the demo's recipe, and eight tasks at their second level, played by a noisy expert and at
random. The last table is what members other than pixels cost, by how they are grouped.

Run: python benchmarks/encoding.py [--quick] [--corpus CORPUS]
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from reading import STEPS, Members, open_corpus, read_members  # sets the environment

# isort: split
import numpy as np
import tyro
import zstandard
from numpy.typing import NDArray
from palaestra.generate.generation import generate
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.shards.codec import (
    HEADER_BYTES,
    decode_array,
    encode_array,
    split_members,
    tar_member,
    without_checksum,
)
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import ARRAYS
from timing import interleave, pin_to_one_core, print_table

os.environ.setdefault("COLUMNS", "110")  # where no terminal says otherwise, room for the tables

REPETITIONS = 5
SEGMENTS, QUICK_SEGMENTS = 24, 2
WAVE, QUICK_WAVE = 8, 1
TASKS = ("reach", "pick_place", "drawer", "buttons", "runner", "quadruped", "maze", "sumo")
DICTIONARY_BYTES = 112_640  # what zstd's command line trains

Array = NDArray[Any]
Arrays = dict[str, list[Array]]


class Layout(NamedTuple):
    """An order of an array's bytes."""

    pack: Callable[[Array], Array]
    """The array to store, in C order."""
    unpack: Callable[[Array, Array], None] | None
    """Writes the array back from what was stored; None where that is the array."""


def moved(*axes: int) -> Layout:
    """Axes in another order; all reversed is Fortran order."""
    back = tuple(int(axis) for axis in np.argsort(axes))

    def unpack(stored: Array, out: Array) -> None:
        out[...] = stored.transpose(back)

    return Layout(lambda array: np.ascontiguousarray(array.transpose(axes)), unpack)


def delta(forward: np.ufunc, backward: np.ufunc) -> Layout:
    """Each step's difference from the one before, in the integers of its bits."""

    def bits(array: Array) -> Array:
        return array.view(f"u{array.itemsize}")

    def pack(array: Array) -> Array:
        stored = bits(array).copy()
        forward(stored[1:], bits(array)[:-1], out=stored[1:])
        return stored

    def unpack(stored: Array, out: Array) -> None:
        target = bits(out)
        target[0] = stored[0]
        for t in range(1, len(stored)):  # on pixels 75 times as fast as accumulate along axis 0
            backward(target[t - 1 : t], stored[t : t + 1], out=target[t : t + 1])

    return Layout(pack, unpack)


def shuffled(fortran: bool) -> Layout:
    """The first bytes of all numbers, then their second bytes, …, of an array of any order."""

    def pack(array: Array) -> Array:
        numbers = np.ascontiguousarray(array.T if fortran else array)
        return np.ascontiguousarray(numbers.view(np.uint8).reshape(-1, array.itemsize).T)

    def unpack(stored: Array, out: Array) -> None:
        numbers = np.ascontiguousarray(stored.T).view(out.dtype)
        out[...] = numbers.reshape(out.shape[::-1]).T if fortran else numbers.reshape(out.shape)

    return Layout(pack, unpack)


C_ORDER = Layout(np.ascontiguousarray, None)
XOR = delta(np.bitwise_xor, np.bitwise_xor)
PIXEL_LAYOUTS = {
    "Fortran order": moved(3, 2, 1, 0),
    "time last": moved(1, 2, 3, 0),
    "planes (T, 3, H, W)": moved(0, 3, 1, 2),
    "rows (H, T, W, 3)": moved(1, 0, 2, 3),
    "xor previous": XOR,
    "minus previous": delta(np.subtract, np.add),
}
REWARD_LAYOUTS = {"xor previous": XOR, "shuffled": shuffled(fortran=False)}
FLOAT_LAYOUTS = REWARD_LAYOUTS | {
    "Fortran order": moved(1, 0),
    "Fortran, shuffled": shuffled(fortran=True),
}
GROUPS = {
    "one for each": (("action",), ("reward",), ("success",), ("state",)),
    "action, reward, success in one": (("action", "reward", "success"), ("state",)),
    "all in one": (("action", "reward", "success", "state"),),
}


class Variant(NamedTuple):
    """A layout, and the contexts that compress and decompress."""

    layout: Layout
    compressor: zstandard.ZstdCompressor
    decompressor: zstandard.ZstdDecompressor


def variant(
    level: int = 1, layout: Layout = C_ORDER,
    dictionary: zstandard.ZstdCompressionDict | None = None, **parameters: Any,
) -> Variant:  # fmt: skip
    """A variant by zstd's level and what differs from it."""
    frame: dict[str, Any] = {"write_checksum": True, "write_content_size": True}
    if parameters:
        tuned = zstandard.ZstdCompressionParameters.from_level(level, **parameters, **frame)
        compressor = zstandard.ZstdCompressor(compression_params=tuned)
    else:
        compressor = zstandard.ZstdCompressor(level, dict_data=dictionary, **frame)
    return Variant(layout, compressor, zstandard.ZstdDecompressor(dict_data=dictionary))


def pixel_variants() -> dict[str, Variant]:
    """Levels, windows, tables, searches, long-distance matching, layouts."""
    found = {f"level {level}": variant(level) for level in (1, -5, -3, -1, 2, 3, 4, 5, 6, 9)}
    for log in (18, 20, 21, 22, 23):
        found[f"window 2^{log}"] = variant(window_log=log)
    for log in (15, 16, 17):
        found[f"window 2^21, table 2^{log}"] = variant(window_log=21, hash_log=log)
    for least in (5, 6):
        found[f"window 2^21, matches from {least}"] = variant(window_log=21, min_match=least)
    found["level -1, window 2^21"] = variant(-1, window_log=21)
    for log in (3, 4, 5, 6):
        found[f"greedy, search 2^{log}"] = variant(
            window_log=21, strategy=zstandard.STRATEGY_GREEDY, search_log=log, min_match=6,
            hash_log=17, chain_log=17,
        )  # fmt: skip
    for level in (-1, 1, 3):
        # rate/bucket: zstd's defaults, then denser hashing, then half the places to compare too
        for rate, bucket in ((7, 3), (4, 3), (4, 2)):
            found[f"level {level}, long {rate}/{bucket}"] = variant(
                level, window_log=21, enable_ldm=True, ldm_hash_rate_log=rate,
                ldm_bucket_size_log=bucket,
            )  # fmt: skip
    return found | laid_out(PIXEL_LAYOUTS, (1, 6))


def laid_out(layouts: Mapping[str, Layout], levels: Sequence[int]) -> dict[str, Variant]:
    """Each layout at each level."""
    return {
        f"level {level}, {name}": variant(level, layout)
        for name, layout in layouts.items()
        for level in levels
    }


def float_variants(layouts: Mapping[str, Layout]) -> dict[str, Variant]:
    """Levels, layouts."""
    found = {f"level {level}": variant(level) for level in (1, -1, 3, 6, 9)}
    return found | laid_out(layouts, (1, 9))


def with_dictionary(examples: Sequence[Array]) -> dict[str, Variant]:
    """Level 1 with a dictionary of other samples' beginnings; none where they are too few."""
    contents: list[bytes | bytearray | memoryview] = [
        array.tobytes()[:DICTIONARY_BYTES] for array in examples
    ]
    try:
        dictionary = zstandard.train_dictionary(DICTIONARY_BYTES, contents)
    except zstandard.ZstdError:
        return {}
    return {"dictionary": variant(dictionary=dictionary)}


class Frames:
    """A variant of some arrays, checked to lose nothing, and its rates."""

    def __init__(self, arrays: Sequence[Array], way: Variant) -> None:
        self.arrays, self.way = arrays, way
        self.steps = sum(map(len, arrays))
        self.stored = [(stored.dtype, stored.shape) for stored in map(way.layout.pack, arrays)]
        self.frames = [self.compress(array) for array in arrays]
        self.unchecked = [bytes(without_checksum(memoryview(frame))) for frame in self.frames]
        size = max(array.nbytes for array in arrays)
        self.buffer = memoryview(bytearray(HEADER_BYTES + size))
        self.out = np.zeros(size, np.uint8)
        for frames in (self.frames, self.unchecked):
            for number, frame in enumerate(frames):
                found = self.restore(number, self.into_buffer(frame))
                assert np.array_equal(found, arrays[number]), "a variant is not lossless"

    @property
    def size(self) -> float:
        """Bytes per step."""
        return sum(map(len, self.frames)) / self.steps

    def compress(self, array: Array) -> bytes:
        """The frame, with blanks for the header of the .npy."""
        stored = self.way.layout.pack(array)
        return self.way.compressor.compress(b"".join((b" " * HEADER_BYTES, stored.data)))

    def into_buffer(self, frame: bytes) -> memoryview:
        """The decompressed bytes, where the last ones were."""
        self.way.decompressor.stream_reader(frame).readinto(self.buffer)
        return self.buffer

    def restore(self, number: int, plain: bytes | memoryview) -> Array:
        """An array: within its decompressed bytes, or made of them."""
        (dtype, shape), array = self.stored[number], self.arrays[number]
        count, unpack = array.nbytes // dtype.itemsize, self.way.layout.unpack
        stored = np.frombuffer(plain, dtype, count, HEADER_BYTES).reshape(shape)
        if unpack is None:
            return stored
        out = self.out[: array.nbytes].view(array.dtype).reshape(array.shape)
        unpack(stored, out)
        return out

    def encode(self) -> float:
        """Steps/s."""
        start = time.perf_counter()
        for array in self.arrays:
            self.compress(array)
        return self.steps / (time.perf_counter() - start)

    def decode(
        self, frames: Sequence[bytes], decompress: Callable[[bytes], bytes | memoryview]
    ) -> float:
        """Steps/s."""
        start = time.perf_counter()
        for number, frame in enumerate(frames):
            self.restore(number, decompress(frame))
        return self.steps / (time.perf_counter() - start)

    def rates(self) -> dict[str, Callable[[], float]]:
        """What to time, by column."""
        return {
            "encode": self.encode,
            "decode": partial(self.decode, self.frames, self.into_buffer),
            "unchecked": partial(self.decode, self.unchecked, self.into_buffer),
            "plain": partial(self.decode, self.frames, self.way.decompressor.decompress),
        }


def print_variants(
    title: str, arrays: Sequence[Array], variants: Mapping[str, Variant], repetitions: int
) -> None:
    """A row per variant: bytes per step, rates, and their ratios to the first variant's."""
    frames = {name: Frames(arrays, way) for name, way in variants.items()}
    base = next(iter(frames))
    columns = list(frames[base].rates())
    timings = [
        interleave({name: f.rates()[column] for name, f in frames.items()}, repetitions)
        for column in columns
    ]
    rows = []
    for name, f in frames.items():
        rows.append([name, f"{f.size:.1f}", f"{f.size / frames[base].size:.3f}"])
        for timing in timings:
            rows[-1] += [f"{timing.rate(name) / 1000:,.0f}", f"{timing.ratio(name, base):.2f}"]
    share = min(timing.share for timing in timings)
    print_table(
        f"{title} (median of {repetitions}, {share:.0%} of the core was ours)",
        ("variant", "bytes", "ratio", *(text for c in columns for text in (c, "ratio"))), rows,
    )  # fmt: skip


def group_members(json: bytes, arrays: Mapping[str, Array], groups: Sequence[Any]) -> bytes:
    """A sample's tar members without pixels; the arrays of a group stand side by side in one."""
    parts = [tar_member("000000000000-0-00.json", json)]
    for group in groups:
        columns = [arrays[name].reshape(len(arrays[name]), -1) for name in group]
        array = columns[0] if len(group) == 1 else np.hstack(columns, dtype=np.float32)
        parts.append(tar_member(f"000000000000-0-00.{group[0]}.npy.zst", encode_array(array)))
    return b"".join(parts)


def read_members_of(tars: Sequence[bytes], steps: int) -> float:
    """Steps/s of finding the members and decoding their arrays."""
    start = time.perf_counter()
    for tar in tars:
        for name, data in split_members(memoryview(tar), "memory"):
            if name.endswith(".npy.zst"):
                decode_array(data, name)
    return steps / (time.perf_counter() - start)


def print_members(title: str, members: Members, arrays: Arrays, repetitions: int) -> None:
    """What a sample costs beside its pixels, by how the other arrays are grouped."""
    steps = sum(map(len, arrays["reward"]))
    tars: dict[str, list[bytes]] = {name: [] for name in GROUPS}
    for number, json in enumerate(members["json"]):
        sample = {name: values[number] for name, values in arrays.items()}
        for name, groups in GROUPS.items():
            tars[name].append(group_members(json, sample, groups))
    base, sizes = next(iter(tars)), {name: sum(map(len, t)) / steps for name, t in tars.items()}
    runs = {name: partial(read_members_of, data, steps) for name, data in tars.items()}
    timing = interleave(runs, repetitions)
    rows = [
        (name, f"{size:.1f}", f"{size / sizes[base]:.3f}", f"{timing.rate(name) / 1000:,.0f}",
         f"{timing.ratio(name, base):.2f}")
        for name, size in sizes.items()
    ]  # fmt: skip
    header = ("members", "bytes", "ratio", "plain", "ratio")
    print_table(f"{title}: all but pixels, with tar headers and padding", header, rows)


def read_samples(corpus: Corpus, count: int) -> tuple[Members, Members]:
    """Members of `count` samples from all over the corpus, and of those that follow them."""
    found, _ = read_members([corpus.tar_url(shard) for shard in corpus.complete_shards()])
    picks = np.linspace(0, len(found["json"]) - 2, count).astype(int)
    return (
        {suffix: [contents[pick] for pick in picks] for suffix, contents in found.items()},
        {suffix: [contents[pick + 1] for pick in picks] for suffix, contents in found.items()},
    )


def decode_members(members: Members) -> Arrays:
    """Arrays of the samples, by name."""
    return {name: [decode_array(m, name) for m in members[f"{name}.npy.zst"]] for name in ARRAYS}


def open_mixed(wave: int) -> Corpus:
    """About a wave of each task and policy, generated on first use and kept."""
    behaviours = (
        Behaviour(TASKS, "expert", (2,), noise=0.4, weight=0.75),
        Behaviour(TASKS, "random", (2,), weight=0.25),
    )
    folder = Path(tempfile.gettempdir()) / f"palaestra-benchmark-mixed-{wave}"
    return generate(Recipe("mixed", 16_384 * wave, behaviours, wave=wave), str(folder)).corpus


def measure(title: str, corpus: Corpus, quick: bool) -> None:
    """Print the tables of one corpus."""
    repetitions = 1 if quick else REPETITIONS
    members, others = read_samples(corpus, QUICK_SEGMENTS if quick else SEGMENTS)
    arrays, examples = decode_members(members), decode_members(others)
    variants = {
        "pixels": pixel_variants(),
        "state": float_variants(FLOAT_LAYOUTS),
        "action": float_variants(FLOAT_LAYOUTS),
        "reward": float_variants(REWARD_LAYOUTS),
    }
    for name, ways in variants.items():
        ways |= with_dictionary(examples[name])
        print_variants(f"{title}: {name}", arrays[name], ways, repetitions)
    print_members(title, members, arrays, repetitions)


def main(quick: bool = False, corpus: str | None = None) -> None:
    """Print the tables of both corpora; --quick takes few samples and repeats once."""
    first = open_corpus(corpus, STEPS)
    mixed = open_mixed(QUICK_WAVE if quick else WAVE)
    pin_to_one_core()
    measure(corpus or "demo", first, quick)
    measure("mixed", mixed, quick)


if __name__ == "__main__":
    tyro.cli(main)
