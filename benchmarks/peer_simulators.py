"""Control steps and frames per second on one core: ours beside EnvPool, dm_control, Gymnasium.

Steps: dm_control's "cheetah run", the same model, control step, observation, reward and settling
of each new episode in all variants, with random actions, in whole episodes of 1 000 steps; the
peers' actions are drawn beforehand. First a sweep, of which the best settings of EnvPool and the
best width of ours are kept; then, in turn:

* dm_control in a plain loop, and the same as an environment of Gymnasium (by Shimmy);
* EnvPool at its best, synchronous and asynchronous;
* `Batch`: `mujoco.batch` alone, sensors current after every step;
* `World`: observation and reward as well, of a task in one file, `peers/cheetah_task.py`;
* `recorded`: random behaviour played into episodes, as a rollout does;
* `written`: the same encoded and stored as a shard (with black frames of 2×2 pixels).

Before, episodes of dm_control and of EnvPool are played again in our world, and observations and
rewards compared. Gymnasium's own HalfCheetah-v5 is another model and is left out.

Frames: 64×64 with the state and reward, of our `push` by the rasteriser and by software OpenGL,
and of dm_control's cheetah. OpenGL needs libegl1 and libegl-mesa0, and takes one thread as well.

Every variant has a long-lived process pinned to the same core, in its own virtual environment,
made on first use under --folder. --cpu-time counts a process's own seconds, of all its threads.

Run: python benchmarks/peer_simulators.py [--quick] [--folder FOLDER] [--cpu-time]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tyro
from peer_environments import SIMULATORS, Peer, PeerError, interpreter
from timing import Timing, interleave, pin_to_one_core, print_table

REPETITIONS, SWEEP_REPETITIONS = 5, 3
EPISODE, SWEEP_STEPS, COMPARED_STEPS = 1000, 40, 50
DEFAULT_WIDTH = 64  # lanes of a recipe's waves
WIDTHS = (32, 64, 128, 256)  # whole episodes of more take minutes
SYNCHRONOUS = (1, 8, 16, 32, 64, 128)  # an environment takes 12 MB: the model's textures
ASYNCHRONOUS = ((16, 8), (32, 16), (64, 32), (96, 32))
TOLERANCE = 1e-6  # of observation and reward, over COMPARED_STEPS
WANTED = 1.3  # recorded over the best of EnvPool


@dataclass(frozen=True)
class Variant:
    """A row: which run of which peer."""

    name: str
    peer: str
    run: str
    settings: dict[str, Any]


@dataclass
class Runs:
    """The processes, and how they are timed."""

    peers: dict[str, Peer]
    cpu_time: bool
    cpu_seconds: float = 0.0
    seconds: float = 0.0

    def rate(self, variant: Variant) -> Callable[[], float]:
        """A function that runs it once and returns steps/s; PeerError if it cannot be made."""
        peer = self.peers[variant.peer]
        number = peer.ask("make", name=variant.run, settings=variant.settings)

        def rate() -> float:
            reply = peer.ask("time", number=number)
            self.seconds += reply["seconds"]
            self.cpu_seconds += reply["cpu_seconds"]
            return float(reply["steps"] / reply["cpu_seconds" if self.cpu_time else "seconds"])

        return rate

    def measure(
        self, variants: Sequence[Variant], repetitions: int, missing: dict[str, str]
    ) -> Timing:
        """All in turn; what fails is put among the missing. The share is of all processes."""
        rates: dict[str, Callable[[], float]] = {}
        for variant in variants:
            try:
                rate = self.rate(variant)
                rate()
                rates[variant.name] = rate
            except (PeerError, KeyError) as error:
                missing.setdefault(variant.name, str(error))
        self.seconds = self.cpu_seconds = 0.0
        timing = interleave(rates, repetitions)
        return Timing(timing.rates, self.cpu_seconds / self.seconds)


def start(home: Path, logs: Path, missing: dict[str, str]) -> dict[str, Peer]:
    """A process for each peer that installs, and ours."""
    peers = {}
    for name in SIMULATORS:
        try:
            python = interpreter(name, home)
            peers[name] = Peer([python, f"peers/{name}_cheetah.py"], logs / f"{name}.log")
        except PeerError as error:
            missing[name] = str(error)
    if "dm_control" not in peers:
        raise SystemExit(f"the model comes with dm_control: {missing['dm_control']}")
    ours, model = Path(sys.executable), peers["dm_control"].ask("model_file")
    peers["cheetah"] = Peer([ours, "peers/our_cheetah.py", model], logs / "cheetah.log")
    peers["push"] = Peer([ours, "peers/our_push.py"], logs / "push.log")
    return peers


def compare(peers: dict[str, Peer], folder: Path) -> None:
    """Play the peers' episodes again; an error unless ours agree."""
    for name in ("dm_control", "envpool"):
        if name not in peers:
            continue
        path = str(folder / f"{name}.npz")
        peers[name].ask("record", path=path, steps=COMPARED_STEPS)
        gaps = peers["cheetah"].ask("compare", path=path)
        print(
            f"{name} and ours, {COMPARED_STEPS} steps from the same state: observations differ by "
            f"{gaps['observation']:.0e} at most, rewards by {gaps['reward']:.0e}"
        )
        assert max(gaps.values()) < TOLERANCE, (name, gaps)


