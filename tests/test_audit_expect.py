"""Expectations: each entry is a check, and a file that makes no sense is refused whole."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import default_shards
from palaestra.shards.audit.audit import audit
from palaestra.shards.audit.expect import Bounds, CellBounds, load_expectations
from palaestra.shards.audit.report import Report
from palaestra.shards.audit.summary import summarise
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import ConfigError, StorageError
from test_audit import failed, run_audit

MakeCorpus = Callable[..., Corpus]


@pytest.fixture
def expect(tmp_path: Path, make_corpus: MakeCorpus) -> Callable[[str], Report]:
    """Audits the default corpus against a file of this text."""
    corpus = make_corpus()

    def run(text: str) -> Report:
        (tmp_path / "expect.toml").write_text(text)
        return audit(corpus, expectations=load_expectations(str(tmp_path / "expect.toml")))

    return run


def test_every_entry_becomes_a_check(expect: Callable[[str], Report]) -> None:
    report = expect("""
        tasks = ["reach", "push"]
        [corpus]
        steps = { min = 1216, max = 1216 }
        success_rate = { min = 0.5 }
        [[cells]]
        share = { min = 0.5, max = 0.5 }
        [[cells]]
        task = "reach"
        level = 1
        policy = "expert+noise0.3"
        completion_p50 = { max = 280 }
    """)
    assert failed(report) == {}
    assert {c.name: c.finding for c in report.checks if c.name.startswith("expect")} == {
        "expect tasks": "no other than reach, push",
        "expect steps": "1,216, expected at least 1,216 and at most 1,216",
        "expect success_rate": "0.5, expected at least 0.5",
        "expect each cell share": "0.5 to 0.5, expected at least 0.5 and at most 0.5",
        "expect reach level 1 policy expert+noise0.3 completion_p50": "280, expected at most 280",
    }


@pytest.mark.parametrize(
    ("text", "name", "finding"),
    [
        ('tasks = ["push"]', "expect tasks", "reach is there, expected only push"),
        ("[corpus]\nsteps = { max = 1215 }", "expect steps", "expected at most 1,215, found 1,216"),
        ("[corpus]\nsegments = { min = 9 }", "expect segments", "expected at least 9, found 8"),
        ("[[cells]]\nsuccess_rate = { min = 0.1 }", "expect each cell success_rate",
         "reach level 1 random: expected at least 0.1, found 0"),
        ("[[cells]]\nepisodes = { min = 3 }", "expect each cell episodes",
         "reach level 1 expert+noise0.3: expected at least 3, found 2 (2 of 2 in all)"),
        ('[[cells]]\npolicy = "random"\ncompletion_p50 = { min = 0 }',
         "expect policy random completion_p50",
         "reach level 1 random: expected at least 0, found none"),
        ('[[cells]]\ntask = "push"\nsteps = { min = 0 }', "expect push steps",
         "expected at least 0, found no such cell"),
        ("[[cells]]\nlevel = 2\nsteps = { min = 0 }", "expect level 2 steps",
         "expected at least 0, found no such cell"),
    ],
)  # fmt: skip
def test_what_is_not_met_fails(
    expect: Callable[[str], Report], text: str, name: str, finding: str
) -> None:
    assert failed(expect(text)) == {name: finding}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("tasks = [", "malformed TOML"),
        ("task = []", "unknown key 'task'; did you mean 'tasks'?"),
        ("tasks = [1]", r"tasks\[0\]: expected str, found 1"),
        ("[corpus]\nstep = { min = 1 }", "corpus: unknown key 'step'; did you mean 'steps'?"),
        ("[corpus]\nshare = { min = 1 }", "corpus: unknown key 'share'"),
        ("[corpus]\nsteps = 5", "corpus: steps: expected a table, found 5"),
        ("[corpus]\nsteps = { min = 'a' }", "steps: min: expected float, found 'a'"),
        ("[corpus]\nsteps = { least = 1 }", "steps: unknown key 'least'"),
        ("[corpus]\nsteps = {}", "corpus: steps: expected min, max or both"),
        ("[corpus]\nsteps = { min = nan }", "corpus: steps: expected min, max or both"),
        ("[[cells]]\nsteps = { min = 2, max = 1 }", r"cells\[0\]: steps: expected min, max or"),
        ("[[cells]]\ntask = 'reach'", "expects nothing"),
        ("", "expects nothing"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "expect.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=error) as caught:
        load_expectations(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.toml: not found"):
        load_expectations(str(tmp_path / "none.toml"))


def test_bounds_name_columns_of_the_table(make_corpus: MakeCorpus) -> None:
    columns = set(summarise(audit(make_corpus()).episodes, []).columns)
    assert {field.name for field in dataclasses.fields(Bounds)} < columns
    words = {field.name for field in dataclasses.fields(CellBounds)} - {"task", "level", "policy"}
    assert words < columns
    page = (Path(__file__).parent.parent / "docs/audit.md").read_text()
    table = page[page.index("| column |") : page.index("## JSON")]
    assert set(re.findall(r"`(\w+)`", table)) - {"cells"} == words


def test_the_command_exits_by_them(tmp_path: Path, make_corpus: MakeCorpus) -> None:
    corpus, path = make_corpus(default_shards()), tmp_path / "expect.toml"
    path.write_text("[corpus]\nsteps = { max = 1 }")
    missed = run_audit(corpus.url, "--expect", str(path))
    assert (missed.returncode, missed.stderr) == (1, "")
    assert "expect steps" in missed.stdout.splitlines()[-1]
    path.write_text("[corpus]\nstep = { max = 1 }")
    wrong = run_audit(corpus.url, "--expect", str(path))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean 'steps'?" in wrong.stderr and wrong.stderr.count("\n") == 1
    gone = run_audit(corpus.url, "--expect", str(tmp_path / "none.toml"))
    assert gone.returncode == 2 and gone.stderr.count("\n") == 1
