"""`card.json`: all that is needed to use a fitted probe on other units, and to know when not to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.applicability import Applicability, Range, Units, learn
from nuclr_cli.evaluation.calibration import CalibrationReport, calibrate
from nuclr_cli.evaluation.reliability import THRESHOLDS
from nuclr_cli.evaluation.splits import Split, UnitKeys
from nuclr_cli.workflows.from_json import rebuild
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.probe_places import CARD_FILE, no_probe
from nuclr_cli.workflows.probe_report import file_sha256

SCHEMA = 1
CARD = CARD_FILE
PROBE = "probe.skops"

_PARTS = 5

Kind = Literal["classification", "regression", "pairs"]


@dataclass(frozen=True)
class ProbeCard:
    """What a fitted probe is.

    Attributes:
        label: What it predicts: a label, the target of a regression, the name of a table of pairs.
        kind: ``classification``, ``regression`` or ``pairs``.
        classes: The K classes, sorted; () for a number.
        split: Kind of the split that it was scored on.
        split_document: That split without its units, which split.json holds.
        knowledge: ``inductive``, ``transductive`` or ``unknown``, of that split.
        variant: Which probe.
        pipeline: Its steps, in words.
        n_train_units: Units that the probe of probe.skops was fitted on: all usable ones.
        n_train_units_per_class: Class -> units; empty for a number.
        train_units_sha256: Digest of their keys, see `keys_sha256`.
        train_subjects: Their subjects, sorted.
        dim: Numbers in one row of its input.
        scores_of_the_split: What the split's report says of it.
        run: Id of the run that made the embeddings, empty when unknown.
        checkpoint: ``STEP@SHA256`` of the encoder; ``?`` for what the embeddings do not tell.
        embeddings_sha256: Digest of the file of embeddings.
        probe_sha256: Digest of probe.skops.
        versions: Of the libraries.
        c: Inverse strength of the logistic regression's penalty, None when there is none.
        alpha: Strength of the ridge penalty, None when there is none.
        target_range: Smallest and largest training value of a number.
        calibration: How probabilities are corrected, and how well that worked; None for a number, or when
            nothing was validated.
        applicability: What the probe has seen; None when nobody asked.
        schema: Version of this layout.
    """

    label: str
    kind: Kind
    classes: tuple[str, ...]
    split: str
    split_document: Mapping[str, Any]
    knowledge: str
    variant: str
    pipeline: str
    n_train_units: int
    n_train_units_per_class: Mapping[str, int]
    train_units_sha256: str
    train_subjects: tuple[str, ...]
    dim: int
    scores_of_the_split: Mapping[str, Any]
    run: str
    checkpoint: str
    embeddings_sha256: str
    probe_sha256: str
    versions: Mapping[str, str]
    c: float | None = None
    alpha: float | None = None
    target_range: Range | None = None
    calibration: CalibrationReport | None = None
    applicability: Applicability | None = None
    schema: int = field(default=SCHEMA, kw_only=True)


def make_card(
    kind: Kind,
    label: str,
    source: ProbeTable,
    split: Split | Mapping[str, Any],
    used: NDArray[np.int64],
    probe: Path,
    *,
    knowledge: str,
    variant: str,
    pipeline: str,
    scores: Any,
    versions: Mapping[str, str],
    classes: tuple[str, ...] = (),
    codes: NDArray[np.int64] | None = None,
    dim: int | None = None,
    c: float | None = None,
    alpha: float | None = None,
    target: NDArray[np.float64] | None = None,
    calibration: CalibrationReport | None = None,
) -> ProbeCard:
    """The card of a probe that lies in `probe` already.

    Args:
        kind, label, knowledge, variant, pipeline, versions: As in `ProbeCard`.
        classes, c, alpha, calibration: As in `ProbeCard`.
        source: The embeddings.
        split: The split that it was scored on, or a description of it with a ``kind``.
        used: Rows of `source` that the probe was fitted on.
        probe: The file of the fitted probe.
        scores: A record or a mapping with its scores.
        codes: (N,) class code of each row of `source`.
        dim: Numbers in one row of the input; None = those of an embedding.
        target: (N,) value of each row, of a regression.
    """
    document = _split_summary(split) if isinstance(split, Split) else dict(split)
    counts = {} if codes is None else np.bincount(codes[used], minlength=len(classes)).tolist()
    metadata = source.table.metadata
    return ProbeCard(
        label=label,
        kind=kind,
        classes=classes,
        split=str(document["kind"]),
        split_document=document,
        knowledge=knowledge,
        variant=variant,
        pipeline=pipeline,
        n_train_units=len(used),
        n_train_units_per_class=dict(zip(classes, counts, strict=True)) if codes is not None else {},
        train_units_sha256=keys_sha256(source.keys, used),
        train_subjects=tuple(sorted(set(source.keys.subject[used].tolist()))),
        dim=int(source.table.embedding.shape[1]) if dim is None else dim,
        scores_of_the_split=plain_document(scores),
        run=source.run.id if source.run else metadata.get("run", ""),
        checkpoint=checkpoint_of(metadata),
        embeddings_sha256=source.sha256,
        probe_sha256=file_sha256(probe),
        versions=dict(versions),
        c=c,
        alpha=alpha,
        target_range=None if target is None else Range(float(target[used].min()), float(target[used].max())),
        calibration=calibration,
        applicability=learn(units_of(source), used, _window_s(source)),
    )


def validated(
    probability: NDArray[np.float64], codes: NDArray[np.int64], rows: NDArray[np.int64], split: Split
) -> CalibrationReport | None:
    """Calibrate on out-of-fold predictions.

    Each is left out together with its fold; where there is one fold only, with the other units of its
    subject; where there is one subject only, with a fifth of the units.

    Args:
        probability: (N, K) out-of-fold probabilities, NaN where nothing was predicted.
        codes: (N,) class codes.
        rows: Rows that were tested, in the order of their keys.
        split: Which fold tested each.

    Returns:
        None when nothing was predicted.
    """
    rows = rows[~np.isnan(probability[rows]).any(axis=1)]
    if not len(rows):
        return None
    names, subject = np.unique(split.keys.subject[rows], return_inverse=True)
    if len(split.folds) > 1:
        parts, what = split.fold[rows], "folds"
    elif len(names) > 1:
        parts, what = subject.astype(np.int64), "subjects"
    else:
        parts, what = np.arange(len(rows), dtype=np.int64) % _PARTS, "parts of the units of one subject"
    return calibrate(probability[rows], codes[rows], parts, what)


def write_card(card: ProbeCard, folder: Path) -> None:
    """Write ``card.json``: lists of numbers on one line, so that people find the rest."""
    text = json.dumps(plain_document(card), indent=2, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


_NUMBERS = re.compile(r"\[\s+(-?\d[^\[\]{}\"]*)\]")


def read_card(folder: Path) -> ProbeCard:
    """Read the card of a probe.

    Raises:
        InputError: No such folder, no card, a damaged one, or one of another version of nuclr.
    """
    path = folder / CARD
    if not path.is_file():
        raise no_probe(folder)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError(f"it holds {type(document).__name__}, expected an object")
        if document.get("schema") != SCHEMA:
            raise InputError(
                f"{path} was written by another version of nuclr (schema {document.get('schema')}, this one "
                f"reads {SCHEMA}).",
                "Make the probe again with nuclr probe",
            )
        card = rebuild(ProbeCard, document)
        _check(card)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}.", "Make the probe again with nuclr probe") from None
    return card


def _check(card: ProbeCard) -> None:
    """Raise ValueError where parts of a card contradict one another."""
    if card.kind == "classification" and len(card.classes) < 2:
        raise ValueError(f"classes are {list(card.classes)}, expected at least two")
    if card.dim < 1:
        raise ValueError(f"dim is {card.dim}")
    report = card.calibration
    if report is not None:
        curves = report.calibration.curves
        if report.calibration.method == "isotonic" and len(curves) != len(card.classes):
            raise ValueError(f"{len(curves)} calibration curves for {len(card.classes)} classes")
        if any(len(curve.x) != len(curve.y) or not curve.x for curve in curves):
            raise ValueError("a calibration curve has as many x as y")
        if not (math.isfinite(report.calibration.temperature) and report.calibration.temperature > 0):
            raise ValueError(f"the temperature is {report.calibration.temperature}")
        curve = report.thresholds
        if {len(curve.kept), len(curve.right)} != {len(THRESHOLDS)}:
            raise ValueError("thresholds are not those of this version")
        counts = zip(curve.kept, curve.right, strict=True)
        if curve.n < 1 or not all(0 <= right <= kept <= curve.n for kept, right in counts):
            raise ValueError(f"thresholds do not count parts of {curve.n} validation units")
    cloud = None if card.applicability is None else card.applicability.cloud
    if cloud is not None:
        lengths = {len(cloud.mean), *map(len, cloud.axes)}
        if (
            lengths != {card.dim}
            or len(cloud.axes) != len(cloud.variances)
            or min(cloud.variances, default=1) <= 0
        ):
            raise ValueError("the training embeddings do not fit the dimension")


def units_of(source: ProbeTable) -> Units:
    """The units of a table, as applicability sees them."""
    table, keys = source.table, source.keys
    population = [f"{a}/{b}" for a, b in zip(keys.recording.tolist(), keys.population.tolist(), strict=True)]
    return Units(
        subject=keys.subject,
        population=np.array(population, dtype=np.str_),
        modality=table.modality,
        n_windows=table.n_windows,
        n_events=table.n_events,
        embedding=table.embedding,
    )


def checkpoint_of(metadata: Mapping[str, str]) -> str:
    """``STEP@SHA256`` of the encoder that made a table; ``?`` for what it does not say."""
    return "@".join(metadata.get(key, "?") for key in ("checkpoint_step", "checkpoint_sha256"))


def keys_sha256(keys: UnitKeys, rows: NDArray[np.int64]) -> str:
    """sha256 over the sorted keys of some units, a JSON list a line: says which, without listing them."""
    lines = sorted(json.dumps([str(column[row]) for column in keys.columns()]) for row in rows.tolist())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def plain_document(document: Any) -> Any:
    """A record or a mapping as plain JSON values.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON has not.
    """
    return json.loads(json.dumps(document, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _split_summary(split: Split) -> dict[str, Any]:
    return {
        "kind": split.kind,
        "how": split.how,
        "seed": split.seed,
        "subjects_disjoint": split.subjects_disjoint,
        "folds": [{"name": f.name, "n_train": len(f.train), "n_test": len(f.test)} for f in split.folds],
        "file": "split.json",
    }


def _window_s(source: ProbeTable) -> dict[str, float]:
    if source.run is None:
        return {}
    tokens = source.run.settings.tokens
    return {"spikes": tokens.spikes.window_s, "calcium": tokens.calcium.window_s}
