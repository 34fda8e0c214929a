"""The sequence of commands that makes rounds of self-play; nothing is run here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...shards import storage
from ...train.config import load_preset
from ...train.places import checkpoint_url
from .settings import SelfPlay, round_name, shares

LEAGUE = "league"  # what a recipe calls the league file of its round
LEAGUE_FILE, REPORT = "league.json", "report.html"


@dataclass(frozen=True)
class Plan:
    """Rounds that are to be made, checked whole."""

    recipe: str
    """Its URL."""
    dest: str
    """URL of the folder for everything."""
    settings: SelfPlay
    rounds: int
    updates: int
    """Of each round's training."""
    asking: frozenset[str]
    """Rounds whose recipe names the league."""
    tasks: tuple[tuple[str, int], ...]
    """(task, level) pairs that are evaluated."""
    steps: int | None = None
    """Interaction steps, instead of the recipe's."""
    allow_code: bool = False


@dataclass(frozen=True)
class Stage:
    """One command of the sequence."""

    name: str
    """PART/COMMAND"""
    words: tuple[str, ...]
    """As typed on a command line."""

    @property
    def part(self) -> str:
        """Of the recipe, to which it belongs."""
        return self.name.rpartition("/")[0]

    @property
    def command(self) -> str:
        """generate, audit, train or evaluate."""
        return self.name.rpartition("/")[2]


def stages(plan: Plan) -> tuple[Stage, ...]:
    """All commands, in order: those of the seed parts, then four for each round."""
    return tuple(_stages(plan))


def _stages(plan: Plan) -> Iterator[Stage]:
    for part in plan.settings.seed:
        yield from _corpus(plan, part)
    for number in range(plan.rounds):
        name = round_name(number)
        yield from _corpus(plan, name)
        yield Stage(f"{name}/train", (*plan.settings.launch, *train_words(plan, number)))
        yield Stage(f"{name}/evaluate", ("evaluate", *_evaluate_words(plan, number)))


def place(plan: Plan, part: str, *names: str) -> str:
    """URL of something that belongs to a part."""
    return storage.join(plan.dest, part, *names)


def _corpus(plan: Plan, part: str) -> Iterator[Stage]:
    corpus = place(plan, part, "corpus")
    words = ["generate", plan.recipe, corpus, "--part", part]
    if part in plan.asking:
        words += ["--set", f"{LEAGUE}={place(plan, part, LEAGUE_FILE)}"]
    words += [] if plan.steps is None else ["--steps", str(plan.steps)]
    words += ["--allow-code"] if plan.allow_code else []
    yield Stage(f"{part}/generate", tuple(words))
    html = place(plan, part, "audit.html")
    yield Stage(f"{part}/audit", ("audit", corpus, "--html", html))


def corpora(plan: Plan, number: int) -> Iterator[str]:
    """CORPUS:WEIGHT of everything that a round is trained on."""
    for part, share in shares(plan.settings, number, plan.recipe).items():
        yield f"{place(plan, part, 'corpus')}:{share:g}"


def train_words(plan: Plan, number: int) -> Iterator[str]:
    """The arguments of a round's `train`."""
    yield from corpora(plan, number)
    yield from ("--run", run_url(plan, number))
    table = dict(plan.settings.train)
    if number:
        table["peak_rate"] = restart_rate(plan.settings)
    if plan.settings.checkpoints > 1:
        every = spacing(plan)
        # not the newest few: a run that was told to stop has saved others in between
        table |= {"checkpoint_every": f"{every}u", "keep_every": every}
    yield from flags(table)
    if number:
        yield from ("--warm-start", run_url(plan, number - 1))


def restart_rate(settings: SelfPlay) -> float:
    """Peak learning rate of the rounds after the first."""
    table = settings.train
    first = table["peak_rate"] if "peak_rate" in table else _preset_rate(table)
    return float(f"{first * settings.restart:g}")  # rounded, to be read


def _preset_rate(table: Mapping[str, Any]) -> float:
    return load_preset(table.get("preset", "tiny")).peak_rate


def _evaluate_words(plan: Plan, number: int) -> Iterator[str]:
    """The round's checkpoints, the last one last: it is the league's newest, whom rounds follow."""
    name, run = round_name(number), run_url(plan, number)
    every = spacing(plan)
    for update in range(every, plan.updates, every):
        yield f"{name}@{update}={checkpoint_url(run, update)}"
    yield f"{name}={run}"
    yield from ("--league", storage.join(plan.dest, LEAGUE_FILE), "--update-league")
    yield from ("--history", "on", "--output", place(plan, name, "evaluation"))
    yield from flags(plan.settings.evaluate)


def run_url(plan: Plan, number: int) -> str:
    """Of a round's training."""
    return place(plan, round_name(number), "run")


def spacing(plan: Plan) -> int:
    """Updates between the checkpoints that join the league."""
    return -(-plan.updates // plan.settings.checkpoints)


def flags(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A TOML table as words of a command line; tables within are `--outer.inner`."""
    for key, value in table.items():
        name = prefix + key.replace("_", "-")
        if isinstance(value, Mapping):
            yield from flags(value, f"{name}.")
        elif isinstance(value, bool):
            yield f"--{name}" if value else f"--{_negated(name)}"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from (f"--{name}", *map(str, value))
        else:
            yield from (f"--{name}", str(value))


def _negated(name: str) -> str:
    outer, dot, inner = name.rpartition(".")
    return f"{outer}{dot}no-{inner}"
