"""`nuclr predict`: the right label on the right unit, calibrated, abstaining; foreign probes are refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from nuclr_cli.data.embeddings import EmbeddingTable, write_embeddings
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.predict import predict
from nuclr_cli.workflows.predict_record import PredictConfig, PredictRecord
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_card import CARD, PROBE, read_card
from nuclr_cli.workflows.probe_record import ProbeConfig
from nuclr_cli.workflows.probe_regression import probe_regression
from nuclr_cli.workflows.probe_regression_record import RegressionConfig
from nuclr_cli.workflows.probe_report import file_sha256
from nuclr_cli.workflows.reporting import SilentReporter

CLASSES = ("PV", "SST", "exc")
DIM = 12
CHECKPOINT = {"run": "fake@2026", "checkpoint_step": "50", "checkpoint_sha256": "ab" * 32}


class Listener(SilentReporter):
    """Keeps what the workflow says."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def make_table(
    seed: int, subjects: tuple[str, ...], n: int = 60, gap: float = 2.2, rate: float = 40.0, **metadata: str
) -> tuple[EmbeddingTable, np.ndarray]:
    """A table without labels, and the class of each unit: its embedding lies `gap` along that class's axis.

    Rows of the sessions are mixed, so that nothing can rest on their order.
    """
    rng = np.random.default_rng(seed)
    total = n * len(subjects)
    truth = rng.integers(0, len(CLASSES), total)
    embedding = rng.normal(size=(total, DIM))
    embedding[np.arange(total), truth] += gap
    windows = rng.integers(55, 61, total)
    events = (windows * rate * rng.lognormal(0, 0.3, total)).astype(np.int64)
    order = rng.permutation(total)
    table = EmbeddingTable(
        subject=np.repeat(subjects, n)[order],
        session=np.full(total, "day1"),
        population=np.full(total, "0"),
        unit_id=np.array([f"u{i % n}" for i in range(total)])[order],
        modality=np.full(total, "spikes"),
        n_windows=windows,
        n_events=events,
        embedding=embedding.astype(np.float32),
        labels={},
        metadata={**CHECKPOINT, **metadata},
    )
    return table, truth


@dataclasses.dataclass(frozen=True)
class Place:
    """A labelled table with a probe on it.

    Attributes:
        truth: (N,) class names, also of the units that have no label in the file.
        unlabelled: (N,) rows without a label.
    """

    root: Path
    file: Path
    table: EmbeddingTable
    truth: np.ndarray
    unlabelled: np.ndarray
    probe: Path

    def predict(self, listener: Listener | None = None, **options: Any) -> PredictRecord:
        options = {"probe": self.probe, "runs": self.root / "no-runs", **options}
        return predict(PredictConfig(**options), listener)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("predict")
    table, codes = make_table(0, tuple("abcde"))
    truth = np.array(CLASSES)[codes]
    unlabelled = np.random.default_rng(9).random(len(truth)) < 0.3
    silent = np.flatnonzero(unlabelled)[3]
    table.embedding[silent] = np.nan
    table.n_windows[silent] = table.n_events[silent] = 0
    # A number that follows the embedding, as text: how a table of embeddings holds it.
    depth = np.where(unlabelled, "", [f"{100 * row[5]:.3f}" for row in table.embedding.tolist()])
    labels = {"cell_type": np.where(unlabelled, "", truth), "depth": depth}
    table = dataclasses.replace(table, labels=labels)
    file = root / "cohort.parquet"
    write_embeddings(table, file)
    record = probe(
        ProbeConfig("cell_type", embeddings=file, runs=root / "no-runs", bootstrap=10, baselines="none")
    )
    return Place(root, file, table, truth, unlabelled, record.folder)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def key(table: EmbeddingTable, row: int) -> tuple[str, ...]:
    return tuple(str(getattr(table, name)[row]) for name in ("subject", "session", "population", "unit_id"))


