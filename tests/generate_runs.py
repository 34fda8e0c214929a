"""Runs of the `generate` command: a small recipe, its corpus byte by byte, processes to kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palaestra.generate import work
from palaestra.generate.recipe import Recipe
from palaestra.generate.recipe_file import load_recipe
from palaestra.shards import storage
from palaestra.shards.corpus import Corpus
from small_corpus import build
from waiting import PATIENCE_S

RECIPE = """name = "tiny"
steps = 4096
shard_steps = 1024
wave = 2
seed = 5
image_size = 32

[[behaviours]]
tasks = ["reach", "swingup"]
policy = "expert"
noise = 0.2

[[behaviours]]
tasks = ["reach"]
policy = "random"
weight = 0.25
"""
STEPS, SHARDS = 4096, 4
GENERATE = [sys.executable, "-m", "palaestra.generate"]


def contents(url: str) -> dict[str, bytes]:
    """Every file of a corpus, by its path within."""
    names = [name for name in storage.names(url) if name not in ("data", "index")]
    for folder in ("data", "index"):
        names += [f"{folder}/{name}" for name in storage.names(storage.join(url, folder))]
    return {name: storage.read_bytes(storage.join(url, name)) for name in names}


def shard_names(shard: int) -> tuple[str, str]:
    return f"data/shard-{shard:06d}.tar", f"index/shard-{shard:06d}.parquet"


def in_memory(recipe: Recipe) -> Corpus:
    """An empty corpus."""
    return Corpus.create(f"memory://{uuid.uuid4().hex}", work.manifest_of(recipe))


def built(recipe: Recipe) -> dict[str, bytes]:
    """The whole corpus as this process makes it, shard by shard, undisturbed."""
    return contents(build(f"memory://{uuid.uuid4().hex}", recipe).url)


def load_text(folder: Path, text: str, **options: Any) -> Recipe:
    """The recipe, from a file in a folder."""
    path = folder / "recipe.toml"
    path.write_text(text)
    return load_recipe(str(path), **options)


def assert_whole_shards_only(url: str, expected: dict[str, bytes] | None = None) -> None:
    """What has an index is whole and, where it is known, as `expected`."""
    corpus = Corpus.open(url)
    for shard in corpus.complete_shards():
        assert work.is_complete(corpus, shard)
        for name in shard_names(shard) if expected else ():
            assert storage.read_bytes(storage.join(url, name)) == expected[name], name


def command(
    *arguments: object, under: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """A whole run of the command, started by another, `under`, if there is one."""
    words = [*under, *GENERATE, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, **options)


def refusal(*arguments: object, **options: Any) -> str:
    """The one line on stderr with which a command exits 1."""
    done = command(*arguments, **options)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("generate: error: ")
    return line


@contextmanager
def starter(stderr: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts commands in sessions of their own, as a shell does; all that they began is killed."""
    begun: list[subprocess.Popen[str]] = []

    def launch(*arguments: object) -> subprocess.Popen[str]:
        with stderr.open("w") as errors:
            process = subprocess.Popen(
                [*GENERATE, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=errors,
                text=True, start_new_session=True,
            )  # fmt: skip
        begun.append(process)
        return process

    try:
        yield launch
    finally:
        for process in begun:
            for member in family(process.pid):
                kill(member)
            process.wait()


def kill(process: int) -> bool:
    """kill -9; whether it still was there."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def family(session: int) -> dict[int, str]:
    """Living processes of a session, with their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, number = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(number) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return found


def workers_of(session: int) -> list[int]:
    """The pool's processes, of a command that runs in a session of its own."""
    return sorted(pid for pid, line in family(session).items() if "spawn_main" in line)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.rglob("*")}
