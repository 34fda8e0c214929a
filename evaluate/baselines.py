"""What random play and the scripts reach on every task and level, kept with the code.

`python -m palaestra.evaluate.baselines` plays them again and writes the file. Alone, a learned
policy is scored between random play and the expert; in matches, against the league's anchors.
"""

from __future__ import annotations

import functools
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Annotated, NamedTuple

import tyro

from ..generate import raster
from ..generate.league import ANCHORS, Member
from ..generate.policies import Match, make_policy
from ..generate.registry import task_class, task_classes
from ..generate.rollout import Policy
from ..generate.work import versions
from ..generate.world import World
from ..shards import storage
from ..shards.config import parse
from ..shards.console import console, progress, run_command
from ..shards.errors import ConfigError
from .runs import Runs, evaluation_seeds, play_wave
from .statistics import censored_steps

FILE = "baselines.json"
RUNS = 100
SEED = 0
SCRIPTS = {name: Member(name, name) for name in ("random", "expert")}
RIVALS = {anchor.name: anchor for anchor in ANCHORS}


@dataclass(frozen=True)
class Baseline:
    """Means over RUNS runs of a script, or over matches of two anchors from one's side."""

    task: str
    level: int
    policy: str
    """`random` or `expert`; in a match, an anchor's name."""
    opponent: str
    """An anchor's name; empty without one."""
    player: int
    """Of a match, the side that `policy` played."""
    mean_return: float
    success: float
    """Share of runs completed; of matches won."""
    lost: float
    """Share of matches that the opponent won; 0 without one."""
    steps: float
    """To completion; runs that were not completed count the whole horizon."""


@dataclass(frozen=True)
class Baselines:
    """The file's content."""

    runs: int
    seed: int
    versions: dict[str, str]
    """Everything that the figures depend on beside the code."""
    rows: tuple[Baseline, ...]

    def find(self, task: str, level: int, policy: str, opponent: str = "") -> Baseline | None:
        """The row of a script on a task, in a match from the first side; None if there is none."""
        key = (task, level, policy, opponent, 0)
        for row in self.rows:
            if (row.task, row.level, row.policy, row.opponent, row.player) == key:
                return row
        return None


class Pairing(NamedTuple):
    """What is played to fill one or two rows."""

    task: str
    level: int
    policies: tuple[str, ...]
    """One for each player."""


@functools.cache
def load_baselines() -> Baselines:
    """The baselines of this version of the suite."""
    text = files(__package__).joinpath(FILE).read_text()
    return parse(Baselines, json.loads(text), FILE)


def pairings() -> Iterator[Pairing]:
    """Every task and level: alone each script, in matches each anchor against each."""
    for task, cls in task_classes().items():
        for level in range(1, cls.levels + 1):
            names = SCRIPTS if cls.players == 1 else RIVALS
            for sides in itertools.product(names, repeat=cls.players):
                yield Pairing(task, level, sides)


def measure(pairing: Pairing, runs: int = RUNS, seed: int = SEED) -> list[Baseline]:
    """Play one pairing; a row for each player's side."""
    task, level, names = pairing
    world = World(task, level, runs, pixels=False)
    scripts = [(SCRIPTS if len(names) == 1 else RIVALS)[name] for name in names]
    policies = [make_policy(script.policy, script.noise) for script in scripts]
    policy: Policy = policies[0] if len(names) == 1 else Match(policies)
    played = play_wave(policy, world, evaluation_seeds(seed, runs))
    return [_row(pairing, played, player) for player in range(len(names))]


def _row(pairing: Pairing, runs: Runs, player: int) -> Baseline:
    task, level, names = pairing
    own = slice(player, None, len(names))
    opponent = names[1 - player] if len(names) == 2 else ""
    lost = float(runs.success[1 - player :: 2].mean()) if opponent else 0.0
    steps = censored_steps(runs.completion_step[own], runs.horizon)
    return Baseline(
        task, level, names[player], opponent, player,
        round(float(runs.returns[own].mean()), 4), float(runs.success[own].mean()), lost,
        float(steps.mean()),
    )  # fmt: skip


def to_json(baselines: Baselines) -> str:
    """One row a line, so that a change can be read in a diff."""
    rows = ",\n".join(f"    {json.dumps(asdict(row))}" for row in baselines.rows)
    head = {"runs": baselines.runs, "seed": baselines.seed, "versions": baselines.versions}
    return json.dumps(head, indent=2)[:-2] + f',\n  "rows": [\n{rows}\n  ]\n}}\n'


@dataclass(frozen=True)
class Arguments:
    """Play the scripts on every task and level, in matches the anchors, and write the baselines."""

    output: Annotated[str, tyro.conf.Positional] = str(files(__package__).joinpath(FILE))
    """Where the JSON file goes."""
    runs: int = RUNS
    """Runs of each script on each task and level."""
    tasks: tuple[str, ...] = ()
    """Only these, and the file's other rows stay as they are."""


def command(arguments: Arguments) -> None:
    """Measure in one process per core, and write."""
    if not 1 <= arguments.runs <= 10_000:
        raise ConfigError(f"--runs should be in [1, 10000], is {arguments.runs}")
    for task in arguments.tasks:
        task_class(task, "--tasks")
    wanted = [p for p in pairings() if not arguments.tasks or p.task in arguments.tasks]
    found: list[Baseline] = []
    if arguments.tasks:
        found = [row for row in load_baselines().rows if row.task not in arguments.tasks]
    raster.compile()
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(min(len(os.sched_getaffinity(0)), len(wanted)), spawn) as pool,
        progress("baselines", len(wanted), "pairings") as advance,
    ):
        waiting = {pool.submit(measure, pairing, arguments.runs): pairing for pairing in wanted}
        for future in as_completed(waiting):
            found += future.result()
            advance(1, waiting[future].task)
    found.sort(key=lambda row: (row.task, row.level, row.player, row.policy, row.opponent))
    baselines = Baselines(arguments.runs, SEED, versions(), tuple(found))
    storage.write_bytes(arguments.output, to_json(baselines).encode())
    console.print(f"{len(found)} rows: {arguments.output}")


def main() -> None:
    """Entry point."""
    run_command(Arguments, command, "palaestra.evaluate.baselines")


if __name__ == "__main__":
    main()
