"""The question that every method of a probe answers: the same rows, the same codes, the same split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.evaluation.cross_prediction import Kept, cross_predict, cross_predict_and_keep
from nuclr_cli.evaluation.hierarchy import Tree
from nuclr_cli.evaluation.predictions import Predictions
from nuclr_cli.evaluation.probes import PLAIN, FrontEnd, Variant
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
        tree: Which parent each class belongs to; None when nobody asked.
    """

    source: ProbeTable
    labels: Labels
    classes: tuple[str, ...]
    codes: NDArray[np.int64]
    split: Split
    variant: Variant
    tree: Tree | None = None

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

    def predict_and_keep(self) -> tuple[Predictions, Kept]:
        """Out-of-fold predictions from the embedding, and the probe that is kept."""
        return cross_predict_and_keep(
            self.source.table.embedding, self.codes, self.classes, self.split, self.usable, self.variant
        )


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
