"""Compiles what can be launched, for every generation of GPU, and judges what it uses.

    python -m nuclr_kernels.compile_check --out FOLDER

needs triton and no GPU. Registers that do not fit are spilled to local memory, which costs more than any tile
size gains, so spills are the first thing that the check looks at.

`make kernels-matrix` runs it with other versions of triton than the one that is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from nuclr_kernels.ahead_of_time import SHARED_LIMIT_BYTES, CompileCase, Resources, compile_case

OPERATIONS = ("population_attention", "temporal_attention", "contrastive")
CAPABILITIES = tuple(SHARED_LIMIT_BYTES)
MOST_STACK_BYTES = {(8, 0): 64, (8, 6): 64, (8, 9): 64, (9, 0): 0}
"""Local memory of a thread that is let pass: none on Hopper, a few scalars on Ampere and Ada."""
COMPILE_LIMIT_S = 300.0
"""A compiler that takes longer for one kernel is taken to hang."""

_Task = tuple[tuple[int, int], str, bool, int]
"""Capability, operation, all cases or those of the gate, position among them."""


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

    A case whose compiler crashes or hangs complains like any other, and a new process goes on with the next.

    Raises:
        RuntimeError: Triton interprets kernels in this process, so there is nothing to compile.
    """
    from nuclr_kernels.dispatch import interpreting

    if interpreting():
        raise RuntimeError("kernels are compiled in a process without TRITON_INTERPRET")
    tasks = [
        (capability, operation, everything, position)
        for capability in capabilities
        for operation in operations
        for position in range(len(_cases(capability, operation, everything)))
    ]
    idle: SimpleQueue[_CompilerProcess] = SimpleQueue()
    for _ in range(n_processes):
        idle.put(_CompilerProcess())

    def check(task: _Task) -> Compiled:
        compiler = idle.get()
        try:
            return compiler.check(task)
        finally:
            idle.put(compiler)

    try:
        with ThreadPoolExecutor(n_processes) as threads:
            return list(threads.map(check, tasks))
    finally:
        for _ in range(n_processes):
            idle.get().stop()


@cache
def _cases(capability: tuple[int, int], operation: str, everything: bool) -> tuple[CompileCase, ...]:
    return tuple((all_cases if everything else gate_cases)(capability, [operation]))


class _CompilerProcess:
    """Compiles one case after the other in a process of its own, for compilers may abort."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._tasks, theirs = context.Pipe()
        self._process = context.Process(target=_check_tasks, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of what can be read

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self._tasks.close()

    def check(self, task: _Task) -> Compiled:
        """Compile and judge a case; a complaint where that ends the process or takes too long."""
        try:
            self._tasks.send(task)
            if self._tasks.poll(COMPILE_LIMIT_S):
                result: Compiled = self._tasks.recv()
                return result
            what = f"is not compiled after {COMPILE_LIMIT_S:.0f} s"
        except (EOFError, OSError):
            self._process.join()
            what = f"ends the compiler's process: {_ending(self._process.exitcode)}"
        self.stop()
        self._start()
        capability, operation, everything, position = task
        name = _cases(capability, operation, everything)[position].name
        return Compiled(name, capability, None, (what,))


def _ending(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit status {exit_code}"


def _check_tasks(tasks: Connection) -> None:
    with contextlib.suppress(EOFError, BrokenPipeError):  # whoever asked is gone
        while True:
            capability, operation, everything, position = tasks.recv()
            tasks.send(_check(_cases(capability, operation, everything)[position]))


def _check(case: CompileCase) -> Compiled:
    try:
        used = compile_case(case)
    except Exception as error:
        return Compiled(case.name, case.capability, None, (f"does not compile: {_reason(error)}",))
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


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:  # of a nest of calls between kernels, the innermost
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def table(results: Sequence[Compiled]) -> str:
    """Markdown: registers, local memory, shared memory and matrix instruction of every kernel and GPU."""
    capabilities = sorted({result.capability for result in results})
    lines = [
        "| kernel | " + " | ".join(map(_gpu, capabilities)) + " |",
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

    gpus = {_gpu(capability): capability for capability in CAPABILITIES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="folder for kernel_resources.md and .json")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--operation", action="append", choices=OPERATIONS)
    parser.add_argument("--gpu", action="append", choices=tuple(gpus))
    parser.add_argument(
        "--all", action="store_true", help="all widths and dtypes: most of an hour on 2 cores"
    )
    arguments = parser.parse_args()
    # Said first, so that whatever comes next can be told to be of this version.
    print(f"triton {triton.__version__}: compiling for {', '.join(arguments.gpu or gpus)}", flush=True)
    results = check_all(
        capabilities=[gpus[name] for name in arguments.gpu or gpus],
        operations=arguments.operation or OPERATIONS,
        n_processes=arguments.processes,
        everything=arguments.all,
    )
    wrong = [result for result in results if result.complaints]
    for result in wrong:
        where = f"triton {triton.__version__}, {_gpu(result.capability)}, {result.name}"
        print(f"{where}: {'; '.join(result.complaints)}")
    print(f"triton {triton.__version__}: {len(results) - len(wrong)} of {len(results)} kernels pass")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = (
            "# What the kernels use\n\nRegisters of a thread, shared memory of a block, and the matrix "
            f"instruction, by ahead-of-time compilation with triton {triton.__version__}.\n\n"
            f"{table(results)}\n\n"
            f"Made by `python -m nuclr_kernels.compile_check {shlex.join(sys.argv[1:])}`.\n"
        )
        (arguments.out / "kernel_resources.md").write_text(text)
        content = {"triton": triton.__version__, "kernels": [asdict(result) for result in results]}
        (arguments.out / "kernel_resources.json").write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(1 if wrong else 0)


def _gpu(capability: tuple[int, int]) -> str:
    return f"sm_{capability[0]}{capability[1]}"


if __name__ == "__main__":
    main()
