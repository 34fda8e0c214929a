"""The docs: commands and Python that run, links that lead somewhere, facts that hold."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from evaluate_runs import write_checkpoint
from palaestra.generate.catalogue import task_row
from palaestra.generate.recipe import Behaviour
from palaestra.generate.registry import task_classes
from palaestra.generate.slots import ACTION_SIZE, SLOTS
from palaestra.generate.task import Task
from palaestra.generate.world import World
from palaestra.train.arguments import Arguments
from palaestra.train.loss import LossConfig
from PIL import Image
from small_corpus import RECIPE, build

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path for path in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]}
TEXTS = {name: path.read_text() for name, path in PAGES.items()}
FENCES = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
ROOMS = {"generate": "generate", "audit": "shards", "train": "train", "evaluate": "evaluate"}
WITHIN = {  # the arguments of a command's own commands
    ("generate", "plan"): "generate.__main__.PlanArguments",
    ("generate", "tasks"): "generate.__main__.TasksArguments",
    ("generate", "preview"): "generate.__main__.PreviewArguments",
    ("generate", "replay"): "generate.__main__.ReplayArguments",
    ("generate", "export"): "generate.exporting.command.ExportArguments",
    ("generate", "import"): "generate.importing.command.ImportArguments",
    ("train", ""): "train.arguments.Arguments",
    ("train", "plan"): "train.plan.command.PlanArguments",
    ("train", "status"): "train.status.StatusArguments",
    ("train", "export"): "train.program.ExportArguments",
    ("evaluate", "compare"): "evaluate.__main__.CompareArguments",
    ("evaluate", "merge"): "evaluate.__main__.MergeArguments",
    ("evaluate", "show"): "evaluate.__main__.ShowArguments",
    ("evaluate", "selfplay"): "evaluate.__main__.SelfPlayArguments",
}
PYTHON_RUN_BY = {  # pages whose Python needs what these tests make, and how many blocks they run
    "README.md": ("test_readme.py", 1),
    "exporting.md": ("test_export.py", 3),
    "format.md": ("test_golden.py", 1),
    "recipes.md": ("test_recipe_page.py", 1),
}
COMMANDS_RUN_BY = {  # the same of commands
    "README.md": "test_readme.py",  # but for `make demo`, which takes minutes
    "audit.md": "test_audit_examples.py",
    "exporting.md": "test_export.py",
    "importing.md": "test_import.py",
    "launching.md": "test_train_launch.py",
}
ONLY_PARSED = {
    "experiments.md": "what it states took hours to train",
    "recipes.md": "it needs a bucket, a Ray cluster and schedulers",
}
SHORT = "--updates 2 --batch 2 --validation-share 0.3 --validate-every 2 --precision fp32"
FEW = "--runs 1 --width 1 --workers 1"
APPENDED = {  # what makes each command of a page short, last flags win; None: only parsed
    "evaluation.md": (
        FEW,
        "--tasks push --levels 2 --runs 8 --width 8 --workers 1 --history on",  # run 7 is filmed
        "--workers 1",
        "--size 32",
        f"--tasks reach --levels 1 {FEW} --history on",  # the networks know reach alone
        "",
    ),
    "scaling.md": ("", "", "", ""),
    "selfplay.md": (None, ""),  # trains for an hour
    "tasks.md": ("--seeds 1 --size 32",),
    "training.md": (f"{SHORT} --heldout runs/heldout", SHORT, "", SHORT, ""),
}
PRINTED = {"evaluation.md": "shape: (2, 6)", "training.md": "shape: (1, 3)"}  # by the Python


def blocks(page: str, language: str) -> list[str]:
    return [text for kind, text in FENCES.findall(TEXTS[page]) if kind == language]


def commands(page: str) -> list[list[str]]:
    """Words of our commands in a page's `sh` blocks, from the command's name on."""
    lines = [
        shlex.split(line, comments=True)
        for text in blocks(page, "sh") for line in text.replace("\\\n", "").splitlines()
    ]  # fmt: skip
    found = [[Path(words[0]).name, *words[1:]] for words in lines if words]
    launched = [words for words in found if "palaestra.train" in words]
    rest = [words[words.index("palaestra.train") + 1 :] for words in launched]
    trains = [["train", *(word for word in words if word != "--")] for words in rest]
    return [words for words in found if words[0] in ROOMS] + trains


def parse(words: list[str]) -> Any:
    """What a command line becomes; SystemExit where a flag is unknown."""
    name, first = words[0], words[1] if len(words) > 1 else ""
    inner = WITHIN.get((name, first))
    where = inner or WITHIN.get((name, "")) or f"{ROOMS[name]}.__main__.Arguments"
    module, _, kind = where.rpartition(".")
    cls = getattr(importlib.import_module(f"palaestra.{module}"), kind)
    return tyro.cli(cls, args=words[2:] if inner else words[1:])


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page: str) -> None:
    for words in commands(page):
        assert parse(words), words


def test_a_wrong_flag_would_not_parse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["train", "status", "runs/a", "--nosuch"])
    assert "nosuch" in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCES.sub("", TEXTS[page])):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        file = (PAGES[page].parent / place).resolve() if place else PAGES[page]
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", FENCES.sub("", file.read_text()), re.M)
            assert anchor in [re.sub(r"[^\w\- ]", "", t).lower().replace(" ", "-") for t in titles]


def test_every_example_is_on_a_page() -> None:
    for path in (ROOT / "docs/examples").glob("*.py"):
        assert any(path.name in text for text in TEXTS.values()), path.name


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_test_that_runs_it(page: str) -> None:
    """Here, or where what it needs is made; but for the commands that are told apart above."""
    if count := len(blocks(page, "python")):
        assert (page in PRINTED) != (page in PYTHON_RUN_BY)
        test, run_there = PYTHON_RUN_BY.get(page, ("test_docs.py", count))
        assert count == run_there and page in (ROOT / "tests" / test).read_text()
    if not blocks(page, "sh"):
        return
    assert sum(page in where for where in (APPENDED, COMMANDS_RUN_BY, ONLY_PARSED)) == 1
    if page in APPENDED:
        lines = "".join(blocks(page, "sh")).replace("\\\n", "").splitlines()
        assert len(APPENDED[page]) == len(commands(page)) == len(lines)
    elif page in COMMANDS_RUN_BY:
        assert page in (ROOT / "tests" / COMMANDS_RUN_BY[page]).read_text()


def run(*words: str, folder: Path) -> str:
    """What it prints; it must end well."""
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_here(words: list[str], folder: Path) -> None:
    """Run a command in this process, which need not import torch each time; it must end well."""
    main = importlib.import_module(f"palaestra.{ROOMS[words[0]]}.__main__").main
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0, words


def run_page(page: str, folder: Path) -> None:
    """A page's commands in order, then its Python; what the commands are to write is there then."""
    for words, more in zip(commands(page), APPENDED[page], strict=True):
        if more is None:
            continue
        if words[0] == "train" and "--run" in words:  # it takes hold of its process
            run("-m", "palaestra.train", *words[1:], *more.split(), folder=folder)
        else:
            run_here([*words, *more.split()], folder)
        for flag in {"--run", "--output"} & set(words):
            assert list((folder / words[words.index(flag) + 1]).iterdir())
    if code := "\n".join(blocks(page, "python")):
        assert PRINTED[page] in run("-c", code, folder=folder)


