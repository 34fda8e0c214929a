"""The four rooms' doors: who may import whom, and which file opens which heavy engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {  # DESIGN.md, section 1
    "shards": set[str](),
    "generate": {"shards"},
    "train": {"shards"},
    "evaluate": {"shards", "generate", "train"},
}
SOURCES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))
COMMANDS = sorted(path.parent.name for path in ROOT.glob("*/__main__.py"))
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]


def imports(path: Path, source: str | None = None) -> Iterator[str]:
    """Absolute dotted name of everything a file imports, at any depth of nesting."""
    folder = ("palaestra", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text() if source is None else source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else ()
            module = (*base, *([node.module] if node.module else []))
            yield from (".".join((*module, alias.name)) for alias in node.names)


def rooms(path: Path) -> set[str]:
    """Rooms that a file imports from, its own left out."""
    names = [name.split(".") for name in imports(path)]
    return {n[1] for n in names if n[0] == "palaestra"} - {path.relative_to(ROOT).parts[0]}


def importers(package: str) -> list[str]:
    """Files that import a package."""
    return [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name.split(".")[0] == package for name in imports(path))
    ]


def run(code: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_reader_of_imports_reads_them() -> None:
    source = "import a.b\nfrom . import c\nfrom ..x import y\ndef f():\n    from ..train.z import w"
    found = list(imports(ROOT / "generate" / "tasks" / "reach.py", source))
    assert found == [
        "a.b", "palaestra.generate.tasks.c", "palaestra.generate.x.y",
        "palaestra.generate.train.z.w",
    ]  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    assert rooms(path) <= MAY_IMPORT[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize(
    ("package", "file"),
    [
        ("deepspeed", "train/engine.py"), ("numba", "generate/raster.py"),
        ("ray", "generate/ray_engine.py"),
    ],
)
def test_one_file_imports_each_engine(package: str, file: str) -> None:
    assert importers(package) == [file]


def test_packages_are_docstrings() -> None:
    for path in SOURCES:
        if path.name == "__init__.py":
            tree = ast.parse(path.read_text())
            assert len(tree.body) == 1 and ast.get_docstring(tree), path


WRITE_A_SHARD = """
import sys
import palaestra.generate.work as work
from palaestra.generate.recipe import Behaviour, Recipe
from palaestra.shards.corpus import Corpus
behaviours = Behaviour(("reach",), "expert", noise=0.1), Behaviour(("push",), "random")
recipe = Recipe("r", 512, behaviours, shard_steps=512, wave=1, image_size=8)
corpus = Corpus.create("memory://corpus", work.manifest_of(recipe))
assert work.write_shard(corpus, recipe, 0).steps == 512
print(*(name for name in ("torch", "datasets", "webdataset", "deepspeed") if name in sys.modules))
"""


def test_a_scripted_worker_imports_neither_torch_nor_datasets(tmp_path: Path) -> None:
    assert run(WRITE_A_SHARD, tmp_path).split() == []


IMPORT_QUIETLY = """
import importlib, os, signal, sys, threading
def look():
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    return dict(os.environ), os.getcwd(), handlers, threading.active_count()
before = look()
importlib.import_module(sys.argv[1])
assert look() == before, (before, look())
"""


@pytest.mark.parametrize("room", COMMANDS)
def test_importing_a_command_does_nothing(room: str, tmp_path: Path) -> None:
    assert run(IMPORT_QUIETLY, tmp_path, f"palaestra.{room}.__main__") == ""
    assert list(tmp_path.iterdir()) == []
