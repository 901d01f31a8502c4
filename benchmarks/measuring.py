"""What the benchmarks of readers share: quantiles of repeats, the machine, and how both are written down."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Quantiles:
    """Of the repeats."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        return cls(min(values), statistics.median(values), max(values))


def quantile_table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Markdown lines: one a quantity, from its stored quantiles."""
    return [
        "| | least | median | most |",
        "|--|--|--|--|",
        *(
            f"| {name} | {q['low']:.2f} | **{q['median']:.2f}** | {q['high']:.2f} |"
            for name, q in rows.items()
        ),
    ]


def write_result(folder: Path, name: str, record: Mapping[str, Any], text: str) -> None:
    """Write ``NAME.json`` and ``NAME.md``, making the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")


def machine() -> dict[str, Any]:
    """Hardware, and how busy it was."""
    return {
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def processor() -> str:
    """Model name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def commit() -> str:
    """Of the checkout, short."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
