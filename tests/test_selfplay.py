"""Rounds of self-play: the sequence of commands, what is refused, and who may drive them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from palaestra.evaluate.__main__ import Arguments, SelfPlayArguments, selfplay_command
from palaestra.evaluate.entrants import NAMED
from palaestra.evaluate.selfplay.child import children
from palaestra.evaluate.selfplay.drive import drive, left
from palaestra.evaluate.selfplay.journal import Finished, append, check_history, read_journal
from palaestra.evaluate.selfplay.prepare import prepare
from palaestra.evaluate.selfplay.settings import Mix, SelfPlay, shares
from palaestra.evaluate.selfplay.stages import Plan, stages
from palaestra.evaluate.standings import begin_league
from palaestra.generate.league import AGENT, ANCHORS, read_league
from palaestra.generate.recipe import Sampling
from palaestra.generate.recipe_check import check_name
from palaestra.shards.config import parse
from palaestra.shards.console import run_command
from palaestra.shards.errors import ConfigError
from palaestra.train.arguments import Arguments as TrainArguments
from palaestra.train.owner import owning
from waiting import wait_for

ROOT = Path(__file__).parent.parent
RECIPE = """name = "rounds"
steps = 60_000
wave = 8
image_size = 16
league = "{league}"

[selfplay]
seed = ["demonstrations"]

[selfplay.train]
preset = "tiny"
inputs = "state"
updates = 300
compile = false
loss = { policy = "bc" }

[selfplay.evaluate]
tasks = ["sumo", "tag"]
runs = 50

[parts.demonstrations]
weight = 1
keep = "success"

[parts.round-0]
weight = 1

[parts.round-1]
weight = 1
round = 1

[parts.round-2]
weight = 1
round = 2

[[behaviours]]
parts = ["demonstrations", "round-0"]
tasks = ["reach", "sumo"]
policy = "expert"

[[behaviours]]
parts = ["round-1", "round-2"]
tasks = ["reach", "sumo"]
policy = "latest"
opponents = ["league"]
"""
TRAIN = "--preset tiny --inputs state --updates 300 --no-compile --loss.policy bc"
EVALUATE = "--tasks sumo tag --runs 50"
COMMANDS = f"""
generate RECIPE DEST/demonstrations/corpus --part demonstrations
audit DEST/demonstrations/corpus --html DEST/demonstrations/audit.html
generate RECIPE DEST/round-0/corpus --part round-0
audit DEST/round-0/corpus --html DEST/round-0/audit.html
train DEST/round-0/corpus:0.769 DEST/demonstrations/corpus:0.231 --run DEST/round-0/run {TRAIN}
evaluate round-0=DEST/round-0/run --league DEST/league.json --update-league --history on \
--output DEST/round-0/evaluation {EVALUATE}
generate RECIPE DEST/round-1/corpus --part round-1 --set league=DEST/round-1/league.json
audit DEST/round-1/corpus --html DEST/round-1/audit.html
train DEST/round-1/corpus:0.5 DEST/round-0/corpus:0.35 DEST/demonstrations/corpus:0.15 \
--run DEST/round-1/run {TRAIN} --peak-rate 0.001 --warm-start DEST/round-0/run
evaluate round-1=DEST/round-1/run --league DEST/league.json --update-league --history on \
--output DEST/round-1/evaluation {EVALUATE}
generate RECIPE DEST/round-2/corpus --part round-2 --set league=DEST/round-2/league.json
audit DEST/round-2/corpus --html DEST/round-2/audit.html
train DEST/round-2/corpus:0.5 DEST/round-1/corpus:0.175 DEST/round-0/corpus:0.175 \
DEST/demonstrations/corpus:0.15 --run DEST/round-2/run {TRAIN} --peak-rate 0.001 \
--warm-start DEST/round-1/run
evaluate round-2=DEST/round-2/run --league DEST/league.json --update-league --history on \
--output DEST/round-2/evaluation {EVALUATE}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def dest() -> str:
    """URL of a folder where nothing is."""
    return f"memory://{uuid.uuid4().hex}"


def plan_of(recipe: Path, dest: str, **options: int) -> Plan:
    return prepare(str(recipe), dest, options.get("steps"), False)


def edited(recipe: Path, *changes: tuple[str, str]) -> Path:
    text = recipe.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    recipe.write_text(text)
    return recipe


def finish(dest: str, plan: Plan, count: int) -> None:
    for stage in stages(plan)[:count]:
        append(dest, Finished(stage.name, stage.words, 1.5, "2026-01-01T00:00:00Z"))


