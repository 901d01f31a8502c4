"""Which checkpoint of a run is the best, by what training itself measured: no label, no held-out animal.

The scores lie in the ``state.json`` of each checkpoint: nothing can point to a checkpoint that is gone.
Imports nothing heavy: `nuclr runs` looks here, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nuclr_cli.workflows.run_folder import folder_of, steps_available

Metric = Literal["loss", "rankme"]
KeepBest = Literal["loss", "rankme", "none"]

SMALLER_IS_BETTER: Mapping[Metric, bool] = {"loss": True, "rankme": False}


@dataclass
class Score:
    """Sums over the logged steps since the last regular checkpoint; travels in the checkpoint.

    Attributes:
        sums: Metric -> sum.
        rows: Metric -> logged steps that had one.
    """

    sums: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def add(self, row: Mapping[str, float | int]) -> None:
        """Count a row of the metrics; numbers that are missing or not finite are passed over."""
        for metric in SMALLER_IS_BETTER:
            value = row.get(metric)
            if value is not None and math.isfinite(value):
                self.sums[metric] = self.sums.get(metric, 0.0) + value
                self.rows[metric] = self.rows.get(metric, 0) + 1

    def state(self, regular: bool) -> dict[str, Any]:
        """What a checkpoint says.

        Args:
            regular: The step is one at which every run of these settings saves. Others, where a signal asked
                for a stop, have no means: the best is that of a run that nobody stopped.
        """
        means = {metric: self.sums[metric] / self.rows[metric] for metric in self.sums} if regular else {}
        return {"means": means, "open": None if regular else asdict(self)}

    @staticmethod
    def after(state: Mapping[str, Any]) -> Score:
        """Where a run stands that goes on from a checkpoint of this state; an older version's has none."""
        unfinished = state.get("score", {}).get("open")
        return Score() if unfinished is None else Score(**unfinished)


def scores(checkpoints: Path, metric: Metric) -> dict[int, float]:
    """Step -> mean of the metric over the logged steps before it, of the checkpoints that have one.

    Checkpoints that are damaged, or from a version that did not write it down, are left out as far as
    ``state.json`` shows it.
    """
    found: dict[int, float] = {}
    for step in steps_available(checkpoints):
        try:
            text = (folder_of(checkpoints, step) / "state.json").read_text(encoding="utf-8")
            value = float(json.loads(text)["score"]["means"][metric])
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if math.isfinite(value):
            found[step] = value
    return found


def best_step(
    checkpoints: Path, metric: Metric, whole: Callable[[Path], bool], last: int | None = None
) -> int | None:
    """The best checkpoint that is whole, of equally good ones the later; None where none has a score.

    Args:
        checkpoints: Folder of the run.
        metric: What counts.
        whole: Whether a checkpoint's folder can be used; asked of the best first.
        last: Later ones do not count; None = all do.
    """
    sign = -1.0 if SMALLER_IS_BETTER[metric] else 1.0
    found = scores(checkpoints, metric)
    for step in sorted(found, key=lambda step: (sign * found[step], step), reverse=True):
        if (last is None or step <= last) and whole(folder_of(checkpoints, step)):
            return step
    return None
