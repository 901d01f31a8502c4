"""Numbers that need no label, and the checkpoint that is chosen by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclr_cli.data.embeddings import load_embeddings
from nuclr_cli.evaluation.diagnostics import Halves, diagnose, embedding_hits


def halves(first: np.ndarray, second: np.ndarray, rates: np.ndarray | None = None) -> Halves:
    flat = np.ones(len(first)) if rates is None else rates
    return Halves(first, second, flat, flat)


def noise(seed: int, n: int = 50, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim))


def test_units_that_do_not_change_are_all_found_again() -> None:
    found = diagnose([halves(noise(0), 3.0 * noise(0))], 5.0)
    assert found is not None
    assert found.retrieval.top1 == 1.0
    assert found.alignment == pytest.approx(0.0, abs=1e-12)
    assert found.rankme == 5.0
    assert found.retrieval.chance == pytest.approx(1 / 50)


def test_a_collapsed_embedding_scores_as_chance_does() -> None:
    same = np.ones((40, 8))
    found = diagnose([halves(same, same)], 1.0)
    assert found is not None
    assert found.retrieval.top1 == pytest.approx(1 / 40)
    assert found.retrieval.rate_top1 == pytest.approx(1 / 40)
    assert found.uniformity == pytest.approx(0.0, abs=1e-9)


def test_unrelated_halves_give_chance_and_far_apart_points() -> None:
    populations = [halves(noise(2 * i), noise(2 * i + 1)) for i in range(40)]
    found = diagnose(populations, 1.0)
    assert found is not None
    assert found.retrieval.interval.low <= found.retrieval.chance <= found.retrieval.interval.high
    assert found.alignment == pytest.approx(2.0, abs=0.1)
    # Of points spread evenly on a sphere of many dimensions the squared distance is near 2.
    assert found.uniformity == pytest.approx(-4.0, abs=0.6)


def test_rates_alone_find_what_differs_in_rate_alone() -> None:
    rates = 1.5 ** np.arange(20.0)
    found = diagnose([halves(noise(0, 20), noise(1, 20), rates)], 1.0)
    assert found is not None
    assert found.retrieval.rate_top1 == 1.0
    assert found.retrieval.top1 < 0.5


def test_retrieval_by_hand() -> None:
    first = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    second = np.array([[1.0, 0.1], [1.0, 0.9], [0.1, 1.0]])
    # There: 0 -> 0 right, 1 -> 2 wrong, 2 -> 1 wrong. Back: 0 -> 0 right, 1 -> 2 wrong, 2 -> 1 wrong.
    assert embedding_hits(halves(first, second)).tolist() == [1.0, 0.0, 0.0]


def test_only_units_of_both_halves_count_and_neighbours_are_of_the_same_population() -> None:
    first, second = noise(0, 10), noise(0, 10)
    first[0], second[1] = np.nan, np.nan
    found = diagnose(
        [halves(first, second), halves(noise(0, 10), noise(0, 10)), halves(first[:1], second[:1])], 1.0
    )
    assert found is not None
    assert (found.retrieval.n_units, found.retrieval.n_populations) == (18, 2)
    # The second population holds the same vectors as the first: a search across both could not be perfect.
    assert found.retrieval.top1 == 1.0
    assert diagnose([halves(first[:1], second[:1])], 1.0) is None


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 30))
def test_the_order_of_units_changes_nothing(seed: int, n: int) -> None:
    first, second = noise(seed, n, 4), noise(seed, n, 4) + 0.7 * noise(seed + 1, n, 4)
    order = np.random.default_rng(seed).permutation(n)
    rates = np.random.default_rng(seed + 2).uniform(0.1, 30.0, n)
    one = diagnose([Halves(first, second, rates, rates[::-1])], 1.0, n_resamples=1)
    other = diagnose(
        [Halves(first[order], second[order], rates[order], rates[::-1][order])], 1.0, n_resamples=1
    )
    assert one is not None
    assert other is not None
    assert other.retrieval.top1 == pytest.approx(one.retrieval.top1)
    assert other.retrieval.rate_top1 == pytest.approx(one.retrieval.rate_top1)
    assert other.alignment == pytest.approx(one.alignment)
    assert other.uniformity == pytest.approx(one.uniformity)


@pytest.fixture(scope="module")
def trained(nuclr: Callable[..., Any], tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three checkpoints, subject s3 held out."""
    place = tmp_path_factory.mktemp("select")
    few = {"train.steps": 6, "train.checkpoint_every": 2, "train.batch_windows": 4}
    changes = [part for key, value in few.items() for part in ("--set", f"{key}={value}")]
    done = nuclr("pretrain", tiny_data, "--preset", "tiny", "--name", "run", "--hold-out-subjects", "s3",
                 "--gpus", 0, *changes, cwd=place)  # fmt: skip
    assert done.code == 0, done.err
    return place


