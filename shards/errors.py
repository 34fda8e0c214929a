"""Every error a user can meet; the commands print them as one line.

PalaestraError
├── ConfigError              a flag, recipe or preset is wrong
│   └── UnknownNameError     a name that does not exist, with the nearest that does
├── StorageError             a URL cannot be read or written
├── CorpusError              a corpus is not what it should be
│   ├── NotACorpusError      nothing of ours at that URL
│   ├── VersionError         written by a newer format
│   ├── DifferentCorpusError the destination holds another corpus
│   └── CorruptionError      bytes that do not match their checksum or schema
├── CheckpointError          a run or checkpoint cannot be used
│   └── SchemaMismatchError  checkpoint and data disagree on shapes or names
├── RolloutError             a policy or simulation broke its contract
└── WorkerDiedError          a process ended in the middle of its work
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PalaestraError(Exception):
    """Base of all errors that name what was expected and what was found."""


class ConfigError(PalaestraError):
    """A flag, recipe or preset is wrong."""


class UnknownNameError(ConfigError):
    """A name that does not exist: `kind` says of what, `known` what there is."""

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
        super().__init__(f"{where + ': ' if where else ''}unknown {kind} {name!r}{hint}")
        self._arguments = (kind, name, names, where)

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str], str]]:
        """Workers raise it too, and send it home pickled."""
        return type(self), self._arguments


class StorageError(PalaestraError):
    """A URL cannot be read or written."""


class CorpusError(PalaestraError):
    """A corpus is not what it should be."""


class NotACorpusError(CorpusError):
    """Nothing of ours at that URL."""


class VersionError(CorpusError):
    """Written by a newer version of the format."""


class DifferentCorpusError(CorpusError):
    """The destination already holds another corpus."""


class CorruptionError(CorpusError):
    """Bytes that do not match their checksum, header or schema."""


class CheckpointError(PalaestraError):
    """A run or checkpoint cannot be used."""


class SchemaMismatchError(CheckpointError):
    """Checkpoint and data disagree on shapes or names."""


class RolloutError(PalaestraError):
    """A policy or simulation broke its contract."""


class WorkerDiedError(PalaestraError):
    """A process ended in the middle of its work, or before it took any."""
