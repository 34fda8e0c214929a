"""What an audit shows: JSON, tables that fit the terminal, a page that opens alone."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import default_shards, make_episode
from palaestra.shards import console as console_module
from palaestra.shards.audit import terminal
from palaestra.shards.audit.audit import audit
from palaestra.shards.audit.contact import EPISODES, GAP, choose, contact_sheet, moments
from palaestra.shards.audit.expect import Bounds, Expectations, Range
from palaestra.shards.audit.page import build_page, headline
from palaestra.shards.audit.report import Report
from palaestra.shards.corpus import Corpus
from palaestra.shards.episode import Episode
from palaestra.shards.errors import CorruptionError
from PIL import Image
from rich.console import Console
from test_audit import failed, put, rewrite, run_audit

MakeCorpus = Callable[..., Corpus]
VOID = {"meta", "img", "br"}  # elements without an end tag


class Page(HTMLParser):
    """Checks that tags nest, and keeps links, text and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def pictures(self) -> list[Image.Image]:
        """The pages's frames."""
        marks = [link for link in self.links if link.startswith("data:image/png;base64,")]
        return [Image.open(io.BytesIO(base64.b64decode(m.partition(",")[2]))) for m in marks]


def league(make_corpus: MakeCorpus, rounds: int = 2) -> Corpus:
    """Matches of several rounds and opponents, of varied length, on two tasks."""
    shards = [
        [
            make_episode(
                20 + 3 * match, 2 * match + player, match=match, player=player, seed=match,
                final_state_xxh3=match, task=task, policy=f"agent{own}", round=round_,
                opponent=f"agent{other}", terminated=True, truncated=False,
                outcome=("win", "loss")[player],
            )
            for match in range(20 * round_ + 10 * t, 20 * round_ + 10 * t + 4)
            for pair in [(round_, (round_ + match) % 3)]
            for player, (own, other) in enumerate((pair, pair[::-1]))
        ]
        for round_ in range(rounds) for t, task in enumerate(("sumo", "tag"))
    ]  # fmt: skip
    return make_corpus(shards, name="league")


