"""`--baselines`: what each level compares with, what the result says it lacks, and the raw window average."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nuclr_cli.api import Spikes
from nuclr_cli.data.batch import evaluation_batches
from nuclr_cli.data.embeddings import write_embeddings
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session, SourceRecord, write_population
from nuclr_cli.data.tokens import CalciumTokens, SpikeTokens, TokenSpec
from nuclr_cli.data.windows import evaluation_windows
from nuclr_cli.errors import InputError
from nuclr_cli.testing.tiny import tiny_calcium, tiny_population
from nuclr_cli.workflows.embed import embed_untrained
from nuclr_cli.workflows.presets import for_modalities, preset_settings
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_baselines import LEVELS, TITLES, representations
from nuclr_cli.workflows.probe_inputs import ProbeTable, read_table
from nuclr_cli.workflows.probe_record import ProbeConfig, ProbeRecord
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs import Run, RunSession, create_run
from nuclr_cli.workflows.window_average import window_average

MADE = ["features", "activity_pca", "acg_3d", "window_average", "untrained"]
TOKENS = TokenSpec(calcium=CalciumTokens(period_s=0.25, n_samples=40))


def stored(folder: Path, population: object, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.h5"
    write_population(population, path, source=SourceRecord(path=name, reader="test", detected=""))
    return path


def make_run(root: Path, modalities: tuple[str, ...], held_out: tuple[str, ...] = ()) -> Run:
    """Four animals, in turn of each modality, and a run at step 0 whose encoder has embedded them."""
    sessions = []
    for i in range(4):
        make = tiny_calcium if modalities[i % len(modalities)] == "calcium" else tiny_population
        population = make(i, n_units=16, minutes=1.0, subject=f"s{i}", session="day")
        stored(root / "nuclr-data", population, f"s{i}")
        sessions.append(RunSession(f"s{i}", "day", "0", 16, "train"))
    settings = for_modalities(preset_settings("tiny"), frozenset(modalities))
    run = create_run(root / "nuclr-runs", "run", settings, root / "nuclr-data", sessions)
    table = embed_untrained(run, open_sessions(run.data))
    write_embeddings(
        dataclasses.replace(table, metadata={"run": run.id, "checkpoint_step": "0"}), run.embeddings
    )
    return run


@dataclass(frozen=True)
class Place:
    run: Run

    @property
    def source(self) -> ProbeTable:
        return read_table(self.run.folder, None, self.run.folder.parent)

    def probe(self, **options: object) -> ProbeRecord:
        config = ProbeConfig("cell_type", run=self.run.folder, bootstrap=20, **options)
        return probe(config)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(make_run(tmp_path_factory.mktemp("levels"), ("spikes",)))


def rows_of(source: ProbeTable) -> NDArray[np.int64]:
    return np.flatnonzero(source.table.labels["cell_type"] != "")


def test_full_is_the_default_and_describes_every_unit_in_every_way(place: Place) -> None:
    source = place.source
    rows = rows_of(source)[3:]
    made, missing = representations(source, rows, None, SilentReporter())
    assert [one.name for one in made] == MADE
    assert missing == ()
    others = np.setdiff1d(np.arange(len(source.keys)), rows)
    for one in made:
        assert np.isfinite(one.values[rows]).all(), one.name
        assert np.isnan(one.values[others]).all(), one.name
        assert len(np.unique(one.values[rows], axis=0)) == len(rows), one.name
    assert ProbeConfig("cell_type").baselines == "full"


def test_fast_leaves_out_what_takes_long_and_says_so(place: Place) -> None:
    record = place.probe(baselines="fast")
    assert [one.name for one in record.methods] == [
        "nuclr",
        "features",
        "window_average",
        "majority",
        "chance",
    ]
    assert [one.name for one in record.missing_baselines] == ["activity_pca", "acg_3d", "untrained"]
    assert {one.why for one in record.missing_baselines} == {"--baselines fast"}
    (warning,) = [text for text in record.warnings if "--baselines" in text]
    assert "without some of its baselines (--baselines fast)" in warning
    assert "PCA of the 3D autocorrelogram" in warning
    assert not any("Baseline missing" in text for text in record.warnings)
    assert "Not compared with: PCA of binned activity" in record.verdict
    full = place.probe()
    assert full.missing_baselines == ()
    by_name = {one.name: one for one in full.methods}
    for one in record.methods:  # the same numbers, whatever else is asked for
        assert by_name[one.name].macro_f1 == one.macro_f1


def test_none_says_that_the_result_stands_without_its_baselines(place: Place) -> None:
    record = place.probe(baselines="none")
    assert [one.name for one in record.methods] == ["nuclr", "majority", "chance"]
    assert [one.name for one in record.missing_baselines] == MADE
    (warning,) = [text for text in record.warnings if "baselines" in text]
    assert "stands without its baselines (--baselines none)" in warning
    report = json.loads((record.folder / "report.json").read_text())
    assert [one["why"] for one in report["missing_baselines"]] == ["--baselines none"] * 5
    assert report["warnings"] == list(record.warnings)


def test_none_reads_no_recording(place: Place, tmp_path: Path) -> None:
    made, missing = representations(
        place.source, rows_of(place.source), tmp_path / "gone", SilentReporter(), "none"
    )
    assert made == ()
    assert {one.why for one in missing} == {"--baselines none"}
    with pytest.raises(InputError, match=r"--data .*gone does not exist") as caught:
        representations(place.source, rows_of(place.source), tmp_path / "gone", SilentReporter(), "fast")
    assert "--baselines none" in caught.value.fix


def test_another_level_is_refused_before_anything_is_read() -> None:
    with pytest.raises(InputError, match="--baselines all is not known") as caught:
        ProbeConfig("cell_type", baselines="all")
    assert caught.value.exit_code == 3
    assert "fast or full or none" in caught.value.fix


def test_sessions_of_both_modalities_share_what_both_have(tmp_path: Path) -> None:
    place = Place(make_run(tmp_path, ("spikes", "calcium")))
    source = place.source
    made, missing = representations(source, rows_of(source), None, SilentReporter())
    assert [one.name for one in made] == ["features", "activity_pca", "window_average", "untrained"]
    assert [(one.name, one.why) for one in missing] == [
        ("acg_3d", "it is defined for spikes, and there are calcium sessions")
    ]
    spikes = np.array([modality == "spikes" for modality in source.table.modality])
    for one in made[:3]:
        known = np.isfinite(one.values)
        assert not (known[spikes].any(axis=0) & known[~spikes].any(axis=0)).any()
        assert one.front.impute
    record = place.probe()
    assert [one.name for one in record.methods] == [
        "nuclr", "features", "activity_pca", "window_average", "untrained", "majority", "chance",
    ]  # fmt: skip


def test_a_unit_that_the_data_no_longer_hold_makes_each_baseline_missing(
    place: Place, tmp_path: Path
) -> None:
    for path in place.run.data.glob("*.h5"):
        shutil.copy(path, tmp_path)
    smaller = tiny_population(1, n_units=15, minutes=1.0, subject="s1", session="day")
    (tmp_path / "s1.h5").unlink()
    stored(tmp_path, smaller, "s1")
    made, missing = representations(place.source, rows_of(place.source), tmp_path, SilentReporter())
    assert made == ()
    assert [one.name for one in missing] == MADE
    for one in missing:
        assert "s1/day" in one.why
        assert "run nuclr embed again" in one.why


def encoder_inputs(session: Session, tokens: TokenSpec) -> NDArray[np.float64]:
    """Mean of the very arrays that the embedding's batches hold."""
    sums, counts = None, np.zeros(session.n_units)
    for batch in evaluation_batches(session, tokens, 1000):
        inputs = batch.views.inputs.numpy().reshape(len(batch.views.ids), -1)
        sums = np.zeros((session.n_units, inputs.shape[1])) if sums is None else sums
        np.add.at(sums, batch.views.ids.numpy(), inputs)
        np.add.at(counts, batch.views.ids.numpy(), 1)
    assert sums is not None
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts[:, None])


