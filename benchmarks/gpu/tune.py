"""Times the candidate tiles of every table on this GPU and writes tables with the fastest to FOLDER/tiles.

Candidates are compiled first, in several processes that share Triton's cache; then one process times them.
What no time is left for keeps its row. A candidate whose result differs from the reference never wins.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from cases import Case
from machine import describe
from operations import OURS, make_problem
from timing import backward_of, measure

from nuclr_kernels import tile_tables
from nuclr_kernels.population_attention import tiles as population_tiles
from nuclr_kernels.population_attention.candidates import candidates as population_candidates
from nuclr_kernels.tile_tables import TileConfig, tile_table

WIDTH = 64
WRONG_ABOVE = 1e-2


@dataclass(frozen=True)
class Bucket:
    """Problems that share a row.

    Attributes:
        largest: Of the table's problem size; None = any.
        case: The problem that stands for them.
    """

    largest: int | None
    case: Case


@dataclass(frozen=True)
class Task:
    """One table to tune."""

    table: str
    backward: bool
    width: int | None
    buckets: tuple[Bucket, ...]
    rows: tuple[TileConfig, ...]


def tasks(capability: tuple[int, int]) -> list[Task]:
    """All tables, the most important first."""
    population = (
        Bucket(64, Case("population", "256 x 60", (60,) * 256, 10)),
        Bucket(256, Case("population", "128 x 200", (200,) * 128, 10)),
        Bucket(2048, Case("population", "16 x 1k", (1000,) * 16, 10)),
        Bucket(None, Case("population", "1 x 10k", (10_000,), 10)),
    )
    temporal = (
        Bucket(16, Case("temporal", "20k units, L10", (20_000,), 10)),
        Bucket(32, Case("temporal", "20k units, L32", (20_000,), 32)),
        Bucket(64, Case("temporal", "10k units, L64", (10_000,), 64)),
        Bucket(128, Case("temporal", "5k units, L128", (5_000,), 128)),
    )
    loss = (
        Bucket(512, Case("loss", "128 x 150", (150,) * 128)),
        Bucket(None, Case("loss", "1 x 10k", (10_000,))),
    )
    found = [
        Task(
            table,
            backward,
            WIDTH,
            population,
            tuple(population_candidates(table, capability, 16, WIDTH)),
        )
        for table, backward in (
            (population_tiles.FORWARD, False),
            (population_tiles.KEY_GRADIENT, True),
            (population_tiles.QUERY_GRADIENT, True),
        )
    ]
    found += [
        Task(table, backward, WIDTH, temporal, _grid(table, capability, WIDTH))
        for table, backward in (("temporal_forward", False), ("temporal_backward", True))
    ]
    found += [
        Task(table, backward, None, loss, _grid(table, capability, None))
        for table, backward in (("contrastive_forward", False), ("contrastive_backward", True))
    ]
    return found


def _grid(table: str, capability: tuple[int, int], width: int | None) -> tuple[TileConfig, ...]:
    """Rows in use, and their neighbours in warps and stages."""
    rows = [
        row
        for row in tile_table(table)
        if row.capability != tile_tables.INTERPRETER and row.capability <= capability and row.bits == 16
    ]
    found = dict.fromkeys(_key(row) for row in rows)
    for key, warps, stages in product(list(found), (2, 4, 8), (1, 2, 3)):
        found.setdefault((key[0], warps, stages))
    return tuple(
        TileConfig(capability, 16, width, None, dict(constants), warps, stages)
        for constants, warps, stages in found
    )


def _key(row: TileConfig) -> tuple[tuple[tuple[str, int], ...], int, int]:
    return tuple(sorted(row.constants.items())), row.num_warps, row.num_stages


def plain(row: TileConfig) -> dict[str, object]:
    return {name: value for name, value in asdict(row).items() if value != ""}


@contextmanager
def only(table: str, row: TileConfig) -> Iterator[None]:
    """Within, calls that `row` is meant for use it."""
    with tempfile.TemporaryDirectory() as folder:
        others = [r for r in tile_table(table) if not (r.capability == row.capability and r.bits == row.bits)]
        rows = [plain(r) for r in (*others, replace(row, width=None))]
        (Path(folder) / f"{table}.json").write_text(json.dumps({"rows": rows}))
        before = os.environ.get(tile_tables.VARIABLE)
        os.environ[tile_tables.VARIABLE] = folder
        forget()
        try:
            yield
        finally:
            if before is None:
                del os.environ[tile_tables.VARIABLE]
            else:
                os.environ[tile_tables.VARIABLE] = before
            forget()


def forget() -> None:
    """Let the tables be read again."""
    for function in (tile_tables.tile_table, tile_tables.tile_config, population_tiles.tile_blocks):
        function.cache_clear()


def attempt(task: Task, row: TileConfig, case: Case, budget_s: float) -> float:
    """Milliseconds of a candidate; infinite when it does not run or is wrong."""
    with only(task.table, row):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        problem = make_problem(case, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        run = problem.variants[OURS]
        if not task.backward:
            with torch.no_grad():
                return measure([lambda x=x: run(*x) for x in problem.inputs], budget_s=budget_s).ms
        outs = [run(*x) for x in problem.inputs]
        weight = torch.ones_like(outs[0])
        calls = [backward_of(out, x, weight) for out, x in zip(outs, problem.inputs, strict=True)]
        return measure(calls, budget_s=budget_s).ms


def agrees(task: Task, row: TileConfig) -> bool:
    """On a small ragged problem, with the row as with the peer, forward and backward."""
    case = small_case(task)
    with only(task.table, row):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        problem = make_problem(case, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        peer = next(name for name in problem.variants if name != OURS)
        found = []
        for name in (OURS, peer):
            out = problem.variants[name](*problem.inputs[0])
            weight = torch.ones_like(out)
            found.append([out.detach(), *torch.autograd.grad(out, problem.inputs[0], weight)])
        pairs = zip(found[0], found[1], strict=True)
        return all(float((a - b).float().norm()) <= WRONG_ABOVE * float(b.float().norm()) for a, b in pairs)


def small_case(task: Task) -> Case:
    operation = task.buckets[0].case.operation
    n_patches = task.buckets[0].case.n_patches
    return Case(operation, "small", (160,) if operation == "temporal" else (150, 33, 137), n_patches)


def warm(task: Task, row: TileConfig) -> bool:
    """Compile a candidate, in a process beside others; True if it computes the right thing."""
    try:
        return agrees(task, row)
    except Exception:  # a tile that does not fit is no candidate
        return False


def tune(task: Task, good: list[TileConfig], until: float) -> tuple[list[dict[str, object]], list[str]]:
    """Best row of every bucket, and lines that say how it compares with the first (the row in use)."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    rows, lines = [], []
    for bucket in task.buckets:
        times: dict[int, float] = {}
        for number, row in enumerate(good):
            if time.monotonic() > until:
                break
            try:
                times[number] = attempt(task, row, bucket.case, 0.05)
            except Exception as error:  # it ran on the small problem; here it may want too much memory
                lines.append(f"{task.table}, {bucket.case.name}: {_text(row)} fails: {str(error)[:80]}")
        if not times:
            continue
        best = min(times, key=lambda number: times[number])
        chosen = replace(good[best], width=task.width, largest=bucket.largest, measured=device)
        rows.append(plain(chosen))
        first = times.get(0, float("nan"))
        lines.append(
            f"{task.table}, {bucket.case.name}: {times[best]:.4g} ms with {_text(good[best])}, "
            f"{first:.4g} ms with the row in use, {len(times)} of {len(good)} timed"
        )
    return rows, lines


