"""An evaluation as one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ...shards.page import facts, page, section
from ..entrants import Entrant
from ..evaluation import Evaluation
from ..pairs import alone
from ..runs import evaluation_seeds
from ..standings import ALL, payoff_of
from ..summary import HELD_OUT as HIDDEN
from ..summary import profiles
from ..table import HELD_OUT, pair_name
from . import plots, tables
from .calibration import Calibration, calibrate
from .clips import FEW_PAIRS, match_videos, videos
from .commands import command_line
from .headline import headline, lede, main_policy
from .learning import checkpoint_plot, learning_plot, read_evaluations, read_metrics
from .style import CSS

REWARDS_OF = 6  # tasks and levels whose reward over time is drawn
PROFILE_OF = 3  # tasks and levels from which a performance profile says something
SEVERAL = 4  # tasks and levels up to which a matrix would only repeat the table
Colours = plots.Colours


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    title: str
    content: str
    note: str = ""
    """HTML."""

    @property
    def anchor(self) -> str:
        """What links call it."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


def build_report(evaluation: Evaluation) -> str:
    """The whole page; replays some runs for its videos."""
    colours = plots.colours_of(evaluation)
    parts = [*_alone(evaluation, colours), *_matches(evaluation, colours)]
    parts += [*_learning(evaluation, colours), *_runs(evaluation, colours)]
    parts.append(_reproduce(evaluation))
    return whole_page("Palaestra evaluation", headline(evaluation), lede(evaluation), parts)


def whole_page(kind: str, title: str, lede: str, parts: Sequence[Part]) -> str:
    """The file, with links to its sections."""
    links = "".join(f'<a href="#{part.anchor}">{escape(part.title)}</a>' for part in parts)
    sections = (section(p.title, p.content, p.note, p.anchor) for p in parts)
    return page(kind, title, lede, [f'<nav aria-label="Sections">{links}</nav>', *sections], CSS)


def _alone(evaluation: Evaluation, colours: Colours) -> Iterator[Part]:
    """What came of the tasks of one player."""
    pairs = alone(evaluation.settings.tasks)
    if not pairs:
        return
    table = tables.summary_table(evaluation, colours)
    yield Part("Summary", table, _summary_note(evaluation))
    yield Part("Success", _success(evaluation, colours), _success_note(evaluation))
    if len(pairs) >= PROFILE_OF:
        lean = evaluation.recorded.frame.drop("actions", "rewards", "values")
        found = dict(profiles(evaluation.settings, lean))
        if found:
            note = (
                "The share of all scores, one for each seed, task and level, that lie above a "
                "normalised return τ. A higher line is better everywhere; where lines cross, one "
                "policy is good at few tasks and the other middling at many."
            )
            yield Part("Performance profile", plots.profile_plot(found, colours), note)
    yield Part("Tasks", tables.score_tables(evaluation, colours), _tasks_note(evaluation))
    if len(pairs) <= REWARDS_OF:
        note = "The mean over the runs that still go on, with its 95 % interval."
        yield Part("Reward over time", plots.reward_plot(evaluation, colours), note)


def _summary_note(evaluation: Evaluation) -> str:
    several = ", ".join(
        f"{row.method} with {row.seeds} seeds"
        for row in evaluation.summary if row.group == ALL and row.seeds > 1
    )  # fmt: skip
    note = (
        "Every task and level counts the same. Brackets are 95 % intervals over the runs (Wilson "
        "for success, for the rest a bootstrap within each task), which leave out how much "
        "training itself varies from seed to seed"
        f"{f'; of {escape(several)} a bootstrap over whole networks' if several else ''}. "
        "Normalised return "
        "is 0 for random play and 1 for the expert. Its interquartile mean drops the lowest and "
        "the highest quarter of the scores, one for each seed, task and level; of single runs that "
        "succeed or fail it would be 0 or 1 more often than not, and says nothing. Steps to "
        "completion count a failed run at the horizon."
    )
    if any(row.group == HIDDEN for row in evaluation.summary):
        note += " Held-out: no policy here was trained on it."
    return note


def _success(evaluation: Evaluation, colours: Colours) -> str:
    plot = plots.success_plot(evaluation, colours)
    if len(alone(evaluation.settings.tasks)) <= SEVERAL:
        return plot
    matrix = f'<div class="scroll">{tables.matrix(evaluation, colours)}</div>'
    return f'<h3>By task and level, percent</h3>{matrix}<h3>By level</h3>{plot}'


def _success_note(evaluation: Evaluation) -> str:
    runs = f"{evaluation.settings.runs:,}"
    return f"The share of {runs} runs that were completed, on the same seeds for every policy."


def _tasks_note(evaluation: Evaluation) -> str:
    note = (
        "Brackets are 95 % intervals over the runs (Wilson for success, bootstrap for means). "
        "Steps to completion count a failed run at the horizon, the next column completed ones "
        "alone."
    )
    if any(HELD_OUT in pair_name(pair) for pair in evaluation.settings.tasks):
        note += f" {HELD_OUT} held out: no training corpus holds this task."
    return note