def key_of(line: dict[str, str]) -> tuple[str, ...]:
    return line["subject"], line["session"], line["population"], line["unit_id"]


def test_every_unlabelled_unit_gets_a_line_and_the_sure_ones_the_right_label(
    place: Place, tmp_path: Path
) -> None:
    listener = Listener()
    record = place.predict(listener, out=tmp_path / "out.csv")
    lines = {key_of(line): line for line in read_csv(tmp_path / "out.csv")}
    rows = np.flatnonzero(place.unlabelled)
    assert set(lines) == {key(place.table, row) for row in rows}
    given = right = 0
    for row in rows:
        line = lines[key(place.table, row)]
        assert line["known_label"] == ""
        if not place.table.seen[row]:
            assert (line["label"], line["probability"], line["abstain"]) == ("", "", "yes")
            assert "no embedding" in line["abstain_reason"]
            continue
        shares = {name: float(line[f"probability_{name}"]) for name in CLASSES}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert float(line["probability"]) == max(shares.values())
        if line["abstain"] == "yes":
            assert line["label"] == ""
            assert float(line["probability"]) <= record.threshold.value
            assert line["abstain_reason"] == f"probability below {record.threshold.value:g}"
        else:
            assert line["label"] == max(shares, key=shares.get)
            given += 1
            right += line["label"] == place.truth[row]
    assert (record.n_predicted, record.n_abstained) == (given, len(rows) - given)
    assert record.n_without_embedding == 1
    assert given > 0.6 * len(rows)
    assert right / given > 0.87  # it aims at 0.9
    assert record.threshold.validation_accuracy >= 0.9
    assert sum(n for one in record.sessions for n in one.labels.values()) == given
    assert record.warnings == ()
    assert any("cross-fitted over 5 folds" in note for note in listener.notes)


def test_probabilities_are_those_of_the_card_and_mean_what_they_say(place: Place, tmp_path: Path) -> None:
    """On new animals whose truth is known: among units at 0.8, 8 of 10 are right."""
    table, codes = make_table(77, tuple(f"n{i}" for i in range(20)), n=60)
    write_embeddings(table, tmp_path / "new.parquet")
    record = place.predict(embeddings=tmp_path / "new.parquet", out=tmp_path / "out.csv", min_probability=0)
    lines = read_csv(tmp_path / "out.csv")
    assert [key_of(line) for line in lines] == [key(table, row) for row in range(len(codes))]
    assert record.n_abstained == 0
    shares = np.array([float(line["probability"]) for line in lines])
    right = np.array([line["label"] for line in lines]) == np.array(CLASSES)[codes]
    for low in (0.5, 0.6, 0.7, 0.8, 0.9):
        inside = (shares >= low) & (shares < low + 0.1)
        assert right[inside].mean() == pytest.approx(shares[inside].mean(), abs=0.1)
    card = read_card(place.probe)
    fitted = skops.io.load(place.probe / PROBE)
    raw = fitted.predict_proba(table.embedding.astype(np.float64))
    assert card.calibration.calibration.method == "none"  # a temperature makes it worse, here and on these
    written = np.array([[float(line[f"probability_{name}"]) for name in CLASSES] for line in lines])
    np.testing.assert_allclose(written, raw, atol=1e-6)


def test_probabilities_are_corrected_as_the_card_says(place: Place, copy: Path, tmp_path: Path) -> None:
    table, _ = make_table(77, ("x", "y"))
    write_embeddings(table, tmp_path / "new.parquet")
    document = json.loads((copy / CARD).read_text())
    document["calibration"]["calibration"].update(method="temperature", temperature=1.7)
    (copy / CARD).write_text(json.dumps(document))
    place.predict(probe=copy, embeddings=tmp_path / "new.parquet", out=tmp_path / "out.csv")
    lines = read_csv(tmp_path / "out.csv")
    raw = skops.io.load(copy / PROBE).predict_proba(table.embedding.astype(np.float64))
    expected = read_card(copy).calibration.calibration.apply(raw)
    assert not np.allclose(raw, expected, atol=1e-3)
    written = np.array([[float(line[f"probability_{name}"]) for name in CLASSES] for line in lines])
    np.testing.assert_allclose(written, expected, atol=1e-6)


