"""Regions of channels land on the units of these channels, by name or by position, and it is said how."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nuclr_cli.api import Population
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.regions import add_regions, read_region_table

Rows = list[dict[str, Any]]


def table(path: Path, rows: Rows, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def population(**columns: Any) -> Population:
    n_units = len(next(iter(columns.values())))
    units = {
        "id": np.array([f"u{i}" for i in range(n_units)]),
        **{k: np.array(v) for k, v in columns.items()},
    }
    return Population("m", "d", units, np.array([[0.0, 1.0]]))


def joined(tmp_path: Path, units: Population, rows: Rows) -> tuple[list[str], str]:
    after = add_regions(units, read_region_table(table(tmp_path / "channels.csv", rows)))
    return after.units["brain_region"].tolist(), " ".join((*after.notes, *after.warnings))


@pytest.fixture(scope="module")
def culture(shared: Path) -> Path:
    return shared / "data" / "mea" / "2006-10-02" / "TC92-NB-C57-DIV18_A"


def places(culture: Path) -> Rows:
    """Electrode, position and a made-up area (left or right of the middle) of every unit of the culture."""
    names, x, y = (np.load(culture / "properties" / f"{n}.npy") for n in ("electrode", "x_um", "y_um"))
    return [
        {"electrode": e, "x_um": a, "y_um": b, "area": "left" if a < 800 else "right"}
        for e, a, b in zip(names.tolist(), x.tolist(), y.tolist(), strict=True)
    ]


def without_region(culture: Path, copy: Path) -> Path:
    """The culture without the region that it has of its own."""
    import shutil

    shutil.copytree(culture, copy)
    (copy / "properties" / "brain_region.npy").unlink()
    return copy


def test_a_real_culture_takes_regions_by_electrode_and_by_position(
    nuclr: Callable[..., Any], culture: Path, tmp_path: Path
) -> None:
    source = without_region(culture, tmp_path / "culture")
    known = places(culture)
    by_name = [{"channel": row["electrode"], "acronym": row["area"]} for row in known[2:]]
    by_place = [{"x_um": r["x_um"] + 30, "y_um": r["y_um"] - 40, "region": r["area"]} for r in known]
    table(tmp_path / "names.tsv", by_name, "\t")
    table(tmp_path / "places.csv", by_place, ";")
    done = nuclr("preprocess", source, "--regions", "names.tsv", "-o", "a", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "55 of 57 units found their channel, the units' column 'electrode'" in done.err
    assert "2 of 57 units have no channel" in done.err
    assert "regions are taken from its column 'acronym'" in done.err
    done = nuclr("preprocess", source, "--regions", "places.csv", "-o", "b", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "nearest channel, the units' x_um, y_um against x_um, y_um" in done.err
    assert "largest distance is 50.0 um" in done.err
    expected = [row["area"] for row in known]
    (named,), (placed,) = open_sessions(tmp_path / "a"), open_sessions(tmp_path / "b")
    assert named.label("brain_region").tolist() == ["", "", *expected[2:]]
    assert placed.label("brain_region").tolist() == expected
    again = nuclr("preprocess", source, "--regions", "places.csv", "-o", "b", cwd=tmp_path)
    assert again.code == 0
    assert "unchanged" in again.err
    other = nuclr("preprocess", source, "-o", "b", cwd=tmp_path)
    assert other.code == 3
    assert "regions: was 'places.csv sha256:" in other.err


def test_a_region_that_contradicts_the_own_one_is_refused(
    nuclr: Callable[..., Any], culture: Path, tmp_path: Path
) -> None:
    rows = [{"electrode": row["electrode"], "brain_region": "hpc"} for row in places(culture)]
    rows[4]["brain_region"] = "ctx"
    table(tmp_path / "channels.csv", rows)
    done = nuclr("preprocess", culture, "--regions", "channels.csv", "--json", cwd=tmp_path)
    assert done.code == 3
    assert "says 'ctx' for unit '4'" in done.json["error"]["what"]
    assert "says 'hpc' (1 unit differs: '4')" in done.json["error"]["what"]
    assert not (tmp_path / "nuclr-data").exists()


def test_names_are_texts_and_numbers_are_numbers(tmp_path: Path) -> None:
    rows = [{"ch": "007", "region": "CA1"}, {"ch": "7", "region": "NA"}, {"ch": "9.0", "region": "DG"}]
    texts = joined(tmp_path, population(main_channel_id=["007", "7", "9"]), rows)
    assert texts[0] == ["CA1", "NA", ""]
    rows = [{"ch": "7", "region": "NA"}, {"ch": "9.0", "region": "DG"}, {"ch": "A3", "region": "CA1"}]
    assert joined(tmp_path, population(channel=[9, 7, 3]), rows)[0] == ["DG", "NA", ""]
    assert joined(tmp_path, population(channel=[9.0, np.nan, 7.0]), rows)[0] == ["DG", "", "NA"]


def test_one_number_is_the_place_along_the_insertion(tmp_path: Path) -> None:
    rows = [{"lateral_um": 16, "axial_um": 20 * i, "location": f"r{i // 5}"} for i in range(10)]
    labels, said = joined(tmp_path, population(depth=[3.0, 95.0, 181.0]), rows)
    assert labels == ["r0", "r1", "r1"]
    assert "depth against axial_um" in said
    locations = [[16.0, 3.0, 50.0], [11.0, 100.0, 9.0], [np.nan, np.nan, np.nan]]
    labels, said = joined(tmp_path, population(unit_locations=locations), rows)
    assert labels == ["r0", "r1", ""]
    assert "unit_locations[0], unit_locations[1] against lateral_um, axial_um" in said
    assert "1 of 3 units have no channel" in said


def test_far_units_and_ties_are_said(tmp_path: Path) -> None:
    rows = [{"x_um": 0, "y_um": 0, "region": "A"}, {"x_um": 0, "y_um": 20, "region": "B"}]
    labels, said = joined(tmp_path, population(x_um=[0.0, 0.0], y_um=[10.0, 900.0]), rows)
    assert labels == ["A", ""]
    assert "1 unit lies over 200 um from every channel" in said
    assert "1 unit is equally near to channels of different regions" in said
    with pytest.raises(InputError, match=r"no unit of m/d lies within 200 um .* is 4980 um away"):
        joined(tmp_path, population(x_um=[0.0], y_um=[5000.0]), rows)


def test_no_shared_name_falls_back_to_positions_or_says_both_sides(tmp_path: Path) -> None:
    rows: Rows = [{"channel": "A1", "x_um": 1.0, "y_um": 2.0, "region": "CA1"}]
    labels, said = joined(tmp_path, population(electrode=["E1"], x_um=[1.0], y_um=[2.0]), rows)
    assert labels == ["CA1"]
    assert "no channel name is shared (the units' 'electrode' holds 'E1', ...; the table 'A1', ...)" in said
    with pytest.raises(InputError, match=r"nothing joins its 1 channels .* holds 'E1', ...; the table 'A1'"):
        joined(tmp_path, population(electrode=["E1"]), [{"channel": "A1", "region": "CA1"}])
    with pytest.raises(InputError, match=r"have no column of channels .*columns of the units: id, shank"):
        joined(tmp_path, population(shank=[1]), rows)


def test_rows_count_for_the_session_that_they_name(tmp_path: Path) -> None:
    rows = [
        {"subject": subject, "channel": "1", "region": region}
        for subject, region in (("m", "CA1"), ("n", "DG"))
    ]
    assert joined(tmp_path, population(channel=["1"]), rows)[0] == ["CA1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("channel,depth\n1,2\n", "no column of regions"),
        ("region,weight\nCA1,2\n", "neither channels nor positions"),
        ("channel,region\n1,CA1\n1,CA1\n", "rows 2 and 3 both name channel '1'"),
        ("channel,region\n,CA1\n", "row 2: the column 'channel' is empty"),
        ("x_um,y_um,region\n1,far,CA1\n", "row 2, column y_um: 'far' is not a number"),
        ("channel,region\n", "has no rows"),
        ("channel,region\n1\n", "row 2: 1 values for 2 columns"),
        ("", "is empty"),
    ],
)
def test_wrong_tables_name_the_row(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "channels.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_region_table(path)
    assert "channels.csv" in caught.value.what


def test_several_sources_need_a_table_that_says_which(
    nuclr: Callable[..., Any], culture: Path, tmp_path: Path
) -> None:
    table(tmp_path / "channels.csv", [{"channel": "1", "region": "CA1"}])
    done = nuclr("preprocess", culture, culture.parent, "--regions", "channels.csv", cwd=tmp_path)
    assert done.code == 3
    assert "does not say which recording its channels are of" in done.err
