"""The self-play report: its numbers are those of the files, and what may be gone may be gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import chromium
import numpy as np
import polars as pl
import pytest
import selfplay_files
from html_page import Page
from palaestra.evaluate import video
from palaestra.evaluate.selfplay import emergence_files
from palaestra.evaluate.selfplay.emergence import BEFORE, Emergence
from palaestra.evaluate.selfplay.emergence_files import keep_emergence, read_emergence, round_table
from palaestra.evaluate.selfplay.report import VIDEO_BYTES, VIDEOS, build_report, chosen_pairs
from palaestra.evaluate.selfplay.report_words import headline, lede
from palaestra.evaluate.selfplay.rounds import History, outcomes, read_rounds, share_won
from palaestra.evaluate.standings import anchor_matches
from palaestra.evaluate.statistics import Estimate, wilson
from palaestra.generate.league import ANCHORS, Matches, read_league, with_matches, write_league
from palaestra.shards import storage
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import ConfigError, StorageError
from selfplay_files import MIXES, RUNS, SECONDS

pytestmark = pytest.mark.xdist_group("selfplay_report")  # its rounds are played once
NAMES = [anchor.name for anchor in ANCHORS]


@dataclass(frozen=True)
class Made:
    """URLs of a first round, and of two, with their pages."""

    one: str
    two: str
    one_page: str
    two_page: str


@pytest.fixture(name="made", scope="module")
def made_rounds(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("selfplay")
    one, two = selfplay_files.write_rounds(folder / "one", folder / "two")
    for dest in (one, two):
        keep_emergence(dest, 1, pytest.fail)
    return Made(one, two, build_report(one), build_report(two))


@pytest.fixture(name="play", scope="module")
def rounds_read(made: Made) -> History:
    return read_rounds(made.two)


@pytest.fixture(name="copy")
def copied(made: Made, tmp_path: Path) -> Callable[[], Path]:
    """A copy of the two rounds, to be altered."""

    def copy() -> Path:
        return Path(shutil.copytree(made.two, tmp_path / "copy"))

    return copy


def described(text: str, start: str) -> str:
    """What the one drawing that begins so is described as."""
    (found,) = (told for told in Page(text).drawings if told.startswith(start))
    return found


def points(value: float) -> str:
    return f"{round(value):,}".replace("-", "−")


def row_of(text: str, part: str, columns: int) -> list[str]:
    """The cells of a part in the table that is so wide."""
    rows = (row for table in Page(text).tables for row in table)
    (found,) = (row for row in rows if row[0] == part and len(row) == columns)
    return found


# numbers


def test_ratings_are_the_leagues(made: Made) -> None:
    told = described(made.two_page, "Ratings by round, sumo: ")
    members = {member.name: member for member in read_league(f"{made.two}/league.json").members}
    for name in ("round-0", "round-1"):
        rating, interval = members[name].rating, members[name].interval
        assert rating is not None and interval is not None
        low, high = map(points, interval)
        assert f"{name} {points(rating)} [{low}, {high}]" in told
    for name in NAMES:
        rating = members[name].rating
        assert rating is not None and f"{name} {points(rating)}" in told
    assert members["strong"].rating == 1000


def test_win_rates_are_of_the_leagues_matches(made: Made, play: History) -> None:
    told = described(made.two_page, "Win rates in percent: ")
    rates = play.payoff.win_rate
    rows = {row.partition(" against ")[0]: row for row in told.partition(": ")[2].split("; ")}
    for i, name in enumerate(play.league.names):
        for j, rival in enumerate(play.league.names):
            entry = f"{rival} {100 * rates[i, j]:.0f}"
            assert (entry in rows[name]) == bool(np.isfinite(rates[i, j])), (name, rival)
    ratings = {member.name: member.rating or 0 for member in play.league.members}
    assert list(rows) == sorted(ratings, key=lambda name: -ratings[name])


def test_rates_against_the_anchors_are_the_evaluations(made: Made) -> None:
    told = described(made.two_page, "Win rates against the anchors, sumo by round: ")
    lines = dict(row.split(" ", 1) for row in told.partition(": ")[2].split("; "))
    assert list(lines) == NAMES
    for anchor in NAMES:
        shares = []
        for number in (0, 1):
            results = selfplay_files.read(made.two, f"round-{number}/evaluation/results.json")
            (m,) = (m for m in results["matches"] if m["opponent"] == anchor)
            shares.append(f"{100 * (m['wins'] + 0.5 * m['draws']) / m['matches']:.0f} %")
        assert lines[anchor] == ", ".join(shares)


def test_success_alone_is_the_evaluations(made: Made) -> None:
    shares = []
    for number in (0, 1):
        results = selfplay_files.read(made.two, f"round-{number}/evaluation/results.json")
        (cell,) = results["results"]
        shares.append(f"{100 * cell['success']['value']:.0f} %")
    told = described(made.two_page, "Success on reach by round: ")
    assert told == f"Success on reach by round: level 1 {', '.join(shares)}"
    last, first = (share.replace(" ", "\u00a0") for share in reversed(shares))
    assert f"On reach 1 round-1 completes {last} of its runs (round-0: {first})." in Page(
        made.two_page
    ).text


def test_the_headline_tells_the_rating_and_the_matches_with_the_first(made: Made) -> None:
    member = read_league(f"{made.two}/league.json").members[-1]
    results = selfplay_files.read(made.two, "round-1/evaluation/results.json")
    (m,) = (m for m in results["matches"] if m["opponent"] == "round-0")
    assert member.name == "round-1" and member.rating is not None and member.interval is not None
    text = Page(made.two_page).text
    rated = f"{points(member.rating)} [{', '.join(map(points, member.interval))}]"
    won = f"wins {100 * m['wins'] / RUNS:.0f}\u00a0% of its matches against round-0"
    assert f"round-1 is rated {rated}" in text and won in text
    assert (
        f"Of {RUNS} matches against round-0 it won {m['wins']}, drew {m['draws']} and lost "
        f"{m['losses']}." in text
    )


def test_the_table_tells_what_corpora_hold_and_runs_learned(made: Made) -> None:
    for part, number in (("round-0", 0), ("round-1", 1)):
        rows = Corpus.open(f"{made.two}/{part}/corpus").index
        _, steps, learned, rules, _, updates, mix, _ = row_of(made.two_page, part, 8)
        assert steps == f"{rows['steps'].sum():,}" and updates == "7"
        own = rows.filter(pl.col("policy").str.starts_with("round-"))["steps"].sum()
        assert learned == f"{100 * own / rows['steps'].sum():.0f}\u00a0%"
        matches = rows.filter(player=0, segment=0)
        for rule, count in matches["sampling"].value_counts().iter_rows():
            assert f"{rule} {count}" in rules
        for name, weight in MIXES[number].items():
            assert f"{name} {weight / 10:.0f}\u00a0%" in mix
    assert "self_play" in rules and "pfsp" in rules
    assert row_of(made.two_page, "demonstrations", 8)[5:] == ["–"] * 3
    members = [row_of(made.two_page, f"round-{n}", 8)[-1] for n in (0, 1)]
    assert members == ["–", "5"], "of the copy that the round began with"


def test_the_table_names_whom_the_learner_met(made: Made) -> None:
    rows = Corpus.open(f"{made.two}/round-1/corpus").index
    opponents = row_of(made.two_page, "round-1", 8)[4]
    mine = rows.filter(policy="round-0")
    for name, count in mine.group_by("opponent").agg(pl.col("match").n_unique()).iter_rows():
        assert f"{name} {count}" in opponents


def test_times_and_commands_are_the_journals(made: Made) -> None:
    assert row_of(made.two_page, "round-1", 6) == [
        "round-1", "1.7 min", "5 s", "3.3 min", "1.0 min", "6.1 min",
    ]  # fmt: skip
    assert row_of(made.two_page, "demonstrations", 6)[3:5] == ["–", "–"]
    total = 2 * sum(SECONDS.values()) + SECONDS["generate"] + SECONDS["audit"]
    assert row_of(made.two_page, "together", 6)[-1] == f"{total / 60:.1f} min"
    journal = selfplay_files.read(made.two, "selfplay.json")
    for stage in journal["stages"]:
        assert " ".join(stage["command"]) in Page(made.two_page).text


# the page


def test_the_page_is_whole_and_shows_the_last_against_the_first(made: Made) -> None:
    page = Page(made.two_page)
    (film,) = page.pictures()
    assert film.format == "GIF" and getattr(film, "n_frames") > 1  # noqa: B009
    assert page.images[0]["alt"].startswith("round-1 against round-0 on sumo 1: ")
    assert "First against last" in page.text and len(made.two_page) < 10e6


def test_one_round_is_measured_by_the_strongest_anchor(made: Made) -> None:
    page = Page(made.one_page)
    assert "of its matches against strong" in page.text and "Against strong" in page.text
    assert page.images[0]["alt"].startswith("round-0 against strong on sumo 1: ")
    assert "round-1" not in page.text and "the rating" not in page.text
    assert described(made.one_page, "Ratings by round").count("round-") == 1


def test_what_is_gone_is_a_dash(copy: Callable[[], Path], made: Made) -> None:
    folder = copy()
    for gone in ("round-0/corpus", "demonstrations", "round-1/run", "round-1/league.json"):
        storage.remove(str(folder / gone))
    found = build_report(str(folder))
    assert row_of(found, "demonstrations", 8)[1:] == ["–"] * 7
    assert row_of(found, "round-0", 8)[1:5] == ["–"] * 4
    assert row_of(found, "round-0", 8)[5:] == row_of(made.two_page, "round-0", 8)[5:]
    assert row_of(found, "round-1", 8)[6:] == ["–", "–"]
    (folder / "selfplay.json").unlink()
    text = Page(build_report(str(folder))).text
    assert "How to reproduce" not in text and "Time" not in text


def test_a_url_without_rounds_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}: no round is evaluated"):
        build_report(str(tmp_path))


def test_a_round_that_is_not_evaluated_yet_is_left_out(
    copy: Callable[[], Path], made: Made
) -> None:
    folder = copy()
    (folder / "round-1" / "evaluation" / "results.json").unlink()
    rounds = read_rounds(str(folder)).rounds
    assert [one.name for one in rounds] == ["round-0"]


def test_several_tasks_have_panels_each(copy: Callable[[], Path]) -> None:
    folder = copy()
    league = read_league(str(folder / "league.json"))
    rows = [*anchor_matches([("tag", 1)])]
    rows += [Matches("tag", 1, f"round-{n}", "medium", 0, 10 + n, 20, 30) for n in (0, 1)]
    write_league(str(folder / "league.json"), with_matches(league, rows))
    found = build_report(str(folder))
    for title in ("all match tasks", "sumo", "tag"):
        told = described(found, f"Ratings by round, {title}: ")
        assert all(f"{name} " in told for name in (*NAMES, "round-0", "round-1"))
    told = described(found, "Win rates against the anchors, tag by round: ")
    assert told.endswith(": medium 33 %, 34 %"), "10 + n wins and 20 draws of 60 + n"


def test_several_levels_have_lines_each_and_a_mean(copy: Callable[[], Path]) -> None:
    folder = copy()
    for number in (0, 1):
        where = f"round-{number}/evaluation/results.json"
        results = selfplay_files.read(str(folder), where)
        (cell,) = results["results"]
        results["settings"]["tasks"].append(["reach", 2])
        harder = {"level": 2, "success": {"value": 0.25, "low": 0.1, "high": 0.5}}
        results["results"].append(cell | harder)
        (summary,) = (row for row in results["summary"] if row["group"] == "all")
        summary["success"] = {"value": 0.5 + 0.2 * number, "low": 0.4, "high": 0.9}
        storage.write_json(str(folder / where), results)
    found = build_report(str(folder))
    assert described(found, "Success on reach").endswith("; level 2 25 %, 25 %")
    assert described(found, "Success on all tasks") == (
        "Success on all tasks by round: mean 50 %, 70 %"
    )
    told = "Over 2 one-player tasks and levels round-1 completes 70\u00a0% of its runs (round-0: 50"
    assert told in Page(found).text


def test_the_page_is_the_same_from_memory(made: Made) -> None:
    url = f"memory://{Path(made.one).parent.name}"
    storage.upload_folder(Path(made.one), url)
    assert build_report(url) == made.one_page


# what emerged


def emerged(dest: str, number: int, opponent: str) -> Emergence:
    (found,) = (r for r in read_emergence(dest) if (r.round, r.opponent) == (number, opponent))
    return found


def shown(value: Estimate, scale: float, digits: int, unit: str = "") -> str:
    mean, low, high = (f"{scale * v:.{digits}f}" for v in (value.value, value.low, value.high))
    return f"{mean}{unit} [{low}, {high}]"


def test_the_table_of_what_emerged_is_the_file(made: Made) -> None:
    found = read_emergence(made.two)
    rows = (row for table in Page(made.two_page).tables for row in table)
    lines = [row for row in rows if len(row) == 9 and row[0].startswith("round-")]
    assert len(found) == len(lines) == 9, "four anchors twice, and round-0 once"
    assert [r.rival for r in found].count(BEFORE) == 1
    ordered = sorted(found, key=lambda r: ((BEFORE, *reversed(NAMES)).index(r.rival), r.round))
    for one, cells in zip(ordered, lines, strict=True):
        mean = one.means
        percent = "\u00a0%"
        assert cells[:8] == [
            f"round-{one.round}", "–" if one.won is None else shown(one.won, 100, 0, percent),
            f"{one.wins} · {one.draws} · {one.losses}", shown(mean["contact"], 100, 0, percent),
            shown(mean["distance"], 1, 2), shown(mean["seconds"], 1, 1),
            f"{mean['speed'].value:.2f}", f"{mean['effort'].value:.2f}",
        ]  # fmt: skip
        for ending, count in one.endings.items():
            assert f"{ending.replace('_', ' ')} {count}" in cells[8]


def test_who_won_is_the_evaluations(made: Made) -> None:
    for number in (0, 1):
        results = selfplay_files.read(made.two, f"round-{number}/evaluation/results.json")
        for m in results["matches"]:
            one = emerged(made.two, number, m["opponent"])
            counted = (one.matches, one.wins, one.draws, one.losses)
            assert counted == (m["matches"], m["wins"], m["draws"], m["losses"])
            assert one.means["steps"].value == pytest.approx(m["steps"])
            assert sum(one.endings.values()) == RUNS


def test_plots_of_what_emerged_are_the_files(made: Made) -> None:
    told = described(made.two_page, "sumo: distance kept, m by round: ")
    before = emerged(made.two, 1, "round-0").means["distance"].value
    assert f": the round before {before:.3g}; strong " in told
    strong = [emerged(made.two, n, "strong").means["distance"].value for n in (0, 1)]
    assert f"strong {', '.join(f'{value:.3g}' for value in strong)}; medium" in told
    assert described(made.one_page, "sumo: steps in contact by round: strong ")
    assert "the round before" not in described(made.one_page, "sumo: length, s by round: ")


def refuse(*_: object) -> None:
    raise AssertionError("played again")


def test_a_finished_round_is_not_played_again(
    copy: Callable[[], Path], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emergence_files, "measured", refuse)
    folder = copy()
    (folder / "emergence.json").unlink()
    keep_emergence(str(folder))
    assert read_emergence(str(folder)) == read_emergence(made.two)
    (folder / "round-0/evaluation/episodes.parquet").unlink()
    keep_emergence(str(folder))
    assert read_emergence(str(folder)) == read_emergence(made.two), "what was kept will do"
    (folder / "round-0/emergence.parquet").unlink()
    keep_emergence(str(folder))
    assert {row.round for row in read_emergence(str(folder))} == {1}


def test_a_round_that_was_evaluated_anew_is_played_again(
    copy: Callable[[], Path], made: Made
) -> None:
    folder = copy()
    kept = folder / "round-1/emergence.parquet"
    before = pl.read_parquet(kept)
    before.with_columns(pl.col("seed") + 1, contact=pl.lit(0.77)).write_parquet(kept)
    keep_emergence(str(folder), 1, pytest.fail)
    assert pl.read_parquet(kept).equals(before)
    assert read_emergence(str(folder)) == read_emergence(made.two)


def test_a_round_that_replays_differently_is_told_and_left_out(
    copy: Callable[[], Path], made: Made
) -> None:
    folder = copy()
    (folder / "round-0/emergence.parquet").unlink()
    where = folder / "round-0/evaluation/episodes.parquet"
    changed = pl.read_parquet(where).with_columns(pl.col("rewards").list.eval(pl.element() + 1))
    changed.write_parquet(where)
    told: list[str] = []
    keep_emergence(str(folder), 1, told.append)
    (fault,) = told
    assert fault.startswith("round-0 is not in emergence.json: sumo level 1, seed ")
    assert [r for r in read_emergence(made.two) if r.round] == list(read_emergence(str(folder)))
    assert "What emerged" in Page(build_report(str(folder))).text


def test_a_page_without_the_file_has_no_such_part(copy: Callable[[], Path]) -> None:
    folder = copy()
    (folder / "emergence.json").unlink()
    assert "What emerged" not in Page(build_report(str(folder))).text


@pytest.mark.parametrize(
    ("name", "content"),
    [("emergence.json", b"[]"), ("round-0/emergence.parquet", b"no"),
     ("round-1/evaluation/episodes.parquet", b"PAR1")],
)  # fmt: skip
def test_other_files_are_errors_that_name_them(
    copy: Callable[[], Path], name: str, content: bytes
) -> None:
    folder = copy()
    (folder / name).write_bytes(content)
    with pytest.raises((ConfigError, StorageError), match=name):
        if name == "emergence.json":
            read_emergence(str(folder))
        else:
            round_table(str(folder), int(name[6]))


# words


def rated(play: History, *values: float) -> History:
    """The same with as many rounds as there are ratings, each ± 30."""
    rounds = tuple(replace(play.rounds[1], number=n) for n in range(len(values)))
    own = {f"round-{n}": Estimate(v, v - 30, v + 30) for n, v in enumerate(values)}
    return replace(play, rounds=rounds, ratings={"all": {**play.ratings["all"], **own}})


def test_ratings_that_fall_are_said_to_fall(play: History) -> None:
    falling = rated(play, 700, 650)
    assert "round-1 is rated 650 [620, 680], below round-0’s 700; it wins" in headline(falling)
    told = "From round-0 to round-1 the rating fell by 50 points, from 700 [670, 730] to 650"
    assert told in lede(falling) and "the two intervals overlap" in lede(falling)
    mixed = rated(play, 500, 700, 640, 800)
    assert headline(mixed).startswith("round-3 is rated 800 [770, 830]")
    assert "It fell from round-1 to round-2 (700 to 640)." in lede(mixed)
    assert "rose by 300 points" in lede(mixed) and "overlap" not in lede(mixed)
    assert "No round is rated below the one before it." in lede(rated(play, 1, 2, 3))


def test_outcomes_are_told_from_either_side(play: History) -> None:
    wins, draws, losses = outcomes(play.league, "round-1", "round-0")
    assert outcomes(play.league, "round-0", "round-1") == (losses, draws, wins)
    assert wins + draws + losses == RUNS
    assert outcomes(play.league, "round-1", "round-0", "tag") == (0, 0, 0)


@pytest.mark.parametrize(("wins", "losses"), [(0, 7), (7, 0), (12, 30), (1, 1)])
def test_without_draws_the_interval_is_wilsons(wins: int, losses: int) -> None:
    mine, his = share_won(wins, 0, losses), wilson(wins, wins + losses)
    found = [(one.value, one.low, one.high) for one in (mine, his)]
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_a_draw_is_half() -> None:
    assert share_won(10, 20, 10) == share_won(20, 0, 20)


def test_videos_show_every_task_before_a_second_level() -> None:
    every = [(task, level) for task in ("sumo", "tag", "ball") for level in (1, 2, 3)]
    assert chosen_pairs(every) == [(task, n) for task in ("sumo", "tag", "ball") for n in (1, 2)]
    assert chosen_pairs(every[:3]) == every[:3]
    assert VIDEOS * min(video.MAXIMUM_BYTES, VIDEO_BYTES // VIDEOS) <= VIDEO_BYTES


# in a browser


@pytest.mark.chromium
@pytest.mark.skipif(chromium.find() is None, reason="no Chromium on PATH")
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_the_window_and_loads_nothing(made: Made, width: int, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(made.two_page)
    found = chromium.measure(path, width, tmp_path)
    assert found.width == width and found.scrolled <= width
    assert (found.broken, found.loaded, found.complaints) == (0, [], [])