def told(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command prints when all is well."""
    with pytest.raises(SystemExit) as stop:
        argv = [str(word) for word in words]
        run_command(SelfPlayArguments, selfplay_command, "evaluate selfplay", argv)
    out = capsys.readouterr()
    assert (stop.value.code, out.err) == (0, "")
    return out.out


# the sequence


def test_the_commands_word_for_word(recipe: Path, dest: str) -> None:
    planned = stages(plan_of(recipe, dest))
    expected = COMMANDS.replace("RECIPE", str(recipe)).replace("DEST", dest).strip().splitlines()
    assert [shlex.join(stage.words) for stage in planned] == expected
    parts = ("demonstrations", "round-0", "round-1", "round-2")
    four = ("generate", "audit", "train", "evaluate")
    names = [f"{part}/{name}" for part in parts for name in four[: 2 if part == parts[0] else 4]]
    assert [stage.name for stage in planned] == names
    assert all(stage.name == f"{stage.part}/{stage.command}" for stage in planned)


def test_the_commands_mean_what_the_tables_say(recipe: Path, dest: str) -> None:
    edited(recipe, ('compile = false', 'compile = true\nheldout = ["a", "b"]\npeak_rate = 3e-4'))
    planned = {stage.name: stage.words[1:] for stage in stages(plan_of(recipe, dest))}
    train = tyro.cli(TrainArguments, args=planned["round-1/train"])
    assert (train.compile, train.heldout, train.loss.policy) == (True, ("a", "b"), "bc")
    assert (train.peak_rate, train.warm_start) == (1.5e-4, f"{dest}/round-0/run")
    first = tyro.cli(TrainArguments, args=planned["round-0/train"])
    assert (first.peak_rate, first.warm_start) == (3e-4, "")
    evaluate = tyro.cli(Arguments, args=planned["round-1/evaluate"])
    assert evaluate.policies == (f"round-1={dest}/round-1/run",)
    assert (evaluate.tasks, evaluate.runs, evaluate.update_league) == (("sumo", "tag"), 50, True)


def test_steps_are_passed_on_and_count_as_words(recipe: Path, dest: str) -> None:
    generated = [s for s in stages(plan_of(recipe, dest, steps=90_000)) if s.command == "generate"]
    assert len(generated) == 4
    assert all(stage.words[-2:] == ("--steps", "90000") for stage in generated)


def test_several_checkpoints_join_the_last_one_last(recipe: Path, dest: str) -> None:
    edited(recipe, ("[selfplay]\n", "[selfplay]\ncheckpoints = 3\n"), ("= 300", "= 10"))
    planned = {stage.name: stage.words for stage in stages(plan_of(recipe, dest))}
    words = shlex.join(planned["round-1/train"])
    assert "--checkpoint-every 4u --keep-every 4 " in words
    run = f"{dest}/round-1/run"
    assert planned["round-1/evaluate"][1:4] == (
        f"round-1@4={run}/checkpoints/update-00000004",
        f"round-1@8={run}/checkpoints/update-00000008", f"round-1={run}",
    )  # fmt: skip
    found = NAMED.fullmatch(planned["round-1/evaluate"][1])
    assert found is not None and found[1] == "round-1@4"
    check_name("round-1@4", AGENT, "a league may call it so")


def test_a_mix_is_shared_among_what_there_is() -> None:
    settings = SelfPlay(seed=("a", "b"), mix=Mix(2, 1, 1))
    assert shares(settings, 0, "x") == {"round-0": 0.667, "a": 0.167, "b": 0.167}
    assert shares(settings, 2, "x") == {
        "round-2": 0.5, "round-1": 0.125, "round-0": 0.125, "a": 0.125, "b": 0.125
    }  # fmt: skip
    alone = SelfPlay(mix=Mix(current=0.2, earlier=0))
    assert shares(alone, 0, "x") == {"round-0": 1}
    assert shares(alone, 3, "x") == {"round-3": 1}
    assert shares(SelfPlay(seed=("a",), mix=Mix(current=0)), 0, "x") == {"a": 1}


REFUSED = [
    ("seed =", "seeds =", "selfplay: unknown key 'seeds'; did you mean 'seed'?"),
    ('seed = ["demonstrations"]', 'seed = ["demos"]', "selfplay.seed[0]: unknown part 'demos'"),
    ('seed = ["demonstrations"]', "", "besides the seed's, found demonstrations, round-0"),
    ('["demonstrations"]\n\n', '["demonstrations", "demonstrations"]\n', "there twice"),
    ("parts.round-1]\nweight = 1\nround = 1", "parts.round-1]\nweight = 1\nround = 2",
     "parts.round-1: round should be 1, is 2"),
    ("seed =", "restart = 0\nseed =", "selfplay.restart should be in (0, 1], is 0"),
    ("seed =", "checkpoints = 0\nseed =", "selfplay.checkpoints should be at least 1, is 0"),
    ("seed =", "checkpoints = 301\nseed =", "300 updates do not make 301 checkpoints"),
    ("seed =", "checkpoints = 200\nseed =", "300 updates do not make 200 checkpoints"),
    ("seed =", "restart = 0.001\nseed =", "restart: a peak of 2e-06 is below the end rate, 1e-05"),
    ("seed =", "launch = []\nseed =", "selfplay.launch: expected a command"),
    ('league = "{league}"', 'league = "memory://fixed.json"', 'league should be "{league}"'),
    ('parts = ["round-1", "round-2"]', "", "parts.demonstrations: asks for a value of 'league'"),
    ('parts = ["round-1", "round-2"]', 'parts = ["round-0", "round-1", "round-2"]',
     "parts.round-0: 'latest' plays from round 1 on"),
    ('"demonstrations", "round-0"]\ntasks = ["reach", "sumo"]',
     '"demonstrations"]\ntasks = ["reach"]\npolicy = "expert"\n\n[[behaviours]]\n'
     'parts = ["round-0"]\ntasks = ["sumo"]',
     "parts.round-0: rewards in [-1.0, 1.0], and in [0.0, 1.0] in demonstrations"),
    ("seed =", "checkpoints = 'two'\nseed =", "checkpoints: expected int, found 'two'"),
    ("seed =", "mix = { current = -1 }\nseed =", "selfplay.mix.current should not be negative"),
    ("seed =", "mix = { current = 0, earlier = 0, seed = 0 }\nseed =",
     "selfplay.mix: leaves nothing to train round-0 on"),
    ("seed =", "mix = { current = 0, seed = 0 }\nseed =", "leaves nothing to train round-0 on"),
    ("seed =", "mix = { seed = 1e-4 }\nseed =", "gives demonstrations a share of 0.0002"),
    ("updates = 300", "updats = 300", "selfplay.train: unknown key 'updats'; did you mean"),
    ("updates = 300", "updates = '300'", "selfplay.train: updates: expected int, found '300'"),
    ("updates = 300", "batch = 0", "selfplay.train: --batch should be at least 1"),
    ("updates = 300", "run = 'there'", "selfplay.train.run: is set for each round"),
    ('preset = "tiny"', 'preset = "teeny"', "selfplay.train: unknown preset 'teeny'"),
    ('policy = "bc"', 'policy = "cb"', "selfplay.train: --loss.policy: unknown loss 'cb'"),
    ("runs = 50", "runs = 0", "selfplay.evaluate: --runs should be in"),
    ("runs = 50", "league = 'mine'", "selfplay.evaluate.league: is set for each round"),
    ('["sumo", "tag"]', '["sumoo"]', "selfplay.evaluate: --tasks: unknown"),
    ('["sumo", "tag"]', '["reach"]', "selfplay.evaluate.tasks: expected one of two players"),
    ('policy = "latest"', 'policy = "palaestra.train.agent:load"\narguments = { url = "{old}" }',
     "parts.round-1: asks for a value of 'old', but rounds are given the league only"),
    ('"demonstrations", "round-0"]', '"round-0"]', "demonstrations: no behaviour plays"),
    ('policy = "expert"', 'policy = "exprt"', "unknown policy 'exprt'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), REFUSED, ids=[r[2][:40] for r in REFUSED])
def test_what_cannot_be_is_one_line(
    recipe: Path, dest: str, old: str, new: str, message: str
) -> None:
    edited(recipe, (old, new))
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        plan_of(recipe, dest)
    assert str(caught.value).startswith(f"{recipe}: ") and "\n" not in str(caught.value)


def test_cadence_of_checkpoints_is_free_with_one_and_set_with_several(
    recipe: Path, dest: str
) -> None:
    edited(recipe, ("updates = 300", "updates = 300\nkeep = 9"))
    (words,) = [s.words for s in stages(plan_of(recipe, dest)) if s.name == "round-0/train"]
    assert "--keep 9" in shlex.join(words)
    edited(recipe, ("[selfplay]\n", "[selfplay]\ncheckpoints = 2\n"))
    with pytest.raises(ConfigError, match=r"selfplay\.train\.keep: is set for each round"):
        plan_of(recipe, dest)


def test_a_recipe_without_the_table_or_without_rounds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    plain = 'name = "x"\nsteps = 999\n[[behaviours]]\ntasks = ["sumo"]\npolicy = "expert"\n'
    path.write_text(plain)
    with pytest.raises(ConfigError, match="selfplay: expected a table, found none"):
        prepare(str(path), "memory://x", None, False)
    path.write_text(plain + "[selfplay]\nrestart = 0.5\n")
    with pytest.raises(ConfigError, match="selfplay: expected a part 'round-0', found none"):
        prepare(str(path), "memory://x", None, False)


def test_the_page_states_the_defaults() -> None:
    page = (ROOT / "docs/selfplay.md").read_text()
    table, sampling = re.findall(r"```toml\n(.*?)```", page, re.S)
    stated: SelfPlay = parse(SelfPlay, tomllib.loads(table)["selfplay"], "page")
    assert replace(stated, seed=(), train={}, evaluate={}) == SelfPlay()
    assert parse(Sampling, tomllib.loads(sampling)["sampling"], "page") == Sampling()


@pytest.mark.parametrize(("name", "rounds"), [("selfplay", 4), ("selfplay-500m", 5)])
def test_recipes_that_come_with_the_code_can_be_driven(name: str, rounds: int, dest: str) -> None:
    plan = prepare(str(ROOT / f"recipes/{name}.toml"), dest, None, False)
    assert plan.rounds == rounds and plan.asking == {f"round-{n}" for n in range(1, rounds)}


# the journal


def test_finished_stages_are_left_out(recipe: Path, dest: str) -> None:
    plan = plan_of(recipe, dest)
    assert left(plan) == stages(plan) and len(left(plan)) == 14
    finish(dest, plan, 5)
    assert left(plan) == stages(plan)[5:]
    assert [stage.name for stage in left(plan, 1)] == ["round-0/evaluate"]
    assert read_journal(dest).names == tuple(stage.name for stage in stages(plan)[:5])
    with pytest.raises(ConfigError, match=r"--rounds should be in \[1, 3\], is 4"):
        left(plan, 4)


def test_history_cannot_be_changed_and_the_future_can(recipe: Path, dest: str) -> None:
    finish(dest, plan_of(recipe, dest), 6)
    edited(recipe, ("[selfplay]\n", "[selfplay]\nrestart = 0.25\n"))
    later = {stage.name: stage.words for stage in left(plan_of(recipe, dest))}
    assert "--peak-rate 0.0005" in shlex.join(later["round-1/train"])
    edited(recipe, ("updates = 300", "updates = 400"))  # not of what is finished
    later = {stage.name: stage.words for stage in left(plan_of(recipe, dest))}
    assert "--updates 400" in shlex.join(later["round-1/train"])
    message = "demonstrations/generate is finished and had '', today's has '--steps'"
    with pytest.raises(ConfigError, match=message):
        left(prepare(str(recipe), dest, 90_000, False))
    other = recipe.rename(recipe.with_name("other.toml"))
    with pytest.raises(ConfigError, match=r"had '.*recipe\.toml', today's has '.*other\.toml'"):
        left(plan_of(other, dest))


def test_a_finished_stage_that_is_gone_from_the_recipe_is_named(recipe: Path, dest: str) -> None:
    plan = plan_of(recipe, dest)
    finish(dest, plan, 2)
    rest = [stage for stage in stages(plan) if stage.part != "demonstrations"]
    with pytest.raises(ConfigError, match="demonstrations/generate is finished, but the recipe"):
        check_history(dest, read_journal(dest), rest)


def test_another_files_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "selfplay.json").write_text('{"format": "diary"}')
    with pytest.raises(ConfigError, match="expected format 'palaestra-selfplay', found 'diary'"):
        read_journal(str(tmp_path))


# the command


def test_a_dry_run_prints_what_is_left_and_writes_nothing(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "dest"
    printed = told(capsys, recipe, dest, "--dry-run").splitlines()
    plan = plan_of(recipe, str(dest))
    assert [tuple(shlex.split(line)) for line in printed] == [s.words for s in stages(plan)]
    assert not dest.exists()
    finish(str(dest), plan, 12)
    assert len(told(capsys, recipe, dest, "--dry-run").splitlines()) == 2


def test_a_second_driver_is_refused(recipe: Path, tmp_path: Path) -> None:
    with owning(str(tmp_path / "dest")):
        words = ["selfplay", str(recipe), str(tmp_path / "dest")]
        command = [sys.executable, "-m", "palaestra.evaluate", *words]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "dest is in use by process" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "dest").iterdir()) == []


def test_a_league_begins_with_the_anchors_rated(dest: str) -> None:
    begin_league(f"{dest}/league.json", (("sumo", 1), ("reach", 1)))
    found = read_league(f"{dest}/league.json")
    assert found.names == tuple(anchor.name for anchor in ANCHORS)
    assert {(row.task, row.level) for row in found.payoff} == {("sumo", 1)}
    assert found.members[-1].rating == 1000
    ratings = [member.rating or 0 for member in found.members]
    assert ratings == sorted(ratings) and all(member.interval for member in found.members)


def test_a_lost_league_is_no_new_one(recipe: Path, tmp_path: Path) -> None:
    plan = plan_of(recipe, str(tmp_path / "dest"))
    finish(plan.dest, plan, 6)
    with pytest.raises(ConfigError, match=r"league\.json is gone, and 1 rounds had joined"):
        drive(plan, workers=1)
    assert not (tmp_path / "dest" / "league.json").exists()


def test_places_do_not_depend_on_the_folder_that_one_is_in(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    here = plan_of(Path(recipe.name), "dest")
    assert stages(here) == stages(plan_of(recipe, str(recipe.parent / "dest")))


def test_training_may_be_launched_by_another_command(recipe: Path, dest: str) -> None:
    edited(recipe, ("[selfplay]\n", '[selfplay]\nlaunch = ["sbatch", "--wait", "slurm.sh"]\n'))
    (stage,) = [s for s in stages(plan_of(recipe, dest)) if s.name == "round-0/train"]
    assert stage.words[:4] == ("sbatch", "--wait", "slurm.sh", f"{dest}/round-0/corpus:0.769")
    assert stage.command == "train"


def test_any_program_is_run_and_a_missing_one_named(capfd: pytest.CaptureFixture[str]) -> None:
    with children() as running:
        assert running.run(["sh", "-c", "exit 9"]) == 9
        assert running.run(["no-such-launcher", "x"]) == 1
    assert capfd.readouterr().err == "no-such-launcher: No such file or directory\n"


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from palaestra.evaluate.selfplay.child import children

def interrupt():
    while not Path("ready").exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

with children() as running:
    threading.Thread(target=interrupt, daemon=True).start()
    script = "trap 'exit 7' INT; touch ready; while :; do sleep 0.1; done"
    code = running.run(["sh", "-c", script])
    sys.exit(code + (running.stop == signal.SIGINT))
"""


def test_ctrl_c_to_the_driver_alone_reaches_its_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=tmp_path)
    assert done.returncode == 8


