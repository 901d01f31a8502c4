"""`nuclr preprocess`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.cli.info import labels_text
from nuclr_cli.cli.options import WHERE, DaskAddress, command
from nuclr_cli.wording import counted

if TYPE_CHECKING:
    from nuclr_cli.workflows.preprocess import PreprocessRecord


def register(app: typer.Typer) -> None:
    """Add the subcommand."""

    @command(app, "preprocess")
    def preprocess(
        console: Console,
        sources: Annotated[
            list[Path] | None,
            typer.Argument(
                metavar="SOURCE...", help="Folders or files of recordings, any format that a plugin reads."
            ),
        ] = None,
        out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write.")] = Path(
            "nuclr-data"
        ),
        manifest: Annotated[
            Path | None,
            typer.Option(
                metavar="CSV", help="One row per source: path, subject, session, and whatever else is known."
            ),
        ] = None,
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
            typer.Option(
                metavar="NAME|TOML",
                help="Group labels into classes: see nuclr label --maps. Repeatable.",
            ),
        ] = None,
        broadcast: Annotated[
            list[str] | None,
            typer.Option(metavar="COLUMN", help="Column of the manifest that labels every unit. Repeatable."),
        ] = None,
        subject: Annotated[str | None, typer.Option(metavar="ID", help="Animal the source is of.")] = None,
        session: Annotated[str | None, typer.Option(metavar="ID", help="Recording session.")] = None,
        reader: Annotated[
            str | None, typer.Option(metavar="NAME", help="Reader to use: see nuclr plugins list.")
        ] = None,
        keep: Annotated[
            str | None,
            typer.Option(
                metavar="LABELS",
                help="Curation labels to keep, e.g. good,mua, or all. Without it: all but noise.",
            ),
        ] = None,
        segment_starts: Annotated[
            str | None, typer.Option(metavar="SECONDS", help="When each segment began, e.g. 0,1860.5")
        ] = None,
        duration: Annotated[
            str | None, typer.Option(metavar="SECONDS", help="Length of the recording, one per segment.")
        ] = None,
        fs: Annotated[
            float | None, typer.Option(metavar="HZ", help="Sampling rate, where the source has none.")
        ] = None,
        signal: Annotated[
            Literal["dff", "spks"] | None,
            typer.Option(help="Two-photon: dF/F (the default) or deconvolved activity."),
        ] = None,
        timestamps: Annotated[
            Path | None, typer.Option(metavar="NPY", help="Two-photon: time of each frame in seconds.")
        ] = None,
        min_iscell: Annotated[
            float | None,
            typer.Option(metavar="P", help="Suite2p: probability from which an ROI is a cell."),
        ] = None,
        red_label: Annotated[
            str | None, typer.Option(metavar="NAME", help="Suite2p: cell type of the red cells, e.g. PV.")
        ] = None,
        series: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME", help="Series to read where a file has several. Repeatable."),
        ] = None,
        drop_nan_units: Annotated[
            bool, typer.Option("--drop-nan-units", help="Leave out units with NaN in their trace.")
        ] = False,
        extractor: Annotated[
            str | None,
            typer.Option(metavar="NAME", help="SpikeInterface extractor for other formats; needs --trust."),
        ] = None,
        option: Annotated[
            list[str] | None,
            typer.Option(metavar="KEY=VALUE", help="Option that only one reader knows. Repeatable."),
        ] = None,
        jobs: Annotated[
            int | None,
            typer.Option(
                metavar="N",
                help="Processes; 1 keeps to one core. Without it: one per core.",
                rich_help_panel=WHERE,
            ),
        ] = None,
        dask: DaskAddress = None,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace files made from the same source.")
        ] = False,
        trust: Annotated[
            bool, typer.Option("--trust", help="Let code inside the sources (pickles) run.")
        ] = False,
    ) -> None:
        """Turn recordings into one file per population, and say what was found and assumed."""
        if not sources and manifest is None:
            raise typer.BadParameter("give at least one SOURCE, or --manifest FILE.csv.", param_hint="SOURCE")
        from nuclr_cli.workflows.manifest import parse_seconds
        from nuclr_cli.workflows.preprocess import PreprocessConfig, SourcesFailed
        from nuclr_cli.workflows.preprocess import preprocess as run

        config = PreprocessConfig(
            sources=tuple(sources or ()),
            out=out,
            manifest=manifest,
            labels=labels,
            regions=regions,
            label_maps=tuple(label_map or ()),
            broadcast=tuple(broadcast or ()),
            subject=subject,
            session=session,
            reader=reader,
            keep=tuple(part.strip() for part in (keep or "").split(",") if part.strip()),
            segment_starts_s=parse_seconds(segment_starts or "", "--segment-starts"),
            duration_s=parse_seconds(duration or "", "--duration"),
            fs_hz=fs,
            signal=signal,
            timestamps=timestamps,
            min_iscell=min_iscell,
            red_label=red_label,
            series=tuple(series or ()),
            drop_nan_units=drop_nan_units,
            extractor=extractor,
            jobs=jobs,
            dask=dask,
            overwrite=overwrite,
            trust=trust,
            extra=reader_options(option or []),
        )
        try:
            record = run(config, console)
        except SourcesFailed as error:
            # The finished sources are a result, too; with --json the error is the one document.
            if not console.json_output:
                _render(console, error.record)
            raise
        console.result(record, lambda: _render(console, record))
        console.done(
            f"{counted(record.count('written'), 'source')} written, {record.count('skipped')} unchanged: "
            f"{counted(len(record.sessions), 'population')}, {counted(record.n_units, 'unit')} "
            f"in {record.out}"
        )
        if record.trainable:
            console.next_step(
                f"nuclr pretrain {record.out}" if record.out != Path("nuclr-data") else "nuclr pretrain"
            )


def reader_options(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE.", param_hint="--option")
    return {key.strip(): value.strip() for key, _, value in (text.partition("=") for text in texts)}


def _render(console: Console, record: PreprocessRecord) -> None:
    rows = []
    for source in record.sources:
        if source.status == "failed":
            rows.append(["-", "-", "-", "-", "-", "failed", str(source.path)])
        for session in source.sessions:
            subject = session.subject + (" (assumed)" if session.subject_assumed else "")
            rows.append(
                [
                    subject,
                    session.session,
                    str(session.n_units),
                    f"{session.minutes:.1f}",
                    labels_text(session),
                    source.status,
                    str(session.file),
                ]
            )
    console.table(
        "", ["subject", "session", "units", "minutes", "labels", "status", "file"], rows, right=(2, 3)
    )
