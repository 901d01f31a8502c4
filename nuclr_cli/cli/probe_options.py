"""Options of `nuclr probe` that say how a label is read."""

from __future__ import annotations

from typing import Annotated

import typer

from nuclr_cli.cli.options import WHERE

PANEL = "How a label is read"

Label = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Label column, e.g. cell_type. Repeatable (or A,B): each label has a folder of its own.",
    ),
]
Variant = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=PANEL,
        help="default (class weights), or paper (oversampling, as the paper's numbers).",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(metavar="A,B", rich_help_panel=PANEL, help="Classes that take part. Default: all."),
]
Balance = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        rich_help_panel=PANEL,
        help="weights (by inverse frequency), oversample, or none. Default: as the variant does.",
    ),
]
Penalty = Annotated[
    str,
    typer.Option(
        "--C",
        metavar="C|nested",
        rich_help_panel=PANEL,
        help="Inverse strength of the L2 penalty; nested: chosen inside each fold's training units.",
    ),
]
Parent = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=PANEL,
        help="Coarser label (--label subclass --parent class): also ask parent first, then child.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Folds fitted at once; the numbers are the same. Default: one per core.",
        rich_help_panel=WHERE,
    ),
]