def _matches(evaluation: Evaluation, colours: Colours) -> Iterator[Part]:
    """What came of the tasks of two players."""
    if not evaluation.matches:
        return
    payoff = payoff_of(evaluation.settings, evaluation.matches)
    ratings = evaluation.ratings
    order = [rating.name for rating in ratings[ALL]]
    note = (
        "How many of 100 matches the policy of the row wins against that of the column, a draw as "
        "half; over all tasks and levels. The scripts' own matches are part of the code."
    )
    yield Part("Win rates", plots.payoff_plot(payoff, order), note)
    note = (
        "Bradley and Terry's ratings on the scale of Elo: 400 points are odds of ten to one. The "
        "hollow dot is pinned at 1,000; bars are 95 % bootstrap intervals over the matches."
    )
    yield Part("Ratings", plots.rating_plot(ratings, colours), note)
    note = "Sides alternate. Brackets are 95 % intervals over the matches."
    yield Part("Matches", tables.match_tables(evaluation, colours), note)


def _learning(evaluation: Evaluation, colours: Colours) -> Iterator[Part]:
    """How learned policies came to be, and how good their values are."""
    runs: dict[str, Entrant] = {}
    for policy in evaluation.settings.policies:
        if policy.learned:
            runs.setdefault(policy.source, policy)  # without its history it is the same run
    drawn = {run.name: _learned(run, colours[run.name]) for run in runs.values()}
    told = [name for name, text in drawn.items() if text]
    if told:
        title = f"How {told[0]} learned" if len(told) == 1 else "How the policies learned"
        yield Part(title, "".join(drawn.values()))
    found = calibrations(evaluation)
    if found:
        note = (
            "What the critic predicts before each step against the discounted return that the "
            "whole run then brought, both in units of (1 − γ) · return; after a time limit the "
            "last prediction stands for what is not played. Each dot is a fifteenth of all steps, "
            "its bar the middle half of what was realised. On the dashed line a critic is right on "
            "average: slope 1, bias 0 (mean of predicted − realised); explained is the share of "
            "the variance."
        )
        yield Part("Value calibration", plots.calibration_plot(found, colours), note)


def _learned(entrant: Entrant, colour: str) -> str:
    """What the files of an entrant's run hold; empty where there are none."""
    metrics, scores = read_metrics(entrant.source), read_evaluations(entrant)
    name, text = entrant.name, ""
    if metrics:
        text += f"<h3>{escape(name)}</h3>{learning_plot(name, metrics, colour)}"
    if scores:
        heading = f"<h3>{escape(name)}: its checkpoints in simulation</h3>"
        text += heading + checkpoint_plot(name, scores, colour)
    return text


def calibrations(evaluation: Evaluation) -> dict[str, Calibration]:
    """Of each learned policy, over all of its runs of one player."""
    frame = evaluation.recorded.frame
    found = {}
    for entrant in evaluation.settings.policies:
        if entrant.discount is not None:
            mine = (frame["policy"] == entrant.name) & (frame["opponent"] == "")
            one = calibrate(frame.filter(mine), entrant.discount)
            if one is not None:
                found[entrant.name] = one
    return found


def _runs(evaluation: Evaluation, colours: Colours) -> Iterator[Part]:
    """Videos."""
    note = (
        "Recorded actions, replayed: the median run, the best and a failed one, else the worst. "
        "The bar below each run is time, green where the task is solved."
    )
    content = videos(evaluation, colours)
    if content:
        if len(alone(evaluation.settings.tasks)) > FEW_PAIRS:
            note = f"{escape(main_policy(evaluation))}. {note}"
        yield Part("Runs", content, note)
    content = match_videos(evaluation, colours)
    if content:
        yield Part("Runs of matches", content, "Recorded actions, replayed.")


def _reproduce(evaluation: Evaluation) -> Part:
    settings, recorded = evaluation.settings, evaluation.recorded
    seeds = evaluation_seeds(settings.seed, settings.runs)
    checkpoints = [
        f"{policy.name}: update {policy.update:,} of {policy.source}"
        for policy in settings.policies if policy.update is not None
    ]  # fmt: skip
    entries = {
        "checkpoints": "; ".join(checkpoints),
        "weights, sha256": "; ".join(f"{url} {digest}" for url, digest in recorded.weights.items()),
        "corpus": f"{settings.corpus} ({settings.corpus_fingerprint})" if settings.corpus else "",
        "league": settings.league or "",
        "episode seeds": f"{seeds[0]:#x} to {seeds[-1]:#x}; no corpus sets the top bit",
        "versions": ", ".join(f"{name} {value}" for name, value in recorded.versions.items()),
    }
    task, level = settings.tasks[0]
    note = (
        "The same command prints the same table. episodes.parquet beside this file has one row per "
        "run, results.json every number. Any run can be seen again: <code>evaluate show DIR "
        f"--task {escape(task)} --level {level} --seed 0</code> films the first of a task, other "
        "numbers others."
    )
    content = f"<pre>{escape(command_line(settings))}</pre>\n{facts(entries)}"
    return Part("How to reproduce", content, note)
