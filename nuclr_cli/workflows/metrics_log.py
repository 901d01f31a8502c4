"""metrics.jsonl and TensorBoard files of a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nuclr_cli.workflows.reporting import Reporter

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

# Rows hold these beside numbers that must repeat bit for bit; they depend on the machine's mood.
TIME_METRICS = frozenset({"units_per_s", "wait_share", "step_s", "elapsed_s"})


class MetricsLog:
    """Appends one JSON object a row.

    A resumed run drops the rows beyond its checkpoint, so that no step stands twice.

    Args:
        folder: Run folder.
        from_step: Steps already done; later rows are removed.
        reporter: Told once when TensorBoard files cannot be written.
    """

    def __init__(self, folder: Path, from_step: int, reporter: Reporter) -> None:
        self.path = folder / "metrics.jsonl"
        rows = [row for row in read_metrics(self.path) if row["step"] <= from_step]
        temporary = self.path.with_name(".metrics.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        self._board: SummaryWriter | None = None
        try:
            from tensorboardX import SummaryWriter

            purge = from_step + 1 if from_step else None
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        except ModuleNotFoundError:
            reporter.warn("No TensorBoard files: pip install tensorboardX")

    def write(self, row: Mapping[str, float | int]) -> None:
        """Append a row (it must hold ``step``); non-finite numbers become null."""
        clean = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in row.items()}
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()
        if self._board is not None:
            for key, value in clean.items():
                if key != "step" and value is not None:
                    self._board.add_scalar(key, value, int(row["step"]))

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics.jsonl; damaged lines, such as one cut short by a kill, are passed over."""
    rows: list[dict[str, float]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def last_rows(path: Path, n_bytes: int = 4096) -> list[dict[str, float]]:
    """Rows at the end of a metrics.jsonl that may be written to right now, oldest first.

    Lines that are no row, such as a last one that is being written, are passed over.

    Args:
        path: The file; where there is none, there are no rows.
        n_bytes: How much of its end is read; a row has some 400 bytes.
    """
    try:
        with path.open("rb") as file:
            skipped = max(file.seek(0, os.SEEK_END) - n_bytes, 0)
            file.seek(skipped)
            lines = file.read().splitlines()
    except OSError:
        return []
    rows: list[dict[str, float]] = []
    for line in lines[1:] if skipped else lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def last_step(path: Path) -> int:
    """Step of the newest row of a metrics.jsonl that may be written to right now; 0 when there is none."""
    rows = last_rows(path)
    return int(rows[-1]["step"]) if rows else 0
