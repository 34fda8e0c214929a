"""What the tests of `evaluate` share: untrained checkpoints, small evaluations, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from palaestra.evaluate.__main__ import Arguments, command
from palaestra.evaluate.entrants import find_entrants
from palaestra.evaluate.evaluation import Evaluation, assemble, record
from palaestra.evaluate.opponents import find_opponents
from palaestra.evaluate.pairs import choose_pairs, matches
from palaestra.evaluate.settings import Settings
from palaestra.generate.slots import make_schema
from palaestra.shards.console import run_command
from palaestra.shards.schema import Schema
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.export import export_metadata, shapes_of, write_weights
from palaestra.train.model import PolicyValueNetwork
from palaestra.train.places import MARKER, WEIGHTS

REACH = (("reach", 1),)


def write_checkpoint(
    folder: Path, schema: Schema | None = None, inputs: str = "state", drop: str = "nothing",
    seed: int = 0, tasks: tuple[tuple[str, int], ...] = REACH,
) -> Path:  # fmt: skip
    """An untrained tiny network as a complete checkpoint, without the weights named `drop`…

    What a network begins with zeros is drawn too, so that its actions depend on what it sees.
    """
    schema = schema or make_schema(16, (0.0, 1.0))
    model = load_preset("tiny").model
    config = TrainConfig(
        corpora=("none",), weights=(1,), preset="tiny", model=model, inputs=inputs, updates=1,
        batch=1, peak_rate=1e-3, end_rate=1e-5, warm_up=1, precision="fp32",
    )  # fmt: skip
    network = PolicyValueNetwork(model, shapes_of(schema), inputs.split("+"))
    generator = torch.Generator().manual_seed(seed)
    network.initialise(generator)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    folder.mkdir(parents=True)
    metadata = export_metadata(config, schema, tasks) | {"update": 7}
    weights = {k: w for k, w in network.state_dict().items() if not k.startswith(drop)}
    write_weights(folder / WEIGHTS, weights, metadata)
    (folder / MARKER).write_text("{}")
    return folder


def fails(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command says when it refuses: one line."""
    with pytest.raises(SystemExit) as stop:
        run_command(Arguments, command, "evaluate", [str(word) for word in words])
    assert stop.value.code == 1
    out = capsys.readouterr()
    assert out.err.count("\n") == 1, out.err
    assert "steps/s" not in out.out, "played before it was checked"
    return out.err


def settings_for(
    policies: tuple[str, ...], tasks: tuple[str, ...], levels: tuple[int, ...] = (1,),
    runs: int = 6, width: int = 6, history: str = "on", seed: int = 0,
) -> Settings:  # fmt: skip
    """As the command would make them."""
    entrants = find_entrants(policies, history).entrants
    pairs = choose_pairs(tasks, levels, entrants)
    opponents = find_opponents(None, entrants) if matches(pairs) else ()
    return Settings(entrants, pairs, opponents, runs, seed, width)


def played(settings: Settings, workers: int | None = None) -> Evaluation:
    """Played and scored."""
    return assemble(settings, record(settings, workers))
