"""Whether what lies at a destination is the same import, begun before; else what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...shards import storage
from ...shards.corpus import Corpus
from ...shards.errors import ConfigError, DifferentCorpusError
from .mapping import ColumnMapping

IMPORTED = "imported"  # the entry of a recipe that tells where its episodes came from


def require_simulated(corpus: Corpus) -> None:
    """Raise ConfigError for an imported corpus, which no recipe makes again."""
    if IMPORTED in corpus.manifest.recipe:
        raise ConfigError(
            f"{corpus.url}: its episodes were imported, not simulated: they cannot be replayed; "
            "`generate import` with the same mapping writes missing shards again"
        )


def require_same_mapping(url: str, mapping: ColumnMapping) -> None:
    """Raise DifferentCorpusError naming the key in which the mapping of what is there differs."""
    if not storage.exists(storage.join(url, "corpus.json")):
        return
    before = Corpus.open(url).manifest.recipe.get(IMPORTED)
    if before is None:
        raise DifferentCorpusError(f"{url} holds a different corpus: it was not imported")
    mine = json.loads(json.dumps(mapping.to_json()))  # where a tuple and a list are the same
    if difference := _first_difference(before["mapping"], mine):
        raise DifferentCorpusError(f"{url} was imported with another mapping: its {difference}")


def _first_difference(theirs: Any, mine: Any, key: str = "") -> str:
    """The innermost key that differs, with both values; empty if none does."""
    if theirs == mine:
        return ""
    if not isinstance(theirs, dict) or not isinstance(mine, dict):
        return f"{key} is {json.dumps(theirs)}, this one's {json.dumps(mine)}"
    told = (
        _first_difference(theirs.get(name), mine.get(name), f"{key}.{name}".lstrip("."))
        for name in theirs | mine
    )
    return next(filter(None, told), "")


def require_same_files(url: str, digests: Mapping[str, str]) -> None:
    """Raise DifferentCorpusError naming a file of the source that is not as it was."""
    if not storage.exists(storage.join(url, "corpus.json")):
        return
    before = Corpus.open(url).manifest.dependencies
    files = sorted({*before, *digests})
    changed = [file for file in files if before.get(file) != digests.get(file)]
    if changed:
        raise DifferentCorpusError(
            f"{changed[0]} changed since {url} was begun, which holds to one source: import it "
            "into another destination"
        )
