"""Statistics: by hand where that is possible, against theory where it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.evaluate.statistics import (
    LARGE,
    Cells,
    Estimate,
    Profile,
    Statistic,
    bootstrap_mean,
    censored_steps,
    interquartile_mean,
    paired_difference,
    resample,
    score,
    score_each,
    stratified_difference,
    wilson,
)

Z = 1.959964  # of a 95 % normal interval

values = st.floats(-1, 1, width=16)  # short, so that sums are exact
lists = st.lists(values, min_size=1, max_size=6)
matrices = st.integers(1, 3).flatmap(  # seeds, the same in every task
    lambda seeds: st.lists(
        st.integers(1, 4).flatmap(
            lambda runs: st.lists(
                st.lists(values, min_size=runs, max_size=runs), min_size=seeds, max_size=seeds
            ).map(np.array)
        ),
        min_size=1, max_size=4,
    )
)  # fmt: skip


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def stratified(
    cells: Cells, statistic: Statistic, draw: np.random.Generator, resamples: int = 2000
) -> Estimate:
    return resample(cells, draw, resamples).estimate(statistic)


def performance_profile(
    cells: Cells, thresholds: Sequence[float], draw: np.random.Generator, resamples: int = 2000
) -> Profile:
    return resample(cells, draw, resamples).profile(thresholds)


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def interval(estimate: Estimate) -> tuple[float, float]:
    return estimate.low, estimate.high


# one task


def test_wilson_is_the_textbook_interval() -> None:
    found = wilson(97, 100)
    assert found.value == 0.97
    # centre (0.97 + 1.9207/100)/(1 + 3.8415/100) = 0.952614, half-width 0.037643
    assert interval(found) == pytest.approx((0.91548, 0.98974), abs=2e-4)
    assert wilson(0, 100).low == 0.0 and wilson(0, 100).high == pytest.approx(0.03699, abs=1e-4)
    assert wilson(100, 100).high == 1.0 and wilson(100, 100).low == pytest.approx(0.96301, abs=1e-4)


@pytest.mark.parametrize(
    ("successes", "runs", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)  # fmt: skip
def test_wilson_matches_newcombes_table(successes: int, runs: int, low: float, high: float) -> None:
    """Newcombe 1998, table I, method 3."""
    assert interval(wilson(successes, runs)) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_value_and_mirrors(counts: tuple[int, int]) -> None:
    successes, runs = counts
    found, mirrored = wilson(successes, runs), wilson(runs - successes, runs)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx(interval(found))


def test_bootstrap_mean_nears_the_normal_interval_and_repeats() -> None:
    data = np.arange(100.0)
    found = bootstrap_mean(data, np.random.default_rng(1))
    half = 1.96 * data.std() / 10
    assert found.value == 49.5
    assert interval(found) == pytest.approx((49.5 - half, 49.5 + half), abs=0.4)
    assert found == bootstrap_mean(data, np.random.default_rng(1))
    for count in (1, 5):
        flat = bootstrap_mean([2.0] * count, np.random.default_rng(1))
        assert (flat.value, flat.low, flat.high) == (2.0, 2.0, 2.0)


def test_bootstrap_mean_of_many_is_close_to_that_of_fewer() -> None:
    data = np.random.default_rng(0).random(LARGE)
    many = bootstrap_mean(data, np.random.default_rng(1))
    few = bootstrap_mean(data[:-1], np.random.default_rng(1), resamples=2000)
    assert interval(many) == pytest.approx(interval(few), abs=5e-4)


@given(lists)
def test_bootstrap_mean_stays_within_its_data(data: list[float]) -> None:
    found = bootstrap_mean(data, generator(), resamples=200)
    assert min(data) <= found.low <= found.value <= found.high <= max(data)


def test_failures_count_at_the_horizon() -> None:
    completion = np.array([10, -1, 30, -1])
    assert censored_steps(completion, 256).tolist() == [10, 256, 30, 256]
    scores = score([1.0, 2.0, 3.0, 4.0], completion, 256, np.random.default_rng(0))
    assert (scores.runs, scores.successes, scores.success.value) == (4, 2, 0.5)
    assert scores.steps.value == 138.0 and scores.completed_steps == 20.0
    assert scores.mean_return.value == 2.5
    none = score([1.0], np.array([-1]), 256, np.random.default_rng(0))
    assert none.completed_steps is None


def test_scores_are_the_same_one_by_one_and_together() -> None:
    draw = generator(0)
    returns, steps = draw.random((3, 20)), draw.integers(-1, 200, (3, 20))
    together = score_each(returns, steps, [256, 256, 512], generator())
    for row, found in enumerate(together):
        horizon = 512 if row == 2 else 256
        alone = score(returns[row], steps[row], horizon, generator())
        for name in ("mean_return", "steps", "success"):
            one, other = getattr(alone, name), getattr(found, name)
            assert interval(one) == pytest.approx(interval(other)) and one.value == other.value
        assert alone.completed_steps == found.completed_steps


def test_a_group_of_tasks_is_resampled_like_the_tasks_alone() -> None:
    draw = generator(0)
    for seeds in (1, 4):
        cells = [draw.random((seeds, 20)) for _ in range(5)]
        whole = resample(cells, generator())
        assert whole.drawn.shape == (2000, seeds, 5)
        for tasks in ([0], [1, 3], [0, 1, 2, 3, 4]):
            alone = stratified([cells[task] for task in tasks], np.mean, generator())
            group = whole.on(tasks).estimate(np.mean)
            assert group.value == pytest.approx(alone.value)
            assert width(group) == pytest.approx(width(alone), rel=0.1)


def test_an_interval_is_apart_when_it_excludes_zero() -> None:
    assert Estimate(2.0, 1.0, 3.0).apart and Estimate(-2.0, -3.0, -1.0).apart
    assert not Estimate(0.5, -1.0, 2.0).apart and not Estimate(0.5, 0.0, 1.0).apart


# over tasks


def test_interquartile_mean_is_that_of_the_middle_half() -> None:
    data = np.array([9.0, 1.0, 7.0, 2.0, 30.0, 4.0, 5.0, -8.0])
    assert float(interquartile_mean(data)) == (2 + 4 + 5 + 7) / 4
    data[4], data[7] = 1e9, -1e12
    assert float(interquartile_mean(data)) == 4.5
    assert interquartile_mean([[1, 2, 3, 9], [0, 0, 8, 8]], axis=1).tolist() == [2.5, 4.0]
    assert float(interquartile_mean([5.0, 1.0, 9.0])) == 5.0  # ⌊3/4⌋ = 0 are cut


def test_a_stratified_bootstrap_by_hand() -> None:
    """Task 1's two seeds give sums 0, 1, 2 with probabilities ¼, ½, ¼; task 2's always 4."""
    cells = [np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0]])]
    assert stratified(cells, np.mean, generator()) == Estimate(1.25, 1.0, 1.5)


def test_one_seeds_interval_is_the_normal_one_of_its_runs() -> None:
    draw = generator(0)
    shapes = ((0, 0.5, 500), (1, 1.0, 1000), (2, 2.0, 1500), (3, 4.0, 2000))
    cells = [draw.normal(mean, spread, (1, runs)) for mean, spread, runs in shapes]
    found = stratified(cells, np.mean, generator())
    error = np.sqrt(sum(cell.var() / cell.size for cell in cells)) / 4
    assert found.value == pytest.approx(np.mean([cell.mean() for cell in cells]))
    expected = found.value - Z * error, found.value + Z * error
    assert interval(found) == pytest.approx(expected, abs=0.2 * error)


def test_many_seeds_interval_is_tukeys_for_a_trimmed_mean() -> None:
    """Tukey and McLaughlin 1963: the winsorised deviation over (1 − 2·¼) √n."""
    data = generator(0).standard_t(3, (1500, 1))
    found = stratified([data], interquartile_mean, generator())
    winsorised = np.clip(data, *np.quantile(data, (0.25, 0.75)))
    error = float(winsorised.std() / 0.5 / np.sqrt(len(data)))
    expected = found.value - Z * error, found.value + Z * error
    assert found.value == float(interquartile_mean(data))
    assert interval(found) == pytest.approx(expected, abs=0.25 * error)


@pytest.mark.parametrize(
    ("seeds", "runs", "statistic"),
    [(1, 40, np.mean), (10, 2, np.mean), (1, 40, interquartile_mean), (10, 2, interquartile_mean)],
)
def test_intervals_cover_the_truth(seeds: int, runs: int, statistic: Statistic) -> None:
    """Of 400 data sets 95 %, give or take 1.2 %; of ten seeds 91 %, as a bootstrap of ten has."""
    truth = np.linspace(-1.0, 1.0, 8)  # symmetric, so the mean and interquartile mean are 0
    draw = generator(0)
    found = 0
    for _ in range(400):
        cells = [mean + draw.standard_normal((seeds, runs)) for mean in truth]
        estimate = stratified(cells, statistic, draw, resamples=500)
        found += estimate.low <= 0 <= estimate.high
    assert found / 400 == pytest.approx(0.95 if seeds == 1 else 0.91, abs=0.036)


def test_networks_that_differ_as_a_whole_are_resampled_as_such() -> None:
    """Within tasks, the interval of ten seeds would hold the truth in 49 % of cases."""
    draw, found = generator(0), 0
    for _ in range(400):
        network = draw.normal(0, 0.5, (10, 1))
        cells = [network + draw.standard_normal((10, 20)) for _ in range(8)]
        estimate = stratified(cells, np.mean, draw, resamples=500)
        found += estimate.low <= 0 <= estimate.high
    assert found / 400 == pytest.approx(0.90, abs=0.045)


def test_several_seeds_count_as_seeds_and_one_as_its_runs() -> None:
    means = np.array([[0.25], [0.5], [1.0]])
    noise = np.array([[64.0, -64.0, 32.0, -32.0]])
    for statistic in (np.mean, interquartile_mean):
        spread = stratified([means.repeat(4, 1)] * 3, statistic, generator())
        assert spread == stratified([means + noise] * 3, statistic, generator())
        assert width(spread) > 0.2
        same = stratified([np.full((3, 1), 0.5) + noise] * 3, statistic, generator())
        assert same == Estimate(0.5, 0.5, 0.5)
        one = stratified([0.5 + noise] * 3, statistic, generator())
        assert one.value == 0.5 and width(one) > 30
        assert stratified([np.full((1, 4), 0.5)] * 3, statistic, generator()) == same


def test_a_profile_by_hand() -> None:
    cells = [np.array([[0.0], [1.0]]), np.array([[1.0, 3.0], [3.0, 3.0]])]  # scores 0, 1, 2, 3
    found = performance_profile(cells, [-1, 0, 0.5, 1.5, 2, 3], generator())
    assert found.thresholds.tolist() == [-1, 0, 0.5, 1.5, 2, 3]
    assert found.share.tolist() == [1, 0.75, 0.75, 0.5, 0.25, 0]
    assert found.low.tolist() == [1, 0.5, 0.5, 0.5, 0, 0]
    assert found.high.tolist() == [1, 1, 1, 0.5, 0.5, 0]


def test_a_profile_of_one_seed_is_of_task_means() -> None:
    cells = [np.array([[0.0, 1.0]]), np.array([[0.75, 0.75, 0.75]])]
    found = performance_profile(cells, [0.4, 0.6, 0.8], generator())
    assert found.share.tolist() == [1, 0.5, 0]
    assert (found.low.tolist(), found.high.tolist()) == ([0.5, 0.5, 0], [1, 1, 0.5])


@given(matrices, st.lists(values, min_size=1, max_size=5).map(sorted))
def test_profiles_fall(cells: Cells, thresholds: list[float]) -> None:
    found = performance_profile(cells, thresholds, generator(), resamples=50)
    for curve in (found.share, found.low, found.high):
        assert (np.diff(curve) <= 0).all() and ((curve >= 0) & (curve <= 1)).all()
    assert (found.low <= found.high).all()


@given(matrices)
def test_a_mean_is_within_its_interval(cells: Cells) -> None:
    found = stratified(cells, np.mean, generator(), resamples=400)
    assert found.low - 1e-12 <= found.value <= found.high + 1e-12


@given(matrices.flatmap(lambda cells: st.tuples(st.just(cells), st.permutations(cells))))
def test_values_know_no_order_of_tasks(both: tuple[Cells, Cells]) -> None:
    for statistic in (np.mean, interquartile_mean):
        first, second = (stratified(cells, statistic, generator(), 10).value for cells in both)
        assert first == pytest.approx(second, abs=1e-12)


def test_intervals_know_no_order_of_tasks_but_by_their_draws() -> None:
    draw = generator(0)
    cells = [draw.normal(k, 1 + k, (5, 3)) for k in range(8)]
    for statistic in (np.mean, interquartile_mean):
        found = stratified(cells, statistic, generator())
        other = stratified(cells[::-1], statistic, generator())
        assert other.value == pytest.approx(found.value)
        assert interval(other) == pytest.approx(interval(found), abs=0.06 * width(found))


# differences


def test_paired_differences_by_hand() -> None:
    """Differences 1 and −1: of two drawn, both are 1 a quarter of the time."""
    assert paired_difference([1.0, 2.0], [0.0, 3.0], generator()) == Estimate(0.0, -1.0, 1.0)
    assert paired_difference([3.0, 9.0], [1.0, 7.0], generator()) == Estimate(2.0, 2.0, 2.0)
    a, b = ([1.0, 2.0], [5.0, 5.0, 5.0]), ([0.0, 3.0], [1.0, 1.0, 1.0])
    assert stratified_difference(a, b, generator()) == Estimate(2.0, 1.5, 2.5)


def test_pairing_pays_where_runs_go_together() -> None:
    draw = generator(0)
    seeds = draw.normal(0, 3, (6, 50))  # how easy each run's seed is
    a, b = seeds + draw.normal(0.5, 0.5, (6, 50)), seeds + draw.normal(0, 0.5, (6, 50))
    paired = stratified_difference(list(a), list(b), generator())
    first, second = (stratified(list(x[:, None]), np.mean, generator()) for x in (a, b))
    assert paired.value == pytest.approx(a.mean() - b.mean()) and paired.apart
    assert width(paired) < np.hypot(width(first), width(second)) / 4
    one = paired_difference(a[0], b[0], generator())
    first, second = (bootstrap_mean(x[0], generator()) for x in (a, b))
    assert width(one) < np.hypot(width(first), width(second)) / 4


def test_one_tasks_difference_is_the_same_both_ways() -> None:
    draw = generator(0)
    a, b = draw.random(30), draw.random(30)
    both = stratified_difference([a], [b], generator(), resamples=10_000)
    assert both == paired_difference(a, b, generator())


def test_unpaired_runs_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"\(3,\), \(1,\)"):
        paired_difference([1.0, 2.0, 3.0], [1.0], generator())
    with pytest.raises(AssertionError):
        stratified_difference([[1.0, 2.0]], [[1.0]], generator())
    with pytest.raises(ValueError, match="shorter"):
        stratified_difference([[1.0], [2.0]], [[1.0]], generator())
    with pytest.raises(AssertionError, match="1, 2"):
        stratified([np.zeros((2, 3)), np.zeros((1, 3))], np.mean, generator())


def bands(cells: Cells, draw: np.random.Generator) -> list[list[float]]:
    found = performance_profile(cells, np.linspace(0, 1, 101), draw, resamples=20)
    return [found.share.tolist(), found.low.tolist(), found.high.tolist()]


def difference(cells: Cells, draw: np.random.Generator) -> Estimate:
    return stratified_difference([c[0] for c in cells], [c[1] for c in cells], draw)


@pytest.mark.parametrize(
    "estimate",
    [
        lambda cells, draw: stratified(cells, interquartile_mean, draw),
        lambda cells, draw: paired_difference(cells[0][0], cells[1][0], draw),
        bands,
        difference,
    ],
)
def test_one_key_gives_one_result(
    estimate: Callable[[Cells, np.random.Generator], object],
) -> None:
    draw = generator(0)
    cells = [draw.random((7, 7)) for _ in range(4)]
    assert estimate(cells, generator(5)) == estimate(cells, generator(5))
    assert estimate(cells, generator(5)) != estimate(cells, generator(6))