def test_validation_predictions_never_saw_their_subject(place: Place) -> None:
    """The card's numbers follow from predictions.parquet, which the split made."""
    card = read_card(place.probe)
    rows = [
        row for row in pq.read_table(place.probe / "predictions.parquet").to_pylist() if row["prediction"]
    ]
    assert card.calibration.n_units == len(rows)
    assert all(row["fold"] == row["subject"] for row in rows)
    accuracy = np.mean([row["prediction"] == row["label"] for row in rows])
    assert card.calibration.before.accuracy == pytest.approx(accuracy)
    confidence = np.mean([row[f"probability_{row['prediction']}"] for row in rows])
    assert card.calibration.before.confidence == pytest.approx(confidence)


def test_all_units_are_predicted_on_request_with_a_word_of_caution(place: Place, tmp_path: Path) -> None:
    record = place.predict(out=tmp_path / "out.csv", all_units=True)
    assert record.n_units == len(place.truth)
    known = {key_of(line): line["known_label"] for line in read_csv(tmp_path / "out.csv")}
    for row in range(len(place.truth)):
        assert known[key(place.table, row)] == ("" if place.unlabelled[row] else place.truth[row])
    assert any("proves nothing" in note for note in record.notes)


def test_one_session_may_be_asked_for(place: Place, tmp_path: Path) -> None:
    record = place.predict(session="c/day1", out=tmp_path / "out.csv")
    assert {line["subject"] for line in read_csv(tmp_path / "out.csv")} == {"c"}
    assert [one.subject for one in record.sessions] == ["c"]
    with pytest.raises(InputError, match="no session 'day9'") as caught:
        place.predict(session="day9", out=tmp_path / "no.csv")
    assert "a/day1" in caught.value.fix


def test_a_session_outside_of_what_the_probe_has_seen_is_warned_about(place: Place, tmp_path: Path) -> None:
    inside, _ = make_table(31, ("x",))
    odd, _ = make_table(32, ("y",), n=15, rate=700.0)
    odd.embedding[:, -1] += 8
    parts = {
        name: np.concatenate([getattr(inside, name), getattr(odd, name)])
        for name in (one.name for one in dataclasses.fields(EmbeddingTable))
        if name not in ("labels", "metadata")
    }
    write_embeddings(dataclasses.replace(inside, **parts), tmp_path / "new.parquet")
    listener = Listener()
    record = place.predict(listener, embeddings=tmp_path / "new.parquet", out=tmp_path / "out.csv")
    by_subject = {one.subject: one for one in record.sessions}
    assert by_subject["x"].warnings == ()
    assert len(by_subject["y"].warnings) == 3
    assert by_subject["y"].n_outside == 15
    assert all(text.startswith("y/day1: ") for text in listener.warnings)
    said = {line["subject"]: line["applicability"] for line in read_csv(tmp_path / "out.csv")}
    assert said["y"] == "population; rate; embedding"


@pytest.mark.parametrize(
    ("options", "value", "said"),
    [
        ({"min_probability": 0.97}, 0.97, "as --min-probability says"),
        ({"target_accuracy": 0.95}, None, "at least 95%"),
        ({}, None, "at least 90%"),
    ],
)
def test_the_threshold_is_recorded_with_its_reason(
    place: Place, tmp_path: Path, options: dict, value: float | None, said: str
) -> None:
    record = place.predict(out=tmp_path / "out.csv", **options)
    assert said in record.threshold.why
    if value is not None:
        assert record.threshold.value == value
    curve = read_card(place.probe).calibration.thresholds
    kept, right = curve.at(record.threshold.value)
    assert record.threshold.validation_accuracy == right / kept
    assert record.threshold.validation_kept == kept / curve.n
    for line in read_csv(tmp_path / "out.csv"):
        if line["probability"] and abs(float(line["probability"]) - record.threshold.value) > 1e-5:
            assert (line["abstain"] == "yes") == (float(line["probability"]) < record.threshold.value)