@pytest.mark.parametrize("make", [tiny_population, tiny_calcium])
def test_the_window_average_is_that_of_what_the_encoder_sees(make: object, tmp_path: Path) -> None:
    options = {"silent_units": 1} if make is tiny_population else {}
    intervals = [(0.0, 35.0), (50.0, 58.0), (60.0, 81.0)]  # one is shorter than a window
    population = make(2, n_units=9, intervals=intervals, **options)  # type: ignore[operator]
    session = Session(stored(tmp_path, population, "one"))
    found = window_average(session, TOKENS)
    np.testing.assert_allclose(found, encoder_inputs(session, TOKENS), rtol=1e-6, atol=1e-9)
    assert np.isnan(found).all(axis=1).sum() == len(options)
    assert len(evaluation_windows(session, TOKENS)) == 7


def test_the_window_average_of_spikes_is_the_histogram_over_active_windows(tmp_path: Path) -> None:
    population = tiny_population(3, n_units=5, minutes=1.0, median_rate_hz=0.3)
    session = Session(stored(tmp_path, population, "one"))
    times, unit_index = session.spikes
    found = window_average(session, TOKENS)
    for unit in range(5):
        own = times[np.asarray(unit_index) == unit]
        windows = [np.histogram(own - start, np.arange(501) * 0.02)[0] for start in range(0, 60, 10)]
        active = [counts for counts in windows if counts.any()]
        assert 0 < len(active) <= 6
        np.testing.assert_allclose(found[unit], np.mean(active, axis=0), atol=1e-6)


