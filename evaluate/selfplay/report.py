"""Rounds of self-play as one HTML file that opens offline."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from html import escape

import polars as pl

from ...shards import storage
from ...shards.errors import ConfigError
from ...shards.faults import naming
from ...shards.page import facts
from .. import video
from ..entrants import Pair
from ..episodes import COLUMNS
from ..output import EPISODES
from ..pairs import matches
from ..play import Recorded
from ..report.build import Part, whole_page
from ..report.clips import figures
from ..report.tables import by_task
from ..show import NEEDED
from .emergence import Emergence
from .emergence_files import read_emergence
from .plots import ROUNDS, anchors_plot, emergence_plots, ratings_plot, success_plot, win_rates
from .report_tables import emergence_tables, rounds_table, time_table
from .report_words import headline, lede, rival_of
from .rounds import History, read_rounds

VIDEOS = 6
VIDEO_BYTES = 6_000_000  # of all; base64 takes a third more


def build_report(dest: str) -> str:
    """The page about all rounds evaluated at the URL `dest`; replays some matches for its videos.

    Corpora, runs, copies of the league and emergence.json may be gone. Errors as `read_rounds`'s,
    and RolloutError for a match that replays differently here.
    """
    play = read_rounds(dest)
    return whole_page("Palaestra self-play", headline(play), lede(play), list(_parts(play)))


def _parts(play: History) -> Iterator[Part]:
    note = (
        "Bradley and Terry’s ratings on the scale of Elo: 400 points are odds of ten to one, the "
        "scripted expert (strong) is pinned at 1,000. Everybody is rated on all matches of the "
        "league, so an earlier round’s rating moves as later ones meet it. Bars are 95 % "
        "bootstrap intervals over the matches; they leave out how much training itself varies."
    )
    yield Part("Ratings by round", ratings_plot(play), note)
    note = (
        "How many of 100 matches the policy of the row wins against that of the column, a draw as "
        "half; over all tasks and levels. The strongest is on top."
    )
    if any("@" in name for name in play.league.names):
        note += " The number after an @ is the update of an earlier checkpoint of the round."
    yield Part("Win rates", win_rates(play), note)
    found = anchors_plot(play)
    if found:
        note = (
            "The share of matches won against each script, a draw as half, with 95 % intervals "
            "over the matches (Wilson)."
        )
        yield Part("Against the anchors", found, note)
    found = success_plot(play)
    if found:
        note = "The share of runs that were completed, with 95 % intervals over the runs (Wilson)."
        yield Part("One-player tasks", found, note)
    emerged = read_emergence(play.dest)
    if emerged:
        yield _emergence(emerged)
    rival = rival_of(play)
    found = _videos(play, rival) if rival else ""
    if found:
        title = "First against last" if rival == play.rounds[0].name else f"Against {rival}"
        yield Part(title, found, "Recorded actions, replayed.")
    yield Part("Rounds", *_rounds(play))
    if play.stages:
        yield _reproduce(play)


def _emergence(rows: Sequence[Emergence]) -> Part:
    note = (
        "How each round’s policy played, from its matches replayed: means over matches, with "
        "95 % bootstrap intervals over them. Decided matches are those that somebody won, with "
        "Wilson’s interval of the share won; draws are told apart. Contact is between geoms of the "
        "two players, as the engine has it after a control step; distance lies between the "
        "middles, seen from above; speed is its own, effort the mean of its |action|. In "
        "sumo <code>pushed out</code> was touched within the last 0.4 s, <code>drove out</code> "
        "was not. The numbers are in <code>emergence.json</code>."
    )
    content = f"{emergence_plots(rows)}\n{emergence_tables(rows)}"
    return Part("What emerged", content, note)


def _videos(play: History, rival: str) -> str:
    """The last round against the rival, on some of the tasks and levels where they met."""
    last = play.rounds[-1]
    url = storage.join(play.dest, last.evaluation, EPISODES)
    frame = read_matches(url, last.name, rival)
    met = set(frame.select("task", "level").iter_rows())
    pairs = chosen_pairs([pair for pair in matches(last.settings.tasks) if pair in met])
    budget = min(video.MAXIMUM_BYTES, VIDEO_BYTES // max(1, len(pairs)))
    shown = [(last.name, pair, rival) for pair in pairs]
    recorded = Recorded(frame, dict(last.results["versions"]))
    return figures(recorded, shown, {last.name: ROUNDS}, budget)


def read_matches(url: str, policy: str, opponent: str) -> pl.DataFrame:
    """Both sides of two policies' matches, of an evaluation's episodes at `url`.

    ConfigError for another table, StorageError or CorruptionError where it cannot be read.
    """
    names = [policy, opponent]
    mine = pl.col("policy").is_in(names) & pl.col("opponent").is_in(names)
    with storage.parquet_source(url, NEEDED) as source, naming(url):
        table = pl.scan_parquet(source)
        if table.collect_schema() != pl.Schema(COLUMNS):
            raise ConfigError(f"{url}: not an evaluation's episodes: other columns")
        return table.select(NEEDED).filter(mine).collect()


def chosen_pairs(pairs: list[Pair]) -> list[Pair]:
    """At most VIDEOS of them: every task's first level before anybody's second."""
    ordered = by_task(pairs)
    places = {pair: [p for p in ordered if p[0] == pair[0]].index(pair) for pair in ordered}
    return by_task(sorted(ordered, key=lambda pair: places[pair])[:VIDEOS])


def _rounds(play: History) -> tuple[str, str]:
    """Tables, and what they say."""
    note = (
        "What each part of the recipe holds and each round was trained on; a dash where the files "
        "are gone. Rules: <code>pfsp</code> weighs the league’s members by the win rate against "
        "them, <code>past</code> takes all alike, <code>self_play</code> is the policy itself, "
        "<code>listed</code> whom the recipe names. Members are those of the league as the round "
        "began."
    )
    content = f'<div class="scroll">{rounds_table(play)}</div>'
    if play.stages:
        content += f'<h3>Time</h3><div class="scroll">{time_table(play)}</div>'
    return content, note


def _reproduce(play: History) -> Part:
    commands = "\n".join(shlex.join(stage.command) for stage in play.stages)
    versions = play.rounds[-1].results["versions"]
    entries = {"versions": ", ".join(f"{name} {value}" for name, value in versions.items())}
    note = (
        "The commands that <code>evaluate selfplay</code> gave, in order. Before each round’s "
        "first it copies league.json into the round’s folder."
    )
    return Part("How to reproduce", f"<pre>{escape(commands)}</pre>\n{facts(entries)}", note)
