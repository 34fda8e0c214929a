"""Shares of a corpus: what schedulers say about an array's tasks, and what nobody may be left."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.generate.array import Share, share_from
from palaestra.shards.errors import ConfigError

ID = "SLURM_ARRAY_TASK_ID"


def slurm(task: int, tasks: list[int], step: int = 1) -> dict[str, str]:
    """What Slurm tells a task of an array; STEP is 1 for a list, whatever its gaps (22.05)."""
    words = {"ID": task, "COUNT": len(tasks), "MIN": min(tasks), "MAX": max(tasks), "STEP": step}
    return {f"SLURM_ARRAY_TASK_{word}": str(value) for word, value in words.items()}


def refusal(environment: dict[str, str], count: int | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        share_from(environment, count)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_once(shares: list[Share], items: list[int]) -> None:
    """Every item in exactly one share, in order, and no share larger than another by two."""
    parts = [share.of(items) for share in shares]
    assert sorted(chain.from_iterable(parts)) == items
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


items = st.integers(0, 300).map(lambda count: list(range(count)))


@given(st.integers(0, 5000), st.integers(1, 40), st.integers(1, 9), items)
def test_slurms_tasks_together_hold_each_shard_once(
    first: int, count: int, step: int, items: list[int]
) -> None:
    tasks = list(range(first, first + count * step, step))
    shares = [share_from(slurm(task, tasks, step)) for task in tasks]
    assert [share.index for share in shares] == list(range(count))
    assert_once(shares, items)


@pytest.mark.parametrize("name", ["PBS_ARRAY_INDEX", "PBS_ARRAYID", ID])
@given(count=st.integers(1, 40), items=items)
def test_tasks_of_a_given_count_together_hold_each_shard_once(
    name: str, count: int, items: list[int]
) -> None:
    shares = [share_from({name: str(task)}, count) for task in range(count)]
    assert shares == [Share(task, count) for task in range(count)]
    assert_once(shares, items)


@given(st.sets(st.integers(0, 12), min_size=1).map(sorted), items)
def test_a_list_leaves_nothing_out_or_is_refused_by_every_task(
    tasks: list[int], items: list[int]
) -> None:
    """A list without holes is a range; of one with holes no task may begin."""
    environments = [slurm(task, tasks) for task in tasks]
    if tasks == list(range(tasks[0], tasks[-1] + 1)):
        assert_once([share_from(environment) for environment in environments], items)
    else:
        for environment in environments:
            assert refusal(environment).startswith(f"{ID}: ")
            assert "pass --array-count" in refusal(environment)


def test_some_tasks_run_again() -> None:
    """As `sbatch --array=3,7` of an array that was 0-15."""
    for task in (3, 7):
        assert share_from(slurm(task, [3, 7]), 16) == Share(task, 16)
    assert Share(3, 16).of(range(40)) == [3, 19, 35]
    assert share_from(slurm(0, [0]), 1) == share_from(slurm(5, [5])) == Share(0, 1)


def test_no_array_is_refused() -> None:
    message = (
        "--array: expected SLURM_ARRAY_TASK_ID or PBS_ARRAY_INDEX in the environment, found neither"
    )
    assert refusal({"SLURM_JOB_ID": "4"}) == refusal({}, 3) == message


@pytest.mark.parametrize("name", ["PBS_ARRAY_INDEX", "PBS_ARRAYID"])
def test_pbs_needs_a_count(name: str) -> None:
    message = f"{name}: does not tell how many tasks there are; pass --array-count"
    assert refusal({name: "3"}) == message


@pytest.mark.parametrize("count", [0, -3])
def test_a_count_is_positive(count: int) -> None:
    assert refusal({ID: "0"}, count) == f"--array-count should be positive, is {count}"


@pytest.mark.parametrize("name", ["PBS_ARRAY_INDEX", "PBS_ARRAYID", ID])
def test_a_task_beyond_the_count_is_refused(name: str) -> None:
    assert share_from({name: "15"}, 16) == Share(15, 16)
    message = f"{name}: expected 0 to 15 (--array-count 16), found 16"
    assert refusal({name: "16"}, 16) == message


@pytest.mark.parametrize("value", ["", "x", "-1", "1.0", "1_0", "²"])
def test_values_that_are_no_numbers_are_refused_by_name(value: str) -> None:
    assert refusal({ID: value}, 16) == f"{ID}: expected a number, found {value!r}"
    for name in slurm(1, [0, 1, 2]):
        message = f"{name}: expected a number, found {value!r}"
        assert refusal(slurm(1, [0, 1, 2]) | {name: value}) == message
    found = refusal({"PBS_ARRAY_INDEX": value}, 16)
    assert found == f"PBS_ARRAY_INDEX: expected a number, found {value!r}"


def test_what_slurm_should_have_said() -> None:
    assert refusal({ID: "3"}) == "SLURM_ARRAY_TASK_COUNT: expected a number, found None"
    none = {"COUNT": "0", "MIN": "1", "MAX": "0"}
    nonsense = [
        slurm(3, [0, 1, 2]), slurm(1, [0, 2], step=2), slurm(0, [0, 1, 2], step=2),
        slurm(0, [0, 3], step=2), slurm(1, [0, 1, 2], step=0) | {"SLURM_ARRAY_TASK_MAX": "3"},
        slurm(1, [1]) | {f"SLURM_ARRAY_TASK_{word}": value for word, value in none.items()},
    ]  # fmt: skip
    for environment in nonsense:
        assert "pass --array-count" in refusal(environment)
