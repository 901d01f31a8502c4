"""`nuclr probe --target`: the ridge probe, its scores, the folder it writes, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import skops.io
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from nuclr_cli.cli.app import app
from nuclr_cli.data.embeddings import EmbeddingTable, write_embeddings
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.bootstrap import draw_weights
from nuclr_cli.evaluation.probes import FrontEnd
from nuclr_cli.evaluation.regression import (
    bootstrap_regression,
    group_means,
    quantile_strata,
    regression_scores,
    subject_plan,
)
from nuclr_cli.evaluation.ridge import PENALTIES, fit_ridge, inner_folds, prepare_ridge
from nuclr_cli.evaluation.splits import Split, UnitKeys, session_split, subject_split, unit_split
from nuclr_cli.testing.tiny import tiny_population
from nuclr_cli.workflows.embed import embed_untrained
from nuclr_cli.workflows.presets import for_modalities, preset_settings
from nuclr_cli.workflows.probe_regression import probe_regression
from nuclr_cli.workflows.probe_regression_record import RegressionConfig, RegressionRecord
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs import Run, RunSession, create_run

SUBJECTS = ("s0", "s1", "s2", "s3")
N_UNITS = 20


class Listener(SilentReporter):
    """Keeps what the workflow says."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@dataclass(frozen=True)
class Place:
    """A run with embeddings that know the depth of a unit, on data that say it as a number."""

    root: Path
    run: Run
    table: EmbeddingTable
    depth: np.ndarray

    def probe(
        self, target: str = "depth_um", listener: Listener | None = None, **options: Any
    ) -> RegressionRecord:
        options = {"runs": self.root / "nuclr-runs", "bootstrap": 200, "baselines": "none", **options}
        return probe_regression(RegressionConfig(target, **options), listener)

    def variant(self, root: Path, **changes: Any) -> Place:
        """The same run in another folder, with other columns of the table of embeddings."""
        run = make_run(root, self.run.data)
        table = dataclasses.replace(
            self.table, **changes, metadata={**self.table.metadata, "run": run.id, "checkpoint_step": "5"}
        )
        write_embeddings(table, run.embeddings)
        return Place(root, run, table, self.depth)


