"""Images among the rows of a table: encoded there, or in files of the same source."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .source import files_of

NO_IMAGE = (  # what Pillow raises for damaged bytes, besides its own; OSError for a missing file
    ArithmeticError, LookupError, OSError, SyntaxError, TypeError, ValueError, EOFError,
    struct.error, Image.DecompressionBombError,
)  # fmt: skip


class Images:
    """Decodes them as `datasets` stores them: a struct of bytes and a path, one of them null."""

    def __init__(self, path: Path) -> None:
        """Paths are relative to the source's folder; a source of tables alone has no other files.

        What is not of the source may change without its checksums showing it.
        """
        self.folder = path.resolve()  # `datasets` resolves it as well
        inside = files_of(path) if path.is_dir() else []
        self.files = {str(self.folder / file.relative_to(path)) for file in inside}

    def decode(self, image: Any) -> NDArray[np.uint8]:
        """(height, width, 3); one of NO_IMAGE for anything else."""
        data = image.get("bytes") or self.file(image["path"]).read_bytes()
        with Image.open(io.BytesIO(data)) as opened:
            return np.asarray(opened.convert("RGB"))

    def file(self, name: str) -> Path:
        """Where a file of the source is; FileNotFoundError if it is none."""
        # not resolved: the Hub's cache links to files elsewhere, which the checksums cover
        path = os.path.normpath(self.folder / name)
        if path not in self.files:
            raise FileNotFoundError(f"{name} is no file of the source's folder")
        return Path(path)