def test_an_accuracy_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    """Classes that hardly differ: asked for, it is an error; as the default, the nearest with a warning."""
    table, codes = make_table(5, tuple("abcd"), gap=0.6)
    labels = np.where(np.arange(len(codes)) % 4 == 0, "", np.array(CLASSES)[codes])
    write_embeddings(dataclasses.replace(table, labels={"cell_type": labels}), tmp_path / "t.parquet")
    made = probe(
        ProbeConfig(
            "cell_type", embeddings=tmp_path / "t.parquet", runs=tmp_path, bootstrap=10, baselines="none"
        )
    )
    config = PredictConfig(made.folder, runs=tmp_path, out=tmp_path / "out.csv", target_accuracy=0.999)
    with pytest.raises(InputError, match=r"No probability reaches --target-accuracy 0\.999") as caught:
        predict(config)
    assert "--min-probability" in caught.value.fix
    assert not (tmp_path / "out.csv").exists()
    record = predict(dataclasses.replace(config, target_accuracy=None))
    assert any("No threshold makes 90% of the validation units right" in text for text in record.warnings)
    assert record.threshold.value >= 0.5
    curve = read_card(made.folder).calibration.thresholds
    reached, accuracy = curve.best(0.25)
    assert accuracy < 0.9
    assert record.threshold.value == max(reached, 0.5)


def test_a_number_is_predicted_without_a_probability(place: Place, tmp_path: Path) -> None:
    made = probe_regression(
        RegressionConfig(
            "depth", embeddings=place.file, runs=place.root / "no-runs", bootstrap=10, baselines="none"
        )
    )
    record = predict(PredictConfig(made.folder, runs=place.root / "no-runs", out=tmp_path / "out.csv"))
    lines = {key_of(line): line for line in read_csv(tmp_path / "out.csv")}
    assert (record.kind, record.threshold, record.calibration) == ("regression", None, None)
    assert set(next(iter(lines.values()))) == {
        "subject", "session", "population", "unit_id", "value", "abstain", "abstain_reason", "applicability",
        "known_value",
    }  # fmt: skip
    rows = [row for row in np.flatnonzero(place.unlabelled) if place.table.seen[row]]
    found = np.array([float(lines[key(place.table, row)]["value"]) for row in rows])
    assert np.corrcoef(found, place.table.embedding[rows, 5])[0, 1] > 0.99
    assert record.n_abstained == 1
    seen = place.table.embedding[~place.unlabelled, 5] * 100
    beyond = (found < round(seen.min(), 3)) | (found > round(seen.max(), 3))
    said = ["value" in lines[key(place.table, row)]["applicability"] for row in rows]
    assert said == beyond.tolist()
    table, _ = make_table(3, ("x",))
    table.embedding[:2, 5] = (40, -40)
    write_embeddings(table, tmp_path / "far.parquet")
    far = PredictConfig(
        made.folder, embeddings=tmp_path / "far.parquet", runs=place.root, out=tmp_path / "far.csv"
    )
    predict(far)
    assert [line["applicability"] for line in read_csv(far.out)][:2] == ["embedding; value"] * 2
    with pytest.raises(InputError, match="gives no probability"):
        predict(PredictConfig(made.folder, runs=place.root, out=tmp_path / "no.csv", min_probability=0.5))


