"""`nuclr plugins`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import command

if TYPE_CHECKING:
    from nuclr_cli.workflows.plugin_check import PluginCheckRecord


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    plugins = typer.Typer(
        help="Plugins: what is installed and what failed to load; start one of your own, and check it.",
        no_args_is_help=True,
    )
    app.add_typer(plugins, name="plugins")
    _register_list(plugins)
    _register_new(plugins)
    _register_check(plugins)


def _register_list(plugins: typer.Typer) -> None:
    @command(plugins, "list")
    def list_plugins(console: Console) -> None:
        """List every installed plugin, what it reads and writes, and why it failed if it did."""
        from nuclr_cli.api import API_VERSION
        from nuclr_cli.registry import Registry

        found = Registry.load().plugins
        columns = ["plugin", "package", "version", "readers", "formats", "exporters", "API", "status"]
        rows = [
            [
                info.name,
                info.distribution,
                info.version,
                ", ".join(info.readers),
                ", ".join(info.formats),
                ", ".join(info.exporters),
                info.api or "-",
                info.error or "ok",
            ]
            for info in found
        ]
        console.result(
            {"api_version": API_VERSION, "plugins": found}, lambda: console.table("", columns, rows)
        )
        for info in found:
            if info.error:
                console.warn(f"plugin {info.name} ({info.distribution} {info.version}): {info.error}")


def _register_new(plugins: typer.Typer) -> None:
    @command(plugins, "new")
    def new(
        console: Console,
        name: Annotated[
            str, typer.Argument(metavar="NAME", help="Lower case letters, digits, hyphens, e.g. mylab.")
        ],
        out: Annotated[
            Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to put the package into.")
        ] = Path(),
    ) -> None:
        """Write the package nuclr-NAME: a reader that works, its tests, and all that pip needs."""
        from nuclr_cli.workflows.plugin_template import new_plugin

        record = new_plugin(name, out)
        console.result(
            record, lambda: console.print("\n".join(str(record.folder / name) for name in record.files))
        )
        console.done(f"{record.distribution}: the reader {record.reader!r} in {record.module}.py")
        console.next_step(f"pip install -e {record.folder}")


def _register_check(plugins: typer.Typer) -> None:
    @command(plugins, "check")
    def check(
        console: Console,
        name: Annotated[str, typer.Argument(metavar="NAME", help="Reader: see nuclr plugins list.")],
        path: Annotated[Path, typer.Argument(metavar="PATH", help="A recording it should read.")],
        needs: Annotated[
            list[str] | None,
            typer.Option(metavar="PACKAGE", help="Optional package it imports to read this. Repeatable."),
        ] = None,
        duration: Annotated[
            str | None, typer.Option(metavar="SECONDS", help="As for nuclr preprocess.")
        ] = None,
        fs: Annotated[float | None, typer.Option(metavar="HZ", help="As for nuclr preprocess.")] = None,
        series: Annotated[
            list[str] | None, typer.Option(metavar="NAME", help="As for nuclr preprocess. Repeatable.")
        ] = None,
        option: Annotated[
            list[str] | None,
            typer.Option(metavar="KEY=VALUE", help="Option that only this reader knows. Repeatable."),
        ] = None,
    ) -> None:
        """Check on a real recording that a reader does what nuclr relies on; copies are damaged, not it."""
        from nuclr_cli.api import ReadOptions
        from nuclr_cli.cli.preprocess import reader_options
        from nuclr_cli.workflows.manifest import parse_seconds
        from nuclr_cli.workflows.plugin_check import PluginCheckConfig, check_plugin, failure

        options = ReadOptions(
            duration_s=parse_seconds(duration or "", "--duration"),
            fs_hz=fs,
            series=tuple(series or ()),
            extra=reader_options(option or []),
        )
        record = check_plugin(PluginCheckConfig(name, path, options, tuple(needs or ())), console)
        console.result(record, lambda: _render(console, record))
        failed = failure(record)
        if failed is not None:
            raise failed
        console.done(f"the reader {name!r} does what nuclr relies on")


def _render(console: Console, record: PluginCheckRecord) -> None:
    rows = [
        [result.check.replace("_", " "), result.status, "\n".join(filter(None, (result.found, result.fix)))]
        for result in record.checks
    ]
    console.table("", ["check", "result", "found, and what to do"], rows)
