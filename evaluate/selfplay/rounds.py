"""What rounds of self-play left at a URL, read for the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from statistics import NormalDist
from typing import Any

import polars as pl

from ...generate.league import League, read_league
from ...generate.recipe import Recipe
from ...shards import storage
from ...shards.config import parse
from ...shards.corpus import Corpus
from ...shards.errors import ConfigError
from ...train.places import SETTINGS as RUN_SETTINGS
from ..output import RESULTS
from ..ratings import PINNED, Payoff, Rating, payoff, rate
from ..scores import interval_generator
from ..settings import Settings
from ..standings import ALL
from ..statistics import CONFIDENCE, Estimate
from .journal import Finished, read_journal
from .settings import round_name
from .stages import LEAGUE_FILE

DEVIATIONS = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Contents:
    """What a corpus holds."""

    steps: int
    learned: int
    """Steps of learned policies."""
    matches: Mapping[str, int]
    """By the rule that chose the opponent."""
    opponents: Mapping[str, int]
    """Matches that its behaviours played against each, the most first."""


@dataclass(frozen=True)
class Round:
    """A round that is evaluated."""

    number: int
    settings: Settings
    """Of its evaluation."""
    results: Mapping[str, Any]
    """Its evaluation's results.json."""
    mix: Mapping[str, float]
    """Part → its share of each batch; empty where the run is gone."""
    members: int | None
    """Of the league as the round began; None where that file is gone."""

    @property
    def name(self) -> str:
        """Of its part, and of its policy in the league."""
        return round_name(self.number)

    @property
    def updates(self) -> int | None:
        """That its policy was trained."""
        found = [policy.update for policy in self.settings.policies if policy.name == self.name]
        return found[0] if found else None

    @property
    def evaluation(self) -> str:
        """URL of its evaluation, below that of all rounds."""
        return evaluation_of(self.number)


@dataclass(frozen=True)
class History:
    """All rounds so far."""

    dest: str
    league: League
    rounds: tuple[Round, ...]
    """At least one."""
    stages: tuple[Finished, ...]
    corpora: Mapping[str, Contents | None]
    """Of each part, in order, the seed's first; None where it is gone."""
    ratings: Mapping[str, Mapping[str, Estimate]]
    """Name → rating with its interval, of those that have one: on all matches (ALL), and where
    there are several tasks on each."""

    @property
    def payoff(self) -> Payoff:
        """All matches of the league's members."""
        return payoff(self.league.names, self.league.payoff)


def evaluation_of(number: int) -> str:
    """Where a round's evaluation lies, below the URL of all."""
    return storage.join(round_name(number), "evaluation")


def evaluated(dest: str) -> Iterator[int]:
    """Numbers of the rounds that are evaluated, from the first on."""
    return takewhile(
        lambda n: storage.exists(storage.join(dest, evaluation_of(n), RESULTS)), count()
    )


def read_rounds(dest: str) -> History:
    """All that is evaluated at `dest`.

    Corpora, runs and copies of the league may be gone. ConfigError if no round is evaluated,
    StorageError without a league, ConfigError or CorpusError for a file that is not what it
    should be.
    """
    rounds = tuple(_read_round(dest, number) for number in evaluated(dest))
    if not rounds:
        raise ConfigError(f"{dest}: no round is evaluated: expected {evaluation_of(0)}/{RESULTS}")
    stages = read_journal(dest).stages
    parts = dict.fromkeys([*(s.name.rpartition("/")[0] for s in stages), *(r.name for r in rounds)])
    league = read_league(storage.join(dest, LEAGUE_FILE))
    contents = {part: read_contents(storage.join(dest, part, "corpus")) for part in parts}
    return History(dest, league, rounds, stages, contents, dict(_ratings(league)))


def _read_round(dest: str, number: int) -> Round:
    where = storage.join(dest, evaluation_of(number), RESULTS)
    results, folder = storage.read_json(where), storage.join(dest, round_name(number))
    begun = storage.join(folder, LEAGUE_FILE)
    members = len(read_league(begun).members) if storage.exists(begun) else None
    mix = dict(_mix(storage.join(folder, "run", RUN_SETTINGS)))
    return Round(number, Settings.from_json(results["settings"], where), results, mix, members)


def _mix(url: str) -> Iterator[tuple[str, float]]:
    """(part, its share) of a run's training data."""
    if storage.exists(url):
        settings = storage.read_json(url)
        for corpus, weight in zip(settings["corpora"], settings["weights"], strict=True):
            part = corpus.rstrip("/").removesuffix("/corpus").rpartition("/")[2]
            yield part, weight / sum(settings["weights"])


def read_contents(url: str) -> Contents | None:
    """What the corpus at `url` holds; None where there is none."""
    if not storage.exists(storage.join(url, "corpus.json")):
        return None
    corpus = Corpus.open(url)
    recipe: Recipe = parse(Recipe, corpus.manifest.recipe, url)
    learned = {label for label, player in recipe.players().items() if not player.scripted}
    playing = {behaviour.label for behaviour in recipe.behaviours}
    rows = corpus.select("match", "policy", "opponent", "sampling", "steps")
    met = rows.filter(pl.col("opponent") != "")
    mine = met.filter(pl.col("policy").is_in(list(playing)))
    by_learned = rows.filter(pl.col("policy").is_in(list(learned)))
    return Contents(
        int(rows["steps"].sum()), int(by_learned["steps"].sum()),
        _matches_by(met, "sampling"), _matches_by(mine, "opponent"),
    )  # fmt: skip


def _matches_by(rows: pl.DataFrame, column: str) -> dict[str, int]:
    counted = rows.group_by(column).agg(pl.col("match").n_unique())
    return dict(counted.sort("match", column, descending=[True, False]).iter_rows())


def _ratings(league: League) -> Iterator[tuple[str, dict[str, Estimate]]]:
    """As the league's file has them; of each task, where there are several, by its matches."""
    yield ALL, {
        member.name: Estimate(member.rating, *member.interval)
        for member in league.members
        if member.rating is not None and member.interval is not None
    }
    tasks = list(dict.fromkeys(row.task for row in league.payoff))
    for task in tasks if len(tasks) > 1 else ():
        rows = [row for row in league.payoff if row.task == task]
        names = [n for n in league.names if any(n in (row.first, row.second) for row in rows)]
        if PINNED in names:
            found = rate(payoff(names, rows), interval_generator(0))
            yield task, {rating.name: one for rating in found if (one := _estimate(rating))}


def _estimate(rating: Rating) -> Estimate | None:
    if rating.value is None or rating.low is None or rating.high is None:
        return None
    return Estimate(rating.value, rating.low, rating.high)


def outcomes(league: League, name: str, rival: str, task: str = ALL) -> tuple[int, int, int]:
    """A member's wins, draws and losses against another, whichever the file names first."""
    wins = draws = losses = 0
    for row in league.payoff:
        if task in (ALL, row.task) and {row.first, row.second} == {name, rival}:
            mine = row if row.first == name else replace(row, wins=row.losses, losses=row.wins)
            wins, draws, losses = wins + mine.wins, draws + mine.draws, losses + mine.losses
    return wins, draws, losses


def share_won(wins: int, draws: int, losses: int) -> Estimate:
    """The share of some matches won, a draw as half, with the interval of Wilson (1927).

    That is of outcomes whose mean p has the variance p (1 - p). With draws they vary less, so the
    interval is a little too wide.
    """
    played = wins + draws + losses
    share, weight = (wins + 0.5 * draws) / played, DEVIATIONS**2 / played
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))