def test_a_commands_exit_code_is_told(tmp_path: Path) -> None:
    with children() as running:
        assert running.run(["audit", str(tmp_path / "nowhere")]) == 2
        assert running.stop is None


def test_a_stage_that_fails_stops_the_rounds(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(recipe, str(tmp_path / "dest"))
    finish(plan.dest, plan, 3)  # as if: there is no corpus to audit
    assert drive(plan, workers=1) == 2
    out, errors = capfd.readouterr()
    assert out.splitlines()[0] == "round 0 of 2: audit"
    audit, own = errors.splitlines()
    assert audit.startswith("audit: error: ")
    assert own == (
        "evaluate selfplay: error: round-0/audit failed with exit code 2; "
        "the same command goes on from there"
    )
    assert read_journal(plan.dest).names == tuple(stage.name for stage in stages(plan)[:3])


TETHERED = """
import os, subprocess, sys
from palaestra.train.ranks import LAUNCHER
command = [sys.executable, "-m", "palaestra.evaluate.selfplay.tethered",
           sys.executable, "-m", "http.server", "0"]
child = subprocess.Popen(command, env=os.environ | {LAUNCHER: str(os.getpid())},
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
print(child.pid, flush=True)
print(child.stdout.readline(), flush=True)
sys.stdin.read()
"""


def test_a_command_dies_with_its_driver() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    unbuffered = {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", TETHERED], text=True, env=os.environ | unbuffered, **pipes
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert "Serving HTTP" in parent.stdout.readline()
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        assert command[1:4] == ["-m", "http.server", "0"], "it became the command"
        parent.kill()
        parent.wait()
    wait_for(lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