def test_embed_says_what_needs_no_label_and_keeps_it_with_the_table(
    nuclr: Callable[..., Any], trained: Path
) -> None:
    done = nuclr("embed", "--run", "run", "--json", cwd=trained)
    assert done.code == 0, done.err
    said = done.json["diagnostics"]
    assert 0 <= said["retrieval"]["interval"]["low"] <= said["retrieval"]["top1"] <= 1
    assert said["retrieval"]["n_populations"] == 4
    assert done.json["selection"] == {
        "rule": "last",
        "step": 6,
        "candidates": [],
        "subjects": [],
        "label": "",
    }
    metadata = load_embeddings(trained / "nuclr-runs/run/embeddings.parquet").metadata
    assert json.loads(metadata["diagnostics"]) == said
    shown = nuclr("embed", "--run", "run", cwd=trained)
    assert f"{said['retrieval']['top1']:.1%} of units are found again" in shown.out


def test_retrieval_chooses_among_the_checkpoints_without_the_held_out_subject(
    nuclr: Callable[..., Any], trained: Path
) -> None:
    done = nuclr("embed", "--run", "run", "--select", "retrieval", "--json", cwd=trained)
    assert done.code == 0, done.err
    selection = done.json["selection"]
    assert [one["step"] for one in selection["candidates"]] == [2, 4, 6]
    assert selection["subjects"] == ["s0", "s1", "s2"]
    best = max(selection["candidates"], key=lambda one: (one["score"], one["step"]))
    assert selection["step"] == done.json["checkpoint"] == best["step"]
    metadata = load_embeddings(trained / "nuclr-runs/run/embeddings.parquet").metadata
    assert json.loads(metadata["selection"]) == selection
    assert metadata["checkpoint_step"] == str(best["step"])


def test_val_f1_reads_a_label_of_the_training_subjects_only(nuclr: Callable[..., Any], trained: Path) -> None:
    done = nuclr(
        "embed", "--run", "run", "--select", "val-f1", "--select-label", "cell_type", "--json", cwd=trained
    )
    assert done.code == 0, done.err
    selection = done.json["selection"]
    assert (selection["rule"], selection["label"], selection["subjects"]) == (
        "val-f1",
        "cell_type",
        ["s0", "s1", "s2"],
    )
    assert len(selection["candidates"]) == 3
    probe = ("probe", "--label", "cell_type", "--run", "run", "--baselines", "none", "--bootstrap", 20)
    new_animal = nuclr(*probe, "--split", "subject", cwd=trained)
    assert new_animal.code == 0, new_animal.err
    assert "chosen by labels" not in new_animal.err
    known_animals = nuclr(*probe, "--split", "unit", cwd=trained)
    assert "The checkpoint was chosen by labels (cell_type) of s0, s1, s2" in " ".join(
        known_animals.err.split()
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--select", "best"], "Unknown --select 'best'"),
        (["--select", "retrieval", "--checkpoint", "4"], "both choose a checkpoint"),
        (["--select", "val-f1"], "needs --select-label"),
        (["--select-label", "cell_type"], "does not take --select-label"),
        (["--select", "val-f1", "--select-label", "nothing"], "no label 'nothing'"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(
    nuclr: Callable[..., Any], trained: Path, options: list[str], said: str
) -> None:
    table = trained / "nuclr-runs/run/embeddings.parquet"
    before = table.stat().st_mtime_ns if table.exists() else None
    done = nuclr("embed", "--run", "run", *options, cwd=trained)
    assert done.code == 3
    assert said in done.err
    assert "Traceback" not in done.err
    assert (table.stat().st_mtime_ns if table.exists() else None) == before
