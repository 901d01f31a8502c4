"""`nuclr probe --pairs`: splits without a shared unit, scores, the folder it writes, and what it refuses."""

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
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

from nuclr_cli.cli.app import app
from nuclr_cli.data.embeddings import EmbeddingTable, write_embeddings
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation import pairs as pairs_module
from nuclr_cli.evaluation.pair_correlograms import by_kind, correlogram_features
from nuclr_cli.evaluation.pair_splits import PairFold, PairSplit, split_pairs
from nuclr_cli.evaluation.pairs import (
    PAIR_FEATURES,
    PairInput,
    cross_predict_pairs,
    inner_parts,
    pair_features,
    settle_and_fit,
    thin,
)
from nuclr_cli.evaluation.ranking import pair_plan, pair_weights, ranking_scores, weighted_ranking
from nuclr_cli.evaluation.splits import UnitKeys, subject_split, unit_split
from nuclr_cli.testing.connections import connect, save_pairs
from nuclr_cli.testing.simulate import SimulationConfig, simulate_animal
from nuclr_cli.testing.tiny import tiny_calcium, tiny_population
from nuclr_cli.workflows.embed import embed_untrained
from nuclr_cli.workflows.presets import for_modalities, preset_settings
from nuclr_cli.workflows.probe_pairs import probe_pairs
from nuclr_cli.workflows.probe_pairs_record import PairsConfig, PairsRecord
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs import Run, RunSession, create_run

SUBJECTS = ("s0", "s1", "s2", "s3")
N_UNITS = 16
HEADER = "subject,pre,post,label"


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
    """A run with embeddings, and a table of pairs that a number in them decides."""

    root: Path
    run: Run
    table: EmbeddingTable
    pairs: Path

    def probe(
        self, pairs: Path | None = None, listener: Listener | None = None, **options: Any
    ) -> PairsRecord:
        options = {"runs": self.root / "nuclr-runs", "bootstrap": 100, "baselines": "none", **options}
        return probe_pairs(PairsConfig(pairs or self.pairs, **options), listener)


