"""`nuclr predict --export`: from a recording to labels in that recording, and in no other."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nuclr_cli.data.embeddings import EmbeddingTable, write_embeddings
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.predict import predict
from nuclr_cli.workflows.predict_record import PredictConfig, PredictRecord
from nuclr_cli.workflows.preprocess import preprocess
from nuclr_cli.workflows.preprocess_record import PreprocessConfig
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_record import ProbeConfig

CLASSES = ("PV", "SST")
METADATA = {"run": "fake@2026", "checkpoint_step": "5", "checkpoint_sha256": "ab" * 32}
PHY_LABELS = "cluster_nuclr_cell_type.tsv"


KEY = ("subject", "session", "population", "unit_id")


def table(keys: list[tuple[str, ...]], codes: np.ndarray, labelled: bool, seed: int = 0) -> EmbeddingTable:
    """Embeddings that tell a unit's class beyond doubt; rows in the order of `keys`."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(len(keys), 6)).astype(np.float32)
    embedding[:, 0] += 8 * codes
    columns = dict(zip(KEY, map(np.array, zip(*keys, strict=True)), strict=True))
    return EmbeddingTable(
        **columns,
        modality=np.full(len(keys), "spikes"),
        n_windows=np.full(len(keys), 30),
        n_events=rng.integers(100, 500, len(keys)),
        embedding=embedding,
        labels={"cell_type": np.array(CLASSES)[codes]} if labelled else {},
        metadata=METADATA,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a probe that is always right and sure."""
    root = tmp_path_factory.mktemp("trained")
    codes = np.arange(120) % 2
    keys = [(f"t{i % 4}", "day", "0", str(i)) for i in range(120)]
    write_embeddings(table(keys, codes, labelled=True), root / "train.parquet")
    made = probe(
        ProbeConfig("cell_type", embeddings=root / "train.parquet", runs=root, bootstrap=10, baselines="none")
    )
    return made.folder


@dataclass(frozen=True)
class Case:
    """A recording that was preprocessed, and embeddings of its units in a shuffled order.

    Attributes:
        truth: Unit id -> class that its embedding says.
    """

    root: Path
    source: Path
    probe: Path
    truth: dict[str, str]

    def predict(self, **options: Any) -> PredictRecord:
        given = {
            "probe": self.probe,
            "embeddings": self.root / "new.parquet",
            "runs": self.root / "no-runs",
            "data": self.root / "nuclr-data",
            **options,
        }
        return predict(PredictConfig(**given))


@pytest.fixture
def case(shared: Path, tmp_path: Path, trained: Path) -> Callable[..., Case]:
    def make(*names: str) -> Case:
        """Recordings of shared/samples; the case is about the first."""
        places = []
        for name in names:
            source, place = shared / "samples" / name, tmp_path / Path(name).name
            if source.is_dir():
                shutil.copytree(source, place, copy_function=shutil.copy)
                for path in (place, *place.rglob("*")):
                    path.chmod(0o755 if path.is_dir() else 0o644)
            else:
                shutil.copyfile(source, place)
            places.append(place)
            preprocess(
                PreprocessConfig(
                    (place,), tmp_path / "nuclr-data", subject=place.stem, session="day", jobs=1,
                    duration_s=() if place.suffix else (20.0, 20.0) if "numpy" in name else (20.0,),
                    segment_starts_s=(0.0, 100.0) if "numpy" in name else (),
                )
            )  # fmt: skip
        keys = [
            (s.key.subject, s.key.session, s.key.population, unit)
            for s in open_sessions(tmp_path / "nuclr-data")
            for unit in s.unit_ids.tolist()
        ]
        order = np.random.default_rng(4).permutation(len(keys))
        keys = [keys[i] for i in order]
        codes = np.random.default_rng(5).integers(0, 2, len(keys))
        write_embeddings(table(keys, codes, labelled=False, seed=1), tmp_path / "new.parquet")
        truth = {
            key[3]: CLASSES[code] for key, code in zip(keys, codes, strict=True) if key[0] == places[0].stem
        }
        return Case(tmp_path, places[0], trained, truth)

    return make


def digests(place: Path) -> dict[str, str]:
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def phy_labels(folder: Path) -> dict[str, str]:
    rows = [line.split("\t") for line in (folder / PHY_LABELS).read_text().splitlines()[1:]]
    return {unit: label for unit, label in rows if label}


def test_a_phy_folder_gets_its_labels(case: Callable[..., Case]) -> None:
    one = case("si/phy")
    before = digests(one.source)
    record = one.predict(export="phy", to=one.source, out=one.root / "out.csv")
    assert phy_labels(one.source) == one.truth
    assert len(set(one.truth.values())) == 2
    after = digests(one.source)
    assert {name: after[name] for name in before} == before
    assert record.exporter == "phy"
    assert {path.name for path in record.exported} == {PHY_LABELS, "cluster_nuclr_cell_type_probability.tsv"}
    assert record.csv == one.root / "out.csv"
    assert {Path(name).name for name in set(after) - set(before)} == {path.name for path in record.exported}


def test_nothing_of_the_user_is_replaced_without_being_told(case: Callable[..., Case]) -> None:
    one = case("si/phy")
    (one.source / PHY_LABELS).write_text("mine")
    before = digests(one.source)
    with pytest.raises(InputError, match=f"{PHY_LABELS} exists") as caught:
        one.predict(export="phy", to=one.source)
    assert "--overwrite" in caught.value.fix
    assert digests(one.source) == before
    one.predict(export="phy", to=one.source, overwrite=True)
    assert phy_labels(one.source) == one.truth


def test_of_several_sessions_those_of_the_folder_are_written(case: Callable[..., Case]) -> None:
    one = case("si/phy", "si/kilosort4_like")
    other = one.root / "kilosort4_like"
    before = digests(other)
    one.predict(export="phy", to=one.source)
    assert phy_labels(one.source) == one.truth
    assert digests(other) == before


def test_clusters_of_another_recording_are_never_taken_for_ours(case: Callable[..., Case]) -> None:
    """Both folders number their clusters from 0: ids alone would let every label land on a wrong unit."""
    one = case("si/phy")
    foreign = one.root / "foreign"
    shutil.copytree(one.source, foreign)
    times = np.load(foreign / "spike_times.npy")
    np.save(foreign / "spike_times.npy", times + 1)
    np.save(foreign / "templates.npy", np.load(foreign / "templates.npy") * 2)
    np.save(foreign / "pc_features.npy", np.load(foreign / "pc_features.npy") * 2)
    before = digests(foreign)
    with pytest.raises(InputError, match="holds other files") as caught:
        one.predict(export="phy", to=foreign)
    assert f"--to {one.source}" in caught.value.fix
    assert digests(foreign) == before
    one.predict(export="phy", to=foreign, source=foreign)  # the user knows better
    assert phy_labels(foreign) == one.truth


def test_a_copy_of_the_folder_is_recognised_by_its_bytes(case: Callable[..., Case]) -> None:
    one = case("si/phy")
    moved = one.source.rename(one.root / "moved")
    (moved / "cluster_group.tsv").write_text("cluster_id\tgroup\n0\tgood\n")  # curated meanwhile
    one.predict(export="phy", to=moved)
    assert phy_labels(moved) == one.truth


def test_a_folder_that_was_sorted_again_is_refused(case: Callable[..., Case]) -> None:
    one = case("si/phy")
    (session,) = open_sessions(one.root / "nuclr-data")
    largest = one.source / max(session.meta.source.files, key=lambda file: file.size).name
    assert largest.suffix == ".npy"  # spikes or templates, which curation in phy does not touch
    largest.write_bytes(largest.read_bytes()[:-1] + b"!")
    before = digests(one.source)
    with pytest.raises(InputError, match="has changed since") as caught:
        one.predict(export="phy", to=one.source)
    assert "nuclr preprocess" in caught.value.fix
    assert digests(one.source) == before


def test_without_session_files_the_user_has_to_say_what_it_is(case: Callable[..., Case]) -> None:
    one = case("si/phy")
    shutil.rmtree(one.root / "nuclr-data")
    with pytest.raises(InputError, match="its session file was not found") as caught:
        one.predict(export="phy", to=one.source, data=None)
    assert f"--source {one.source}" in caught.value.fix
    with pytest.raises(InputError, match="does not exist"):
        one.predict(export="phy", to=one.source)
    one.predict(export="phy", to=one.source, data=None, source=one.source)
    assert phy_labels(one.source) == one.truth


def test_a_copy_of_a_sorting_is_made_of_what_the_session_was_read_from(case: Callable[..., Case]) -> None:
    import spikeinterface

    one = case("si/numpy_folder")
    before = digests(one.source)
    record = one.predict(export="spikeinterface", to=one.root / "labelled")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy = spikeinterface.load(one.root / "labelled")
    found = dict(zip(map(str, copy.unit_ids), copy.get_property("nuclr_cell_type").tolist(), strict=True))
    assert {unit: label for unit, label in found.items() if label} == one.truth
    assert digests(one.source) == before
    assert record.exported == (one.root / "labelled",)
    assert not any("has changed" in text for text in record.warnings)
    with pytest.raises(InputError, match="labelled exists"):
        one.predict(export="spikeinterface", to=one.root / "labelled")
    (one.source / "annotations.json").write_text("{}")
    again = one.predict(export="spikeinterface", to=one.root / "labelled", overwrite=True)
    assert any("has changed since nuclr preprocess read it (annotations" in one for one in again.warnings)


def test_a_copy_of_an_nwb_file_gets_the_columns(case: Callable[..., Case]) -> None:
    from pynwb import NWBHDF5IO

    one = case("nwb/ephys.nwb")
    before = digests(one.source)
    one.predict(export="nwb", to=one.root / "labelled.nwb")
    with warnings.catch_warnings(), NWBHDF5IO(one.root / "labelled.nwb", "r") as io:
        warnings.simplefilter("ignore")
        labels = io.read().units.to_dataframe()["nuclr_cell_type"]
    assert {str(unit): label for unit, label in labels.items() if label} == one.truth
    assert digests(one.source) == before


def test_what_cannot_be_exported_writes_nothing_at_all(case: Callable[..., Case]) -> None:
    one = case("si/phy", "nwb/ephys.nwb")
    before = digests(one.root)
    for options, what in (
        ({"export": "phi", "to": one.source}, "no exporter 'phi'"),
        ({"export": "phy", "to": one.root / "nowhere" / "x"}, "nowhere does not exist"),
        ({"export": "phy", "to": one.root / "nuclr-data"}, "None of 2 sessions was read from"),
        ({"export": "phy", "to": one.root / "new.parquet"}, "is no phy folder"),
        ({"export": "nwb", "to": one.root / "x.nwb"}, "units come from"),
        ({"export": "nwb", "to": one.root / "x.nwb", "session": "phy/day"}, "is a folder"),
        ({"export": "spikeinterface", "to": one.root / "x", "session": "phy/day"}, "no place for properties"),
    ):
        with pytest.raises(InputError.__base__, match=what):
            one.predict(out=one.root / "out.csv", **options)
    assert digests(one.root) == before


@pytest.mark.slow
def test_the_command_exports(case: Callable[..., Case], nuclr: Callable[..., Any]) -> None:
    one = case("si/phy")
    options = ("--embeddings", "new.parquet", "--data", "nuclr-data", "--export", "phy")
    done = nuclr("predict", "--probe", one.probe, *options, "--to", "phy", "--json", cwd=one.root)
    assert done.code == 0, done.err
    assert Path(done.json["exported"][0]).name == PHY_LABELS
    assert done.json["csv"] is None
    assert phy_labels(one.source) == one.truth
