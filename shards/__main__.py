"""`audit URL`: is this corpus what it claims to be?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from .console import progress, run_command


@dataclass(frozen=True)
class Arguments:
    """Check a corpus against its recipe and schema.

    Exits with 0 if no check fails, 1 if one does, 2 if the corpus cannot be read.
    """

    url: Annotated[str, tyro.conf.Positional]
    """The corpus: a folder, s3://, gs://, …"""
    deep: bool = False
    """Also read and verify every byte of every tar."""
    json: bool = False
    """Print one JSON object and nothing else."""
    debug: bool = False
    """Show tracebacks."""


def command(arguments: Arguments) -> int:
    """Open, audit, print."""
    from .audit import audit
    from .corpus import Corpus
    from .report import print_report

    corpus = Corpus.open(arguments.url)
    if arguments.json or not arguments.deep:
        report = audit(corpus, arguments.deep)
    else:
        with progress("verify", len(corpus.complete_shards()), "shards") as advance:
            report = audit(corpus, deep=True, advance=advance)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
    else:
        print_report(report)
    return 0 if report.passed else 1


def main() -> None:
    """Entry point."""
    run_command(Arguments, command, "audit", error_code=2)


if __name__ == "__main__":
    main()
