"""What an evaluation shows, in a sentence with numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...generate.league import ANCHORS
from ..entrants import Pair
from ..evaluation import DATA, Evaluation
from ..pairs import alone
from ..summary import HELD_OUT, methods_of
from ..table import pair_name

SPELLED_OUT = 3  # tasks named one by one; of more, the mean is told
SUBJECTS = {"expert": "The scripted expert", "random": "Random play"}
OTHERS = {"random": "random play", DATA: "its behaviour data", "expert": "the scripted expert"}


def main_method(evaluation: Evaluation) -> str:
    """The method the report is about: the best learned one, else the expert, else the first.

    Networks that see their past actions come before the same without.
    """
    policies = evaluation.settings.policies
    found = [policy for policy in policies if policy.learned]
    seeing = [policy for policy in found if policy.history] or found
    learned = list(dict.fromkeys(policy.method for policy in seeing))
    if learned:
        return max(learned, key=lambda name: _strength(evaluation, policies_of(evaluation, name)))
    names = [policy.name for policy in policies]
    return "expert" if "expert" in names else names[0]


def main_policy(evaluation: Evaluation) -> str:
    """Of the main method's seeds the median one, which the videos show."""
    names = policies_of(evaluation, main_method(evaluation))
    ordered = sorted(names, key=lambda name: _strength(evaluation, [name]))
    return ordered[(len(names) - 1) // 2]


def policies_of(evaluation: Evaluation, method: str) -> list[str]:
    """Names of a method's policies; a row that is no method, as the corpus's, is its own."""
    return methods_of(evaluation.settings).get(method, [method])


def headline(evaluation: Evaluation) -> str:
    """`run2 completes reach in 97 % and push in 84 % of 100 runs on seeds no corpus holds`."""
    main = main_method(evaluation)
    subject, pairs = SUBJECTS.get(main, main), alone(evaluation.settings.tasks)
    seeds, runs = len(policies_of(evaluation, main)), f"{evaluation.settings.runs:,}"
    if not pairs:
        return f"{subject} {_won(evaluation, main)}"
    if len(pairs) > SPELLED_OUT:
        share = percent(_mean_success(evaluation, policies_of(evaluation, main)))
        of = f" by each of its {seeds} seeds" if seeds > 1 else ""
        return f"{subject} completes {share} of its runs over {_count(pairs)}, {runs} on each{of}"
    several_levels = len({task for task, _ in pairs}) < len(pairs)
    names = [pair_name(pair) if several_levels else pair[0] for pair in pairs]
    shares = zip(names, _shares(evaluation, main, pairs), strict=True)
    told = listed([f"{name} in {share}" for name, share in shares])
    of = f"{seeds} × {runs}" if seeds > 1 else runs
    return f"{subject} completes {told} of {of} runs on seeds no corpus holds"


def lede(evaluation: Evaluation) -> str:
    """The same of the other rows, of held-out tasks and of matches, where there are any."""
    return " ".join(_sentences(evaluation))


def _sentences(evaluation: Evaluation) -> Iterator[str]:
    main, pairs = main_method(evaluation), alone(evaluation.settings.tasks)
    others = list(_others(evaluation, main, pairs))
    if others:
        yield f"For comparison: {', '.join(others)}."
    subject = {"expert": "it", "random": "it"}.get(main, main)
    for row in evaluation.summary:
        if (row.method, row.group) == (main, HELD_OUT) and row.tasks < len(pairs):
            share = percent(row.success.value)
            tasks = f"{row.tasks} held-out tasks and levels" if row.tasks > 1 else "held-out task"
            yield f"On the {tasks} {subject} completes {share}."
    if pairs and evaluation.matches:
        yield f"{subject[0].upper() + subject[1:] if subject == 'it' else subject} " + (
            f"{_won(evaluation, main)}."
        )


def _others(evaluation: Evaluation, main: str, pairs: Sequence[Pair]) -> Iterator[str]:
    """What each other method, and the corpus, came to where the main one was played."""
    methods = methods_of(evaluation.settings)
    rows = [DATA] if DATA in evaluation.rows else []
    for row in (*rows, *methods):
        shares = _shares(evaluation, row, pairs)
        if row != main and pairs and len(shares) == len(pairs):
            mean = percent(_mean_success(evaluation, policies_of(evaluation, row)))
            told = mean if len(pairs) > SPELLED_OUT else listed(shares)
            yield f"{OTHERS.get(row, row)} {told}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def percent(share: float) -> str:
    """`97 %`, which does not break across lines."""
    return f"{100 * share:.0f}\u00a0%"


def outcomes(evaluation: Evaluation, policy: str) -> dict[str, tuple[int, int, int]]:
    """A policy's wins, draws and losses against everybody it met, whoever's match it was."""
    found: dict[str, tuple[int, int, int]] = {}
    for m in evaluation.matches:
        ended = (m.wins, m.draws, m.losses)
        for name, other, counts in (
            (m.policy, m.opponent, ended), (m.opponent, m.policy, ended[::-1])
        ):  # fmt: skip
            if name == policy:
                before = found.get(other, (0, 0, 0))
                wins, draws, losses = (a + b for a, b in zip(before, counts, strict=True))
                found[other] = (wins, draws, losses)
    return found


def scripts(evaluation: Evaluation) -> list[str]:
    """Names of the scripted players of matches, the weakest first."""
    order = [anchor.name for anchor in ANCHORS] + ["expert"]
    names = {policy.name for policy in evaluation.settings.policies if not policy.learned}
    names |= {rival.name for rival in evaluation.settings.opponents if not rival.learned}
    return [name for name in order if name in names]


def _won(evaluation: Evaluation, method: str) -> str:
    """`wins 63 % of its matches against the scripted anchors`."""
    names, anchors = policies_of(evaluation, method), scripts(evaluation)
    met = {other for name in names for other in outcomes(evaluation, name)}
    rivals = met & set(anchors) or met
    whom = "the scripted anchors" if rivals <= set(anchors) else "the other policies"
    share = percent(_win_rate(evaluation, names, rivals))
    return f"wins {share} of its matches against {whom}"


def _win_rate(evaluation: Evaluation, names: Sequence[str], rivals: set[str]) -> float:
    counts = [
        ended for name in names for other, ended in outcomes(evaluation, name).items()
        if other in rivals
    ]  # fmt: skip
    played = sum(map(sum, counts))
    return sum(wins for wins, _, _ in counts) / played if played else 0.0


def _strength(evaluation: Evaluation, names: Sequence[str]) -> float:
    if alone(evaluation.settings.tasks):
        return _mean_success(evaluation, names)
    met = {other for name in names for other in outcomes(evaluation, name)}
    return _win_rate(evaluation, names, met)


def _count(pairs: Sequence[Pair]) -> str:
    levels = len({task for task, _ in pairs}) < len(pairs)
    return f"{len(pairs)} tasks{' and levels' if levels else ''}"


def _shares(evaluation: Evaluation, method: str, pairs: Sequence[Pair]) -> list[str]:
    found = []
    for pair in pairs:
        cells = [evaluation.cell(name, pair) for name in policies_of(evaluation, method)]
        values = [cell.scores.success.value for cell in cells if cell is not None]
        found += [percent(sum(values) / len(values))] if values else []
    return found


def _mean_success(evaluation: Evaluation, names: Sequence[str]) -> float:
    values = [cell.scores.success.value for cell in evaluation.cells if cell.policy in names]
    return sum(values) / len(values)
