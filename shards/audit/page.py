"""An audit as one HTML file that opens offline."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Any

import polars as pl

from ..corpus import Corpus
from ..page import dot, facts, page, section
from . import plots
from .contact import Strip, contact_sheet
from .report import CELL, Report
from .summary import finest, summarise

ROWS = 400  # of the mixture's table; where there are more, it is coarser
NAMED = 3  # failed checks in the headline
MARKS = {True: "pass", False: "FAIL", None: "open"}
CSS = """
td.left, th.left { text-align: left; }
td.finding { text-align: left; white-space: normal; }
.mark { display: inline-block; min-width: 46px; padding: 1px 8px; border-radius: 6px;
  font-size: 12px; font-weight: 650; text-align: center; }
.mark.pass { background: #e3f3ea; color: #1c7a4c; }
.mark.FAIL { background: #c4314b; color: #fff; }
.mark.open { background: #fbf0d9; color: #8f5b1d; }
.mixture td, .mixture th { font-size: 13px; padding-left: 6px; padding-right: 6px; }
.key { margin-right: 20px; white-space: nowrap; }
.sheet { display: grid; gap: 14px 26px; grid-template-columns: repeat(3, minmax(0, 1fr)); }
.sheet figcaption { font-size: 12.5px; margin-bottom: 4px; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.sheet img { display: block; width: 100%; image-rendering: pixelated; }
"""
HEAD = (
    "episodes", "steps", "share", "bytes<br>/step", "success", "done at", "return", "5 to 95 %",
    "length", "satu-<br>rated", "frozen",
)  # fmt: skip


def build_page(corpus: Corpus, report: Report, words: Sequence[str], seed: int = 0) -> str:
    """The whole page; reads some frames. `words` are the command that repeats the audit."""
    episodes = report.episodes
    parts = [section("Checks", _checks(report))]
    if len(episodes):
        colours = plots.colours_of(episodes)
        parts += [_mixture(episodes, colours), *_plots(report, colours)]
        parts.append(_frames(contact_sheet(corpus, episodes, seed), colours))
    parts.append(_reproduce(corpus, report, words))
    return page("Palaestra audit", headline(report), lede(report), parts, CSS)


def headline(report: Report) -> str:
    """The verdict with its number."""
    judged, failed = len(report.checks), report.failed
    if failed:
        verb = "fails" if len(failed) == 1 else "fail"
        more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        return f"{len(failed)} of {judged} checks {verb}: {', '.join(failed[:NAMED])}{more}"
    steps, tasks = report.totals["steps"], report.episodes["task"].n_unique()
    return f"{steps:,} steps of {tasks} task{'s' * (tasks != 1)}: none of {judged} checks fails"


def lede(report: Report) -> str:
    """What was looked at, and how closely."""
    totals = report.totals
    return (
        f"{report.url}: {totals['episodes']:,} episodes in {totals['segments']:,} segments of "
        f"{totals['shards']:,} shards, {totals['bytes'] / 1e6:,.0f} MB, "
        f"{totals['bytes_per_step']:.0f} bytes a step. The tars were "
        f"{report.verified.sentence(int(totals['segments']))}."
    )


def _checks(report: Report) -> str:
    rows = "\n".join(
        f'<tr><td><span class="mark {MARKS[check.passed]}">{MARKS[check.passed]}</span></td>'
        f'<td class="left">{escape(check.name)}</td>'
        f'<td class="finding">{escape(check.finding)}</td></tr>'
        for check in sorted(report.checks, key=lambda check: check.passed is not False)
    )
    head = '<tr><th></th><th class="left">check</th><th class="left">finding</th></tr>'
    return f"<table><thead>{head}</thead><tbody>\n{rows}\n</tbody></table>"


def _mixture(episodes: pl.DataFrame, colours: plots.Colours) -> str:
    rows, by = finest(episodes, ROWS)
    names = [name for name in by if name not in ("task", "level")]
    head = "".join(f'<th class="left">{name}</th>' for name in names or ["task"])
    head += "".join(f"<th>{title}</th>" for title in HEAD)
    body, last = [], ""
    for row in rows.iter_rows(named=True):
        task = escape(f"{row['task']} {row.get('level', '')}")
        if names and task != last:
            body.append(f'<tr class="task"><td colspan="{len(names) + len(HEAD)}">{task}</td></tr>')
        last = task
        mark = dot(colours[row["policy"]]) if names else ""
        words = [escape(str(row[name])) for name in names] or [task]
        cells = "".join(f'<td class="left">{word}</td>' for word in (mark + words[0], *words[1:]))
        body.append(f"<tr>{cells}{''.join(f'<td>{value}</td>' for value in _values(row))}</tr>")
    note = (
        "Of the episodes' returns the mean and where 90 % of them lie; done at: median step of "
        "completion; length: mean steps; saturated: share of action entries at -1 or 1; frozen: "
        "share of the frames, up to completion, that equal the one before."
    )
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(body)}</tbody></table>"
    return section("Mixture", f'<div class="mixture">{table}</div>', note)


def _values(row: dict[str, Any]) -> Iterator[str]:
    """A table row in the columns of HEAD."""
    completed = row["completion_p50"]
    yield f"{row['episodes']:,}"
    yield f"{row['steps']:,}"
    yield f"{row['share']:.1%}"
    yield f"{row['bytes_per_step']:,.0f}"
    yield f"{row['success_rate']:.1%}"
    yield "–" if completed is None else f"{completed:,.0f}"
    yield f"{row['return_mean']:,.1f}"
    yield f'<span class="range">{row["return_p05"]:,.1f} … {row["return_p95"]:,.1f}</span>'
    yield f"{row['length_mean']:,.0f}"
    yield f"{row['saturation']:.1%}"
    yield f"{row['frozen']:.1%}"


def _plots(report: Report, colours: plots.Colours) -> Iterator[str]:
    episodes = report.episodes
    key = "".join(
        f'<span class="key">{dot(colours[name])}{escape(name)}</span>'
        for name in sorted(set(episodes["policy"]))
    )
    yield section("Success", plots.success_plot(summarise(episodes, CELL), colours), key)
    yield section("Returns", plots.histogram_plot(episodes, "return", colours), key)
    length = pl.col("steps")
    several = length.min().over("task", "level") < length.max().over("task", "level")
    varied = episodes.filter(several)
    fixed = episodes.filter(~several).group_by("task", "level").agg(length.first())
    words = [f"{task} {level} ({n:,})" for task, level, n in fixed.sort("task", "level").rows()]
    note = escape(f"All episodes of one length, in steps: {', '.join(words)}.") if words else ""
    plot = plots.histogram_plot(varied, "steps", colours)
    yield section("Episode lengths", plot or note, note if plot else "")
    if report.verified.steps:
        yield section("Bytes per step", plots.size_plot(report.verified))


def _frames(strips: list[Strip], colours: plots.Colours) -> str:
    figures = []
    for (task, level), group in groupby(
        strips, lambda strip: (strip.episode["task"], strip.episode["level"])
    ):
        figures.append(f'<h3>{escape(task)} {level}</h3>\n<div class="sheet">')
        figures += [_figure(strip, colours[strip.episode["policy"]]) for strip in group]
        figures.append("</div>")
    note = "The first, the middle and the last frame of some episodes, as the corpus holds them."
    return section("Frames", "\n".join(figures), note)


def _figure(strip: Strip, colour: str) -> str:
    episode = strip.episode
    end = "completed" if episode["success"] else "not completed"
    told = f"{end}, return {episode['return']:.1f}, {episode['steps']:,} steps"
    data = base64.b64encode(strip.png).decode()
    picture = f'<img alt="" loading="lazy" src="data:image/png;base64,{data}">'
    shown = escape(strip.fault) if strip.fault else picture
    return (
        f"<figure><figcaption>{dot(colour)}{escape(episode['policy'])}<br>"
        f"<span>{told}</span></figcaption>{shown}</figure>"
    )


def _reproduce(corpus: Corpus, report: Report, words: Sequence[str]) -> str:
    manifest = corpus.manifest
    entries = {
        "corpus": f"{corpus.url} ({report.fingerprint})",
        "recipe": f"{manifest.recipe.get('name', '')}, seed {manifest.seed}",
        "made with": ", ".join(f"{name} {value}" for name, value in manifest.versions.items()),
    }
    command = f"<pre>{escape(shlex.join(words))}</pre>"
    return f"<h2>How to reproduce</h2>\n{command}\n{facts(entries)}"
