"""What `nuclr pretrain --find-lr` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuclr_cli.cli.console import Console
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.workflows.learning_rate_finder import RateRecord
    from nuclr_cli.workflows.pretrain import PretrainConfig

_ROWS = 25
_BAR = 40


def show_learning_rates(console: Console, config: PretrainConfig) -> None:
    """Try learning rates and print the curve, as a table with bars, and the suggestion."""
    from nuclr_cli.workflows.learning_rate_finder import find_learning_rate

    record = find_learning_rate(config, console)

    def show() -> None:
        console.table("", ("rate", "loss", "change", ""), _rows(record), right=(0, 1, 2))
        console.print(
            f"{len(record.curve)} steps of {record.optimizer} (preset {record.preset}, "
            f"{counted(record.sessions, 'session')}, {counted(record.units, 'unit')}, {record.device}, "
            f"{record.seconds:.0f} s). change: the loss against that of the untouched model on the same "
            "views, smoothed; bars show how far it has fallen."
        )
        if record.setting is None:
            console.print(
                "The loss falls at no rate by more than it scatters: no suggestion. A larger "
                "train.batch_windows scatters less."
            )
        else:
            console.print(
                f"The loss falls most steeply at --set {record.setting}; "
                f"its change is lowest at {record.lowest_at:.1e}."
            )

    console.result(record, show)
    if record.command is not None:
        console.next_step(record.command)


def _rows(record: RateRecord) -> list[tuple[str, str, str, str]]:
    """Evenly spaced steps, and that of the suggestion."""
    curve, found = record.curve, record.learning_rate
    every = max(len(curve) // _ROWS, 1)
    shown = set(range(0, len(curve), every))
    best = None
    if found is not None:
        best = min(range(len(curve)), key=lambda step: abs(curve[step].rate - found))
        shown.add(best)
    deepest = max(-min(point.change for point in curve), 1e-12)
    rows = []
    for step in sorted(shown):
        point = curve[step]
        bar = "#" * round(_BAR * max(-point.change, 0.0) / deepest)
        said = f"{bar} <- steepest" if step == best else bar
        rows.append((f"{point.rate:.1e}", f"{point.loss:.3f}", f"{point.change:+.3f}", said.strip()))
    return rows
