"""README's picture: a completed run of an evaluated network on each task, replayed side by side.

Run: python docs/examples/rollouts.py EVALUATION OUT.gif [POLICY]

Every run is played again from its seed and actions, and has to repeat to the last bit.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import polars as pl
from palaestra.evaluate.output import EPISODES, read_settings
from palaestra.evaluate.video import replay
from palaestra.generate.video import Clip, film, shown_steps
from palaestra.shards import storage

SIZE = 128  # pixels
ACROSS = 3
MAXIMUM_BYTES = 1_500_000


def clips(url: str, policy: str | None) -> tuple[list[Clip], int]:
    """One of each one-player task, and how many frames of them are worth showing.

    Each at the highest level that the policy completed, of its runs there the one that took the
    median time.
    """
    settings, origin = read_settings(url)
    learned = [entrant.name for entrant in settings.policies if entrant.learned]
    played = pl.read_parquet(storage.join(url, EPISODES)).filter(
        pl.col("success") & (pl.col("policy") == (policy or learned[0])) & pl.col("opponent").eq("")
    )
    found, frames = [], 0
    for (task,), runs in played.group_by("task", maintain_order=True):
        level = runs["level"].max()
        ranked = runs.filter(pl.col("level") == level).sort("completion_step", "run")
        row = ranked[len(ranked) // 2]
        clip = replay(row, 0, size=SIZE, versions=origin["versions"])
        found.append(replace(clip, caption=f"{task} {level}, run {row['run'][0]}"))
        steps = shown_steps(row["steps"][0], row["completion_step"][0])
        frames = max(frames, -(-steps // clip.pace.steps))
    return found, frames


def main(url: str, output: str, policy: str | None = None) -> None:
    """Write the GIF."""
    shown, frames = clips(url, policy)
    data = film(shown, frames * shown[0].pace.steps, ACROSS, MAXIMUM_BYTES)
    storage.write_bytes(output, data)
    print(f"{output}: {len(shown)} runs, {len(data):,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