def _text(row: TileConfig) -> str:
    constants = ", ".join(f"{name} {value}" for name, value in row.constants.items())
    return f"{constants}, {row.num_warps} warps, {row.num_stages} stages"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=110)
    parser.add_argument("--processes", type=int, default=12)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU, nothing to tune")
        return
    began = time.monotonic()
    todo = tasks(torch.cuda.get_device_capability())
    pool: Callable[..., ProcessPoolExecutor] = ProcessPoolExecutor
    with pool(arguments.processes, get_context("spawn")) as executor:
        pending = {
            task.table: [(row, executor.submit(warm, task, row)) for row in task.rows] for task in todo
        }
        good = {
            table: [row for row, future in futures if future.result()] for table, futures in pending.items()
        }
    print(f"compiled and checked candidates in {time.monotonic() - began:.0f} s")
    report = []
    folder = arguments.out / "tiles"
    folder.mkdir(parents=True, exist_ok=True)
    left = arguments.seconds - (time.monotonic() - began)
    for number, task in enumerate(todo):
        now = time.monotonic()
        until = now + (began + arguments.seconds - now) / (len(todo) - number)
        rows, lines = tune(task, good[task.table], until)
        capability = torch.cuda.get_device_capability()
        kept = [plain(row) for row in tile_table(task.table)]
        replaced = {(row["width"], row["largest"]) for row in rows}
        kept = [
            row
            for row in kept
            if not (
                tuple(row["capability"]) == capability  # type: ignore[arg-type]
                and row["bits"] == 16
                and (row["width"], row["largest"]) in replaced
            )
        ]
        lines.append(
            f"{task.table}: {len(good[task.table])} of {len(task.rows)} candidates run and are right"
        )
        text = ",\n".join(json.dumps(row) for row in [*kept, *rows])
        (folder / f"{task.table}.json").write_text(f'{{"rows": [\n{text}\n]}}\n')
        print("\n".join(lines), flush=True)
        report += lines
    result = {"report": report, "seconds_left_after_compiling": left, **describe()}
    (arguments.out / "tune.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
