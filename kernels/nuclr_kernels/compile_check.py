"""Compiles what can be launched, for every generation of GPU, and judges what it uses.

    python -m nuclr_kernels.compile_check --out FOLDER

needs triton and no GPU. Registers that do not fit are spilled to local memory, which costs more than any tile
size gains, so spills are the first thing that the check looks at.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from nuclr_kernels.ahead_of_time import SHARED_LIMIT_BYTES, CompileCase, Resources, compile_case

OPERATIONS = ("population_attention", "temporal_attention", "contrastive")
CAPABILITIES = tuple(SHARED_LIMIT_BYTES)
MOST_STACK_BYTES = {(8, 0): 64, (8, 6): 64, (8, 9): 64, (9, 0): 0}
"""Local memory of a thread that is let pass: none on Hopper, a few scalars on Ampere and Ada."""


@dataclass(frozen=True)
class Compiled:
    """One kernel on one GPU.

    Attributes:
        name: Of the case.
        capability: Of the GPU.
        resources: None where it did not compile.
        complaints: What is wrong with it; empty = it passes.
    """

    name: str
    capability: tuple[int, int]
    resources: Resources | None
    complaints: tuple[str, ...]


def all_cases(capability: tuple[int, int], operations: Sequence[str] = OPERATIONS) -> Iterator[CompileCase]:
    """Every kernel with every tile, dtype and width that a GPU of `capability` can be asked to run."""
    for operation in operations:
        yield from importlib.import_module(f"nuclr_kernels.{operation}.compile_cases").compile_cases(
            capability
        )


def gate_cases(capability: tuple[int, int], operations: Sequence[str] = OPERATIONS) -> Iterator[CompileCase]:
    """Those of `all_cases` that training with the presets runs, so that the gate takes minutes.

    Heads 64 wide in bfloat16 and float32 with IEEE products; on Hopper also the other widths in bfloat16.
    """
    for case in all_cases(capability, operations):
        wide = re.search(r"width (\d+)", case.name)
        usual = wide is None or wide.group(1) in ("64", "256")
        if ("bf16" in case.name and (usual or capability >= (9, 0))) or (
            "fp32" in case.name and usual and "tf32" not in case.name
        ):
            yield case


def check_all(
    capabilities: Sequence[tuple[int, int]] = CAPABILITIES,
    operations: Sequence[str] = OPERATIONS,
    n_processes: int = 2,
    everything: bool = False,
) -> list[Compiled]:
    """Compile and judge the cases of the gate, or all, in processes that start anew.

    Raises:
        RuntimeError: Triton interprets kernels in this process, so there is nothing to compile.
    """
    from nuclr_kernels.dispatch import interpreting

    if interpreting():
        raise RuntimeError("kernels are compiled in a process without TRITON_INTERPRET")
    tasks = [
        (capability, operation, shard, n_processes, everything)
        for capability in capabilities
        for operation in operations
        for shard in range(n_processes)
    ]
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn")) as pool:
        return [compiled for part in pool.map(_check_shard, tasks) for compiled in part]


def _check_shard(task: tuple[tuple[int, int], str, int, int, bool]) -> list[Compiled]:
    capability, operation, shard, n_shards, everything = task
    chosen = all_cases if everything else gate_cases
    cases = list(chosen(capability, [operation]))[shard::n_shards]
    return [_check(case) for case in cases]


def _check(case: CompileCase) -> Compiled:
    try:
        used = compile_case(case)
    except Exception as error:
        what = f"does not compile: {type(error).__name__}: {error}".splitlines()[0]
        return Compiled(case.name, case.capability, None, (what,))
    complaints = []
    most = MOST_STACK_BYTES[case.capability]
    if used.stack_bytes > most:
        complaints.append(f"{used.stack_bytes} bytes of local memory a thread, at most {most}")
    if used.shared_bytes > SHARED_LIMIT_BYTES[case.capability]:
        limit = SHARED_LIMIT_BYTES[case.capability]
        complaints.append(f"{used.shared_bytes} bytes of shared memory, the GPU has {limit}")
    if used.registers * used.threads > 65536:
        complaints.append(f"{used.registers} registers x {used.threads} threads, a multiprocessor has 65536")
    return Compiled(case.name, case.capability, used, tuple(complaints))


def table(results: Sequence[Compiled]) -> str:
    """Markdown: registers, local memory, shared memory and matrix instruction of every kernel and GPU."""
    capabilities = sorted({result.capability for result in results})
    lines = [
        "| kernel | " + " | ".join(f"sm_{a}{b}" for a, b in capabilities) + " |",
        "|--|" + "--|" * len(capabilities),
    ]
    by_name: dict[str, dict[tuple[int, int], Compiled]] = {}
    for result in results:
        by_name.setdefault(result.name, {})[result.capability] = result
    for name, row in by_name.items():
        cells = []
        for capability in capabilities:
            result_here = row.get(capability)
            used = None if result_here is None else result_here.resources
            if used is None:
                cells.append("" if result_here is None else "fails")
                continue
            spilled = f", {used.stack_bytes} B spilled" if used.stack_bytes else ""
            cells.append(
                f"{used.registers} reg, {used.shared_bytes / 1024:.0f} KB{spilled} {used.tensor_core}".strip()
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write the table and the JSON beside it; exit 1 when something complains."""
    import triton

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="folder for kernel_resources.md and .json")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--operation", action="append", choices=OPERATIONS)
    parser.add_argument(
        "--all", action="store_true", help="all widths and dtypes: most of an hour on 2 cores"
    )
    arguments = parser.parse_args()
    results = check_all(
        operations=arguments.operation or OPERATIONS,
        n_processes=arguments.processes,
        everything=arguments.all,
    )
    wrong = [result for result in results if result.complaints]
    for result in wrong:
        print(
            f"sm_{result.capability[0]}{result.capability[1]} {result.name}: {'; '.join(result.complaints)}"
        )
    print(f"triton {triton.__version__}: {len(results) - len(wrong)} of {len(results)} kernels pass")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = (
            "# What the kernels use\n\nRegisters of a thread, shared memory of a block, and the matrix "
            f"instruction, by ahead-of-time compilation with triton {triton.__version__}.\n\n"
            f"{table(results)}\n\n"
            "Made by `python -m nuclr_kernels.compile_check --out benchmarks/results`.\n"
        )
        (arguments.out / "kernel_resources.md").write_text(text)
        content = {"triton": triton.__version__, "kernels": [asdict(result) for result in results]}
        (arguments.out / "kernel_resources.json").write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
