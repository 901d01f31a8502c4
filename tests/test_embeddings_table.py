"""The embedding table keeps every unit in its row."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings, write_embeddings
from nuclr_cli.errors import InputError


def table(n_units: int = 7, width: int = 4, unseen: tuple[int, ...] = (0, 3, 6)) -> EmbeddingTable:
    embedding = np.arange(n_units * width, dtype=np.float32).reshape(n_units, width)
    embedding[list(unseen)] = np.nan
    return EmbeddingTable(
        subject=np.array(["m1"] * n_units),
        session=np.array(["s1"] * n_units),
        population=np.array(["0"] * n_units),
        unit_id=np.array([f"ü{i}" for i in range(n_units)]),
        modality=np.array(["spikes"] * n_units),
        n_windows=np.arange(n_units),
        n_events=np.arange(n_units) * 10,
        embedding=embedding,
        labels={
            "cell_type": np.array(["PV", ""] * n_units)[:n_units],
            "brain region": np.array(["VISp"] * n_units),
        },
        metadata={"run": "r1", "config": '{"a": 1}'},
    )


def assert_equal(found: EmbeddingTable, expected: EmbeddingTable) -> None:
    for name in ("subject", "session", "population", "unit_id", "modality", "n_windows", "n_events"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    assert found.embedding.dtype == np.float32
    assert np.array_equal(found.embedding, expected.embedding, equal_nan=True)
    assert list(found.labels) == list(expected.labels)
    for name, values in expected.labels.items():
        assert found.labels[name].tolist() == values.tolist()
    assert found.metadata == expected.metadata


@pytest.mark.parametrize("unseen", [(), (0, 3, 6), tuple(range(7))])
def test_round_trip(tmp_path, unseen):
    expected = table(unseen=unseen)
    write_embeddings(expected, tmp_path / "e.parquet")
    found = load_embeddings(tmp_path / "e.parquet")
    assert_equal(found, expected)
    assert np.flatnonzero(~found.seen).tolist() == list(unseen)


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    ids=st.lists(words, min_size=1, max_size=9, unique=True),
    width=st.integers(1, 5),
    label=words,
    seed=st.integers(0, 2**32),
)
def test_round_trip_of_any_table(ids, width, label, seed):
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(len(ids), width)).astype(np.float32)
    embedding[rng.random(len(ids)) < 0.4] = np.nan
    expected = replace(
        table(len(ids), width, unseen=()),
        unit_id=np.array(ids, dtype=np.str_),
        embedding=embedding,
        labels={"type": np.array([label] * len(ids), dtype=np.str_)},
    )
    with tempfile.TemporaryDirectory() as folder:
        write_embeddings(expected, Path(folder) / "e.parquet")
        assert_equal(load_embeddings(Path(folder) / "e.parquet"), expected)


def test_what_is_on_disk(tmp_path):
    write_embeddings(table(), tmp_path / "e.parquet")
    stored = pq.read_table(tmp_path / "e.parquet")
    fixed = ["subject", "session", "population", "unit_id", "modality", "n_windows", "n_events"]
    assert stored.column_names == [*fixed, "cell_type", "brain region", "embedding"]
    assert stored.schema.field("embedding").type == pa.list_(pa.float32(), 4)
    assert stored.column("embedding").null_count == 3
    assert json.loads(stored.schema.metadata[b"nuclr"]) == {"run": "r1", "config": '{"a": 1}'}


@pytest.mark.parametrize("row_group_size", [1, 2, 3, 100])
def test_null_rows_shift_no_unit_however_the_file_is_cut(tmp_path, row_group_size):
    expected = table()
    write_embeddings(expected, tmp_path / "e.parquet")
    stored = pq.read_table(tmp_path / "e.parquet")
    rechunked = pa.concat_tables([stored.slice(5), stored.slice(0, 1), stored.slice(1, 4)])
    pq.write_table(rechunked, tmp_path / "f.parquet", row_group_size=row_group_size)
    order = [5, 6, 0, 1, 2, 3, 4]
    found = load_embeddings(tmp_path / "f.parquet")
    assert found.unit_id.tolist() == expected.unit_id[order].tolist()
    assert np.array_equal(found.embedding, expected.embedding[order], equal_nan=True)


def test_filtered_and_label_encoded_files_of_other_tools(tmp_path):
    expected = table()
    write_embeddings(expected, tmp_path / "e.parquet")
    stored = pq.read_table(tmp_path / "e.parquet")
    labels = pa.array(["a", None, "b", "a", "b", None, "a"]).dictionary_encode()
    stored = stored.set_column(stored.column_names.index("cell_type"), "cell_type", labels)
    stored = stored.append_column("layer", pa.array([1, 2, None, 4, 5, 6, 7]))
    pq.write_table(stored.filter(pa.array([i % 2 == 0 for i in range(7)])), tmp_path / "f.parquet")
    found = load_embeddings(tmp_path / "f.parquet")
    assert found.labels["cell_type"].tolist() == ["a", "b", "b", "a"]
    assert found.labels["layer"].tolist() == ["1", "", "5", "7"]
    assert np.array_equal(found.embedding, expected.embedding[::2], equal_nan=True)


def test_double_precision_and_partly_null_values_are_read(tmp_path):
    write_embeddings(table(), tmp_path / "e.parquet")
    stored = pq.read_table(tmp_path / "e.parquet")
    rows = [[1.0, 2.0], [None, 4.0], None, [5.0, 6.0], [7.0, 8.0], None, [9.0, 0.0]]
    column = pa.array(rows, pa.list_(pa.float64(), 2))
    stored = stored.set_column(stored.column_names.index("embedding"), "embedding", column)
    pq.write_table(stored, tmp_path / "f.parquet")
    found = load_embeddings(tmp_path / "f.parquet").embedding
    expected = [[1, 2], [np.nan, 4], [np.nan] * 2, [5, 6], [7, 8], [np.nan] * 2, [9, 0]]
    assert np.array_equal(found, np.array(expected, dtype=np.float32), equal_nan=True)


def test_an_empty_table(tmp_path):
    write_embeddings(table(0, unseen=()), tmp_path / "e.parquet")
    assert load_embeddings(tmp_path / "e.parquet").embedding.shape == (0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_events": np.arange(3)}, r"7 units, but columns of other lengths: \{'n_events': 3\}"),
        ({"labels": {"x": np.array(["a"])}}, r"other lengths: \{'x': 1\}"),
        ({"embedding": np.zeros(7, np.float32)}, r"shape \(7,\), expected \(units, dimensions\)"),
        ({"embedding": np.zeros((7, 0), np.float32)}, r"shape \(7, 0\)"),
        ({"labels": {"modality": np.array([""] * 7)}}, "would hide columns"),
        (
            {"unit_id": np.array(list("abcdeaa"))},
            "1 units occur more than once .* first is m1/s1/0/a",
        ),
        ({"embedding": np.where(np.eye(7, 4, dtype=bool), np.inf, 1.0)}, "Embeddings of 4 units hold NaN"),
        ({"embedding": np.where(np.eye(7, 4, dtype=bool), np.nan, 1.0)}, "the first is unit 'ü0'"),
    ],
)
def test_tables_that_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        write_embeddings(replace(table(), **changes), tmp_path / "e.parquet")
    assert not list(tmp_path.iterdir())


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "e.parquet"
    with pytest.raises(InputError, match="does not exist"):
        load_embeddings(path)
    path.write_text("no parquet")
    with pytest.raises(InputError, match="cannot be read as a Parquet table"):
        load_embeddings(path)
    write_embeddings(table(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as a Parquet table"):
        load_embeddings(path)
    path.write_bytes(whole)
    stored = pq.read_table(path)
    pq.write_table(stored.drop_columns(["unit_id", "embedding"]), path)
    with pytest.raises(InputError, match="no column 'unit_id', 'embedding'"):
        load_embeddings(path)
    ragged = stored.column("embedding").cast(pa.list_(pa.float32()))
    pq.write_table(stored.set_column(stored.num_columns - 1, "embedding", ragged), path)
    with pytest.raises(InputError, match="expected a fixed-size list") as caught:
        load_embeddings(path)
    assert "pandas" in caught.value.fix
    floats = pa.array(np.zeros(7))
    pq.write_table(stored.set_column(stored.column_names.index("n_windows"), "n_windows", floats), path)
    with pytest.raises(InputError, match="column 'n_windows' holds double"):
        load_embeddings(path)


def test_an_existing_table_survives_a_refused_one(tmp_path):
    path = tmp_path / "e.parquet"
    write_embeddings(table(), path)
    before = path.read_bytes()
    with pytest.raises(InputError):
        write_embeddings(replace(table(), n_events=np.arange(3)), path)
    assert path.read_bytes() == before