def write_pairs(path: Path, rows: Sequence[Sequence[object]], header: str = HEADER) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def make_run(root: Path, data: Path, sessions: Sequence[tuple[str, str]], modality: str = "spikes") -> Run:
    settings = for_modalities(preset_settings("tiny"), frozenset({modality}))
    of_run = [RunSession(subject, session, "0", N_UNITS, "train") for subject, session in sessions]
    return create_run(root / "nuclr-runs", "run", settings, data, of_run, None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("pairs")
    data = root / "nuclr-data"
    data.mkdir()
    rng = np.random.default_rng(0)
    for i, subject in enumerate(SUBJECTS):
        population = tiny_population(
            i, n_units=N_UNITS, minutes=1.0, subject=subject, session=f"day{i}", silent_units=1
        )
        columns = {"x_um": rng.normal(size=N_UNITS), "y_um": rng.normal(size=N_UNITS)}
        population = dataclasses.replace(population, units={**population.units, **columns})
        source = SourceRecord(path=subject, reader="test", detected="")
        write_population(population, data / f"{subject}.h5", source=source)
    run = make_run(root, data, [(s, f"day{i}") for i, s in enumerate(SUBJECTS)])
    table = embed_untrained(run, open_sessions(data))
    shutil.rmtree(run.folder / "baselines")
    values = rng.normal(size=(table.n_units, 6)).astype(np.float32)
    rows = []
    for subject in SUBJECTS:
        units = np.flatnonzero(table.subject == subject)
        for a in units:
            for b in units:
                if a != b and rng.random() < 0.5:
                    rows.append(
                        (subject, table.unit_id[a], table.unit_id[b], int(values[a, 1] > values[b, 1] + 1))
                    )
    values[~table.seen] = np.nan
    table = dataclasses.replace(table, embedding=values, metadata={"run": run.id})
    write_embeddings(table, run.embeddings)
    return Place(root, run, table, write_pairs(root / "wired.csv", rows))


@pytest.fixture(scope="module")
def record(place: Place) -> PairsRecord:
    return place.probe(baselines="fast")


# What is measured


def test_scores_are_those_of_scikit_learn_in_every_resample() -> None:
    rng = np.random.default_rng(1)
    connected = rng.random(150) < 0.3
    score = np.round(rng.normal(size=150) + connected, 1)  # with ties
    weights = rng.integers(0, 4, (12, 150)).astype(float)
    found = weighted_ranking(connected, score, weights)
    for b, weight in enumerate(weights):
        rows = np.repeat(np.arange(150), weight.astype(int))
        expected = average_precision_score(connected[rows], score[rows])
        assert found.average_precision[b] == pytest.approx(expected)
        assert found.roc_auc[b] == pytest.approx(roc_auc_score(connected[rows], score[rows]))
    point = ranking_scores(connected, score)
    assert point.average_precision == pytest.approx(average_precision_score(connected, score))
    assert point.roc_auc == pytest.approx(roc_auc_score(connected, score))
    assert np.isnan(ranking_scores(np.ones(3, bool), np.arange(3.0)).roc_auc)


def test_resamples_draw_subjects_or_of_one_subject_units() -> None:
    pre, post = np.array([4, 4, 7, 9]), np.array([7, 9, 9, 4])
    subject = np.array(["a", "a", "b", "b"])
    several = np.concatenate(list(pair_weights(pair_plan(subject, subject, pre, post), 50, 0)))
    assert set(map(tuple, several.tolist())) == {(2, 2, 0, 0), (1, 1, 1, 1), (0, 0, 2, 2)}
    one = pair_plan(np.full(4, "a"), np.full(4, "a/x"), pre, post)
    assert (one.unit, one.n_groups) == ("units", 3)
    drawn = np.concatenate(list(pair_weights(one, 200, 0)))
    # Three units are drawn three times: 3 of one kind, 2 + 1 or 1 + 1 + 1, and a pair counts their product.
    assert set(drawn[:, 1].tolist()) == {0.0, 1.0, 2.0}
    np.testing.assert_array_equal(drawn[:, 1], drawn[:, 3])
    assert "all pairs being of subject a" in one.notes[0]


# How pairs are split


def wiring(n_subjects: int = 3, n_units: int = 12) -> tuple[UnitKeys, np.ndarray, np.ndarray]:
    """Keys of some subjects, and all ordered pairs within them."""
    n = n_subjects * n_units
    subject = np.repeat([f"m{i}" for i in range(n_subjects)], n_units)
    keys = UnitKeys(subject, subject, np.full(n, "0"), np.arange(n).astype(str))
    pre, post = np.nonzero((subject[:, None] == subject[None, :]) & ~np.eye(n, dtype=bool))
    return keys, pre.astype(np.int64), post.astype(np.int64)


@pytest.mark.parametrize("n_subjects", [1, 3])
def test_no_unit_is_on_both_sides_and_pairs_across_are_left_out(n_subjects: int) -> None:
    keys, pre, post = wiring(n_subjects)
    units = unit_split(keys, keys.subject, 3)
    split = split_pairs(units, pre, post, np.ones(len(pre), bool))
    for fold in split.folds:
        train = set(pre[fold.train].tolist()) | set(post[fold.train].tolist())
        test = set(pre[fold.test].tolist()) | set(post[fold.test].tolist())
        assert not train & test
        assert len(fold.train) + len(fold.test) + fold.n_across == len(pre)
        assert len(fold.test) == n_subjects * 4 * 3
        assert len(fold.train) == n_subjects * 8 * 7
    assert int(split.across.sum()) == len(pre) - 3 * n_subjects * 4 * 3
    assert ((split.fold_of >= 0) == ~split.across).all()


def test_a_subject_split_loses_no_pair() -> None:
    keys, pre, post = wiring()
    split = split_pairs(subject_split(keys, keys.subject), pre, post, np.ones(len(pre), bool))
    assert [fold.n_across for fold in split.folds] == [0, 0, 0]
    assert (split.fold_of >= 0).all()


def test_a_split_that_leaks_cannot_be_made() -> None:
    keys, pre, post = wiring()
    by_unit = unit_split(keys, keys.subject, 3)
    everything = np.arange(len(pre))
    with pytest.raises(InputError, match="same unit, but fold 'x' does"):
        PairSplit(by_unit, pre, post, (PairFold("x", everything[2:], everything[:2], 0),))
    by_subject = subject_split(keys, keys.subject)
    train, test = np.flatnonzero((pre < 4) & (post < 4)), np.flatnonzero((pre > 5) & (post > 5) & (pre < 12))
    with pytest.raises(InputError, match="same subject"):
        PairSplit(by_subject, pre, post, (PairFold("x", train, test, 0),))
    with pytest.raises(InputError, match="no fold has a pair whose units are both tested"):
        split_pairs(by_unit, pre, post, by_unit.fold[pre] != by_unit.fold[post])


def test_inner_parts_hold_whole_subjects_together_where_there_are_enough() -> None:
    keys, pre, post = wiring(4)
    part = inner_parts(keys, pre, post, 0)
    assert all(len(set(part[keys.subject == name].tolist())) == 1 for name in set(keys.subject.tolist()))
    assert set(part.tolist()) == {0, 1, 2}
    keys, pre, post = wiring(1)
    assert np.bincount(inner_parts(keys, pre, post, 0)).tolist() == [4, 4, 4]


# How it is fitted


def test_symmetric_features_know_no_direction_and_directed_ones_do() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 7, 3))
    np.testing.assert_array_equal(pair_features(a, b, "symmetric"), pair_features(b, a, "symmetric"))
    directed = pair_features(a, b, "directed")
    assert directed.shape == (7, 12)
    assert not np.allclose(directed, pair_features(b, a, "directed"))
    np.testing.assert_array_equal(directed[:, 6:9], a - b)


