"""Rounds of self-play, one command after the other; killed anywhere, it goes on from there."""

from __future__ import annotations

import shlex
import time
from datetime import UTC, datetime

from ...shards import storage
from ...shards.console import console, fail
from ...shards.errors import ConfigError
from ...train.owner import Owner, owning
from ...train.stop import INTERRUPTED
from ..standings import begin_league
from .child import Children, children
from .emergence_files import keep_emergence
from .journal import Finished, append, check_history, read_journal
from .settings import round_name
from .stages import LEAGUE_FILE, REPORT, Plan, Stage, place, stages

PROG = "evaluate selfplay"
AGAIN = "the same command goes on from there"


def left(plan: Plan, rounds: int | None = None) -> tuple[Stage, ...]:
    """Stages that are not finished, of the seed parts and the first `rounds` rounds.

    Raises ConfigError for a number of rounds that there is not, or if a finished stage would be
    another one today.
    """
    if rounds is not None and not 1 <= rounds <= plan.rounds:
        raise ConfigError(f"--rounds should be in [1, {plan.rounds}], is {rounds}")
    planned, journal = stages(plan), read_journal(plan.dest)
    check_history(plan.dest, journal, planned)
    parts = {*plan.settings.seed, *map(round_name, range(rounds or plan.rounds))}
    return tuple(s for s in planned if s.part in parts and s.name not in journal.names)


def drive(plan: Plan, rounds: int | None = None, workers: int | None = None) -> int:
    """Run what is left; returns the exit code: the first bad one of a command, 1 without a report.

    `workers` are processes of `generate` and `evaluate`, and threads of what is replayed. Raises
    ConfigError as `left` does, CheckpointError if another process is at it.
    """
    with owning(plan.dest) as owner, children() as running:
        todo = left(plan, rounds)
        _require_league(plan)
        _report_if_missing(plan.dest, workers)  # ended just before that
        for stage in todo:
            code = _stage(plan, stage, workers, owner, running)
            if code:
                return code
        if not todo:
            of = "every stage" if rounds is None else f"every stage of --rounds {rounds}"
            console.print(f"{plan.dest}: {of} is finished", markup=False)
        return 0 if _report_if_missing(plan.dest, workers) else 1


def _require_league(plan: Plan) -> None:
    """Begin the league with the anchors; ConfigError if it is gone and rounds had joined it."""
    league = storage.join(plan.dest, LEAGUE_FILE)
    if storage.exists(league):
        return
    joined = [name for name in read_journal(plan.dest).names if name.endswith("/evaluate")]
    if joined:
        raise ConfigError(f"{league} is gone, and {len(joined)} rounds had joined the league")
    begin_league(league, plan.tasks)


def _stage(
    plan: Plan, stage: Stage, workers: int | None, owner: Owner, running: Children
) -> int:
    """Run one stage, unless told to stop, and add it to the journal."""
    if running.stop is not None:
        fail(PROG, f"stopped before {stage.name}; {AGAIN}")
        return INTERRUPTED
    owner.check()
    _keep_league(plan, stage)
    words = list(stage.words)
    if workers is not None and stage.command in ("generate", "evaluate"):
        words += ["--workers", str(workers)]  # which changes no result: not in the journal
    console.print(f"{_title(plan, stage)}\n{shlex.join(words)}", markup=False)
    begun = time.monotonic()
    code = running.run(words)
    if code:
        how = "failed" if running.stop is None and code != INTERRUPTED else "was stopped"
        fail(PROG, f"{stage.name} {how} with exit code {code}; {AGAIN}")
        return code
    owner.check()
    _finish(plan, stage, time.monotonic() - begun, workers)
    return 0


def _finish(plan: Plan, stage: Stage, seconds: float, workers: int | None) -> None:
    """Add a stage to the journal, and after a round make the report anew."""
    evaluated = stage.command == "evaluate"
    if evaluated:  # first: a report that is there tells of all that is finished
        storage.remove(storage.join(plan.dest, REPORT))
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    append(plan.dest, Finished(stage.name, stage.words, round(seconds, 1), now))
    if evaluated:
        _report_if_missing(plan.dest, workers)


def _title(plan: Plan, stage: Stage) -> str:
    """`round 1 of 3: train`, where the first is round 0 and the last round 3."""
    if stage.part in plan.settings.seed:
        return f"{stage.part}: {stage.command}"
    number = stage.part.rpartition("-")[2]
    return f"round {number} of {plan.rounds - 1}: {stage.command}"


def _keep_league(plan: Plan, stage: Stage) -> None:
    """Keep the league as it is when a round begins, for its corpus to name."""
    if stage.command != "generate" or stage.part in plan.settings.seed:
        return
    copy = place(plan, stage.part, LEAGUE_FILE)
    if not storage.exists(copy):
        storage.write_bytes(copy, storage.read_bytes(storage.join(plan.dest, LEAGUE_FILE)))


def _report_if_missing(dest: str, workers: int | None) -> bool:
    """Make the report, once there is a round to report on; whether that went well.

    Whatever goes wrong is told, and no reason to end rounds that take days.
    """
    url = storage.join(dest, REPORT)
    if storage.exists(url) or not any(n.endswith("/evaluate") for n in read_journal(dest).names):
        return True
    from .report import build_report  # matplotlib takes a second to import

    console.print(f"{dest}: replays what was played, for the report", markup=False)
    try:
        keep_emergence(dest, workers, lambda fault: fail(PROG, fault))
        storage.write_bytes(url, build_report(dest).encode())
    except Exception as error:
        fail(PROG, f"{url} could not be made: {type(error).__name__}: {error}")
        return False
    console.print(f"report: {url}", markup=False)
    return True
