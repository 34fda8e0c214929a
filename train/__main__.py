"""`train CORPUS… --run RUN`, and `train plan`, `train status RUN`, `train export RUN OUT`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..shards.console import console, run_command
from ..shards.errors import ConfigError
from .ranks import end_with_launcher, launch
from .stop import INTERRUPTED, heeding_signals

if TYPE_CHECKING:
    from ..shards.cache import RangeCache
    from .arguments import Arguments
    from .config import TrainConfig
    from .execution import Execution
    from .owner import Owner
    from .trainer import Trainer


def command(arguments: Arguments) -> int:
    """Check everything, then train."""
    from ..shards.plain import open_corpus  # polars: --help does without
    from .arguments import resolve
    from .plan.room import settle
    from .run import check_run, find_source, record_run
    from .warm_start import check_start

    config, execution, cadence = resolve(arguments)
    if arguments.cache_size <= 0:
        raise ConfigError(f"--cache-size should be positive, is {arguments.cache_size:g}")
    corpora = [open_corpus(url) for url in config.corpora]
    heldout = [open_corpus(url) for url in arguments.heldout]
    check_run(arguments.run, config, corpora, heldout)
    source = find_source(arguments.resume, arguments.run, config, corpora[0].schema)
    check_start(arguments.run, config, corpora[0].schema)
    execution = settle(
        config, execution, corpora[0].schema,
        stage=arguments.zero_stage == "auto", recompute=arguments.recompute == "auto",
    )  # fmt: skip
    if execution.ranks > 1 and "RANK" not in os.environ:
        return launch(execution.ranks, sys.argv[1:])

    from .engine import as_first, one_voice, start_as_first, start_ranks, stop_ranks
    from .trainer import Trainer

    end_with_launcher()
    rank, _ = start_ranks()
    try:
        with heeding_signals() as stop, one_voice(), own(arguments.run, rank) as owner:
            config, execution = start_as_first(config), as_first(execution)
            if rank == 0:
                record_run(arguments.run, config)
            trainer = Trainer(
                config, execution, cadence, arguments.run, corpora, heldout, open_cache(arguments),
                owner, stop,
            )  # fmt: skip
            begun = trainer.resume(source)
            if rank == 0:
                describe(config, execution, trainer, begun)
            finished = trainer.train()
    finally:
        stop_ranks()
    return 0 if finished else INTERRUPTED


def open_cache(arguments: Arguments) -> RangeCache | None:
    """The cache that the flags ask for."""
    from ..shards.cache import RangeCache

    if arguments.cache is None:
        return None
    return RangeCache(arguments.cache, round(arguments.cache_size * 1e9))


@contextmanager
def own(run: str, rank: int) -> Iterator[Owner | None]:
    """One process of all that train a run owns it."""
    from .owner import owning

    if rank:
        yield None
    else:
        with owning(run) as owner:
            yield owner


def describe(
    config: TrainConfig, execution: Execution, trainer: Trainer, begun: str | None
) -> None:
    """Say what is about to be trained."""
    padded = trainer.reader.padded_size - config.batch
    parts = [
        f"{trainer.engine.parameter_count:,} parameters", config.inputs, config.precision,
        f"ZeRO-{execution.zero_stage}",
        f"updates {trainer.start} to {config.updates} of {config.batch} segments",
        f"{execution.ranks} × {execution.accumulation} × {execution.micro_batch}"
        + (f" with {padded} empty" if padded else ""),
    ]  # fmt: skip
    console.print(f"{config.preset}: {', '.join(parts)}", markup=False)
    if begun:
        console.print(f"from {begun}", markup=False)
    elif config.warm_start:
        console.print(f"weights from {config.warm_start}", markup=False)


def main() -> None:
    """Entry point: the first word chooses the command."""
    words = sys.argv[1:]
    if words[:1] == ["plan"]:
        from .plan.command import PlanArguments, plan_command

        run_command(PlanArguments, plan_command, "train plan", words[1:])
    elif words[:1] == ["status"]:
        from .status import StatusArguments, status_command

        run_command(StatusArguments, status_command, "train status", words[1:])
    elif words[:1] == ["export"]:
        from .program import ExportArguments, export_command

        run_command(ExportArguments, export_command, "train export", words[1:])
    else:
        from .arguments import Arguments  # torch, which the others do without

        run_command(Arguments, command, "train", words)


if __name__ == "__main__":
    main()
