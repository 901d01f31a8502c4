"""`nuclr label`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.info import labels_text
from nuclr_cli.cli.options import command
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.workflows.label import LabelRecord


def register(app: typer.Typer) -> None:
    """Add the subcommand."""

    @command(app, "label")
    def label(
        console: Console,
        data: Annotated[
            Path, typer.Argument(metavar="[DATA]", help="Folder of session files, or one file.")
        ] = Path("nuclr-data"),
        labels: Annotated[
            Path | None, typer.Option(metavar="CSV|TSV", help="Labels of units, one row per unit id.")
        ] = None,
        regions: Annotated[
            Path | None,
            typer.Option(
                metavar="CSV|TSV", help="Brain regions of channels; units take that of their peak channel."
            ),
        ] = None,
        label_map: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME|TOML", help="Group labels into classes: see --maps. Repeatable."),
        ] = None,
        remove: Annotated[
            list[str] | None, typer.Option(metavar="COLUMN", help="Column to take away. Repeatable.")
        ] = None,
        overwrite_labels: Annotated[
            bool, typer.Option("--overwrite-labels", help="Replace labels that are there and differ.")
        ] = False,
        maps: Annotated[bool, typer.Option("--maps", help="List the label maps that nuclr brings.")] = False,
    ) -> None:
        """Add, change or remove labels in session files; the recordings in them are not touched."""
        if maps:
            _list_maps(console)
            return
        from nuclr_cli.workflows.label import LabelConfig
        from nuclr_cli.workflows.label import label as run

        config = LabelConfig(
            data=data,
            labels=labels,
            regions=regions,
            label_maps=tuple(label_map or ()),
            remove=tuple(remove or ()),
            overwrite_labels=overwrite_labels,
        )
        record = run(config, console)
        console.result(record, lambda: _render(console, record))
        console.done(
            f"{counted(record.count('written'), 'session file')} changed, "
            f"{record.count('unchanged')} unchanged in {data}"
        )
        if record.count("written"):
            console.next_step("nuclr embed")


def _list_maps(console: Console) -> None:
    from nuclr_cli.workflows.label_maps import shipped_maps

    found = shipped_maps()
    plain = [
        {
            "name": item.name,
            "title": item.title,
            "columns": item.columns,
            "target": item.target,
            "classes": item.classes,
        }
        for item in found
    ]
    rows = [
        [item.name, " or ".join(item.columns), item.target, ", ".join(item.classes), item.title]
        for item in found
    ]
    console.result(
        plain, lambda: console.table("", ["name", "reads", "writes", "classes", "what it is"], rows)
    )


def _render(console: Console, record: LabelRecord) -> None:
    rows = []
    for item in record.sessions:
        actions = "\n".join(
            f"{action.file or action.what}: {', '.join(action.columns)}, "
            f"{counted(action.changed, 'unit')} changed"
            for action in item.actions
        )
        name = item.session.session
        if item.session.population != "0":
            name += f" / {item.session.population}"
        units = str(item.session.n_units)
        rows.append([item.session.subject, name, units, actions, labels_text(item.session), item.status])
    console.table("", ["subject", "session", "units", "done", "labels", "status"], rows, right=(2,))