@pytest.mark.parametrize("strength", [1.0, "nested"])
@pytest.mark.parametrize("kind", PAIR_FEATURES)
def test_nothing_of_a_tested_pair_reaches_the_fit(kind: Any, strength: Any) -> None:
    keys, pre, post = wiring()
    values = np.random.default_rng(2).normal(size=(len(keys), 4))
    connected = values[pre, 0] * values[post, 0] > 0.3
    split = split_pairs(subject_split(keys, keys.subject, ["m1"]), pre, post, np.ones(len(pre), bool))
    test = split.folds[0].test

    def predict(values: np.ndarray, connected: np.ndarray) -> np.ndarray:
        described = PairInput("x", "x", units=values)
        return cross_predict_pairs(described, kind, split, connected, strength, 0).score

    clean = predict(values, connected)
    assert np.isfinite(clean[test]).all()
    assert np.isnan(np.delete(clean, test)).all()
    flipped = connected.copy()
    flipped[test] = ~flipped[test]
    np.testing.assert_array_equal(predict(values, flipped), clean)
    odd = values.copy()
    odd[12] = 1e6  # one tested unit; a scaler that saw it would be stretched
    others = test[(pre[test] != 12) & (post[test] != 12)]
    np.testing.assert_array_equal(predict(odd, connected)[others], clean[others])
    fitted = settle_and_fit(
        PairInput("x", "x", units=values), kind, split, connected, split.folds[0].train, 1.0, 0
    )
    assert fitted.units is not None
    np.testing.assert_allclose(fitted.units[-1].mean_, values[keys.subject != "m1"].mean(axis=0))


def test_a_large_table_is_thinned_and_the_rare_class_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "MAX_TRAIN_PAIRS", 40)
    connected = np.arange(200) % 20 == 0
    kept = thin(np.arange(200), connected, 0)
    assert len(kept) == len(set(kept.tolist())) == 40
    assert connected[kept].sum() == 10
    assert (thin(np.arange(200), np.arange(200) < 100, 0) < 100).sum() == 20