def make_run(root: Path, data: Path, held_out: Sequence[str] = ()) -> Run:
    sessions = [
        RunSession(s, f"day{i}", "0", N_UNITS, "held-out" if s in held_out else "train")
        for i, s in enumerate(SUBJECTS)
    ]
    settings = for_modalities(preset_settings("tiny"), frozenset({"spikes"}))
    return create_run(root / "nuclr-runs", "run", settings, data, sessions, None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("regression")
    data = root / "nuclr-data"
    data.mkdir()
    rng = np.random.default_rng(0)
    for i, subject in enumerate(SUBJECTS):
        population = tiny_population(
            i, n_units=N_UNITS, minutes=1.0, subject=subject, session=f"day{i}", silent_units=1
        )
        columns = {
            "depth_um": np.where(np.arange(N_UNITS) == 3, np.nan, rng.uniform(0, 2000, N_UNITS)),
            "n_inputs": rng.integers(0, 9, N_UNITS),
            "age": np.full(N_UNITS, 10.0 + i),
            "flat": np.full(N_UNITS, 7.0),
            "broken": np.where(np.arange(N_UNITS) == 5, np.inf, 1.0 * np.arange(N_UNITS)),
            "position": rng.normal(size=(N_UNITS, 2)),
        }
        population = dataclasses.replace(population, units={**population.units, **columns})
        source = SourceRecord(path=subject, reader="test", detected="")
        write_population(population, data / f"{subject}.h5", source=source)
    run = make_run(root, data)
    table = embed_untrained(run, open_sessions(data))
    shutil.rmtree(run.folder / "baselines")
    depth = np.concatenate([session.columns["depth_um"] for session in open_sessions(data)])
    values = rng.normal(size=(table.n_units, 8)).astype(np.float32)
    values[:, 2] += np.nan_to_num(depth).astype(np.float32) / 100
    values[~table.seen] = np.nan
    table = dataclasses.replace(
        table, embedding=values, metadata={"run": run.id, "checkpoint_step": "5", "checkpoint_sha256": "f"}
    )
    write_embeddings(table, run.embeddings)
    return Place(root, run, table, depth)


@pytest.fixture(scope="module")
def record(place: Place) -> RegressionRecord:
    return place.probe(baselines="full")


# What is measured


def test_scores_are_those_of_scikit_learn_and_scipy_in_every_resample() -> None:
    rng = np.random.default_rng(1)
    truth = np.round(rng.normal(1e5, 3, 90))  # ties, and far from 0
    predicted = np.round(truth + rng.normal(0, 3, 90))
    subject = np.repeat([f"s{i}" for i in range(6)], 15)
    plan = subject_plan(subject)
    weights = draw_weights(plan, 20, 0)
    found = bootstrap_regression(plan, weights, truth, predicted)
    for b, weight in enumerate(weights):
        rows = np.repeat(np.arange(90), weight[plan.group])
        assert found.r2[b] == pytest.approx(r2_score(truth[rows], predicted[rows]), abs=1e-9)
        assert found.spearman[b] == pytest.approx(stats.spearmanr(truth[rows], predicted[rows]).statistic)
        assert found.mae[b] == pytest.approx(mean_absolute_error(truth[rows], predicted[rows]))
    point = regression_scores(truth, predicted)
    assert point.r2 == pytest.approx(r2_score(truth, predicted))
    assert point.spearman == pytest.approx(stats.spearmanr(truth, predicted).statistic)


def test_scores_that_are_undefined_are_not_numbers() -> None:
    flat = regression_scores(np.full(5, 3.1), np.arange(5.0))
    assert np.isnan(flat.r2)
    assert np.isnan(flat.spearman)
    assert np.isnan(regression_scores(np.arange(5.0), np.full(5, 3.1)).spearman)


# How it is fitted


def made_up(n_subjects: int = 6, per_subject: int = 15) -> tuple[UnitKeys, np.ndarray, np.ndarray]:
    """Keys, features and a target that half depends on them."""
    n = n_subjects * per_subject
    subject = np.repeat([f"m{i}" for i in range(n_subjects)], per_subject)
    keys = UnitKeys(subject, subject, np.full(n, "0"), np.arange(n).astype(str))
    rng = np.random.default_rng(3)
    values = rng.normal(size=(n, 12)) * np.exp(rng.normal(size=12)) + rng.normal(size=12)
    return keys, values, values @ rng.normal(size=12) + 3 * rng.normal(size=n)


def by_hand(values: np.ndarray, target: np.ndarray, split: Split, train: np.ndarray) -> tuple[float, Any]:
    """The penalty and the fit, by refitting scikit-learn's Ridge for every penalty and inner fold."""
    inner = inner_folds(split, train, 0)
    errors = []
    for penalty in PENALTIES:
        error = 0.0
        for i in np.unique(inner):
            fit, held = train[inner != i], train[inner == i]
            probe = make_pipeline(StandardScaler(), Ridge(alpha=penalty * len(fit)))
            error += ((probe.fit(values[fit], target[fit]).predict(values[held]) - target[held]) ** 2).sum()
        errors.append(error)
    alpha = PENALTIES[int(np.argmin(errors))] * len(train)
    return alpha, make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(values[train], target[train])


@pytest.mark.parametrize("n_columns", [12, 150])  # fewer and more columns than rows
def test_the_nested_choice_and_the_predictions_are_those_of_refitting_scikit_learn(n_columns: int) -> None:
    keys, few, target = made_up(4, 12)
    values = np.concatenate([few, np.random.default_rng(5).normal(size=(len(few), n_columns - 12))], axis=1)
    split = subject_split(keys, np.full(len(keys), "x"))
    found = prepare_ridge(values, split, np.ones(len(keys), bool)).predict(target)
    for fold, alpha in zip(split.folds, found.alphas, strict=True):
        expected_alpha, probe = by_hand(values, target, split, fold.train)
        assert alpha == pytest.approx(expected_alpha)
        np.testing.assert_allclose(found.predicted[fold.test], probe.predict(values[fold.test]), rtol=1e-6)
    rows = keys.order
    fitted = fit_ridge(values, target, split, rows)
    expected_alpha, probe = by_hand(values, target, split, rows)
    assert fitted.named_steps["ridge"].alpha == pytest.approx(expected_alpha)
    np.testing.assert_allclose(fitted.predict(values), probe.predict(values), rtol=1e-6)


@pytest.mark.parametrize("front", [FrontEnd(), FrontEnd(impute=True, n_components=5)])
def test_nothing_of_a_tested_row_reaches_the_fit(front: FrontEnd) -> None:
    keys, values, target = made_up()
    split = subject_split(keys, np.full(len(keys), "x"), ["m1"])
    usable = np.ones(len(keys), bool)
    test = split.folds[0].test
    clean = prepare_ridge(values, split, usable, front).predict(target)
    poisoned = target.copy()
    poisoned[test] = 1e9
    np.testing.assert_array_equal(
        prepare_ridge(values, split, usable, front).predict(poisoned).predicted, clean.predicted
    )
    odd = values.copy()
    odd[test[0]] = 1e6  # an outlier would shift and stretch a scaler that saw it
    found = prepare_ridge(odd, split, usable, front).predict(target)
    np.testing.assert_array_equal(found.predicted[test[1:]], clean.predicted[test[1:]])
    assert found.alphas == clean.alphas


def test_inner_folds_keep_apart_what_the_split_keeps_apart() -> None:
    keys, _, _ = made_up()
    everybody = np.full(len(keys), "x")
    two_sessions = np.where(np.arange(len(keys)) % 2 == 0, "a", "b")
    keys = UnitKeys(keys.subject, two_sessions, keys.population, keys.unit_id)
    by_subject, by_session = subject_split(keys, everybody), session_split(keys, everybody)
    for split, group in ((by_subject, keys.subject), (by_session, keys.recording)):
        for fold in split.folds:
            inner = inner_folds(split, fold.train, 0)
            assert len(np.unique(inner)) == 5
            for name in np.unique(group[fold.train]):
                assert len(np.unique(inner[group[fold.train] == name])) == 1
    alone = subject_split(keys, everybody, ["m1", "m2", "m3", "m4", "m5"])  # trains on m0 only
    sizes = np.bincount(inner_folds(alone, alone.folds[0].train, 0))
    assert sizes.tolist() == [3] * 5
    assert "one subject only" in prepare_ridge(np.ones((90, 2)), alone, np.ones(90, bool)).notes[0]


def test_folds_of_units_cover_the_range_of_the_target_and_do_not_depend_on_the_tables_order() -> None:
    keys, _, target = made_up()
    target[::7] = np.nan
    strata = quantile_strata(target, keys, None)
    assert (strata == "").sum() == np.isnan(target).sum()
    split = unit_split(keys, strata)
    for fold in split.folds:
        assert abs(np.median(target[fold.test]) - np.nanmedian(target)) < 0.5 * np.nanstd(target)
    order = np.random.default_rng(0).permutation(len(keys))
    shuffled = UnitKeys(*(column[order] for column in keys.columns()))
    np.testing.assert_array_equal(quantile_strata(target[order], shuffled, None), strata[order])
    assert set(quantile_strata(np.arange(90.0), keys, 45).tolist()) == {"q0", "q1"}


def test_group_means_are_what_recognising_a_session_gives() -> None:
    keys, _, target = made_up(3, 6)
    usable = np.arange(18) != 4
    split = unit_split(keys, np.full(18, "x"), 3)
    found = group_means(target, keys.recording, split, usable)
    for fold in split.folds:
        for row in fold.test[usable[fold.test]]:
            own = [r for r in fold.train if keys.recording[r] == keys.recording[row] and usable[r]]
            assert found[row] == pytest.approx(target[own].mean())


# The command's work, from files to a folder


def test_a_planted_number_is_found_beside_every_baseline(record: RegressionRecord, place: Place) -> None:
    names = [method.name for method in record.methods]
    assert names[0] == "nuclr"
    assert {"features", "activity_pca", "untrained", "mean"} <= set(names)
    assert record.missing_baselines == ()
    nuclr = record.methods[0]
    assert nuclr.r2.value > 0.9
    assert nuclr.spearman is not None
    assert nuclr.spearman.value > 0.9
    for method in record.methods[1:]:
        assert method.r2.value < 0.5
        assert method.nuclr_minus is not None
        assert method.nuclr_minus.value == pytest.approx(nuclr.r2.value - method.r2.value)
    assert record.methods[-1].spearman is None
    assert record.verdict.startswith("NuCLR has the highest R2")
    assert (record.kind, record.split, len(record.folds)) == ("regression", "subject", 4)
    assert record.n_without_target == 4
    assert record.n_without_embedding == 4
    assert record.n_tested == 4 * N_UNITS - 8
    assert record.target_from == "units table of the session files"
    assert record.knowledge == "transductive"


def test_the_folder_holds_everything_and_a_probe_that_loads_without_trust(
    record: RegressionRecord, place: Place
) -> None:
    assert record.folder == place.run.folder / "probes" / "depth_um" / "subject-ridge"
    assert {path.name for path in record.folder.iterdir()} == {
        "report.json", "predictions.parquet", "predicted.png", "scores.png", "split.json", "probe.skops",
        "card.json",
    }  # fmt: skip
    report = json.loads((record.folder / "report.json").read_text())
    assert report["kind"] == "regression"
    assert report["methods"][0]["r2"]["value"] == record.methods[0].r2.value
    fitted = skops.io.load(record.folder / "probe.skops", trusted=[])
    card = json.loads((record.folder / "card.json").read_text())
    usable = place.table.seen & np.isfinite(place.depth)
    assert [name for name, _ in fitted.steps] == ["scale", "ridge"]
    assert (card["kind"], card["label"], card["n_train_units"]) == ("regression", "depth_um", usable.sum())
    assert card["alpha"] == fitted.named_steps["ridge"].alpha
    assert card["calibration"] is None
    np.testing.assert_allclose(fitted[0].mean_, place.table.embedding[usable].astype(float).mean(axis=0))
    predicted = fitted.predict(place.table.embedding[usable].astype(float))
    assert r2_score(place.depth[usable], predicted) > 0.9


def test_predictions_hold_every_unit_with_a_reason_where_there_is_none(
    record: RegressionRecord, place: Place
) -> None:
    rows = pq.read_table(record.folder / "predictions.parquet").to_pylist()
    assert [row["unit_id"] for row in rows] == place.table.unit_id.tolist()
    truth, predicted = [], []
    for row, depth, seen in zip(rows, place.depth, place.table.seen, strict=True):
        if np.isnan(depth):
            assert (row["target"], row["prediction"], row["reason"]) == (None, None, "no value")
        elif not seen:
            assert row["prediction"] is None
            assert "no embedding" in row["reason"]
        else:
            assert (row["target"], row["fold"], row["reason"]) == (depth, row["subject"], "")
            truth.append(depth)
            predicted.append(row["prediction"])
    assert r2_score(truth, predicted) == pytest.approx(record.methods[0].r2.value)


def test_values_that_mean_nothing_score_like_the_mean(place: Place, tmp_path: Path) -> None:
    noise = np.random.default_rng(4).normal(size=place.table.embedding.shape).astype(np.float32)
    noise[~place.table.seen] = np.nan
    there = place.variant(tmp_path, embedding=noise)
    record = there.probe(split="unit", permutations=19)
    assert record.methods[0].r2.value < 0.1
    gap = next(method for method in record.methods if method.name == "mean").nuclr_minus
    assert gap is not None
    assert gap.low <= 0
    assert record.permutation is not None
    assert record.permutation.p_value > 0.05
    assert place.probe(split="unit", permutations=19).permutation.p_value == pytest.approx(1 / 20)  # type: ignore[union-attr]


def test_neither_the_tables_order_nor_a_second_run_changes_a_number(
    record: RegressionRecord, place: Place, tmp_path: Path
) -> None:
    before = (record.folder / "predictions.parquet").read_bytes()
    assert place.probe(baselines="full").methods == record.methods
    assert (record.folder / "predictions.parquet").read_bytes() == before
    order = np.random.default_rng(0).permutation(place.table.n_units)
    columns = {
        f.name: getattr(place.table, f.name)[order]
        for f in dataclasses.fields(place.table)
        if f.name not in ("labels", "metadata")
    }
    path = tmp_path / "shuffled.parquet"
    write_embeddings(dataclasses.replace(place.table, labels={}, **columns), path)
    again = place.probe(embeddings=path)
    assert again.methods[0].r2.value == pytest.approx(record.methods[0].r2.value, abs=1e-9)
    assert again.folder == tmp_path / "shuffled-probes" / "depth_um" / "subject-ridge-baselines-none"


def test_texts_that_are_numbers_are_read_and_completed_from_the_session_files(
    place: Place, tmp_path: Path
) -> None:
    texts = np.array(["" if np.isnan(d) else f"{d:.6f}" for d in place.depth])
    there = place.variant(tmp_path / "a", labels={"typed": texts})
    record = there.probe("typed")
    assert record.target_from == "label column of embeddings.parquet"
    assert record.n_without_target == 4
    assert record.methods[0].r2.value > 0.9
    partly = np.where(place.table.subject == "s0", texts, "")
    listener = Listener()
    completed = place.variant(tmp_path / "b", labels={"depth_um": partly}).probe("depth_um", listener)
    assert completed.n_with_target == record.n_with_target
    assert any("57 values of depth_um come from the session files" in note for note in listener.notes)


def write_targets(
    path: Path, rows: Sequence[Sequence[object]], header: str = "subject,unit_id,score"
) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def test_a_table_of_the_users_gives_the_values_by_key(place: Place, tmp_path: Path) -> None:
    keys = list(zip(place.table.subject, place.table.unit_id, place.depth, strict=True))
    rows = [(s, u, "" if np.isnan(d) else 2 * d) for s, u, d in reversed(keys) if u != "u1"]
    listener = Listener()
    path = write_targets(tmp_path / "t.csv", [*rows, ("s9", "u1", 3.5)])
    record = place.probe("score", listener, target_file=path)
    assert record.methods[0].r2.value > 0.9
    assert record.target_from == "t.csv"
    assert record.n_without_target == 8
    assert record.folder.name.startswith("subject-ridge-baselines-none-")
    assert any("1 row of t.csv" in text for text in listener.warnings)
    rows = pq.read_table(record.folder / "predictions.parquet").to_pylist()
    for row, (_, unit, depth) in zip(rows, keys, strict=True):
        assert row["target"] == (None if unit == "u1" or np.isnan(depth) else pytest.approx(2 * depth))


def test_a_value_that_each_animal_has_one_of_is_tested_by_trading_animals(place: Place) -> None:
    record = place.probe("age")
    assert record.permutation is not None
    assert record.permutation.exact
    assert record.permutation.permuted == "subjects"
    assert not any("recognising" in text for text in record.warnings)
    by_unit = place.probe("age", split="unit", permutations=0)
    assert any("recognising the subject" in text for text in by_unit.warnings)
    session = next(method for method in by_unit.methods if method.name == "session_mean")
    assert session.r2.value == pytest.approx(1.0)


def test_held_out_subjects_are_the_test_and_a_split_file_is_followed(place: Place, tmp_path: Path) -> None:
    run = make_run(tmp_path, place.run.data, held_out=("s1", "s3"))
    table = dataclasses.replace(place.table, metadata={"run": run.id})
    write_embeddings(table, run.embeddings)
    record = Place(tmp_path, run, table, place.depth).probe()
    assert (record.knowledge, record.test_subjects, len(record.folds)) == ("inductive", ("s1", "s3"), 1)
    path = tmp_path / "mine.csv"
    path.write_text("subject,role\ns0,test\ns1,train\ns2,train\n")
    by_file = place.probe(split=str(path))
    assert by_file.folder.name == "file-mine-ridge-baselines-none"
    assert by_file.n_not_in_split == N_UNITS - 1
    again = place.probe(split=str(by_file.folder / "split.json"))
    assert again.methods[0].r2.value == by_file.methods[0].r2.value


# What is refused


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def invoke(place: Place, *arguments: object) -> Any:
    common = ("--runs", place.root / "nuclr-runs", "--bootstrap", 50, "--baselines", "none")
    return CliRunner().invoke(app, ["probe", *map(str, (*arguments, *common))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "depth_u"), "Did you mean --target depth_um?"),
        (("--target", "zzz"), "Columns with numbers: age, broken, depth_um, flat, n_inputs"),
        (("--target", "cell_type"), "(unit s0/day0/0/u0): cell_type is 'inhibitory', which is no number"),
        (("--target", "flat"), "flat is 7 for all 76 units"),
        (("--target", "broken"), "broken of unit s0/day0/0/u5 is infinite in the session files"),
        (("--target", "position"), "has shape (20, 2)"),
        (("--target", "depth_um", "--split", "unit", "--folds", "900"), "--folds 900 does not fit"),
        (("--target", "depth_um", "--test-subjects", "s9"), "s9"),
        (("--target", "age", "--test-subjects", "s1"), "all with age 11"),
        (("--target", "depth_um", "--data", "nowhere"), "nowhere does not exist"),
        (("--target", "depth_um", "--run", "nope"), "nope"),
        (("--target", "depth_um", "--permutations", "-1"), "--permutations -1"),
    ],
)
def test_a_target_that_cannot_be_is_exit_3_and_changes_no_file(
    place: Place, options: tuple[str, ...], message: str
) -> None:
    before = fingerprint(place.root)
    result = invoke(place, *options)
    assert result.exit_code == 3, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert fingerprint(place.root) == before


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("subject,unit_id,score", [("s0", "u0", "deep")], "row 2 (unit s0/u0): score is 'deep'"),
        ("subject,unit_id,score", [("s0", "u0", "1,5")], "which is no number"),
        ("subject,unit_id,score", [("s0", "u0", "-inf")], "score is '-inf', which is infinite"),
        ("subject,unit_id,score", [("s0", "u0", "1e999")], "which is infinite"),
        ("subject,unit_id,score", [("s0", "u0", "1_0")], "which is no number"),
        ("subject,unit_id,score", [("s0", "nobody", "1")], "'s0/nobody' (row 2)"),
        ("subject,unit_id,score", [("s0", "u0", "1"), ("s0", "u0", "1")], "rows 2 and 3 both name unit s0/"),
        ("unit_id,score", [("u0", "1")], "Add the column subject"),
        ("subject,unit_id,score", [("s9", "u0", "1")], "No row of"),
        ("subject,unit_id,score", [], "No row of"),
        ("subject,unit_id,other", [("s0", "u0", "1")], "It needs unit_id, score"),
        ("subject,unit_id,score", [("s0", f"u{i}", i) for i in range(9)], "needs 10"),
        ("subject,unit_id,score", [("s0", f"u{i}", "nan") for i in range(19)], "0 units with an embedding"),
    ],
)
def test_a_table_of_values_that_cannot_be_right_is_exit_3(
    place: Place, tmp_path: Path, header: str, rows: list[tuple[object, ...]], message: str
) -> None:
    path = write_targets(tmp_path / "targets.csv", rows, header)
    before = fingerprint(place.root)
    result = invoke(place, "--target", "score", "--target-file", path)
    assert result.exit_code == 3, result.output
    assert message in " ".join(result.stderr.split())
    assert fingerprint(place.root) == before


