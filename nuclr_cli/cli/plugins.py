"""`nuclr plugins`."""

from __future__ import annotations

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.options import command


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    plugins = typer.Typer(
        help="Reader plugins: what is installed and what failed to load.", no_args_is_help=True
    )
    app.add_typer(plugins, name="plugins")

    # Typer turns the only command of a group into the group itself unless there is a callback.
    @plugins.callback()
    def group() -> None:
        pass

    @command(plugins, "list")
    def list_plugins(console: Console) -> None:
        """List every installed plugin, its readers and formats, and why it failed if it did."""
        from nuclr_cli.registry import Registry

        found = Registry.load().plugins
        columns = ["plugin", "package", "version", "readers", "formats", "status"]
        rows = [
            [
                info.name,
                info.distribution,
                info.version,
                ", ".join(info.readers),
                ", ".join(info.formats),
                info.error or "ok",
            ]
            for info in found
        ]
        console.result({"plugins": found}, lambda: console.table("", columns, rows))
        for info in found:
            if info.error:
                console.warn(f"plugin {info.name} ({info.distribution} {info.version}): {info.error}")