def test_files_of_the_user_are_kept_unless_told_otherwise(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists") as caught:
        place.predict(out=out)
    assert "--overwrite" in caught.value.fix
    assert out.read_text() == "mine"
    with pytest.raises(InputError, match="exists"):
        place.predict(export="csv", to=out)
    place.predict(out=out, overwrite=True)
    assert len(read_csv(out)) == place.unlabelled.sum()
    with pytest.raises(InputError, match="is a folder"):
        place.predict(out=tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_embeddings_of_another_checkpoint_are_refused_and_both_are_named(
    place: Place, tmp_path: Path
) -> None:
    for changed in ({"checkpoint_sha256": "cd" * 32}, {"checkpoint_step": "60"}):
        table, _ = make_table(1, ("x",), **changed)
        write_embeddings(table, tmp_path / "other.parquet")
        with pytest.raises(InputError) as caught:
            place.predict(embeddings=tmp_path / "other.parquet", out=tmp_path / "out.csv")
        found = f"{table.metadata['checkpoint_step']}@{table.metadata['checkpoint_sha256'][:12]}"
        assert found in caught.value.what
        assert "50@abababababab" in caught.value.what
        assert "nuclr embed DATA --run fake --checkpoint 50 -o FILE" in caught.value.fix
    assert not (tmp_path / "out.csv").exists()


def test_embeddings_that_do_not_say_their_checkpoint_must_be_those_of_the_probe(
    place: Place, tmp_path: Path
) -> None:
    table, _ = make_table(1, ("x",))
    for metadata in ({}, {"run": CHECKPOINT["run"]}):
        write_embeddings(dataclasses.replace(table, metadata=metadata), tmp_path / "unsaid.parquet")
        with pytest.raises(InputError, match=r"checkpoint \?@\?"):
            place.predict(embeddings=tmp_path / "unsaid.parquet", out=tmp_path / "out.csv")


def test_embeddings_of_another_width_are_refused(place: Place, tmp_path: Path) -> None:
    table, _ = make_table(1, ("x",))
    wide = dataclasses.replace(table, embedding=np.tile(table.embedding, (1, 2)))
    write_embeddings(wide, tmp_path / "wide.parquet")
    with pytest.raises(InputError, match=f"{2 * DIM} numbers a unit, the probe .* was fitted on {DIM}"):
        place.predict(embeddings=tmp_path / "wide.parquet", out=tmp_path / "out.csv")


def test_a_table_in_which_every_unit_is_labelled_is_said(place: Place, tmp_path: Path) -> None:
    table, codes = make_table(1, ("x",))
    labelled = dataclasses.replace(table, labels={"cell_type": np.array(CLASSES)[codes]})
    write_embeddings(labelled, tmp_path / "all.parquet")
    with pytest.raises(InputError, match=r"Every unit in .* has a cell_type already") as caught:
        place.predict(embeddings=tmp_path / "all.parquet", out=tmp_path / "out.csv")
    assert "--all-units" in caught.value.fix


@pytest.fixture
def copy(place: Place) -> Path:
    """The probe's folder under another name, for damage; beside the original, whose embeddings it finds."""
    target = place.probe.with_name("damaged")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(place.probe, target)
    return target


def refused(place: Place, folder: Path, out: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        place.predict(probe=folder, out=out)
    assert not out.exists()
    return caught.value


def sign(folder: Path) -> None:
    """Make the card vouch for the probe beside it, as whoever plants one would."""
    card = json.loads((folder / CARD).read_text())
    card["probe_sha256"] = file_sha256(folder / PROBE)
    (folder / CARD).write_text(json.dumps(card))


ran: list[str] = []


def payload(values: Any) -> Any:
    ran.append("payload")
    return values


def test_a_probe_with_foreign_types_is_refused_and_nothing_in_it_runs(
    place: Place, copy: Path, tmp_path: Path
) -> None:
    steps = [
        ("scale", StandardScaler()),
        ("run", FunctionTransformer(payload)),
        ("classify", LogisticRegression()),
    ]
    seen = place.table.seen & ~place.unlabelled
    fitted = Pipeline(steps).fit(place.table.embedding[seen].astype(np.float64), place.truth[seen])
    skops.io.dump(fitted, copy / PROBE)
    sign(copy)
    ran.clear()
    error = refused(place, copy, tmp_path / "out.csv")
    assert "test_predict_workflow.payload" in error.what
    assert "types that could run code" in error.what
    assert ran == []


def test_a_probe_of_trusted_types_that_is_no_probe_is_refused(
    place: Place, copy: Path, tmp_path: Path
) -> None:
    seen = place.table.seen & ~place.unlabelled
    values, labels = place.table.embedding[seen].astype(np.float64), place.truth[seen]
    renamed = np.where(labels == "PV", "Pvalb", labels)

    def linear() -> Pipeline:
        return Pipeline([("scale", StandardScaler()), ("classify", LogisticRegression())])

    cases: list[tuple[Any, str]] = [
        (LogisticRegression().fit(values, labels), "holds LogisticRegression, expected StandardScaler"),
        (Pipeline(linear().steps[1:]).fit(values, labels), "expected StandardScaler, LogisticRegression"),
        (linear().fit(values[:, :5], labels), "the card says (12,)"),
        (linear().fit(values, renamed), "tells Pvalb, SST, exc apart"),
        (linear(), "have shape None"),
        ({"scale": 1}, "holds dict"),
    ]
    for fitted, what in cases:
        skops.io.dump(fitted, copy / PROBE)
        sign(copy)
        assert what in refused(place, copy, tmp_path / "out.csv").what


def test_a_damaged_probe_is_refused(place: Place, copy: Path, tmp_path: Path) -> None:
    whole = (place.probe / PROBE).read_bytes()
    for damaged in (b"", b"no zip at all", whole[: len(whole) // 2], whole[:200] + b"\0" * 300 + whole[500:]):
        (copy / PROBE).write_bytes(damaged)
        sign(copy)
        assert "nuclr probe" in refused(place, copy, tmp_path / "out.csv").fix
    (copy / PROBE).unlink()
    assert "is missing" in refused(place, copy, tmp_path / "out.csv").what


def test_a_probe_that_its_card_does_not_vouch_for_is_refused(
    place: Place, copy: Path, tmp_path: Path
) -> None:
    fitted = skops.io.load(copy / PROBE)
    fitted[-1].coef_ *= -1
    skops.io.dump(fitted, copy / PROBE)
    assert "is not the probe of its card" in refused(place, copy, tmp_path / "out.csv").what


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda card: card.pop("dim"), "dim is missing"),
        (lambda card: card.pop("calibration") and None, ""),
        (lambda card: card.update(dim="12"), "dim is '12', expected a whole number"),
        (lambda card: card.update(dim=-1), "dim is -1"),
        (lambda card: card.update(kind="magic"), "kind is 'magic'"),
        (lambda card: card.update(classes=["PV"]), "expected at least two"),
        (lambda card: card.update(classes=[1, 2]), "classes[0] is 1, expected text"),
        (lambda card: card.update(schema=2), "another version of nuclr (schema 2"),
        (lambda card: card.pop("schema"), "another version of nuclr (schema None"),
        (lambda card: card["calibration"]["calibration"].update(temperature=0.0), "the temperature is 0.0"),
        (lambda card: card["calibration"]["calibration"].update(method="isotonic"), "0 calibration curves"),
        (lambda card: card["calibration"]["thresholds"].update(kept=[1, 2]), "thresholds"),
        (lambda card: card["applicability"]["cloud"].update(mean=[0.0]), "do not fit the dimension"),
    ],
)
def test_a_damaged_card_is_refused(
    place: Place, copy: Path, tmp_path: Path, change: Callable[[dict], object], what: str
) -> None:
    card = json.loads((copy / CARD).read_text())
    change(card)
    (copy / CARD).write_text(json.dumps(card))
    if not what:  # a probe that nothing validated is used as it is, and says so
        record = place.predict(probe=copy, out=tmp_path / "out.csv")
        assert any("too few to say from which probability" in text for text in record.warnings)
        assert record.calibration == "none"
        return
    assert what in refused(place, copy, tmp_path / "out.csv").what


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff", '{"schema": 1}', "[" * 100_000])
def test_a_card_that_is_no_card_is_refused(place: Place, copy: Path, tmp_path: Path, text: str) -> None:
    (copy / CARD).write_text(text, encoding="latin-1")
    assert "damaged" in refused(place, copy, tmp_path / "out.csv").what


def test_what_is_no_folder_of_a_probe_is_refused(place: Place, tmp_path: Path) -> None:
    assert "is no folder" in refused(place, tmp_path / "nothing", tmp_path / "out.csv").what
    error = refused(place, place.probe.parent, tmp_path / "out.csv")
    assert "has no card.json" in error.what
    alone = tmp_path / "alone"
    shutil.copytree(place.probe, alone)
    assert "--embeddings FILE" in refused(place, alone, tmp_path / "out.csv").fix
    outer = tmp_path / "outer"
    shutil.copytree(place.probe, outer / "subject-default")
    assert (
        refused(place, outer, tmp_path / "out.csv").fix
        == f"Did you mean --probe {outer / 'subject-default'}?"
    )


def test_a_probe_of_pairs_is_refused(place: Place, copy: Path, tmp_path: Path) -> None:
    card = json.loads((copy / CARD).read_text())
    card.update(kind="pairs", classes=[])
    (copy / CARD).write_text(json.dumps(card))
    assert "pairs of units" in refused(place, copy, tmp_path / "out.csv").what


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"min_probability": 1.5}, "--min-probability 1.5 is not between 0 and 1"),
        ({"min_probability": 0.5, "target_accuracy": 0.9}, "both say when to abstain"),
        ({"to": Path("x")}, "not what to write"),
        ({"export": "phy"}, "needs a place to write to"),
        ({"export": "csv", "to": Path("a.csv"), "out": Path("b.csv")}, "both name a CSV file"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options: dict, what: str) -> None:
    with pytest.raises(InputError, match=what):
        PredictConfig(Path("probe"), **options)


def test_the_card_is_what_it_says_when_read_again(place: Place) -> None:
    card = read_card(place.probe)
    usable = place.table.seen & ~place.unlabelled
    assert (card.kind, card.classes, card.dim) == ("classification", CLASSES, DIM)
    assert card.n_train_units == usable.sum()
    assert dict(card.n_train_units_per_class) == {
        name: int((usable & (place.truth == name)).sum()) for name in CLASSES
    }
    assert card.train_subjects == tuple("abcde")
    assert card.checkpoint == f"50@{'ab' * 32}"
    assert card.probe_sha256 == file_sha256(place.probe / PROBE)
    assert card.embeddings_sha256 == file_sha256(place.file)
    assert card.c == 1.0
    assert card.split_document["kind"] == "subject"
    assert "units" not in card.split_document
    assert card.applicability.modalities["spikes"].population.low == 60
    # People look for the numbers between the arrays: those stand on one line each.
    longest = max((place.probe / CARD).read_text().splitlines(), key=len)
    assert "[" in longest
    assert (place.probe / "reliability.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_prints_a_table_and_one_json_document(
    place: Place, nuclr: Callable[..., Any], tmp_path: Path
) -> None:
    shown = nuclr("predict", "--probe", place.probe, cwd=tmp_path)
    assert shown.code == 0, shown.err
    assert "Abstains below probability" in shown.out
    assert (tmp_path / "predicted-cell_type.csv").is_file()
    again = nuclr("predict", "--probe", place.probe, "--json", "--quiet", cwd=tmp_path)
    assert again.code == 3
    assert "predicted-cell_type.csv exists" in again.json["error"]["what"]
    done = nuclr("predict", "--probe", place.probe, "--json", "--quiet", "--overwrite", cwd=tmp_path)
    assert done.code == 0
    assert done.json["n_units"] == int(place.unlabelled.sum())
    assert done.err == ""
