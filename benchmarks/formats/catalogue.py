"""Which formats there are, and the environment of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A format, and how to make it."""

    name: str
    place: str
    """`module:class` within this package."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None
    """Of its own, where it has one; None for ours."""


def entries(corpus: str) -> list[Entry]:
    """All formats; the first is the corpus at this URL."""
    return [
        Entry("Palaestra", "ours:Ours", {"corpus": corpus}),
        Entry("webdataset .npy.zst", "tars:Tars", {"member": "npy.zst"}),
        Entry("webdataset .npy.gz", "tars:Tars", {"member": "npy.gz"}),
        Entry("webdataset .npz, deflated", "tars:Tars", {"member": "npz", "deflate": True}),
        Entry("webdataset .npz, plain", "tars:Tars", {"member": "npz"}),
        Entry("webdataset .npy, plain", "tars:Tars", {"member": "npy"}),
        Entry("MDS zstd, first epoch", "mosaicml:Mds", {"keep": False}, "mosaicml"),
        Entry("MDS zstd, later epochs", "mosaicml:Mds", {"keep": True}, "mosaicml"),
        Entry("LitData zstd", "litdata_chunks:LitData", {}, "litdata"),
        Entry("HDF5 gzip", "hdf5:Hdf5", {"filter": "gzip"}),
        Entry("HDF5 lzf", "hdf5:Hdf5", {"filter": "lzf"}),
        Entry("HDF5 zstd, hdf5plugin", "hdf5:Hdf5", {"filter": "zstd"}, "hdf5plugin"),
        Entry("Parquet zstd", "parquet:Parquet"),
        Entry("Zarr 3 zstd", "zarr_arrays:Zarr", {}, "zarr"),
        Entry("H.264 lossless", "video:Video", {"lossless": True}),
        Entry("H.264 crf 23, lossy", "video:Video", {"lossless": False}),
    ]