def test_a_connection_shows_in_the_cross_correlogram_and_never_across_a_gap() -> None:
    rng = np.random.default_rng(0)
    a, c = (np.sort(rng.uniform(0, 300, 1500)) for _ in range(2))
    b = np.sort(np.concatenate([rng.uniform(0, 300, 1500), a[::5] + 0.0025]))
    times, unit = np.concatenate([a, b, c]), np.repeat([0, 1, 2], [len(a), len(b), len(c)])
    order = np.argsort(times)
    pre, post = np.array([0, 1, 0]), np.array([1, 0, 2])
    found = correlogram_features(times[order], unit[order], 3, np.array([[0.0, 301.0]]), pre, post)
    forth, back, unrelated = found
    assert forth[0] > 2.5
    assert back[1] == pytest.approx(forth[0])
    assert abs(unrelated[0]) < 1.5
    kinds = by_kind(found)
    np.testing.assert_allclose(kinds["symmetric"][0], kinds["symmetric"][1])
    # Two spikes 2 ms apart, one on each side of a gap, are no coincidence.
    parts = np.array([[0.0, 1.0], [1.002, 2.0]])
    lonely = correlogram_features(np.array([0.9995, 1.0025]), np.array([0, 1]), 2, parts, pre[:1], post[:1])
    assert lonely[0, :3].tolist() == [0, 0, 0]


# The command's work, from files to a folder


def test_planted_connections_are_found_beside_every_baseline(record: PairsRecord) -> None:
    assert [result.features for result in record.results] == ["directed", "symmetric"]
    assert record.main == "directed"
    directed, symmetric = record.results
    names = [method.name for method in directed.methods]
    assert names == ["nuclr", "features", "window_average", "distance", "correlogram", "chance"]
    nuclr, chance = directed.methods[0], directed.methods[-1]
    assert nuclr.average_precision.value > 0.95
    assert nuclr.roc_auc.value > 0.95
    assert symmetric.methods[0].average_precision.value < 0.8  # it cannot tell (a, b) from (b, a)
    assert chance.average_precision.value == pytest.approx(record.n_tested_connected / record.n_tested)
    assert chance.roc_auc.value == 0.5
    assert {one.name for one in record.missing_baselines} == {"activity_pca", "acg_3d", "untrained"}
    assert record.verdict == directed.verdict
    assert record.verdict.startswith("Of the methods compared, NuCLR has the highest average precision")
    assert (record.kind, record.split, len(directed.folds)) == ("pairs", "subject", 4)
    assert record.n_across == 0
    assert record.n_tested + record.n_without_embedding == record.n_pairs


def test_the_folder_holds_everything_and_a_probe_that_loads_without_trust(
    record: PairsRecord, place: Place
) -> None:
    assert record.folder == place.run.folder / "probes" / "pairs-wired" / "subject-both-baselines-fast"
    assert {path.name for path in record.folder.iterdir()} == {
        "report.json", "predictions.parquet", "curves.png", "scores.png", "split.json", "probe.skops",
        "card.json",
    }  # fmt: skip
    report = json.loads((record.folder / "report.json").read_text())
    assert (report["kind"], report["main"]) == ("pairs", "directed")
    card = json.loads((record.folder / "card.json").read_text())
    assert (card["kind"], card["label"], card["variant"]) == ("pairs", "wired", "directed")
    fitted = skops.io.load(record.folder / "probe.skops", trusted=[])
    rows = pq.read_table(record.folder / "predictions.parquet").to_pylist()
    units = {
        (s, u): value
        for s, u, value in zip(place.table.subject, place.table.unit_id, place.table.embedding, strict=True)
    }
    usable = [row for row in rows if row["reason"] == ""]
    a, b = (
        fitted["units"].transform(np.array([units[row["subject"], row[side]] for row in usable], dtype=float))
        for side in ("pre", "post")
    )
    score = fitted["pairs"].predict_proba(pair_features(a, b, "directed"))[:, 1]
    assert average_precision_score([row["label"] for row in usable], score) > 0.95
    assert card["c"] == fitted["pairs"][-1].C


