"""`nuclr doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import command

if TYPE_CHECKING:
    from nuclr_cli.workflows.doctor import DoctorRecord

_GIB = 1 << 30


def register(app: typer.Typer) -> None:
    """Add the subcommand."""

    @command(app, "doctor")
    def doctor(console: Console) -> None:
        """Check this machine: versions, GPU, which kernels run (each is tried once), plugins."""
        from nuclr_cli.workflows.doctor import doctor as run

        record = run()
        console.result(record, lambda: _render(console, record))
        for plugin in record.plugins:
            if plugin.error:
                console.warn(f"plugin {plugin}: {plugin.error}")
        if record.wrong:
            for check in record.wrong:
                what = (
                    check.failure or f"is off by {check.error:.1e}, at most {check.tolerance:.0e} is expected"
                )
                console.warn(f"{check.operation} ({check.path}, {check.dtype}): {what}")
            console.warn("Until that is mended, NUCLR_KERNELS=reference keeps to plain PyTorch.")
            raise typer.Exit(1)
        console.done("every operation agrees with its float64 reference")


def _render(console: Console, record: DoctorRecord) -> None:
    memory = "" if record.memory_bytes is None else f", {record.memory_bytes / _GIB:.0f} GiB memory"
    rows = [
        ["nuclr", f"{record.nuclr}, Python {record.python}"],
        ["system", record.system],
        ["CPU", f"{record.cores} core{'s' if record.cores != 1 else ''}{memory}"],
    ]
    for gpu in record.gpus:
        rows.append(
            ["GPU", f"{gpu.name}, {gpu.memory_bytes / _GIB:.0f} GiB, compute capability {gpu.capability}"]
        )
    if not record.gpus:
        why = "torch finds none" if record.cuda else "this torch is built without CUDA"
        rows.append(["GPU", f"none ({why})"])
    console.table("", ["machine", ""], rows)
    console.table(
        "",
        ["package", "version"],
        [
            [package.name, package.version or ("-" if package.optional else "missing")]
            for package in record.packages
        ],
    )
    console.table(
        "",
        ["operation", "runs on", "dtype", "error", "allowed", "result"],
        [
            [
                check.operation,
                check.path + (f" ({check.reason})" if check.reason else ""),
                check.dtype,
                "-" if check.failure else f"{check.error:.1e}",
                f"{check.tolerance:.0e}",
                "ok" if check.ok else "wrong",
            ]
            for check in record.operations
        ],
    )
    console.table(
        "",
        ["plugin", "package", "version", "status"],
        [[p.name, p.distribution, p.version, p.error or "ok"] for p in record.plugins],
    )
