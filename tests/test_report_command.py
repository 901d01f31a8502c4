"""`nuclr report` from the command line: what it writes, what it names, what it refuses."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from nuclr_cli.data.embeddings import load_embeddings, write_embeddings
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_record import ProbeConfig
from nuclr_cli.workflows.report import ReportConfig, report
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs import Run, open_run

PROBE = "probes/cell_type/subject-default-baselines-none"


class Listener(SilentReporter):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


report_run = load("report_run")


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made: Run = report_run.make_run(tmp_path_factory.mktemp("command") / "nuclr-runs")
    probe(ProbeConfig("cell_type", run=made.folder, baselines="none", bootstrap=20, permutations=0))
    return made


@pytest.fixture
def run(probed: Run, tmp_path: Path) -> Run:
    """A copy that a test may break."""
    shutil.copytree(probed.folder, tmp_path / "nuclr-runs" / "run")
    return open_run(tmp_path / "nuclr-runs" / "run")


def written(run: Run, **options: Any) -> tuple[str, list[str]]:
    """The page, and what was warned about."""
    listener = Listener()
    record = report(ReportConfig(run.folder, umap=False, **options), listener)
    assert list(record.warnings) == listener.warnings
    return record.out.read_text(encoding="utf-8"), listener.warnings


def test_the_command_reports_on_the_newest_run(run: Run, nuclr: Callable[..., Any]) -> None:
    folder = run.folder.parent.parent
    done = nuclr("report", "--no-umap", "--json", cwd=folder)
    assert done.code == 0, done.err
    assert done.json["results"] == [PROBE]
    assert (folder / done.json["out"]).stat().st_size == done.json["n_bytes"]
    assert (run.folder / "report.html").is_file()
    named = nuclr("report", "run", "-o", "elsewhere/page.html", "--no-umap", cwd=folder)
    assert named.code == 0, named.err
    assert "1 result, 160 units" in named.out
    assert (folder / "elsewhere" / "page.html").is_file()


def test_a_run_without_embeddings_says_what_makes_them(run: Run, nuclr: Callable[..., Any]) -> None:
    run.embeddings.unlink()
    done = nuclr("report", run.folder, "--json")
    assert done.code == 3
    assert "has no embeddings" in done.json["error"]["what"]
    assert f"nuclr embed --run {run.folder}" in done.json["error"]["fix"]
    assert not (run.folder / "report.html").exists()


def test_a_run_without_probes_still_has_a_report(run: Run) -> None:
    shutil.rmtree(run.folder / "probes")
    page, warnings = written(run)
    assert "nuclr probe --label brain_region" in page
    assert not warnings


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:100], "damaged"),
        (lambda text: "[]", "it holds list"),
        (lambda text: text.replace('"kind": "classification"', '"kind": "horoscope"'), "horoscope"),
        (lambda text: text.replace('"methods"', '"method"'), "methods is missing"),
        (lambda text: text.replace('"n_tested": ', '"n_tested": NaN, "was": '), "NaN"),
        (
            lambda text: json.dumps({**json.loads(text), "confusion": [[1, 2], [3, 4]]}),
            "does not fit 3 classes",
        ),
        (lambda text: json.dumps({**json.loads(text), "verdict": 7}), "verdict is 7, expected text"),
    ],
    ids=["cut", "list", "kind", "field", "nan", "shape", "type"],
)
def test_a_damaged_result_is_named_and_left_out(run: Run, damage: Callable[[str], str], says: str) -> None:
    path = run.folder / PROBE / "report.json"
    path.write_text(damage(path.read_text()))
    page, warnings = written(run)
    (warning,) = warnings
    assert f"{PROBE}/report.json is left out" in warning
    assert says in warning
    assert "Missing from this report" in page
    assert f"{PROBE}/report.json" in page


def test_a_folder_without_a_report_is_named(run: Run) -> None:
    (run.folder / PROBE / "report.json").unlink()
    assert written(run)[1] == [f"{PROBE} is left out: it has no report.json."]


def test_damaged_parts_leave_the_rest_standing(run: Run) -> None:
    (run.folder / PROBE / "card.json").write_text("{")
    (run.folder / PROBE / "predictions.parquet").write_bytes(b"PAR1")
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41')
    page, warnings = written(run)
    assert [warning.partition(" ")[0] for warning in warnings] == [
        f"{PROBE}/card.json", "1", f"{PROBE}/predictions.parquet"
    ]  # fmt: skip
    stored = json.loads((run.folder / PROBE / "report.json").read_text())
    assert stored["verdict"] in page
    assert "class by class" in page


def test_results_of_other_embeddings_are_shown_but_not_on_the_map(run: Run) -> None:
    import dataclasses

    table = load_embeddings(run.embeddings)
    write_embeddings(dataclasses.replace(table, embedding=table.embedding * np.float32(2)), run.embeddings)
    page, warnings = written(run)
    assert len(warnings) == 1
    assert "was made from other embeddings" in warnings[0]
    assert json.loads((run.folder / PROBE / "report.json").read_text())["verdict"] in page
    assert '"role":"prediction"' not in page


def test_predictions_that_contradict_the_report_give_no_intervals(run: Run) -> None:
    path = run.folder / PROBE / "report.json"
    document = json.loads(path.read_text())
    document["confusion"][0][0] += 1
    path.write_text(json.dumps(document))
    _, warnings = written(run)
    assert len(warnings) == 1
    assert "do not add up to the confusion matrix" in warnings[0]


@pytest.mark.parametrize("what", ["missing", "no sweep", "damaged"])
def test_a_sweep_that_is_none_is_refused(run: Run, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "sweep"
    if what != "missing":
        folder.mkdir()
    if what == "damaged":
        (folder / "scale.json").write_text('{"label": "cell_type"}')
    with pytest.raises(InputError, match="scale") as caught:
        report(ReportConfig(run.folder, scale=folder, umap=False))
    assert "nuclr scale" in caught.value.fix
    assert not (run.folder / "report.html").exists()


def test_a_sweep_is_drawn(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "scale.json").write_text(json.dumps(sweep()))
    page, warnings = written(run, scale=folder)
    assert not warnings
    assert "scale-loss" in page
    assert "A law of the held-out loss." in page
    assert "0.610 [0.500, 0.700]" in page


def sweep() -> dict[str, Any]:
    """A scale.json as `nuclr scale` writes it, with a law."""
    sizes = (1.0, 2.0, 4.0)
    estimate = {"value": 0.8, "low": 0.7, "high": 0.9}
    law = {
        "limit": estimate, "scale": estimate, "exponent": estimate, "sign": 1, "n_resamples": 10,
        "resampled": "seeds within points",
        "curve_x": sizes, "curve_y": sizes, "curve_low": sizes, "curve_high": sizes,
    }  # fmt: skip
    fit = {"status": "law", "n_points": 3, "n_values": 3, "n_dropped": 0, "trend": None, "forms": []}
    points = [{"name": f"p{size:g}", "size": size, "seed": 42} for size in sizes]
    return {
        "label": "cell_type", "axis": "subjects", "size_name": "subjects", "choices": [], "warnings": [],
        "knowledge": "inductive", "seconds": 3.0, "baselines": [{"title": "chance", "macro_f1": 0.3}],
        "sweep": {
            "points": points, "held_out": ["s0"],
            "steps": 6, "epochs": None, "preset": "tiny",
            "variant": "default", "split": "subject", "version": "0.1.0",
        },
        "results": [
            {
                "point": point["name"], "held_out_loss": 4.0, "macro_f1": 0.61, "macro_f1_low": 0.5,
                "macro_f1_high": 0.7, "parameters": 1000, "checkpoint": "6@ab",
            }
            for point in points
        ],
        "fits": [
            {**fit, "score": "held-out loss", "says": ["A law of the held-out loss."], "law": law},
            {**fit, "score": "macro F1", "says": [], "status": "trend", "law": None},
        ],
    }  # fmt: skip


def test_an_older_report_stays_when_the_new_one_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="could not be written"):
        report(ReportConfig(run.folder, out=tmp_path / "file" / "report.html", umap=False))
    (run.folder / "report.html").write_text("old")
    (run.folder / "embeddings.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        report(ReportConfig(run.folder, umap=False))
    assert (run.folder / "report.html").read_text() == "old"
    assert not list(run.folder.glob(".report*"))


@pytest.mark.parametrize(("package", "install"), [("plotly", "plotly"), ("umap", "umap-learn")])
def test_a_missing_package_is_exit_4_with_the_command_to_install_it(
    run: Run, package: str, install: str
) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from nuclr_cli.cli.app import main; main()"
    words = [sys.executable, "-c", program, "report", str(run.folder), "--umap"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert f"pip install {install}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run.folder / "report.html").exists()


def test_without_umap_learn_the_page_says_how_to_have_it(run: Run) -> None:
    program = "import sys; sys.modules['umap'] = None; from nuclr_cli.cli.app import main; main()"
    words = [sys.executable, "-c", program, "report", str(run.folder), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["maps"] == ["pca"]
    assert "pip install umap-learn" in (run.folder / "report.html").read_text(encoding="utf-8")
