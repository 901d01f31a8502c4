"""Who wins, in plain words, whatever the metric."""

from __future__ import annotations

from collections.abc import Sequence

from nuclr_cli.evaluation.records import Score

Rival = tuple[str, Score, Score | None]
"""Title of a baseline, its score, and NuCLR's score minus it."""


def plain_verdict(metric: str, nuclr: Score, rivals: Sequence[Rival], missing: Sequence[str] = ()) -> str:
    """Who has the highest score, by how much, and whether the interval of the difference excludes 0.

    Args:
        metric: Its name.
        nuclr: NuCLR's score.
        rivals: The baselines, at least one.
        missing: Names of baselines that could not be computed.
    """
    title, score, gap = max(rivals, key=lambda rival: rival[1].value)
    if gap is None:
        raise ValueError("a baseline without its difference to NuCLR")
    mine, theirs = f"{nuclr.value:.3f}", f"{score.value:.3f}"
    if gap.value > 0:
        text = f"NuCLR has the highest {metric}, {mine}; the next best is {title}, {theirs}."
    elif gap.value < 0:
        text = f"NuCLR does not win: {title} has the highest {metric}, {theirs}; NuCLR has {mine}."
    else:
        text = f"NuCLR and {title} have the same {metric}, {mine}."
    text += f" NuCLR minus it: {gap.value:+.3f} (95% interval {gap.low:+.3f} to {gap.high:+.3f})"
    text += "; the interval includes 0, so the difference may be luck." if gap.low <= 0 <= gap.high else "."
    if missing:
        text += f" Not compared with: {', '.join(missing)}."
    return text
