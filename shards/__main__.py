"""`audit URL`: is this corpus what it claims to be?"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

import tyro

from . import storage
from .console import console, no_progress, progress, run_command
from .errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """Check a corpus against its recipe, its schema and its own index.

    Without flags it reads the index only, which takes seconds: which shards are there, steps and
    mixture as the recipe plans them, keys, seeds, copies, NaN, frozen videos, held-out tasks. The
    bytes of the tars are verified by --deep, all of them, or by --sample N, some of them.

    Exits with 0 if no check fails, 1 if one does, 2 if the corpus or a file given here cannot be
    read.
    """

    url: Annotated[str, tyro.conf.Positional]
    """The corpus: a folder, s3://, gs://, …"""
    deep: bool = False
    """Read every tar: checksums, arrays, and all that the index says of them."""
    sample: int = 0
    """Do so for N segments drawn at random, and say how many of all can be corrupt."""
    seed: int = 0
    """Chooses the segments that --sample draws, and the episodes that --html shows."""
    expect: str | None = None
    """A TOML file of expectations, each of which becomes a check; docs/audit.md has the format."""
    html: str | None = None
    """Write a report with plots and frames to this file, a path or any URL."""
    json: bool = False
    """Print one JSON object and nothing else."""
    debug: bool = False
    """Show tracebacks."""


def command(arguments: Arguments) -> int:
    """Check the arguments, audit, write and print."""
    from .audit.audit import audit
    from .audit.expect import load_expectations
    from .audit.terminal import print_report
    from .corpus import Corpus

    if arguments.sample < 0 or arguments.seed < 0:
        raise ConfigError("--sample and --seed should not be negative")
    if arguments.deep and arguments.sample:
        raise ConfigError("--deep verifies every segment, --sample some of them: choose one")
    expected = load_expectations(arguments.expect) if arguments.expect else None
    corpus = Corpus.open(arguments.url)
    shards, passes = len(corpus.complete_shards()), 1 + (arguments.deep or arguments.sample > 0)
    shown = progress("audit", passes * shards, "shards")
    with nullcontext(no_progress) if arguments.json else shown as advance:
        report = audit(
            corpus, arguments.deep, sample=arguments.sample, seed=arguments.seed,
            expectations=expected, advance=advance,
        )  # fmt: skip
    if arguments.html:
        from .audit.page import build_page  # here: matplotlib takes a second to import

        page = build_page(corpus, report, _words(arguments), arguments.seed)
        storage.write_bytes(arguments.html, page.encode())
    if arguments.json:
        print(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
    else:
        print_report(report)
        if arguments.html:
            console.print(f"report: {arguments.html}", markup=False)
    return 0 if report.passed else 1


def _words(arguments: Arguments) -> list[str]:
    """The command that repeats the audit."""
    flags = {"sample": arguments.sample, "seed": arguments.seed, "expect": arguments.expect}
    words = ["audit", arguments.url] + (["--deep"] if arguments.deep else [])
    for name, value in (flags | {"html": arguments.html}).items():
        words += [f"--{name}", str(value)] if value else []
    return words


def main() -> None:
    """Entry point."""
    run_command(Arguments, command, "audit", error_code=2)


if __name__ == "__main__":
    main()
