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
    rivals = [
        Rival(method.title, method.macro_f1, method.nuclr_minus, method.name not in GUESSES)
        for method in methods[1:]
    ]
    return plain_verdict("macro F1", methods[0].macro_f1, rivals, missing)


def plain_verdict(metric: str, nuclr: Score, rivals: Sequence[Rival], missing: Sequence[str] = ()) -> str:
    """Who has the highest score, by how much, and whether the interval of the difference excludes 0.

    To be above a guess is no victory: it is not called one.

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
    if gap.value > 0 and only_guesses:
        text = (
            f"NuCLR is above {title}, {metric} {mine} and {theirs}. It was compared with guesses only: "
            "whether plain features do as well is not known."
        )
    elif gap.value > 0:
        text = f"NuCLR has the highest {metric}, {mine}; the next best is {title}, {theirs}."
        if missing:
            text = f"Of the methods compared, {text}"
    elif gap.value < 0:
        text = f"NuCLR does not win: {title} has the highest {metric}, {theirs}; NuCLR has {mine}."
    else:
        text = f"NuCLR and {title} have the same {metric}, {mine}."
    text += f" NuCLR minus it: {gap.value:+.3f} (95% interval {gap.low:+.3f} to {gap.high:+.3f})"
    text += "; the interval includes 0, so the difference may be luck." if gap.low <= 0 <= gap.high else "."
    if missing:
        text += f" Not compared with: {', '.join(missing)}."
    return text