def test_predictions_hold_every_pair_with_a_reason_where_there_is_none(
    record: PairsRecord, place: Place
) -> None:
    with place.pairs.open() as file:
        asked = {(row["subject"], row["pre"], row["post"]): int(row["label"]) for row in csv.DictReader(file)}
    rows = pq.read_table(record.folder / "predictions.parquet").to_pylist()
    assert {(row["subject"], row["pre"], row["post"]): row["label"] for row in rows} == asked
    silent = f"u{N_UNITS - 1}"
    for row in rows:
        if silent in (row["pre"], row["post"]):
            assert row["reason"] == "no embedding of a unit"
            assert row["score_directed"] is row["score_symmetric"] is None
        else:
            assert (row["reason"], row["fold"]) == ("", row["subject"])
    tested = [row for row in rows if row["reason"] == ""]
    labels = [row["label"] for row in tested]
    for result in record.results:
        scores = [row[f"score_{result.features}"] for row in tested]
        expected = result.methods[0].average_precision.value
        assert average_precision_score(labels, scores) == pytest.approx(expected)


def test_shuffled_labels_score_like_chance(place: Place, tmp_path: Path) -> None:
    with place.pairs.open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    labels = np.random.default_rng(0).permutation([row[3] for row in rows])
    path = write_pairs(
        tmp_path / "shuffled.csv", [(*row[:3], x) for row, x in zip(rows, labels, strict=True)]
    )
    record = place.probe(path, bootstrap=300)
    for result in record.results:
        gap = result.methods[-1].nuclr_minus
        assert gap is not None
        assert gap.low <= 0 <= gap.high
        assert result.methods[0].roc_auc.low < 0.5 < result.methods[0].roc_auc.high


def test_the_order_of_either_table_changes_no_score(
    record: PairsRecord, place: Place, tmp_path: Path
) -> None:
    with place.pairs.open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    shuffled = write_pairs(
        tmp_path / "wired.csv", [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    )
    again = place.probe(shuffled, features="directed")
    assert again.results[0].methods[0] == record.results[0].methods[0]
    assert again.folder.name == "subject-directed-baselines-none"
    order = np.random.default_rng(1).permutation(place.table.n_units)
    columns = {
        f.name: getattr(place.table, f.name)[order]
        for f in dataclasses.fields(place.table)
        if f.name not in ("labels", "metadata")
    }
    path = tmp_path / "mixed.parquet"
    write_embeddings(dataclasses.replace(place.table, labels={}, **columns), path)
    mixed = place.probe(embeddings=path, features="directed")
    assert mixed.results[0].methods[0] == record.results[0].methods[0]


def test_few_subjects_fall_back_to_parts_of_units_and_say_what_is_lost(place: Place, tmp_path: Path) -> None:
    with place.pairs.open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file) if row["subject"] in ("s0", "s1")]
    listener = Listener()
    record = place.probe(write_pairs(tmp_path / "two.csv", rows), listener, features="directed")
    assert (record.split, len(record.results[0].folds)) == ("unit", 3)
    assert any("only 2 subjects carry pairs" in note for note in listener.notes)
    assert record.n_across > 0
    assert any(
        f"{record.n_across} of {record.n_pairs} pairs are never tested" in note for note in listener.notes
    )
    assert record.n_tested + record.n_across + record.n_without_embedding == record.n_pairs
    assert record.resampled == "subjects"
    alone = write_pairs(tmp_path / "one.csv", [row for row in rows if row[0] == "s0"])
    assert place.probe(alone, features="directed", folds=2).resampled == "units"
    again = place.probe(split=str(record.folder / "split.json"), features="directed")
    assert again.results[0].methods[0].average_precision == record.results[0].methods[0].average_precision
    assert again.n_not_in_split > 0


