"""The question that every method of a probe answers: the same rows, the same codes, the same split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.bootstrap import label_constant
from nuclr_cli.evaluation.probes import PLAIN, FrontEnd, Predictions, Variant, cross_predict
from nuclr_cli.evaluation.splits import LEFT_OUT, Split
from nuclr_cli.workflows.probe_inputs import Labels, ProbeTable


@dataclass(frozen=True)
class Question:
    """Everything that all methods share.

    Attributes:
        source: The table of embeddings.
        labels: The label of its N rows.
        classes: K class names, sorted.
        codes: (N,) int64 class codes, -1 = unlabelled.
        split: Who trains and who is tested.
        variant: Which probe.
    """

    source: ProbeTable
    labels: Labels
    classes: tuple[str, ...]
    codes: NDArray[np.int64]
    split: Split
    variant: Variant

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) rows that may train or be tested: labelled, in the split, with an embedding."""
        return np.asarray((self.split.fold != LEFT_OUT) & self.source.embedded)

    @property
    def tested(self) -> NDArray[np.int64]:
        """Rows of test folds with an embedding, in the order of their keys."""
        order = self.source.keys.order
        rows: NDArray[np.int64] = order[(self.split.tested & self.source.embedded)[order]]
        return rows

    @property
    def used(self) -> NDArray[np.int64]:
        """`usable` as rows in the order of their keys."""
        order = self.source.keys.order
        rows: NDArray[np.int64] = order[self.usable[order]]
        return rows

    def predict(
        self,
        values: NDArray[np.floating],
        codes: NDArray[np.int64] | None = None,
        front: FrontEnd = PLAIN,
    ) -> Predictions:
        """Out-of-fold predictions from (N, D) `values`, for the true codes or for others."""
        return cross_predict(
            values,
            self.codes if codes is None else codes,
            len(self.classes),
            self.split,
            self.usable,
            self.variant,
            front,
        )


def shortcut(question: Question) -> str:
    """What the probe could recognise instead of the label, in one sentence; empty when there is nothing."""
    keys, used, name = question.source.keys, question.used, question.labels.name
    codes = question.codes[used]
    for kind, group, shared in (
        ("subject", keys.subject, not question.split.subjects_disjoint),
        ("session", keys.recording, question.split.kind == "unit"),
    ):
        if shared and len(set(group[used].tolist())) > 1 and label_constant(group[used], codes):
            return (
                f"Every {kind} has one class of {name} only, and this split trains and tests on the same "
                f"{kind}s: recognising the {kind} is enough to score well. Ask with --split {kind}"
            )
    return ""


def reasons(question: Question, own: Predictions) -> NDArray[np.str_]:
    """(N,) why a row has no prediction; empty where it has one."""
    source, split = question.source, question.split
    cases = [
        (own.predicted >= 0, ""),
        (question.codes < 0, "unlabelled"),
        (split.fold == LEFT_OUT, "not in the split"),
        (~source.embedded, "no embedding: never active in a window"),
        (~split.tested, "training only"),
    ]
    reason: NDArray[np.str_] = np.select(
        [where for where, _ in cases],
        [np.array(text) for _, text in cases],
        default=np.array("its fold could not be trained"),
    )
    return reason
