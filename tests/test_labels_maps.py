"""Label maps group raw names into classes, the shipped ones as published, and say what they left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nuclr_cli.api import Population
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.label_maps import add_map, read_label_map, shipped_maps


def mapped(name: str, raws: list[str], column: str = "brain_region") -> tuple[list[str], str]:
    label_map = read_label_map(name)
    units = {"id": np.array([f"u{i}" for i in range(len(raws))]), column: np.array(raws)}
    after = add_map(Population("m", "d", units, np.array([[0.0, 1.0]])), label_map)
    return after.units[label_map.target].tolist(), " ".join(after.notes)


def own_map(tmp_path: Path, text: str) -> str:
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_steinmetz_groups_are_the_four_of_the_protocol() -> None:
    labels, said = mapped(
        "steinmetz-groups", ["VISp", "VISa", "LGd", "CA3", "SCm", "MOs", "root", "", "VISp"]
    )
    assert labels == ["VIS", "VIS", "TH", "HPF", "MB", "", "", "", "VIS"]
    assert "VIS 3, HPF 1, MB 1, TH 1; 1 unit had no brain_region" in said
    assert "no class for 2 units, they are unlabelled: MOs 1, root 1" in said
    found = read_label_map("steinmetz-groups")
    assert len(found.class_of) == 26
    assert found.classes == ("VIS", "TH", "HPF", "MB")


def test_cosmos_covers_the_whole_ontology() -> None:
    found = read_label_map("ibl-cosmos")
    assert len(found.class_of) == 1328
    assert sorted(found.classes) == ["CB", "CNU", "CTXsp", "HB", "HPF", "HY", "Isocortex", "MB", "OLF", "TH"]
    raws = [
        "VISp5",
        "CA1",
        "LGd-sh",
        "MRN",
        "CP",
        "CUL4 5gr",
        "PIR",
        "LH",
        "GRN",
        "BLAa",
        "root",
        "void",
        "fp",
    ]
    labels, said = mapped("ibl-cosmos", raws)
    assert labels[:7] == ["Isocortex", "HPF", "TH", "MB", "CNU", "CB", "OLF"]
    assert labels[7:] == ["TH", "HB", "CTXsp", "", "", ""]
    assert "drops 3 units: fp 1, root 1, void 1" in said


def test_bugeon_types_become_two_or_five_classes() -> None:
    raws = ["EC", "IN", "Pvalb-Tac1", "Serpinf1-Clrn1", "Lamp5-Npy-x", "Vip", "", "Meis2-Adamts19"]
    labels, _ = mapped("bugeon-ei", raws, "ttype")
    assert labels == ["EC", "IN", "IN", "IN", "IN", "IN", "", "IN"]
    labels, said = mapped("bugeon-ei", ["EC", "excitatory", "unsure", "excitatory", ""], "cell_type")
    assert labels == ["EC", "IN", "IN", "IN", ""]
    assert "bugeon-ei takes every other name as 'IN': excitatory 2, unsure 1." in said
    labels, said = mapped("bugeon-subclass", raws, "cell_type")
    assert labels == ["", "", "Pvalb", "", "Lamp5", "Vip", "", ""]
    assert "no class for 1 unit, unlabelled: Meis2-Adamts19 1" in said


def test_allen_areas_drop_the_four() -> None:
    labels, said = mapped("allen-visual-areas", ["VISp", "VISrl", "VIS", "VISmmp", "VISl", "CA1"])
    assert labels == ["VISp", "VISrl", "", "", "VISl", ""]
    assert "drops 2 units: VIS 1, VISmmp 1" in said


def test_every_shipped_map_says_where_it_is_from() -> None:
    import importlib.resources

    for found in shipped_maps():
        file = importlib.resources.files("nuclr_cli") / "label_maps" / f"{found.name}.toml"
        assert "# Source: " in file.read_text(encoding="utf-8")
        assert found.title
        assert not set(found.columns) & {found.target}


def test_names_in_no_class_can_stay_and_spelled_out_names_win(tmp_path: Path) -> None:
    text = '[map]\ncolumn = "brain_region"\nkeep_unmapped = true\n[classes]\n"V 1" = ["VIS*"]\nA = ["VISp"]\n'
    labels, said = mapped(own_map(tmp_path, text), ["VISp", "VISl", "visp", "NA", "007", ""])
    assert labels == ["A", "V 1", "visp", "NA", "007", ""]
    assert "'brain_region' becomes 'brain_region_group'" in said
    assert "which keep their name: 007 1, NA 1, visp 1" in said


@pytest.mark.parametrize("place", ["top", "map", "classes"])
def test_drop_may_stand_wherever_it_is_looked_for(tmp_path: Path, place: str) -> None:
    lines = {"top": "", "map": "", "classes": ""} | {place: 'drop = ["root"]\n'}
    middle = f'column = "brain_region"\n{lines["map"]}'
    text = f'{lines["top"]}[map]\n{middle}[classes]\nA = ["a"]\n{lines["classes"]}'
    labels, said = mapped(own_map(tmp_path, text), ["root", "a"])
    assert labels == ["", "A"]
    assert "drops 1 unit: root 1" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[map]\ncolumn="a"\n[classes]\nx=["r"]\ny=["r"]\n', "'r' is in 'x' and in 'y'"),
        ('[map]\ncolumn="a"\ndrop=["r"]\n[classes]\nx=["r"]\n', "'r' is in 'x' and in 'drop'"),
        ('[map]\ncolunm="a"\n[classes]\nx=["r"]\n', "unknown key 'colunm'"),
        ('[mapp]\ncolumn="a"\n[classes]\nx=["r"]\n', "unknown key 'mapp'"),
        ('[map]\ncolumn="a"\ntarget="a"\n[classes]\nx=["r"]\n', "the target 'a' cannot be replaced"),
        ('[map]\ncolumn="a"\ntarget="n_spikes"\n[classes]\nx=["r"]\n', "cannot be replaced"),
        ('[map]\ncolumn="a"\n', "has no classes"),
        ('[classes]\nx=["r"]\n', "names no column"),
        ('[map]\ncolumn="a"\n[classes]\nx=[1]\n', r"x is \[1\], expected names"),
        ('[map]\ncolumn="a"\nkeep_unmapped=1\n[classes]\nx=["r"]\n', "keep_unmapped is 1"),
        ('map=1\n[classes]\nx=["r"]\n', "map is no table"),
        ("[map\n", "cannot be read as TOML"),
    ],
)
def test_wrong_maps_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_label_map(own_map(tmp_path, text))
    assert caught.value.fix


def test_two_patterns_that_fit_are_refused_when_they_do(tmp_path: Path) -> None:
    name = own_map(tmp_path, '[map]\ncolumn="brain_region"\n[classes]\nx=["CA*"]\ny=["*1"]\n')
    assert mapped(name, ["CA3", "V1"])[0] == ["x", "y"]
    with pytest.raises(InputError, match=r"not clear about 'CA1': 'CA\*' \(x\) and '\*1' \(y\) fit"):
        mapped(name, ["CA1"])


def test_preprocess_applies_maps_and_keeps_their_fingerprint(
    nuclr: Callable[..., Any], shared: Path, tmp_path: Path
) -> None:
    source = shared / "samples" / "si" / "numpy_folder"
    areas = np.load(source / "properties" / "brain_area.npy").tolist()
    own_map(
        tmp_path, '[map]\ncolumn="cell_type"\ntarget="inhibitory"\n[classes]\nyes=["PV","SST"]\nno=["exc"]\n'
    )
    command = (
        "preprocess",
        source,
        "--keep",
        "all",
        "--label-map",
        "steinmetz-groups",
        "--label-map",
        "own.toml",
    )
    done = nuclr(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "steinmetz-groups: 'brain_region' becomes 'region_group': " in done.err
    (session,) = open_sessions(tmp_path / "nuclr-data")
    groups = {"VISp": "VIS", "VISl": "VIS", "CA1": "HPF", "DG": "HPF"}
    assert session.label("region_group").tolist() == [groups.get(area, "") for area in areas]
    assert set(session.label("inhibitory").tolist()) <= {"yes", "no", ""}
    assert nuclr(*command, cwd=tmp_path).code == 0
    fewer = nuclr(*command[:-2], cwd=tmp_path)
    assert fewer.code == 3
    assert "label_maps: was" in fewer.err
    unknown = nuclr("preprocess", source, "--label-map", "steinmetz", "-o", "other", cwd=tmp_path)
    assert unknown.code == 3
    assert "--label-map steinmetz-groups" in unknown.err
    lacking = nuclr(
        "preprocess", shared / "samples" / "si" / "phy", "--label-map", "ibl-cosmos", cwd=tmp_path
    )
    assert lacking.code == 3
    assert "reads the column 'brain_region', which the units of phy/phy do not have" in lacking.err


def test_the_maps_are_listed(nuclr: Callable[..., Any]) -> None:
    listed = {item["name"]: item for item in nuclr("label", "--maps", "--json").json}
    assert set(listed) == {
        "allen-visual-areas",
        "bugeon-ei",
        "bugeon-subclass",
        "ibl-cosmos",
        "steinmetz-groups",
    }
    assert listed["steinmetz-groups"]["target"] == "region_group"
