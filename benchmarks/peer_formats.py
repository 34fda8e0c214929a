"""Bytes on disk and decoded steps per second of our corpus beside other formats, on one core.

The same segments (frames of 64×64, state, action, reward, success and what is said of each
segment) are written in every format with its best documented settings for this use: whole segments
in random order, decoded into fresh padded arrays of 8 segments. `formats/` has a module for each.
Every value that is read back is compared with the original before anything is timed. Each format
has a process of its own, pinned to the same core, with its files in the page cache; all are asked
in turn. Peers that are not in our environment are installed into others on first use, and kept.

* webdataset: shards shuffled, then a buffer of 100 samples; its own decoders, a hook for zstd;
* MDS (mosaicml-streaming): the first epoch decompresses whole shards to a cache on disk, later
  epochs read that; both are counted as on disk for the later ones;
* LitData: a zstd frame for each sample;
* HDF5, Zarr: a chunk for each segment; Parquet: a row group for each;
* H.264: an mp4 for each segment, the other arrays in a compressed npz beside it.

Formats that read nothing ahead are timed on a part of the segments if all take over 2 s.

Run: python benchmarks/peer_formats.py [--quick] [--folder FOLDER] [--corpus CORPUS]
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from itertools import count
from pathlib import Path

import numpy as np
import tyro
from formats.catalogue import Entry, entries
from formats.segments import ARRAYS, BATCH, folder_bytes
from palaestra.shards import storage
from palaestra.shards.codec import decode_array, split_members
from palaestra.shards.corpus import Corpus
from peer_environments import FORMATS, Peer, PeerError, interpreter
from reading import STEPS, open_corpus
from timing import interleave, pin_to_one_core, print_table

REPETITIONS = 5
QUICK_SEGMENTS = 16
PACKAGES = ("numpy", "zstandard", "webdataset", "h5py", "pyarrow", "av")


class Measured:
    """What is known of a format once it is written and checked."""

    def __init__(self, peer: Peer, folder: Path, steps: int) -> None:
        """Raises PeerError if it fails, or reads back anything else than the original."""
        self.peer, self._seeds = peer, count()
        self.write_seconds = peer.ask("write")["seconds"] / steps
        self.psnr = peer.ask("check", seed=next(self._seeds))["psnr"]
        self.bytes = folder_bytes(folder) / steps
        self.wall = self.cpu = 0.0

    def rate(self) -> float:
        """Decoded steps/s."""
        reply = self.peer.ask("read", seed=next(self._seeds))
        self.wall, self.cpu = self.wall + reply["seconds"], self.cpu + reply["cpu_seconds"]
        return reply["steps"] / reply["seconds"]


def lay_out(corpus: Corpus, folder: Path, most: int | None) -> int:
    """The first segments as `Segments` reads them; the number of steps."""
    rows = corpus.index.select("shard", "offset", "bytes", "steps")[:most]
    folder.mkdir()
    starts = np.concatenate([[0], rows["steps"].to_numpy().cumsum()])
    steps, found = int(starts[-1]), dict[str, np.memmap]()
    words, url, tar = [], "", memoryview(b"")
    for place, (shard, offset, size, _) in enumerate(rows.iter_rows()):
        if url != corpus.tar_url(shard):
            url = corpus.tar_url(shard)
            tar = memoryview(storage.read_bytes(url))
        for name, content in split_members(tar[offset : offset + size], url):
            kind = name.split(".")[1]
            if kind == "json":
                words.append(bytes(content).decode())
                continue
            array = decode_array(content, name)
            if kind not in found:
                found[kind] = np.lib.format.open_memmap(
                    folder / f"{kind}.npy", "w+", array.dtype, (steps, *array.shape[1:])
                )
            found[kind][starts[place] : starts[place + 1]] = array
    assert set(found) == set(ARRAYS)
    np.save(folder / "starts.npy", starts)
    (folder / "words.json").write_text(json.dumps(words))
    return steps


def start(entry: Entry, python: Path, folder: Path, steps: int) -> Measured:
    """Write and check, in a process of its own."""
    own = folder / entry.name.replace(" ", "-").replace(",", "").replace(".", "")
    own.mkdir()
    words = (python, "-m", "formats.serve", entry.place, json.dumps(entry.settings), own)
    peer = Peer([*words, folder / "segments"], own.with_suffix(".log"))
    try:
        return Measured(peer, own, steps)
    except PeerError:
        peer.close()
        raise


def print_sizes(measured: dict[str, Measured], steps: int) -> None:
    """A row a format."""
    ours = measured["Palaestra"]
    rows = [
        (name, f"{m.bytes:,.0f}", f"{m.bytes / ours.bytes:.2f}",
         "yes" if m.psnr is None else f"PSNR {m.psnr:.1f} dB", f"{m.write_seconds * 1e6:,.1f}",
         f"{m.write_seconds / ours.write_seconds:.2f}")
        for name, m in measured.items()
    ]  # fmt: skip
    header = ("format", "bytes", "ratio", "lossless", "µs to write", "ratio")
    print_table(f"per step on disk, of {steps:,} steps", header, rows)


def print_rates(measured: dict[str, Measured], repetitions: int) -> None:
    """A row a format: how fast it is, and how many times as fast ours is."""
    timing = interleave({name: m.rate for name, m in measured.items()}, repetitions)
    share = sum(m.cpu for m in measured.values()) / sum(m.wall for m in measured.values())
    rows = [
        (name, f"{timing.rate(name):,.0f}", f"{timing.ratio('Palaestra', name):.2f}")
        for name in measured
    ]
    note = f"median of {repetitions}, {share:.0%} of the core was theirs"
    title = f"decoded steps/s on one core into batches of {BATCH} segments ({note})"
    print_table(title, ("format", "per second", "Palaestra over it"), rows)


def main(quick: bool = False, folder: Path | None = None, corpus: str | None = None) -> None:
    """Print both tables; --quick takes the first segments and repeats once."""
    opened = open_corpus(corpus, STEPS)
    place = storage.local_path(opened.url)
    assert place is not None, "--corpus should be a local folder"
    home = folder or Path(tempfile.gettempdir()) / "palaestra-peers"
    work = home / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    measured, missing, ready = {}, {}, []
    for entry in entries(str(place.resolve())):
        try:
            environment = entry.environment
            python = interpreter(environment, home) if environment else Path(sys.executable)
            ready.append((entry, python))
        except PeerError as error:
            missing[entry.name] = error
    pin_to_one_core()
    steps = lay_out(opened, work / "segments", QUICK_SEGMENTS if quick else None)
    for entry, python in ready:
        try:
            measured[entry.name] = start(entry, python, work, steps)
        except PeerError as error:
            if not measured:  # ours comes first
                raise
            missing[entry.name] = error
    # the whole corpus: with its index, and all that is written once
    measured["Palaestra"].bytes = folder_bytes(place) / int(opened.index["steps"].sum())
    print_sizes(measured, steps)
    print_rates(measured, 1 if quick else REPETITIONS)
    for m in measured.values():
        m.peer.close()
    for name, error in missing.items():
        print(f"left out: {name}: {error}")
    print("ours:", ", ".join(f"{name}=={version(name)}" for name in PACKAGES))
    for name, packages in FORMATS.items():
        print(f"{name}: {', '.join(packages)}")
    shutil.rmtree(work)


if __name__ == "__main__":
    tyro.cli(main)