def test_missing_sessions_and_damaged_tables_are_exit_3(place: Place, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(place.run.data / "s0.h5", part)
    result = invoke(place, "--target", "depth_um", "--data", part)
    assert result.exit_code == 3
    assert "3 of 4 sessions of the embeddings are not in" in " ".join(result.stderr.split())
    result = invoke(place, "--target", "x", "--target-file", tmp_path / "none.csv")
    assert result.exit_code == 3
    assert "none.csv does not exist" in " ".join(result.stderr.split())
    copied = tmp_path / "copied.parquet"
    shutil.copy(place.run.embeddings, copied)
    with pytest.raises(InputError, match="run behind these embeddings was not found"):
        place.probe(embeddings=copied, runs=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--label", "cell_type", "--target", "depth_um"),
        ("--target", "depth_um", "--pairs", "p.csv"),
        ("--target-file", "t.csv", "--label", "cell_type"),
        ("--target", "depth_um", "--pair-features", "directed"),
        ("--target", "depth_um", "--classes", "a,b"),
        ("--target", "depth_um", "--variant", "paper"),
    ],
)
def test_questions_that_do_not_go_together_are_exit_2(place: Place, options: tuple[str, ...]) -> None:
    assert invoke(place, *options).exit_code == 2


def test_the_command_prints_a_table_and_one_json_document(place: Place) -> None:
    shown = invoke(place, "--target", "depth_um")
    assert shown.exit_code == 0, shown.output
    for text in ("NuCLR", "mean of the training units (chance)", "R2 [95%]", "Spearman", "Split:", "alpha"):
        assert text in shown.stdout
    done = invoke(place, "--target", "depth_um", "--json", "--quiet")
    document = json.loads(done.stdout)
    assert document["kind"] == "regression"
    assert document["folder"].endswith("subject-ridge-baselines-none")
