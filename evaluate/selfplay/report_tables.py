"""The self-play report's tables, as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from ...shards.console import duration
from ...shards.page import dot
from ..report.headline import percent
from ..report.tables import body, row, table
from .plots import ROUNDS
from .rounds import Contents, History, Round

DASH = "–"  # where there is no number
STAGES = ("generate", "audit", "train", "evaluate")
COLUMNS = (
    "part", "corpus<br>steps", "played by<br>learned policies", "matches<br>by rule",
    "opponents<br>by matches", "updates", "training mix", "league<br>members",
)  # fmt: skip
LISTED = 6  # opponents that a cell names


def rounds_table(play: History) -> str:
    """What each part was generated from, and each round trained on."""
    rounds = {one.name: one for one in play.rounds}
    lines = [
        row(
            _label(part, part in rounds),
            (*_corpus_cells(contents), *_training_cells(rounds.get(part))),
        )
        for part, contents in play.corpora.items()
    ]
    return table("Rounds", COLUMNS, [body("", len(COLUMNS), lines)], "scores")


def _label(part: str, is_round: bool) -> str:
    return f"{dot(ROUNDS) if is_round else ''}{escape(part)}"


def _corpus_cells(contents: Contents | None) -> tuple[str, str, str, str]:
    """Steps, the learned policies' share, matches by rule, opponents."""
    if contents is None:
        return DASH, DASH, DASH, DASH
    share = percent(contents.learned / contents.steps) if contents.steps else DASH
    return (
        f"{contents.steps:,}", share, _counted(contents.matches), _counted(contents.opponents)
    )  # fmt: skip


def _counted(counts: Mapping[str, int]) -> str:
    """A line for each, with the rest as one."""
    shown = list(counts.items())
    if len(shown) > LISTED:
        rest = shown[LISTED - 1 :]
        shown = [*shown[: LISTED - 1], (f"{len(rest)} others", sum(n for _, n in rest))]
    return "<br>".join(f"{escape(name)} {number:,}" for name, number in shown) or DASH


def _training_cells(one: Round | None) -> tuple[str, str, str]:
    """Updates, mix, the league's members."""
    if one is None:
        return DASH, DASH, DASH
    mix = "<br>".join(f"{escape(part)} {percent(share)}" for part, share in one.mix.items())
    updates = DASH if one.updates is None else f"{one.updates:,}"
    return updates, mix or DASH, DASH if one.members is None else str(one.members)


def time_table(play: History) -> str:
    """How long each stage took, and all together."""
    columns = ("part", *STAGES, "together")
    lines = [row(_label(part, False), cells) for part, cells in _times(play)]
    return table("Time by part and stage", columns, [body("", len(columns), lines)], "times")


def _times(play: History) -> Iterator[tuple[str, list[str]]]:
    """(part, cells), the sums last."""
    seconds: dict[str, dict[str, float]] = {}
    for stage in play.stages:
        part, _, command = stage.name.rpartition("/")
        seconds.setdefault(part, {})[command] = stage.seconds
    for part, own in seconds.items():
        yield part, _durations(own)
    sums = {
        stage: sum(own.get(stage, 0.0) for own in seconds.values())
        for stage in STAGES if any(stage in own for own in seconds.values())
    }  # fmt: skip
    yield "together", _durations(sums)


def _durations(seconds: Mapping[str, float]) -> list[str]:
    found = [seconds.get(stage) for stage in STAGES] + [sum(seconds.values())]
    return [DASH if one is None else duration(one) for one in found]