def test_labels_may_be_written_in_several_ways_and_repeated_pairs_are_merged(
    place: Place, tmp_path: Path
) -> None:
    spelling = {"0": ("0", "False", "0.0"), "1": ("1", "true", "1.0")}
    with place.pairs.open() as file:
        rows = [
            (row["subject"], row["pre"], row["post"], spelling[row["label"]][i % 3])
            for i, row in enumerate(csv.DictReader(file))
        ]
    listener = Listener()
    path = write_pairs(tmp_path / "wired.csv", [*rows, rows[0], rows[5]])
    record = place.probe(path, listener, features="directed")
    assert record.n_pairs == len(rows)
    assert any("2 rows of wired.csv repeat pairs" in note for note in listener.notes)


def test_simulated_animals_with_known_connections_end_to_end(tmp_path: Path) -> None:
    data = tmp_path / "nuclr-data"
    data.mkdir()
    config = SimulationConfig(n_animals=3, units_per_animal=20, minutes=2, seed=1, regions=("VISp",))
    animals = [connect(simulate_animal(config, i), seed=i) for i in range(3)]
    for i, animal in enumerate(animals):
        source = SourceRecord(path=str(i), reader="test", detected="")
        write_population(animal.population, data / f"{i}.h5", source=source)
        assert (animal.population.units["n_outputs"].sum()) == animal.connected.sum()
    save_pairs(animals, tmp_path / "connections.csv")
    keys = [(animal.population.subject, animal.population.session) for animal in animals]
    run = make_run(tmp_path, data, keys)
    write_embeddings(
        dataclasses.replace(embed_untrained(run, open_sessions(data)), metadata={"run": run.id}),
        run.embeddings,
    )
    there = Place(tmp_path, run, embed_untrained(run, open_sessions(data)), tmp_path / "connections.csv")
    record = there.probe(baselines="fast", features="directed")
    scores = {method.name: method.average_precision for method in record.results[0].methods}
    assert record.n_pairs == sum(len(animal.pre) for animal in animals)
    # What a connection does to the spikes is in the cross-correlogram, and no unit's own train shows it.
    assert scores["correlogram"].low > scores["chance"].high
    assert scores["correlogram"].value > scores["features"].value > scores["chance"].value


def test_calcium_pairs_have_no_cross_correlogram_of_spikes_and_say_so(tmp_path: Path) -> None:
    data = tmp_path / "nuclr-data"
    data.mkdir()
    for i, subject in enumerate(SUBJECTS):
        population = tiny_calcium(i, n_units=8, minutes=1.0, subject=subject, session=f"day{i}")
        write_population(
            population, data / f"{i}.h5", source=SourceRecord(path=subject, reader="test", detected="")
        )
    run = make_run(tmp_path, data, [(s, f"day{i}") for i, s in enumerate(SUBJECTS)], "calcium")
    table = embed_untrained(run, open_sessions(data))
    write_embeddings(dataclasses.replace(table, metadata={"run": run.id}), run.embeddings)
    rng = np.random.default_rng(0)
    rows = [(s, "u0", f"u{i}", int(rng.random() < 0.5)) for s in SUBJECTS for i in range(1, 8)]
    there = Place(tmp_path, run, table, write_pairs(tmp_path / "p.csv", rows))
    record = there.probe(baselines="fast", features="symmetric")
    why = {one.name: one.why for one in record.missing_baselines}
    assert "calcium" in why["correlogram"]
    assert "has a position" in why["distance"]


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


