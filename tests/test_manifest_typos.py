"""A column of a manifest that is hardly an attribute is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nuclr_cli.testing.simulate import SimulationConfig, save_animals
from nuclr_cli.workflows.manifest import mistaken_columns, read_manifest


def test_a_misspelt_option_is_asked_about(forked: Any, tmp_path: Path) -> None:
    simulation = SimulationConfig(n_animals=2, units_per_animal=12, minutes=1.0, seed=0)
    manifest = save_animals(simulation, tmp_path / "sortings")
    first, *rest = manifest.read_text().splitlines()
    assert "duration_s" in first
    manifest.write_text("\n".join([first.replace("duration_s", "duraton_s"), *rest]) + "\n")
    done = forked("preprocess", "--manifest", manifest, "-o", tmp_path / "data", "--json")
    assert done.err.count("is only kept as an attribute; did you mean 'duration_s'?") == 1
    assert "The column 'duraton_s' of sessions.csv" in done.err


@pytest.mark.parametrize(
    ("column", "broadcast", "meant"),
    [
        ("Duration_S", (), "duration_s"),
        ("duration", (), "duration_s"),
        ("fs", (), "fs_hz"),
        ("fs_khz", (), "fs_hz"),
        ("raeder", (), "reader"),
        ("segment_start", (), "segment_starts"),
        ("Reader", (), "reader"),
        ("readers", (), "reader"),
        ("Breeder", (), None),
        ("header", (), None),
        ("leader", (), None),
        ("raeder", ("raeder",), None),
        ("session_type", (), None),
        ("subject_age", (), None),
        ("probe", (), None),
        ("frame_rate", (), None),
        ("depth_um", (), None),
    ],
)
def test_which_names_are_close(
    tmp_path: Path, column: str, broadcast: tuple[str, ...], meant: str | None
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "m.csv").write_text(f"path,subject,session,{column}\na,m1,s1,7\n")
    rows = read_manifest(tmp_path / "m.csv", broadcast)
    assert mistaken_columns(rows, broadcast) == ({} if meant is None else {column: meant})


@pytest.mark.parametrize("beside", ["duration_h", "duration"])
def test_a_column_beside_the_right_one_is_no_mistake(tmp_path: Path, beside: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "m.csv").write_text(f"path,subject,session,duration_s,{beside}\na,m1,s1,7,0.1\n")
    assert mistaken_columns(read_manifest(tmp_path / "m.csv")) == {}
