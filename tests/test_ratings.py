"""Bradley-Terry ratings: by hand, against another optimiser, and on matches that were simulated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from palaestra.evaluate.ratings import (
    PINNED_RATING,
    SCALE,
    Payoff,
    Rating,
    log_likelihood,
    maximum,
    payoff,
    prior,
    rate,
)
from palaestra.generate.league import FORMAT, League, Matches, Member, with_matches
from palaestra.shards.errors import UnknownNameError
from scipy.optimize import minimize

NAMES = ("strong", "b", "c", "d")
ROWS = (
    Matches("sumo", 1, "strong", "b", 0, 60, 10, 30),
    Matches("tag", 2, "b", "strong", 0, 20, 0, 80),
    Matches("sumo", 1, "b", "c", 0, 55, 20, 25),
    Matches("ball", 3, "c", "strong", 0, 11, 49, 40),
    Matches("sumo", 2, "d", "c", 0, 40, 5, 55),
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def meeting(first: str, second: str, wins: int, draws: int, losses: int) -> Matches:
    return Matches("sumo", 1, first, second, 0, wins, draws, losses)


def by_name(ratings: Sequence[Rating]) -> dict[str, Rating]:
    return {rating.name: rating for rating in ratings}


def value(rating: Rating) -> float:
    assert rating.value is not None and rating.low is not None and rating.high is not None
    assert rating.low <= rating.value <= rating.high
    return rating.value


def simulated(true: dict[str, float], played: int, seed: int) -> list[Matches]:
    """`played` matches of every two players of these strengths, a few of them drawn."""
    chance, rows, names = generator(seed), [], list(true)
    for i, first in enumerate(names):
        for second in names[:i]:
            score = 1 / (1 + 10 ** ((true[second] - true[first]) / 400))
            draw = 0.6 * min(score, 1 - score)
            shares = (score - draw / 2, draw, 1 - score - draw / 2)
            rows.append(meeting(first, second, *map(int, chance.multinomial(played, shares))))
    return rows


def test_the_payoff_sums_over_tasks_and_both_orders() -> None:
    found = payoff(NAMES, ROWS)
    assert found.names == NAMES
    assert (found.wins[0, 1], found.wins[1, 0], found.draws[0, 1]) == (140, 50, 10)
    assert (found.draws == found.draws.T).all() and (found.played == found.played.T).all()
    assert found.played[0].tolist() == [0, 200, 100, 0]
    assert found.win_rate[0, 1] == pytest.approx(145 / 200)
    assert found.win_rate[1, 0] == pytest.approx(55 / 200)
    assert np.isnan(found.win_rate[0, 3]) and np.isnan(np.diag(found.win_rate)).all()


def test_others_and_matches_with_oneself_are_left_out() -> None:
    found = payoff(("strong", "b"), (*ROWS, meeting("b", "b", 70, 0, 30)))
    assert found.played.tolist() == [[0, 200], [200, 0]]


def test_two_players_by_hand() -> None:
    """Odds of 3:1 are 400 · log10(3) = 190.85 points; the prior is half a win for each."""
    for scale in (1, 10, 100_000):
        rows = [meeting("b", "strong", 75 * scale, 0, 25 * scale)]
        found = by_name(rate(payoff(("strong", "b"), rows), generator()))
        shrunk = 400 * math.log10((75 * scale + 0.5) / (25 * scale + 0.5))
        assert value(found["b"]) == pytest.approx(PINNED_RATING + shrunk, abs=1e-6)
        assert found["b"].matches == found["strong"].matches == 100 * scale
    assert shrunk == pytest.approx(190.85, abs=1e-2)
    assert found["strong"] == Rating("strong", 1000.0, 1000.0, 1000.0, 100 * scale)


def test_a_draw_is_half_a_win_for_each() -> None:
    drawn = rate(payoff(("strong", "b"), [meeting("b", "strong", 10, 40, 10)]), generator())
    assert value(by_name(drawn)["b"]) == pytest.approx(PINNED_RATING)
    some = rate(payoff(("strong", "b"), [meeting("b", "strong", 30, 40, 10)]), generator())
    none = rate(payoff(("strong", "b"), [meeting("b", "strong", 50, 0, 30)]), generator())
    assert value(by_name(some)["b"]) == pytest.approx(value(by_name(none)["b"]))
    ends = [by_name(found)["b"] for found in (some, none)]
    widths = [(r.high or 0) - (r.low or 0) for r in ends]
    assert widths[0] < 0.8 * widths[1]  # draws vary less than wins and losses


@pytest.mark.parametrize("count", [2, 3, 12])
def test_scipy_finds_the_same_maximum(count: int) -> None:
    chance = generator(count)
    wins = chance.integers(0, 40, (count, count)) * (chance.random((count, count)) < 0.6)
    wins[np.arange(count - 1), np.arange(1, count)] += 5  # everybody is connected
    np.fill_diagonal(wins, 0)
    scores = wins + prior(count)
    known = np.full(count, np.nan)
    known[1] = 1000.0
    others = np.flatnonzero(np.isnan(known))

    def loss(free: np.ndarray) -> float:
        ratings = known.copy()
        ratings[others] = 1000.0 + SCALE * free
        return -float(log_likelihood(scores, ratings))

    best = minimize(loss, np.zeros(count - 1), method="BFGS", options={"gtol": 1e-7})
    found = maximum(scores, known)
    assert found[1] == 1000.0
    np.testing.assert_allclose(found[others], 1000.0 + SCALE * best.x, atol=0.05)
    assert -float(log_likelihood(scores, found)) <= best.fun + 1e-9
    names = [f"p{i}" for i in range(count)]
    rated = by_name(rate(Payoff(tuple(names), wins + 0.0, 0.0 * wins), generator(), "p1"))
    np.testing.assert_allclose([value(rated[name]) for name in names], found, atol=1e-6)


def test_the_gradient_is_zero_wherever_newton_starts() -> None:
    """Also from 8 000 points away, where an unshortened step would leap out of range."""
    scores = payoff(NAMES, ROWS).wins + prior(4)
    known = np.array((1000.0, np.nan, np.nan, np.nan))
    near = maximum(scores, known)
    far = maximum(scores, known, np.array((1000.0, 9000.0, -7000.0, 3000.0)))
    np.testing.assert_allclose(near, far, atol=1e-6)
    chance = 1 / (1 + 10 ** ((near[None, :] - near[:, None]) / 400))
    expected = ((scores + scores.T) * chance).sum(axis=1)
    np.testing.assert_allclose(scores.sum(axis=1), expected, atol=1e-6)


def test_strengths_are_recovered_within_their_intervals() -> None:
    """Of 100 times 5 intervals of 95 % at least 92 and at most 98 in 100 hold the truth."""
    true = {"strong": 1000.0, "a": 1150.0, "b": 800.0, "c": 1000.0, "d": 1300.0, "e": 700.0}
    inside, errors = [], []
    for seed in range(100):
        rows = simulated(true, 40, seed)
        for rating in rate(payoff(list(true), rows), generator(1000 + seed), resamples=400):
            if rating.name != "strong":
                truth = true[rating.name]
                errors.append(value(rating) - truth)
                inside.append((rating.low or 0) <= truth <= (rating.high or 0))
    assert 0.92 <= np.mean(inside) <= 0.98, np.mean(inside)
    assert abs(np.mean(errors)) < 10 and np.std(errors) < 60


def test_the_order_of_names_and_rows_changes_nothing() -> None:
    first = rate(payoff(NAMES, ROWS), generator())
    for seed in range(5):
        chance = generator(seed)
        names = [NAMES[i] for i in chance.permutation(len(NAMES))]
        rows = [ROWS[i] for i in chance.permutation(len(ROWS))]
        assert rate(payoff(names, rows), generator()) == first
    turned = [Matches(r.task, r.level, r.second, r.first, r.seed, r.losses, r.draws, r.wins)
              for r in ROWS]  # fmt: skip
    assert rate(payoff(NAMES, turned), generator()) == first


def test_the_same_generator_gives_the_same_intervals() -> None:
    table = payoff(NAMES, ROWS)
    assert rate(table, generator(1)) == rate(table, generator(1))
    one, other = (by_name(rate(table, generator(seed))) for seed in (1, 2))
    assert one["b"].value == other["b"].value and one["b"].low != other["b"].low


def test_the_strongest_comes_first() -> None:
    values = [value(rating) for rating in rate(payoff(NAMES, ROWS), generator())]
    assert values == sorted(values, reverse=True)


def test_perfect_records_are_finite_and_uncertain() -> None:
    """Each always beats all that are weaker: without the prior there would be no ratings."""
    names = ("a", "strong", "c", "d")
    rows = [meeting(x, y, 100, 0, 0) for i, x in enumerate(names) for y in names[i + 1 :]]
    found = rate(payoff(names, rows), generator())
    assert [rating.name for rating in found] == list(names)
    values = [value(rating) for rating in found]
    assert np.isfinite(values).all() and (np.diff(values) < -400).all()
    for rating in found:
        assert rating.name == "strong" or (rating.high or 0) - (rating.low or 0) > 100
    more = [meeting(row.first, row.second, 1000, 0, 0) for row in rows]
    assert value(rate(payoff(names, more), generator())[0]) > values[0]


def test_who_has_met_nobody_of_the_pinneds_has_no_rating() -> None:
    apart = (meeting("x", "y", 5, 0, 5), meeting("z", "z", 3, 0, 3))
    found = rate(payoff((*NAMES, "x", "y", "z"), (*ROWS, *apart)), generator())
    assert found[:4] == rate(payoff(NAMES, ROWS), generator())
    assert found[4:] == [
        Rating("x", None, None, None, 10), Rating("y", None, None, None, 10),
        Rating("z", None, None, None, 0),
    ]  # fmt: skip
    joined = rate(payoff((*NAMES, "x", "y"), (*ROWS, *apart, meeting("x", "c", 1, 1, 1))),
                  generator())  # fmt: skip
    assert all(rating.value is not None for rating in joined)


def test_the_pinned_alone_is_rated() -> None:
    alone = Rating("strong", 1000.0, 1000.0, 1000.0, 0)
    assert rate(payoff(("strong",), ()), generator()) == [alone]
    assert rate(payoff(("b", "strong"), ()), generator())[0] == alone


def test_another_may_be_pinned_or_several() -> None:
    table = payoff(NAMES, ROWS)
    usual, moved = by_name(rate(table, generator())), by_name(rate(table, generator(), {"b": 0.0}))
    gaps = [value(usual[name]) - value(moved[name]) for name in NAMES]
    np.testing.assert_allclose(gaps, value(usual["b"]), atol=1e-6)
    both = by_name(rate(table, generator(), {"strong": 1000.0, "b": 500.0}))
    assert (both["b"].value, both["b"].low, both["strong"].high) == (500.0, 500.0, 1000.0)
    assert value(both["c"]) < value(usual["c"])  # whom `b` beats
    with pytest.raises(UnknownNameError, match="unknown rated policy 'nobody'"):
        rate(table, generator(), "nobody")


def test_an_evaluation_that_is_played_again_moves_no_rating() -> None:
    league = League(FORMAT, tuple(Member(name, "expert") for name in NAMES))
    once = with_matches(league, ROWS)
    twice = with_matches(once, ROWS)
    assert once == twice
    found = [rate(payoff(NAMES, each.payoff), generator()) for each in (once, twice)]
    assert found[0] == found[1] == rate(payoff(NAMES, ROWS), generator())