def printed(report: Report, monkeypatch: pytest.MonkeyPatch, width: int) -> str:
    """What a terminal of this width shows."""
    shown = Console(
        highlight=False, soft_wrap=True, width=width, force_terminal=True, color_system=None,
        file=io.StringIO(),
    )  # fmt: skip
    monkeypatch.setattr(terminal, "console", shown)
    monkeypatch.setattr(console_module, "console", shown)
    terminal.print_report(report)
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_json_has_stable_keys(make_corpus: MakeCorpus) -> None:
    corpus = league(make_corpus)
    done = run_audit(corpus.url, "--json", "--sample", "5")
    found = json.loads(done.stdout)
    assert set(found) == {
        "url", "fingerprint", "passed", "totals", "verified", "checks", "table",
    }  # fmt: skip
    assert set(found["verified"]) == {
        "mode", "segments", "corrupt", "bound", "confidence", "steps", "bytes_by_member",
    }  # fmt: skip
    assert set(found["totals"]) == {
        "shards", "matches", "episodes", "segments", "steps", "bytes", "bytes_per_step",
    }  # fmt: skip
    rows = found["table"]
    groups = [(r["task"], r["policy"], r["opponent"], r["round"]) for r in rows]
    assert len(groups) == len(set(groups)) == 2 * 2 * 5  # one plays itself and two others
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert sum(row["steps"] for row in rows) == found["totals"]["steps"]
    assert found["totals"]["matches"] == 16 and found["totals"]["episodes"] == 32


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_tables_fit_the_terminal(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    text = printed(audit(make_corpus(), sample=3), monkeypatch, width)
    tables = [line for line in text.splitlines() if "─" in line or re.match(r"  \S+  ", line)]
    assert tables and max(map(len, tables)) <= width
    for title in ("task", "policy", "steps", "share", "success", "return"):
        assert re.search(rf"\b{title}\b", text)
    assert ("95 %" in text) == (width > 80) and ("frozen: " in text) == (width > 120)
    assert "…" not in text and "expert+noise0.3" in text
    assert "at 99% confidence fewer than 78% of all 8 are" in text
    assert text.rstrip().endswith("no check failed")


def test_a_long_mixture_is_shown_coarser(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = audit(league(make_corpus))
    assert "opponent" in printed(report, monkeypatch, 120)
    monkeypatch.setattr(terminal, "ROWS", 12)
    text = printed(report, monkeypatch, 120)
    assert "opponent" not in text and "round" in text
    monkeypatch.setattr(terminal, "ROWS", 1)
    assert "sumo" in printed(report, monkeypatch, 120)


def test_the_headline_names_the_first_failures(make_corpus: MakeCorpus) -> None:
    report = audit(make_corpus())
    assert headline(report) == "1,216 steps of 1 task: none of 17 checks fails"
    bad = tuple(dataclasses.replace(check, passed=False) for check in report.checks[:5])
    failing = dataclasses.replace(report, checks=bad)
    assert headline(failing) == "5 of 5 checks fail: complete, shards, strays and 2 more"


def test_the_page_opens_alone_and_shows_everything(
    tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    corpus, file = league(make_corpus), tmp_path / "report.html"
    done = run_audit(corpus.url, "--deep", "--html", str(file))
    assert (done.returncode, done.stderr) == (1, "")  # no recipe of such a league was given
    assert done.stdout.endswith(f"report: {file}\n")
    page = Page(file.read_text())
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not re.search(r"url\((?!#)|@import|<script", file.read_text())
    for title in ("Checks", "Mixture", "Success", "Returns", "Episode lengths", "Bytes per step",
                  "Frames", "How to reproduce", "sumo 1", "agent0", "opponent", "tar headers"):
        assert title in page.text, title
    assert f"audit {corpus.url} --deep --html {file}" in page.text
    assert "1 of 23 checks fails: mixture" in page.text
    pictures = page.pictures()
    assert len(pictures) == 2 * EPISODES
    assert all(p.size == (3 * 8 + 2 * GAP, 8) for p in pictures)
    assert build_page(corpus, audit(corpus), ["audit"]) == build_page(
        corpus, audit(corpus), ["audit"]
    )


def test_the_sheet_shows_first_middle_and_last_frame(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    first, second = default_shards()[0][:2]
    frames = moments(corpus, 0, 0, 0)
    assert np.array_equal(frames[0], first.pixels[0])
    assert np.array_equal(frames[1], first.pixels[152])
    assert np.array_equal(frames[2], second.pixels[47])

    episodes = audit(corpus).episodes
    chosen = choose(episodes, 0)
    assert len(chosen) == EPISODES
    assert set(chosen["policy"]) == {"expert+noise0.3", "random"}
    assert chosen.equals(choose(episodes, 0))
    assert len({tuple(choose(episodes, seed)["match"]) for seed in range(8)}) > 1


def test_a_damaged_corpus_has_a_page_too(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    tar = Path(corpus.tar_url(0))
    tar.write_bytes(tar.read_bytes()[:5_000])
    Path(corpus.tar_url(1)).unlink()
    report = audit(corpus)
    assert headline(report) == "1 of 17 checks fails: shards"
    page = Page(build_page(corpus, report, ["audit", corpus.url]))
    assert page.pictures() == []
    faults = [strip.fault for strip in contact_sheet(corpus, report.episodes, 0)]
    assert len(faults) == EPISODES and all(fault in page.text for fault in faults)
    assert "FAIL" in page.text and "not read" in page.text

    for path in Path(corpus.url).glob("index*/*"):
        path.unlink()
    Path(corpus.merged_url).unlink()
    empty = Page(build_page(corpus, audit(corpus), ["audit"]))
    assert "2 of 17 checks fail: complete, strays" in empty.text and "0 episodes" in empty.text


def test_html_in_names_is_escaped(make_corpus: MakeCorpus) -> None:
    episodes: list[Episode] = [
        dataclasses.replace(episode, policy="<b>&", task="<i>") for episode in default_shards()[0]
    ]
    corpus = make_corpus([episodes])
    report = audit(corpus)
    assert "mixture" in failed(report)
    page = Page(build_page(corpus, report, ["audit"]))
    assert "<b>&" in page.text and "<i> 1" in page.text


def test_numbers_that_are_none_break_nothing(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN and infinite rewards are reported, in every form; so is a corpus without any shard."""
    bad = np.array([np.nan, np.inf], np.float32)
    shards = [[make_episode(20, n, reward=np.full(20, bad[n])) for n in (0, 1)]]
    corpus = make_corpus(shards)
    expected = Expectations(corpus=Bounds(return_mean=Range(min=0)))
    report = audit(corpus, sample=9, expectations=expected)
    assert {"finite", "expect return_mean"} <= set(failed(report))
    (row,) = json.loads(json.dumps(report.to_json(), allow_nan=False))["table"]
    assert (row["return_mean"], row["length_mean"]) == (None, 20)
    assert "nan" in printed(report, monkeypatch, 120)
    page = Page(build_page(corpus, report, ["audit"]))
    assert len(page.pictures()) == 2 and "FAIL" in page.text

    Path(corpus.index_url(0)).unlink()
    empty = audit(corpus, sample=9, expectations=expected)
    assert (empty.verified.segments, empty.totals["steps"]) == (0, 0)
    assert "expect return_mean" in failed(empty)
    assert "open" in printed(empty, monkeypatch, 120)


def test_the_sheet_goes_on_past_segments_that_are_missing(make_corpus: MakeCorpus) -> None:
    """An index that lost an episode's first segment, and one that states too many steps."""
    corpus = make_corpus()
    rewrite(corpus, 0, lambda rows: rows.filter(pl.col("segment") == 1))
    rewrite(corpus, 1, put(pl.col("segment") == 0, steps=250))
    assert np.array_equal(moments(corpus, 0, 0, 0)[2], default_shards()[0][1].pixels[47])
    with pytest.raises(CorruptionError, match="10-0-00: expected 250 steps, found 256"):
        moments(corpus, 1, 10, 0)
    sheet = contact_sheet(corpus, audit(corpus).episodes, 0)
    assert len(sheet) == EPISODES  # of four, two in each shard
    assert all(bool(strip.fault) == (strip.episode["file"] == 1) for strip in sheet)
