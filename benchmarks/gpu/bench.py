"""Measures every case forward and backward, nuclr beside its peers; writes one table and one JSON file."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from cases import Case, cases
from machine import describe
from operations import OURS, Problem, make_problem
from timing import Timing, backward_of, copy_bandwidth, measure


@dataclass(frozen=True)
class Row:
    """One variant of one case.

    Attributes:
        case, variant: Which.
        forward, backward: None where it could not run.
        error: Why it could not.
    """

    case: Case
    variant: str
    forward: Timing | None
    backward: Timing | None
    error: str = ""


def measure_variant(problem: Problem, name: str, budget_s: float) -> Row:
    run = problem.variants[name]
    forward = backward = None
    try:
        with torch.no_grad():
            forward = measure([lambda x=x: run(*x) for x in problem.inputs], budget_s=budget_s)
        outs = [run(*x) for x in problem.inputs]
        weight = torch.ones_like(outs[0]) if outs[0].ndim == 0 else torch.randn_like(outs[0])
        backward = measure(
            [backward_of(out, x, weight) for out, x in zip(outs, problem.inputs, strict=True)],
            budget_s=budget_s,
        )
    except Exception as error:  # a peer that cannot run here is a row that says so
        return Row(problem.case, name, forward, backward, f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return Row(problem.case, name, forward, backward)


def table(rows: list[Row], bandwidth: float) -> str:
    """Markdown: a line per variant, ratio = best peer / nuclr in the same run."""
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        of_case = [row for row in rows if row.case == case]
        lines += [f"### {case.operation}, {case.name}", ""]
        lines += [
            "| variant | forward ms | TFLOP/s | % of copy | extra MB | backward ms | TFLOP/s | extra MB |",
            "|--|--|--|--|--|--|--|--|",
        ]
        for row in of_case:
            cells = [row.variant]
            for timing, backward in ((row.forward, False), (row.backward, True)):
                if timing is None:
                    cells += ["-"] * (3 if backward else 4)
                    continue
                cells.append(f"**{timing.ms:.4g}**" if row.variant == OURS else f"{timing.ms:.4g}")
                cells.append(f"{case.flop(backward) / timing.ms / 1e9:.0f}")
                if not backward:
                    cells.append(f"{100 * case.n_bytes(backward) / (timing.ms / 1e3) / bandwidth:.0f}")
                extra = timing.extra_bytes
                cells.append("-" if extra is None else f"{extra / 1e6:.0f}")
            lines.append("| " + " | ".join(cells) + " |" + (f" {row.error}" if row.error else ""))
        lines += ["", *_verdict(of_case), ""]
    return "\n".join(lines)


def _verdict(rows: list[Row]) -> list[str]:
    ours = next((row for row in rows if row.variant == OURS), None)
    if ours is None:
        return []
    parts = []
    for name in ("forward", "backward"):
        mine: Timing | None = getattr(ours, name)
        peers = {
            row.variant: getattr(row, name) for row in rows if row.variant != OURS and getattr(row, name)
        }
        if mine is None or not peers:
            continue
        best = min(peers, key=lambda peer: peers[peer].ms)
        text = f"{name}: {peers[best].ms / mine.ms:.2f} x as fast as {best}"
        target = getattr(ours.case, f"{name}_target")
        if target is not None:
            text += f" (target {target} ms: {'reached' if mine.ms <= target else 'missed'})"
        parts.append(text)
    return ["; ".join(parts)] if parts else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--budget", type=float, default=0.4, help="seconds of repeats a measurement")
    parser.add_argument("--seconds", type=float, default=200, help="stop starting new cases after this")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    bandwidth = copy_bandwidth(1 << 26 if arguments.small else 1 << 30)
    began = time.monotonic()
    rows: list[Row] = []
    left_out = []
    for case in cases(arguments.small):
        if time.monotonic() - began > arguments.seconds:
            left_out.append(f"{case.operation}, {case.name}")
            continue
        problem = make_problem(case, device, dtype)
        for variant in problem.variants:
            rows.append(measure_variant(problem, variant, arguments.budget))
        print(table([row for row in rows if row.case == case], bandwidth), flush=True)
        _write(arguments.out, rows, bandwidth, left_out, dtype)  # what is measured stays if the time runs out
    _write(arguments.out, rows, bandwidth, left_out, dtype)


def _write(out: Path, rows: list[Row], bandwidth: float, left_out: list[str], dtype: torch.dtype) -> None:
    out.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": "gpu",
        "dtype": str(dtype).removeprefix("torch."),
        "copy_bytes_per_s": bandwidth,
        "rows": [asdict(row) for row in rows],
        "left_out": left_out,
        **describe(),
    }
    (out / "kernels.json").write_text(json.dumps(result, indent=1) + "\n")
    head = [
        "# Kernels on a GPU",
        "",
        f"{describe()['device']}, {str(dtype).removeprefix('torch.')}; a copy moves {bandwidth / 1e12:.2f} "
        "TB/s. Medians; TFLOP/s count the matrix products, extra memory is the peak of one call.",
        "",
    ]
    tail = [f"Left out for want of time: {', '.join(left_out)}.", ""] if left_out else []
    (out / "kernels.md").write_text("\n".join([*head, table(rows, bandwidth), *tail]))


if __name__ == "__main__":
    main()
