"""Projects that were moved or copied after pretraining: what is still found, and what has to be said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Nuclr = Callable[..., Any]

FEW = ("--set", "train.steps=4", "--set", "train.checkpoint_every=2", "--set", "train.batch_windows=4")
PROBE = ("probe", "--label", "cell_type", "--run", "run", "--split", "subject", "--bootstrap", 20)


@pytest.fixture(scope="module")
def project(nuclr: Nuclr, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was moved after pretraining and embedding."""
    root = tmp_path_factory.mktemp("project")
    old = root / "old"
    shutil.copytree(tiny_data, old / "nuclr-data")
    done = nuclr("pretrain", "nuclr-data", "--preset", "tiny", "--name", "run", "--gpus", 0, *FEW, cwd=old)
    assert done.code == 0, done.err
    done = nuclr("embed", "--run", "run", cwd=old)
    assert done.code == 0, done.err
    return old.rename(root / "moved")


@pytest.fixture
def apart(project: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The project in one place, its data in another and under another name."""
    work, data = tmp_path / "work", tmp_path / "elsewhere" / "recordings"
    shutil.copytree(project / "nuclr-runs", work / "nuclr-runs")
    shutil.copytree(project / "nuclr-data", data)
    return work, data


def table_of(work: Path) -> Path:
    return work / "nuclr-runs/run/embeddings.parquet"


def test_data_that_moved_along_are_found_and_it_is_said(nuclr: Nuclr, project: Path) -> None:
    for command in (("embed", "--run", "run", "--select", "retrieval"), (*PROBE, "--baselines", "fast")):
        done = nuclr(*command, "--json", cwd=project)
        assert done.code == 0, done.err
        assert "nuclr-data holds the same" in " ".join(done.err.split())
    assert {one["name"] for one in done.json["missing_baselines"]} == {"activity_pca", "acg_3d", "untrained"}
    from_afar = nuclr("embed", "--run", project / "nuclr-runs/run", "-o", project / "far.parquet")
    assert from_afar.code == 0, from_afar.err


def test_a_finished_run_is_resumed_where_it_is_now(nuclr: Nuclr, project: Path) -> None:
    done = nuclr("pretrain", "--resume", "--name", "run", cwd=project)
    assert done.code == 0, done.err
    assert "finished: nothing to do" in done.err


def test_data_elsewhere_have_to_be_named(nuclr: Nuclr, apart: tuple[Path, Path]) -> None:
    work, _ = apart
    before = table_of(work).stat().st_mtime_ns
    asked = {
        ("embed", "--run", "run"): "nuclr embed DATA --run",
        ("embed", "--run", "run", "--select", "retrieval"): "nuclr embed DATA --run",
        PROBE: "--data DATA",
        ("pretrain", "--resume", "--name", "run"): "nuclr pretrain DATA --resume --name run",
    }
    for command, hint in asked.items():
        done = nuclr(*command, cwd=work)
        assert done.code == 3, done.err
        said = " ".join(done.err.split())
        assert "are not at" in said
        assert hint in said
        assert "nuclr preprocess" not in said
    assert table_of(work).stat().st_mtime_ns == before
    assert not (work / "nuclr-runs/run/probes/cell_type/subject-default").exists()


def test_the_same_recordings_elsewhere_are_the_runs_own(nuclr: Nuclr, apart: tuple[Path, Path]) -> None:
    work, data = apart
    table_of(work).unlink()
    done = nuclr("embed", data, "--run", "run", "--select", "retrieval", cwd=work)
    assert done.code == 0, done.err
    assert table_of(work).is_file()
    done = nuclr(*PROBE, "--data", data, "--baselines", "fast", "--json", cwd=work)
    assert done.code == 0, done.err
    assert "features" in {one["name"] for one in done.json["methods"]}
    done = nuclr("pretrain", data, "--resume", "--name", "run", cwd=work)
    assert done.code == 0, done.err


def test_other_recordings_are_not_taken_for_the_runs(nuclr: Nuclr, apart: tuple[Path, Path]) -> None:
    work, data = apart
    (work / "nuclr-data").mkdir()
    shutil.copy(data / "s0.h5", work / "nuclr-data")
    done = nuclr("embed", "--run", "run", cwd=work)
    assert done.code == 3
    assert "nuclr-data holds other recordings" in " ".join(done.err.split())
    done = nuclr("embed", "nuclr-data", "--run", "run", "--checkpoint", 2, "--limit", 60, cwd=work)
    assert done.code == 3
    said = " ".join(done.err.split())
    assert "does not hold the data of run run" in said
    assert "-o embeddings.parquet --checkpoint 2 --limit 60" in said
    (work / "nuclr-data").rename(work / "others")
    done = nuclr("pretrain", "others", "--resume", "--name", "run", cwd=work)
    assert done.code == 3
    assert "the data are" in done.err
    done = nuclr("embed", "absent", "--run", "run", cwd=work)
    assert done.code == 3
    assert "absent does not exist" in done.err


def test_a_result_with_fewer_baselines_or_draws_takes_no_place(nuclr: Nuclr, project: Path) -> None:
    folders = []
    curve = ("--label-fractions", "0.3,1")
    for options in (
        ("--baselines", "fast"),
        ("--baselines", "none"),
        ("--baselines", "none", *curve, "--repeats", 2),
        ("--baselines", "none", *curve, "--repeats", 1),
        ("--baselines", "none", "--label-fractions", "1", "--repeats", 1),
    ):
        done = nuclr(*PROBE, *options, "--json", cwd=project)
        assert done.code == 0, done.err
        folders.append(project / done.json["folder"])
    assert len(set(folders)) == len(folders)
    kept = json.loads((folders[0] / "report.json").read_text(encoding="utf-8"))
    assert "features" in {one["name"] for one in kept["methods"]}
    shown = nuclr(*PROBE, "--baselines", "none", *curve, "--repeats", 1, cwd=project)
    assert "missing" in shown.out  # as the table of a probe has it
