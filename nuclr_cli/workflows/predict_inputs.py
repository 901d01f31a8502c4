"""What a prediction reads: the fitted probe, without running anything in it, and embeddings that fit it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.predict_record import PredictConfig
from nuclr_cli.workflows.probe_card import PROBE, ProbeCard, checkpoint_of
from nuclr_cli.workflows.probe_inputs import ProbeTable, read_table
from nuclr_cli.workflows.probe_report import file_sha256
from nuclr_cli.workflows.reporting import Reporter

_AGAIN = "Make the probe again with nuclr probe"
# Last step of a pipeline by kind; a scaler stands before it.
_MODELS = {"classification": "LogisticRegression", "regression": "Ridge"}


def load_fitted(folder: Path, card: ProbeCard) -> Any:
    """The fitted pipeline of a probe.

    Only types that skops trusts by itself are built, and only a scaler and a linear model are accepted.

    Raises:
        InputError: Missing, damaged, not the one of the card, or made of anything else.
    """
    import skops.io

    path = folder / PROBE
    if not path.is_file():
        raise InputError(f"{path} is missing.", _AGAIN)
    try:
        untrusted = skops.io.get_untrusted_types(file=path)
    except Exception as error:  # zipfile, json and skops raise whatever damaged bytes lead them to
        raise InputError(f"{path} is damaged: {_said(error)}.", _AGAIN) from None
    if untrusted:
        raise InputError(
            f"{path} was not loaded: it asks for types that could run code: "
            f"{', '.join(map(str, untrusted))}.",
            _AGAIN,
        )
    found = file_sha256(path)
    if found != card.probe_sha256:
        raise InputError(
            f"{path} is not the probe of its card: its sha256 begins with {found[:12]}, the card says "
            f"{card.probe_sha256[:12]}.",
            _AGAIN,
        )
    try:
        fitted = skops.io.load(path, trusted=[])
    except Exception as error:
        raise InputError(
            f"{path} cannot be loaded: {_said(error)}. It was written with {_versions(card)}.",
            f"Install these versions, or: {_AGAIN}",
        ) from None
    _require_linear(fitted, path, card)
    return fitted


def find_table(config: PredictConfig, reporter: Reporter) -> ProbeTable:
    """The embeddings to predict from: a file, those of a run, else those that the probe was fitted on.

    Raises:
        InputError: None to be found.
    """
    if config.embeddings is not None or config.run is not None:
        return read_table(config.run, config.embeddings, config.runs, reporter)
    for folder in config.probe.resolve().parents:
        if (folder / "run.json").is_file():
            return read_table(folder, None, folder.parent, reporter)
        stem = folder.name.removesuffix("-probes")
        if stem != folder.name:
            return read_table(None, folder.with_name(f"{stem}.parquet"), config.runs, reporter)
    raise InputError(
        f"{config.probe} lies in no run, so its embeddings are not known.",
        "Name them: --embeddings FILE, or --run NAME",
    )


def require_same_encoder(card: ProbeCard, source: ProbeTable, probe: Path) -> None:
    """Refuse embeddings of other weights: numbers of another encoder mean something else.

    Raises:
        InputError: Another checkpoint, another width, or nothing that says which.
    """
    found = checkpoint_of(source.table.metadata)
    run = source.table.metadata.get("run", "")
    same = found == card.checkpoint
    if "?" in found or "?" in card.checkpoint:  # made by hand: the run has to tell
        same = same and (source.sha256 == card.embeddings_sha256 or (run != "" and run == card.run))
    if not same:
        raise InputError(
            f"{source.path} was made by checkpoint {_short(found)} of run {run or '?'}, but the probe "
            f"{probe} was fitted on embeddings of checkpoint {_short(card.checkpoint)} of run "
            f"{card.run or '?'}.",
            f"Embed with the probe's checkpoint ({_embed_command(card)}), or probe these embeddings: "
            f"nuclr probe --label {card.label} --embeddings {source.path}",
        )
    dim = source.table.embedding.shape[1]
    if dim != card.dim:
        raise InputError(
            f"{source.path} has {dim} numbers a unit, the probe {probe} was fitted on {card.dim}.",
            "Give embeddings of the same run",
        )


def _embed_command(card: ProbeCard) -> str:
    run, step = card.run.partition("@")[0], card.checkpoint.partition("@")[0]
    named = f" --run {run}" if run else ""
    return f"nuclr embed DATA{named}{f' --checkpoint {step}' if step.isdigit() else ''} -o FILE"


def _short(checkpoint: str) -> str:
    step, _, digest = checkpoint.partition("@")
    return f"{step}@{digest[:12]}"


def _require_linear(fitted: Any, path: Path, card: ProbeCard) -> None:
    steps = [type(step).__name__ for _, step in getattr(fitted, "steps", ())]
    expected = ["StandardScaler", _MODELS[card.kind]]
    if type(fitted).__name__ != "Pipeline" or steps != expected:
        raise InputError(
            f"{path} holds {', '.join(steps) or type(fitted).__name__}, expected {', '.join(expected)}.",
            _AGAIN,
        )
    scaler, model = (step for _, step in fitted.steps)
    n_outputs = len(card.classes) if len(card.classes) > 2 else 1
    shapes = {
        "the scaler": (getattr(scaler, "mean_", None), (card.dim,)),
        "the coefficients": (getattr(model, "coef_", None), (n_outputs, card.dim)),
    }
    for what, (array, shape) in shapes.items():
        found = getattr(array, "shape", None)
        if found != shape and (card.kind, found) != ("regression", (card.dim,)):
            raise InputError(f"{path}: {what} have shape {found}, the card says {shape}.", _AGAIN)
    if card.kind == "classification" and tuple(model.classes_.tolist()) != card.classes:
        raise InputError(
            f"{path} tells {', '.join(map(str, model.classes_.tolist()))} apart, the card says "
            f"{', '.join(card.classes)}.",
            _AGAIN,
        )


def _versions(card: ProbeCard) -> str:
    names = ("scikit-learn", "skops", "numpy")
    return ", ".join(f"{name} {card.versions.get(name, '?')}" for name in names)


def _said(error: Exception) -> str:
    text = str(error).strip().splitlines()
    kind = "not a zip archive" if isinstance(error, zipfile.BadZipFile) else type(error).__name__
    return f"{kind} ({text[0][:200]})" if text else kind
