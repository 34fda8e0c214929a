"""The fsspec filesystem behind a URL, and calls to it that cannot hang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.implementations.local import LocalFileSystem

from .faults import naming
from .retry import patience, retried

S3_CONFIG = {
    "connect_timeout": 5, "read_timeout": 10,  # seconds without a byte
    "max_pool_connections": 64,
    "retries": {"total_max_attempts": 1},  # ours are bounded and counted
    # Many stores refuse the checksum headers that botocore adds beyond what S3 demands. Without
    # them it signs the SHA-256 of what it sends, so a body damaged on its way is refused all the
    # same; what it reads is checked by our own checksums.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}  # fmt: skip


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL and the path on it."""
    with naming(url):
        fs, path = fsspec.core.url_to_fs(url, **_options(url))
    if fs.protocol == ("s3", "s3a"):
        fs.retries = 1  # s3fs's own, on top of its client's; it takes them from nowhere else
    return fs, path


def _options(url: str) -> dict[str, Any]:
    """What we ask of the S3 client, by protocol; fsspec's configuration goes first."""
    options = {}
    for protocol in ("s3", "s3a"):
        if any(link.startswith(f"{protocol}://") for link in url.split("::")):
            told = fsspec.config.conf.get(protocol, {})
            config = S3_CONFIG | told.get("config_kwargs", {})
            # a listing that is kept does not show what another machine writes
            options[protocol] = {"use_listings_cache": False} | told | {"config_kwargs": config}
    return options


def local_path(url: str) -> Path | None:
    """The path of a local URL; None for any other."""
    fs, path = filesystem(url)
    return Path(path) if isinstance(fs, LocalFileSystem) else None


def call(fs: Any, method: str, *args: Any, seconds: float, **kwargs: Any) -> Any:
    """A method of the filesystem; TimeoutError after `seconds` where it is asynchronous."""
    if isinstance(fs, AsyncFileSystem):
        return sync(fs.loop, getattr(fs, f"_{method}"), *args, timeout=seconds, **kwargs)
    return getattr(fs, method)(*args, **kwargs)


@retried
def info(url: str) -> dict[str, Any] | None:
    """What the filesystem knows of a file or folder; None if there is none.

    Not through `fs.exists`, which takes any fault at all for a missing file.
    """
    fs, path = filesystem(url)
    with naming(url):
        try:
            return dict(call(fs, "info", path, seconds=patience()))
        except FileNotFoundError:
            return None


def size(url: str) -> int | None:
    """Bytes of the file at `url`, or None if there is none."""
    found = info(url)
    return None if found is None else int(found["size"])