def build_corpora(folder: Path, *names: str) -> None:
    """One small corpus under several names, as pages call them."""
    behaviours = (Behaviour(("reach",), "expert", (1, 2), 0.2),)
    corpus = build(str(folder / "corpus"), replace(RECIPE, behaviours=behaviours)).url
    for name in names:
        path = folder / "runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(corpus)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page on training was followed."""
    folder = tmp_path_factory.mktemp("training")
    build_corpora(folder, "demo/corpus", "a", "b", "heldout", "new")
    run_page("training.md", folder)
    return folder


def test_the_page_on_evaluation_runs(tmp_path: Path) -> None:
    names = ["mine", "other", *(f"{kind}-{k}" for kind in ("bc", "top") for k in range(3))]
    for seed, name in enumerate(names):
        write_checkpoint(tmp_path / "runs" / name, seed=seed)
    for part, task in (("part-a", "reach"), ("part-b", "push")):
        words = f"evaluate random --tasks {task} --levels 1 {FEW} --output runs/{part}"
        run_here(words.split(), tmp_path)
    run_page("evaluation.md", tmp_path)
    assert list(tmp_path.glob("push-2-mine-seed7.gif"))


def test_the_pages_on_tasks_scaling_and_selfplay_run(tmp_path: Path) -> None:
    build_corpora(tmp_path, "demo/corpus")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for page in ("tasks.md", "scaling.md", "selfplay.md"):
        run_page(page, tmp_path)
    assert not (tmp_path / "runs/selfplay").exists()


