"""Tasks and levels that a policy never saw: against random play, and against one that saw them.

Three networks, equally long trained, states only: `suite` on every training task at every level,
`level 1` on the first level of each, `held out` on the tasks and levels that no training corpus may
hold, from a corpus of the same behaviours. Each plays the same 100 seeds on a pair of task and
level. A return counts in percent of the way from random play to the expert; in matches the share
won against a scripted anchor. Intervals are 95 % bootstrap ones over runs within pairs: one network
each, so that what training varies by is not in them.

Run: python benchmarks/generalisation.py [--quick] [--folder FOLDER]
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import tyro
from learning import HERE, call, play, train
from learning_tables import cells, estimate, shown, with_scores
from palaestra.evaluate.statistics import wilson
from provenance import commit, hardware
from timing import print_table

RECIPE = HERE / "generalisation.toml"
HARDER = ("arm", "locomotion")  # families whose levels 2 and 3 are judged
NETWORKS = {  # corpus, flags
    "suite": ("train", ()),
    "level 1": ("train", ("--where", "level = 1")),
    "held out": ("heldout", ("--on-held-out",)),
}


def make_corpora(folder: Path, steps: int, jobs: int) -> None:
    """The training tasks, and a quarter as much of the held-out ones: a quarter of the pairs."""
    other = folder / "heldout.toml"
    text = RECIPE.read_text().replace('["train"]', '["heldout"]')
    other.write_text(text.replace("seed = 9", "seed = 10\nheldout = true"))
    for recipe, name, count in ((RECIPE, "train", steps), (other, "heldout", steps // 4)):
        call(
            "-m", "palaestra.generate", recipe, folder / name, "--steps", count, "--workers", jobs,
        )  # fmt: skip


def shares(rows: pl.DataFrame) -> list[str]:
    """Return and success over all pairs."""
    return [shown(estimate(cells(rows, column, [0]))) for column in ("score", "success")]


def alone(episodes: pl.DataFrame) -> pl.DataFrame:
    """Scored episodes of one player."""
    rows = episodes.filter(opponent="").with_columns(
        pl.col("level").cast(pl.Int32), pl.col("completion_step").fill_null(-1), seed=0
    )
    return with_scores(rows)


def print_scores(title: str, scored: pl.DataFrame, names: dict[str, str]) -> None:
    """By network over all pairs, then by pair."""
    rows = [[names[p], *shares(scored.filter(policy=p))] for p in names]
    print_table(title, ("trained on", "return", "success"), rows)
    means = scored.group_by("task", "level", "policy").agg(pl.col("score", "success").mean())
    wide = {(t, level, p): (100 * a, 100 * b) for t, level, p, a, b in means.iter_rows()}
    pairs = sorted({key[:2] for key in wide})
    lines = [
        [f"{task} {level}", *("{:.0f} {:.0f} %".format(*wide[task, level, p]) for p in names)]
        for task, level in pairs
    ]  # fmt: skip
    print_table("return and success by task and level", ("", *names.values()), lines)


def print_matches(episodes: pl.DataFrame, names: dict[str, str]) -> None:
    """Shares won against the anchors, over levels."""
    lines = []
    for opponent in ("random", "weak", "medium", "strong"):
        line = [opponent]
        for policy in names:
            played = episodes.filter(policy=policy, opponent=opponent)["outcome"]
            won = wilson(int((played == "win").sum()), len(played))
            line.append(f"{shown(won)}, drawn {100 * (played == 'draw').mean():.0f}")
        lines.append(line)
    print_table("ball, percent of matches won against", ("", *names.values()), lines)


def main(
    quick: bool = False, folder: Path | None = None, steps: int = 4_000_000, updates: int = 3400,
    runs: int = 100, jobs: int = 2,
) -> None:  # fmt: skip
    """Print both comparisons; --quick is a smoke run."""
    if quick:
        steps, updates, runs = 1_000_000, 3, 2
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as temporary:
        place = (folder or Path(temporary)).absolute()
        place.mkdir(parents=True, exist_ok=True)
        make_corpora(place, steps, jobs)
        runs_at = {name: place / "runs" / name.replace(" ", "-") for name in NETWORKS}

        def one(name: str) -> None:
            corpus, flags = NETWORKS[name]
            train(place / corpus, runs_at[name], updates, "--inputs", "state", *flags)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, NETWORKS))
        first, unseen, known = (runs_at[name] for name in ("level 1", "suite", "held out"))
        played = place / "played"
        tasks = play((unseen, known), played / "tasks", runs, jobs, "--tasks", "heldout")
        where = ("--tasks", *HARDER, "--levels", 2, 3)
        levels = play((first, unseen), played / "levels", runs, jobs, *where)
    print(f"{commit()}, {hardware()}, {updates:,} updates of 4 segments")
    names = {unseen.name: "the other tasks", known.name: "them"}
    held_out = alone(tasks)
    print_scores("held-out tasks and levels, one player", held_out, names)
    print_matches(tasks, names)
    harder = alone(levels).join(held_out, on=("task", "level"), how="anti")
    print_scores(
        "levels 2 and 3 of the training tasks", harder,
        {first.name: "level 1", unseen.name: "levels 1 to 3"},
    )  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
