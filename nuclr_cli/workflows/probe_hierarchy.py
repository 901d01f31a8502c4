"""A label asked parent first, then child, scored beside the probe of all children at once."""

from __future__ import annotations

from nuclr_cli.evaluation.hierarchy import hierarchical_predictions, parent_scores
from nuclr_cli.evaluation.predictions import Predictions
from nuclr_cli.evaluation.records import Judge
from nuclr_cli.workflows.probe_question import Question
from nuclr_cli.workflows.probe_record import HierarchyRecord


def ask_parents_first(
    question: Question, parent: str, flat: Predictions, judge: Judge
) -> tuple[HierarchyRecord, Predictions]:
    """Predict by p(parent) x p(child | parent) and compare with the flat probe on the same resamples.

    Args:
        question: The question, with its tree.
        parent: Label of the parents.
        flat: Predictions of the probe of all children at once.
        judge: Holds the resamples.
    """
    tree = question.tree
    assert tree is not None
    product = hierarchical_predictions(
        question.source.table.embedding,
        question.codes,
        tree,
        question.split,
        question.usable,
        question.variant,
    )
    tested, k = question.tested, len(question.classes)
    truth = question.codes[tested]
    of_flat = judge.score(truth, flat.predicted[tested], k)
    of_product = judge.score(truth, product.predicted[tested], k)
    parent_of, p = tree.parent_of, len(tree.parents)
    flat_parents = judge.score(parent_of[truth], parent_of[flat.predicted[tested]], p)
    product_parents = judge.score(parent_of[truth], parent_of[product.predicted[tested]], p)
    record = HierarchyRecord(
        parent=parent,
        flat=of_flat.metric("macro_f1"),
        hierarchical=of_product.metric("macro_f1"),
        hierarchical_minus_flat=of_product.minus(of_flat, "macro_f1"),
        flat_parent_accuracy=flat_parents.metric("accuracy"),
        hierarchical_parent_accuracy=product_parents.metric("accuracy"),
        parents=parent_scores(
            tree, question.classes, truth, flat.probability[tested], product.probability[tested]
        ),
        notes=product.notes,
    )
    return record, product