def test_windows_without_a_spike_do_not_count(tmp_path: Path) -> None:
    population = tiny_population(0, n_units=3, minutes=1.0)
    spikes = Spikes(np.array([12.01, 12.03, 12.05, 41.0]), np.array([0, 0, 2, 2]))  # four windows are silent
    session = Session(stored(tmp_path, dataclasses.replace(population, spikes=spikes), "one"))
    found = window_average(session, TOKENS)
    np.testing.assert_array_equal(np.flatnonzero(found[0]), [100, 101])
    np.testing.assert_array_equal(found[0, [100, 101]], [1.0, 1.0])
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[2, [50, 102]], [0.5, 0.5])


def test_a_run_on_spike_times_has_the_window_average_of_counts(tmp_path: Path) -> None:
    session = Session(stored(tmp_path, tiny_population(3, n_units=5, minutes=1.0), "one"))
    events = TokenSpec(spikes=SpikeTokens(kind="events"))
    np.testing.assert_array_equal(window_average(session, events), window_average(session, TokenSpec()))


def test_the_table_in_the_documents_is_what_each_level_does() -> None:
    page = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.split("|")] for row in page.splitlines() if row.startswith("| ")]
    head = next(row for row in rows if row[1] == "baseline")
    levels = {head[i]: {row[1] for row in rows if row[i : i + 1] == ["yes"]} for i in (2, 3, 4)}
    guesses = {"most frequent class", "chance"}
    assert levels == {level: {TITLES[name] for name in names} | guesses for level, names in LEVELS.items()}


@pytest.mark.slow
def test_the_terminal_says_what_the_result_lacks(place: Place, nuclr: object) -> None:
    folder = place.run.folder.parents[1]
    arguments = ("probe", "--label", "cell_type", "--bootstrap", 20)
    shown = nuclr(*arguments, "--baselines", "none", cwd=folder)  # type: ignore[operator]
    assert shown.code == 0, shown.err
    assert "stands without its baselines (--baselines none)" in shown.err
    assert shown.out.count("missing") == len(MADE)
    wrong = nuclr(*arguments, "--baselines", "every", "--json", cwd=folder)  # type: ignore[operator]
    assert wrong.code == 3
    assert "fast or full or none" in wrong.json["error"]["fix"]
    text = nuclr("probe", "--help", cwd=folder).out  # type: ignore[operator]
    assert "raw window average" in text
