"""The `nuclr` command. Heavy libraries are imported by the workflows, when work starts."""

from __future__ import annotations

from typing import Annotated

import typer

from nuclr_cli import __version__
from nuclr_cli.cli import (
    demo,
    doctor,
    embed,
    import_checkpoint,
    info,
    label,
    plugins,
    predict,
    preprocess,
    pretrain,
    probe,
    report,
    runs,
    scale,
)

app = typer.Typer(
    name="nuclr",
    help="Who is a neuron? One embedding per neuron from what the population around it does, "
    "and linear probes that read cell type and brain region from it.",
    epilog="One folder, in this order: nuclr preprocess ./sorting; nuclr pretrain; nuclr embed; "
    "nuclr probe --label cell_type",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"nuclr {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


_CHAIN = (preprocess, info, label, pretrain, runs, import_checkpoint, embed, probe, predict, scale, report)

for module in (*_CHAIN, demo, plugins, doctor):
    module.register(app)


def main() -> None:
    """Entry point of the `nuclr` script."""
    app()