FINE = [("s0", "u0", "u1", 1), ("s0", "u1", "u0", 0)]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (HEADER, [*FINE, ("s0", "u0", "nobody", 1)], "p.csv names 1 unit that the embeddings do not have"),
        (HEADER, [*FINE, ("s0", "u0", "nobody", 1)], "'s0/nobody' (row 4)"),
        (HEADER, [("s9", "u0", "u1", 1)], "'s9/u0' (row 2)"),
        ("pre,post,label", [("u0", "u1", 1)], "'u0' may be s0/day0/0/u0 or s1/day1/0/u0"),
        ("pre,post,label", [("u0", "u1", 1)], "Add the column subject to say which is meant"),
        (HEADER, [*FINE, ("s0", "u0", "u1", 0)], "rows 2 and 4 contradict one another: s0/day0/0/u0 to"),
        (HEADER, [*FINE, ("s0", "u2", "u2", 0)], "row 4: unit s0/day0/0/u2 is paired with itself"),
        (HEADER, [*FINE, ("s0", "u2", "u3", "yes")], "row 4: the label is 'yes'"),
        (HEADER, [*FINE, ("s0", "u2", "u3", "")], "row 4: the label is ''"),
        (HEADER, [*FINE, ("s0", "u2", "u3", "nan")], "row 4: the label is 'nan'"),
        (HEADER, [("s0", "u0", "u1", 1)], "has the label 1 (connected)"),
        (HEADER, [], "has no pairs"),
        (
            "subject,pre,post,connected",
            FINE,
            "no column 'label'; its columns are: subject, pre, post, connected",
        ),
        ("subject,from,to,label", FINE, "no column 'pre' and no column 'post'"),
        (
            "pre_subject,pre,post_subject,post,label",
            [("s0", "u0", "s0", "u1", 0), ("s0", "u0", "s1", "u1", 1)],
            "row 3: s0/day0/0/u0 and s1/day1/0/u1 are of two sessions",
        ),
        (HEADER, FINE, "2 units that are in pairs do not fit"),
        (HEADER, [*FINE, ("s1", "u0", "u1", 0), ("s1", "u1", "u2", 0)], "not of both kinds: fold 'held-out"),
        (HEADER, [("s0", "u0", "u1")], "3 values for 4 columns"),
    ],
)
def test_a_table_of_pairs_that_cannot_be_right_is_exit_3_and_changes_no_file(
    place: Place, tmp_path: Path, header: str, rows: list[tuple[object, ...]], message: str
) -> None:
    path = write_pairs(tmp_path / "p.csv", rows, header)
    before = fingerprint(place.root)
    options = ("--test-subjects", "s1") if message.startswith("not of both kinds") else ()
    result = invoke(place, "--pairs", path, *options)
    assert result.exit_code == 3, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert fingerprint(place.root) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pair-features", "odd"), "Choose --pair-features directed, symmetric or both"),
        (("--split", "unit", "--folds", 1), "Choose --folds from 2 to"),
        (("--split", "unit", "--folds", 60), "60 parts of 64 units"),
        (("--test-subjects", "s9"), "s9"),
        (("--split", "nowhere.csv"), "Cannot read the split file nowhere.csv"),
        (("--run", "nope"), "nope"),
        (("--bootstrap", 0), "too few"),
    ],
)
def test_options_that_do_not_fit_the_pairs_are_exit_3(
    place: Place, options: tuple[object, ...], message: str
) -> None:
    before = fingerprint(place.root)
    result = CliRunner().invoke(
        app,
        ["probe", "--pairs", str(place.pairs), "--runs", str(place.root / "nuclr-runs"), *map(str, options)],
    )
    assert result.exit_code == 3, result.output
    assert message in " ".join(result.stderr.split())
    assert fingerprint(place.root) == before


def test_missing_files_are_exit_3_and_options_of_other_questions_exit_2(place: Place) -> None:
    result = invoke(place, "--pairs", "nowhere.csv")
    assert result.exit_code == 3
    assert "nowhere.csv does not exist" in result.stderr
    assert invoke(place, "--pairs", place.pairs, "--permutations", 5).exit_code == 2
    assert invoke(place, "--pairs", place.pairs, "--target-file", place.pairs).exit_code == 2
    assert invoke(place, "--pairs", place.pairs, "--label", "cell_type").exit_code == 2


def test_the_command_prints_tables_and_one_json_document(place: Place) -> None:
    shown = invoke(place, "--pairs", place.pairs)
    assert shown.exit_code == 0, shown.output
    for text in ("directed features (the main result)", "symmetric features", "average precision", "Split:"):
        assert text in shown.stdout
    done = invoke(place, "--pairs", place.pairs, "--pair-features", "symmetric", "--json", "--quiet")
    document = json.loads(done.stdout)
    assert (document["kind"], document["main"]) == ("pairs", "symmetric")
    assert document["folder"].endswith("subject-symmetric-baselines-none")
