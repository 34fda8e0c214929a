"""The self-play report's tables, as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from ...shards.console import duration
from ...shards.page import dot
from ..report.headline import percent
from ..report.tables import body, folded, percent_of, ranged, row, table
from ..standings import ALL
from .emergence import BEFORE, Emergence
from .plots import ROUNDS
from .rounds import Contents, History, Round
from .settings import round_name

DASH = "–"  # where there is no number
STAGES = ("generate", "audit", "train", "evaluate")
COLUMNS = (
    "part", "corpus<br>steps", "played by<br>learned policies", "matches<br>by rule",
    "opponents<br>by matches", "updates", "training mix", "league<br>members",
)  # fmt: skip
EMERGENCE = (
    "round", "won of<br>decided", "won · drawn<br>· lost", "steps in<br>contact", "distance<br>m",
    "length<br>s", "speed<br>m/s", "effort<br>0 to 1", "endings",
)  # fmt: skip
DIGITS = {"distance": 2, "seconds": 1}  # of what has its interval beside it
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


def emergence_tables(rows: Sequence[Emergence]) -> str:
    """What matches were like, by round: against the round before, and folded against anchors."""
    rivals = list(dict.fromkeys([BEFORE, *(row.rival for row in rows)]))
    met = {rival: [row for row in rows if row.rival == rival] for rival in rivals}
    found = {rival: _emergence_table(rival, own) for rival, own in met.items() if own}
    return "".join(
        f'<div class="scroll">{text}</div>' if rival == BEFORE else
        folded(f"Against {escape(rival)}", text, BEFORE not in found)
        for rival, text in found.items()
    )  # fmt: skip


def _emergence_table(rival: str, rows: Sequence[Emergence]) -> str:
    tasks = dict.fromkeys(row.task for row in rows)
    bodies = [
        body(
            f"{'all match tasks' if task == ALL else escape(task)} <small>against {rival}</small>",
            len(EMERGENCE),
            [
                row(f"{dot(ROUNDS)}{round_name(one.round)}", _emergence_cells(one))
                for one in rows if one.task == task
            ],
        )
        for task in tasks
    ]  # fmt: skip
    return table(f"Matches against {rival} by task and round", EMERGENCE, bodies, "scores")


def _emergence_cells(one: Emergence) -> list[str]:
    ends = {name.replace("_", " "): number for name, number in one.endings.items()}
    mean = one.means.get
    told = [percent_of(found) if (found := mean("contact")) else DASH]
    told += [ranged(found, 1, n) if (found := mean(m)) else DASH for m, n in DIGITS.items()]
    told += [f"{found.value:.2f}" if (found := mean(m)) else DASH for m in ("speed", "effort")]
    return [
        DASH if one.won is None else percent_of(one.won),
        f"{one.wins:,} · {one.draws:,} · {one.losses:,}",
        *told,
        _counted(ends),
    ]  # fmt: skip
