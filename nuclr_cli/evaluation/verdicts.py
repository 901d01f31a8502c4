"""Who wins, in plain words, whatever the metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nuclr_cli.evaluation.records import CHANCE, MAJORITY, MethodResult, Score

GUESSES = (MAJORITY, CHANCE)
"""Methods that know the labels' frequencies and nothing of a unit."""


@dataclass(frozen=True)
class Rival:
    """What NuCLR is compared with.

    Attributes:
        title: For people.
        score: Of it.
        nuclr_minus: NuCLR's score minus it.
        looks: Whether it looks at the units at all, or guesses from the labels.
    """

    title: str
    score: Score
    nuclr_minus: Score | None
    looks: bool


def classification_verdict(methods: Sequence[MethodResult], missing: Sequence[str] = ()) -> str:
    """Who has the highest macro F1, in plain words; NuCLR is the first method."""
    return plain_verdict("macro F1", methods[0].macro_f1, classification_rivals(methods), missing)


def classification_rivals(methods: Sequence[MethodResult]) -> list[Rival]:
    """What NuCLR, the first method, is compared with."""
    return [
        Rival(method.title, method.macro_f1, method.nuclr_minus, method.name not in GUESSES)
        for method in methods[1:]
    ]


def best_rival(rivals: Sequence[Rival], *, looks: bool) -> Rival | None:
    """Of the baselines that look at the units, or of the guesses, the one with the highest score, if any."""
    some = [rival for rival in rivals if rival.looks == looks]
    return max(some, key=lambda rival: rival.score.value) if some else None


def guessing_clause(rivals: Sequence[Rival]) -> str:
    """That NuCLR is not above the best guess, or cannot be told from it; empty where it is above."""
    guess = best_rival(rivals, looks=False)
    gap = None if guess is None else guess.nuclr_minus
    if guess is None or gap is None or gap.low > 0:
        return ""
    if gap.value <= 0:
        return f"NuCLR is no better than guessing: {guess.title} has {guess.score.value:.3f}."
    return (
        f"NuCLR cannot be told from guessing: {guess.title} has {guess.score.value:.3f}, and the interval of "
        f"the difference, {_interval(gap)}, includes 0."
    )


def plain_verdict(metric: str, nuclr: Score, rivals: Sequence[Rival], missing: Sequence[str] = ()) -> str:
    """Who has the highest score, by how much, and whether the interval of the difference excludes 0.

    To be above a guess is no victory: it is not called one. Not to be above the best guess is said, whoever
    else is there.

    Args:
        metric: Its name.
        nuclr: NuCLR's score.
        rivals: The baselines, at least one.
        missing: Names of baselines that could not be computed.
    """
    rival = max(rivals, key=lambda rival: rival.score.value)
    title, gap = rival.title, rival.nuclr_minus
    if gap is None:
        raise ValueError("a baseline without its difference to NuCLR")
    mine, theirs = f"{nuclr.value:.3f}", f"{rival.score.value:.3f}"
    only_guesses = not any(one.looks for one in rivals)
    may_be_luck = gap.low <= 0 <= gap.high
    beside_guesses = "It was compared with guesses only: whether plain features do as well is not known."
    if only_guesses and may_be_luck:
        text = f"NuCLR cannot be told from {title}: {metric} {mine} and {theirs}. {beside_guesses}"
    elif gap.value > 0 and only_guesses:
        text = f"NuCLR is above {title}, {metric} {mine} and {theirs}. {beside_guesses}"
    elif gap.value > 0:
        text = f"NuCLR has the highest {metric}, {mine}; the next best is {title}, {theirs}."
        if missing:
            text = f"Of the methods compared, {text}"
    elif gap.value < 0:
        text = f"NuCLR does not win: {title} has the highest {metric}, {theirs}; NuCLR has {mine}."
    else:
        text = f"NuCLR and {title} have the same {metric}, {mine}."
    text += f" NuCLR minus it: {gap.value:+.3f} (95% interval {_interval(gap)})"
    text += "; the interval includes 0, so the difference may be luck." if may_be_luck else "."
    if not (only_guesses and may_be_luck):
        text += f" {guessing_clause(rivals)}".rstrip()
    if missing:
        text += f" Not compared with: {', '.join(missing)}."
    return text


def _interval(score: Score) -> str:
    return f"{score.low:+.3f} to {score.high:+.3f}"
