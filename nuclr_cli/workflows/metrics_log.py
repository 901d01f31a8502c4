"""metrics.jsonl of a run. Imports nothing heavy: `nuclr runs` reads it, too."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.run_folder import after_a_full_disk

# Rows hold these beside numbers that must repeat bit for bit; they depend on the machine's mood.
TIME_METRICS = frozenset(
    {"units_per_s", "tokens_per_s", "mfu", "peak_memory_bytes", "wait_share", "step_s", "elapsed_s"}
)


class Sinks(Protocol):
    """Where rows are shown as well; see `nuclr_cli.workflows.loggers.Sinks`."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self, finished: bool) -> None: ...


class MetricsLog:
    """Appends one JSON object a row: whole lines, whatever the disk does.

    A resumed run drops the rows beyond its checkpoint, so that no step stands twice.

    Args:
        folder: Run folder.
        from_step: Steps already done; later rows are removed.
        sinks: Where rows are shown as well; they never fail.

    Raises:
        InputError: The disk is full or read-only; rows that are there stay.
    """

    def __init__(self, folder: Path, from_step: int, sinks: Sinks) -> None:
        self.path, self._sinks = folder / "metrics.jsonl", sinks
        rows = [row for row in read_metrics(self.path) if row["step"] <= from_step]
        temporary = self.path.with_name(".metrics.tmp")
        try:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            temporary.replace(self.path)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise self._refused(error) from None
        self._size = self.path.stat().st_size

    def write(self, row: Mapping[str, float | int]) -> None:
        """Append a row (it must hold ``step``); non-finite numbers become null.

        Raises:
            InputError: The disk refuses it; the rows before it stay.
        """
        clean = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in row.items()}
        line = (json.dumps(clean) + "\n").encode()
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise self._refused(error) from None
        self._size += len(line)
        self._sinks.write(int(row["step"]), shown(clean))

    def close(self, finished: bool) -> None:
        """Close this and what shows it.

        Args:
            finished: The run is done; else it may be gone on with.
        """
        self._file.close()
        self._sinks.close(finished)

    def _refused(self, error: OSError) -> InputError:
        return InputError(
            f"Cannot write {self.path}: {error.strerror or error}.",
            after_a_full_disk(self.path.parent),
        )


def shown(row: Mapping[str, float | int | None]) -> dict[str, float | int]:
    """The finite numbers of a row, without its step."""
    return {key: value for key, value in row.items() if key != "step" and value is not None}


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
        n_bytes: How much of its end is read; a row has some 650 bytes.
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