def sweep_variants(quick: bool) -> list[Variant]:
    """EnvPool's settings and our widths, a stretch of an episode each."""
    steps = 10 if quick else SWEEP_STEPS
    widths = WIDTHS[:2] if quick else WIDTHS
    return [
        *(Variant(f"EnvPool, {n} environments", "envpool", "synchronous",
                  {"num_envs": n, "steps": steps * max(1, 16 // n)})
          for n in (SYNCHRONOUS[2:4] if quick else SYNCHRONOUS)),
        *(Variant(f"EnvPool, {b} of {n} at once", "envpool", "asynchronous",
                  {"num_envs": n, "batch_size": b, "steps": steps})
          for n, b in (ASYNCHRONOUS[:1] if quick else ASYNCHRONOUS)),
        *(Variant(f"World, {n} wide", "cheetah", "world", {"width": n, "steps": steps})
          for n in widths),
    ]  # fmt: skip


def best(variants: Sequence[Variant], timing: Timing, run: str) -> list[Variant]:
    """The fastest variant of this run, if any was timed."""
    timed = [v for v in variants if v.run == run and v.name in timing.rates]
    return sorted(timed, key=lambda v: timing.rate(v.name))[-1:]


def step_variants(peers: Sequence[Variant], widths: Sequence[int], steps: int) -> list[Variant]:
    """Whole episodes."""
    found = [
        Variant("dm_control", "dm_control", "alone", {"steps": steps * 4}),
        Variant("dm_control in Gymnasium", "dm_control", "gymnasium", {"steps": steps * 4}),
    ]
    for v in peers:
        found.append(Variant(v.name, v.peer, v.run, v.settings | {"steps": steps}))
    ours = (("mujoco.batch", "batch"), ("World", "world"), ("World, recorded", "recorded"),
            ("World, written", "written"))  # fmt: skip
    for width in widths:
        for name, run in ours if width == DEFAULT_WIDTH else ours[1:3]:
            settings = {"width": width, "steps": steps}
            found.append(Variant(f"{name}, {width} wide", "cheetah", run, settings))
    return found


def frame_variants(quick: bool) -> list[Variant]:
    """Frames of an arm, and of a cheetah."""
    few = 4 if quick else 16
    wide = {"width": DEFAULT_WIDTH, "steps": few}
    return [
        Variant("push, OpenGL as it comes", "push", "loop", {"steps": few, "lean": False}),
        Variant("push, OpenGL at its leanest", "push", "loop", {"steps": 16 * few, "lean": True}),
        Variant("push, World with OpenGL", "push", "world",
                {"width": DEFAULT_WIDTH, "steps": few // 4, "renderer": "egl"}),
        Variant("push, World", "push", "world", wide | {"renderer": "raster"}),
        Variant("cheetah, dm_control", "dm_control", "pixels", {"steps": few}),
        Variant("cheetah, EnvPool", "envpool", "pixels", {"num_envs": 16, "steps": 1}),
        Variant("cheetah, World", "cheetah", "pixels", wide),
    ]  # fmt: skip


def print_rates(title: str, timing: Timing, base: str) -> None:
    """A row a variant: absolute, and its ratio to the base in the same repetitions."""
    rows = [
        (name, f"{timing.rate(name):,.0f}", f"{timing.ratio(name, base):.2f}")
        for name in timing.rates
    ]
    note = f"median of {len(timing.rates[base])}, {timing.share:.0%} of the core was theirs"
    print_table(f"{title} ({note})", ("variant", "per second", f"over {base}"), rows)


def print_steps(runs: Runs, quick: bool, repetitions: int, missing: dict[str, str]) -> None:
    """The sweep, and the table of steps."""
    variants = sweep_variants(quick)
    sweep = runs.measure(variants, min(repetitions, SWEEP_REPETITIONS), missing)
    pools = best(variants, sweep, "synchronous") + best(variants, sweep, "asynchronous")
    print_rates("sweep, control steps/s of a cheetah", sweep, next(iter(sweep.rates)))
    widest = best(variants, sweep, "world")[0].settings["width"]
    widths = [DEFAULT_WIDTH, *({widest} - {DEFAULT_WIDTH})]
    steps = 50 if quick else EPISODE
    rows = step_variants(pools, widths[:1] if quick else widths, steps)
    timing = runs.measure(rows, repetitions, missing)
    names = [v.name for v in pools if v.name in timing.rates] or ["dm_control"]
    base = max(names, key=timing.rate)
    print_rates("control steps/s of a cheetah, one core, whole episodes", timing, base)
    reached = {w: timing.ratio(f"World, recorded, {w} wide", base)
               for w in widths if f"World, recorded, {w} wide" in timing.rates}  # fmt: skip
    figures = ", ".join(f"{ratio:.2f} ({width} wide)" for width, ratio in reached.items())
    print(f"recorded over {base}: {figures}; wanted {WANTED}")


def print_frames(runs: Runs, quick: bool, repetitions: int, missing: dict[str, str]) -> None:
    """The table of frames."""
    timing = runs.measure(frame_variants(quick), repetitions, missing)
    opengl = [name for name in timing.rates if name.startswith("push, OpenGL")]
    base = max(opengl, key=timing.rate) if opengl else "push, World"
    print_rates("64×64 frames/s with state and reward, one core", timing, base)
    if opengl:
        print(f"OpenGL is {runs.peers['push'].ask('driver')}")


def main(
    quick: bool = False, folder: Path | None = None, cpu_time: bool = False,
    repetitions: int = REPETITIONS,
) -> None:  # fmt: skip
    """Print both tables; --quick is a smoke run, of short episodes, once."""
    repetitions = 1 if quick else repetitions
    home = (folder or Path(tempfile.gettempdir()) / "palaestra-peers").resolve()
    home.mkdir(parents=True, exist_ok=True)
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="palaestra-benchmark-") as logs:
        pin_to_one_core()
        runs = Runs(start(home, Path(logs), missing), cpu_time)
        try:
            compare(runs.peers, Path(logs))
            print_steps(runs, quick, repetitions, missing)
            print_frames(runs, quick, repetitions, missing)
        finally:
            for peer in runs.peers.values():
                peer.close()
    for name, reason in missing.items():
        print(f"left out: {name}: {reason}")
    ours = [f"{name}=={version(name)}" for name in ("mujoco", "numpy", "numba")]
    print(f"ours: {', '.join(ours)}")
    for name, packages in SIMULATORS.items():
        print(f"{name}: {', '.join(packages)}")


if __name__ == "__main__":
    tyro.cli(main)
