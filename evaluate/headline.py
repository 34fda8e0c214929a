"""What an evaluation shows, in a sentence with numbers."""

from __future__ import annotations

from collections.abc import Sequence

from .evaluation import DATA, Evaluation
from .table import pair_name

SPELLED_OUT = 3  # tasks named one by one; of more, the mean is told


def main_policy(evaluation: Evaluation) -> str:
    """The policy the report is about: the best learned one, else the expert, else the first."""
    learned = [player.name for player in evaluation.players if player.learned]
    if learned:
        return max(learned, key=lambda name: _mean_success(evaluation, name))
    names = [player.name for player in evaluation.players]
    return "expert" if "expert" in names else names[0]


def headline(evaluation: Evaluation) -> str:
    """`run2 completes reach in 97 % and push in 84 % of 100 unseen runs.`"""
    main = main_policy(evaluation)
    subject = {"expert": "The scripted expert", "random": "Random play"}.get(main, main)
    runs = evaluation.settings.runs
    pairs = evaluation.settings.tasks
    if len(pairs) > SPELLED_OUT:
        share = _percent(_mean_success(evaluation, main))
        return f"{subject} completes {share} of its runs over {len(pairs)} tasks, {runs:,} on each"
    several_levels = len({task for task, _ in pairs}) < len(pairs)
    names = [pair_name(pair) if several_levels else pair[0] for pair in pairs]
    shares = [
        f"{name} in {share}"
        for name, share in zip(names, _shares(evaluation, main), strict=True)
    ]
    return f"{subject} completes {listed(shares)} of {runs:,} runs on seeds no corpus holds"


def lede(evaluation: Evaluation) -> str:
    """The same of the other rows, to compare it with."""
    main = main_policy(evaluation)
    names = {"random": "random play", DATA: "its behaviour data", "expert": "the scripted expert"}
    clauses = []
    for row in evaluation.rows:
        shares = _shares(evaluation, row)
        if row != main and len(shares) == len(evaluation.settings.tasks):
            several = len(shares) > SPELLED_OUT
            mean = _percent(_mean_success(evaluation, row))
            clauses.append(f"{names.get(row, row)} {mean if several else listed(shares)}")
    return f"For comparison: {', '.join(clauses)}." if clauses else ""


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _percent(share: float) -> str:
    """`97 %`, which does not break across lines."""
    return f"{100 * share:.0f}\u00a0%"


def _shares(evaluation: Evaluation, policy: str) -> list[str]:
    cells = [evaluation.cell(policy, pair) for pair in evaluation.settings.tasks]
    return [_percent(cell.scores.success.value) for cell in cells if cell is not None]


def _mean_success(evaluation: Evaluation, policy: str) -> float:
    values = [cell.scores.success.value for cell in evaluation.cells if cell.policy == policy]
    return sum(values) / len(values)