@pytest.mark.xdist_group("training page")  # which is run once for both
def test_the_page_on_training_runs(trained: Path) -> None:
    assert (trained / "policy.pt2").stat().st_size > 100_000


def test_the_page_on_training_knows_every_flag() -> None:
    assert len(TEXTS["training.md"].splitlines()) <= 150
    flags = [f.name for f in dataclasses.fields(Arguments) if f.name not in ("corpora", "loss")]
    flags += [f"loss.{field.name}" for field in dataclasses.fields(LossConfig)]
    for flag in flags:
        assert f"`--{flag.replace('_', '-')}`" in TEXTS["training.md"], flag


@pytest.mark.xdist_group("training page")
def test_the_page_on_training_knows_every_metric(trained: Path) -> None:
    """And names none that is not there, but for a GPU's."""
    lines = (trained / "runs/demo/state/metrics.jsonl").read_text().splitlines()
    metrics = {name for line in lines for name in json.loads(line)} - {"update"}
    table = TEXTS["training.md"].partition("## What to watch")[2].partition("```")[0]
    named = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.M)))
    patterns = [re.sub(r"…|POLICY", "*", name) for name in named]
    assert [m for m in metrics if not any(fnmatchcase(m, p) for p in patterns)] == []
    assert [p for p in patterns if not any(fnmatchcase(m, p) for m in metrics)] == ["mfu"]


# The page of tasks


def sections() -> dict[str, str]:
    """What the page says of each task, by its name."""
    parts = re.split(r"^##+ (.*)$", TEXTS["tasks.md"], flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def filled(task: str, level: int) -> set[str]:
    """Slots that a task fills at a level."""
    world = World(task, level, 1, pixels=False)
    world.reset([0])
    slots = {s.name: np.full((world.nlane, s.size), np.nan, np.float32) for s in SLOTS}
    world.task.observe(slots)
    return {name for name, values in slots.items() if not np.isnan(values).all()}


def stated(text: str, level: int) -> set[str]:
    """Slots that a text names for a level: patterns, some with their levels in brackets."""
    found = re.findall(r"`([\w*\[\]-]+)`(?: \(([\d, ]+)\))?", text)
    patterns = [name for name, levels in found if not levels or str(level) in levels.split(", ")]
    return {s.name for s in SLOTS if any(fnmatchcase(s.name, p) for p in patterns)}


def test_the_table_of_tasks_is_the_code() -> None:
    page = TEXTS["tasks.md"]
    assert len(page.splitlines()) <= 150
    rows = [task_row(name, cls) for name, cls in task_classes().items()]
    table = [f"| {' | '.join(list(vars(row).values())[:-1])} |" for row in rows]
    assert re.findall(r"^\| \w+ \| \d.*$", page, re.M) == table
    size = sum(slot.size for slot in SLOTS)
    assert f"a state vector of {size} and of {ACTION_SIZE} actions" in " ".join(page.split())


@pytest.mark.parametrize(("name", "cls"), task_classes().items())
def test_a_tasks_section_is_the_code(name: str, cls: type[Task]) -> None:
    text = sections()[name]
    for level in range(1, cls.levels + 1):
        assert all(told in text for told in cls(level).instructions())
        shared = {"arm": "Arm, 40 Hz", "match": "Matches, 25 Hz"}.get(cls.family)
        body = stated(sections()[shared], level) if shared else set()
        assert filled(name, level) == body | stated(text, level), level
    picture = ROOT / f"docs/pictures/{name}.png"
    assert f"![{name}](pictures/{name}.png)" in text
    with Image.open(picture) as image:
        assert image.width > 1000


def test_the_pictures_are_small_and_can_be_made_again(tmp_path: Path) -> None:
    kept = {path.name: path for path in (ROOT / "docs/pictures").iterdir()}
    assert set(kept) == {f"{name}.png" for name in task_classes()} | {"rollouts.gif", "scale.png"}
    assert sum(path.stat().st_size for path in kept.values()) < 1_500_000
    script = ROOT / "docs/examples/task_pictures.py"
    assert run(str(script), str(tmp_path), "swingup", folder=tmp_path).startswith("swingup.png: ")
    with Image.open(tmp_path / "swingup.png") as made, Image.open(kept["swingup.png"]) as there:
        assert made.size == there.size
