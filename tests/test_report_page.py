"""The report as a file: one document that needs nothing else, in which no name becomes markup."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from nuclr_cli.data.embeddings import load_embeddings
from nuclr_cli.workflows.report import ReportConfig, ReportRecord, report
from nuclr_cli.workflows.runs import Run


class Document(HTMLParser):
    """Elements with their attributes, texts of scripts, visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


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
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made: Run = report_run.make_run(tmp_path_factory.mktemp("page") / "nuclr-runs")
    report_run.ask_everything(made)
    return made


@pytest.fixture(scope="module")
def record(run: Run) -> ReportRecord:
    return report(ReportConfig(run.folder, umap=False))


@pytest.fixture(scope="module")
def document(record: ReportRecord) -> Document:
    return Document(record.out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(document: Document) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(document.scripts[0])
    return parsed


def unpacked(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["bytes"]), dtype=f"<{packed['type']}")


def test_the_page_loads_nothing(document: Document) -> None:
    for name, attributes in document.elements:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(key)
            assert value is None or value.startswith("#") or value == "data:,", (name, key, value)
    assert not document.all("iframe") + document.all("object") + document.all("base")


def test_the_policy_names_the_scripts_and_no_other_place(record: ReportRecord, document: Document) -> None:
    (policy,) = (one["content"] for one in document.all("meta") if "http-equiv" in one)
    assert policy is not None
    hashes = re.findall(r"'sha256-([^']+)'", policy)
    running = document.scripts[1:]
    assert [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in running] == hashes
    assert "default-src 'none'" in policy
    assert "'unsafe-inline'" not in policy.partition("style-src")[0]
    assert "http" not in policy
    css = re.search(r"<style>(.*?)</style>", record.out.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert css is not None
    assert "url(" not in css[1]
    assert "@import" not in css[1]


def test_names_stay_text(document: Document, data: dict[str, Any]) -> None:
    assert len(document.scripts) == 3
    assert not document.all("img")
    assert not [one for one in document.all("a") if not (one.get("href") or "").startswith("#")]
    for evil in (report_run.EVIL_IMAGE, report_run.EVIL_LINK):
        assert evil in document.text
    assert report_run.EVIL in data["units"]["categories"][3]["levels"]


def test_every_section_is_there_and_linked(document: Document) -> None:
    ids = {attributes.get("id") for _, attributes in document.elements}
    wanted = ("results", "units-map", "probes", "training", "diagnostics", "provenance", "main")
    assert set(wanted) <= ids
    links = {(one.get("href") or "")[1:] for one in document.all("a")}
    assert links <= ids
    assert set(wanted) <= links


def test_every_plot_has_its_data_and_every_number_is_finite(document: Document, data: dict[str, Any]) -> None:
    places = {one["data-chart"] for one in document.all("div") if "data-chart" in one}
    assert places == set(data["charts"])
    for chart in data["charts"].values():
        for line in chart["lines"]:
            assert len(line["x"]) == len(line["y"]) > 0


def test_columns_hold_what_the_table_of_embeddings_holds(run: Run, data: dict[str, Any]) -> None:
    table = load_embeddings(run.embeddings)
    columns = {one["title"]: one for one in data["units"]["categories"]}
    for title, values in (
        ("subject", table.subject),
        ("session", table.session),
        ("unit", table.unit_id),
        ("cell_type", table.labels["cell_type"]),
        ("brain_region", table.labels["brain_region"]),
    ):
        column = columns[title]
        assert [column["levels"][code] for code in unpacked(column["codes"])] == values.tolist()
    numbers = {one["title"]: unpacked(one["values"]) for one in data["units"]["numbers"]}
    depth = table.labels["depth_um"].astype(np.float32)
    assert np.array_equal(numbers["depth_um"], depth)
    seen = table.n_windows > 0
    window_s = run.settings.tokens.spikes.window_s
    rate = table.n_events[seen] / (table.n_windows[seen] * window_s)
    assert np.allclose(numbers["rate"][seen], rate, rtol=1e-6)
    assert np.isnan(numbers["rate"][~seen]).all()


def test_the_map_is_the_principal_components(run: Run, data: dict[str, Any]) -> None:
    from sklearn.decomposition import PCA

    table = load_embeddings(run.embeddings)
    (drawn,) = data["units"]["maps"]
    places = np.stack([unpacked(drawn["x"]), unpacked(drawn["y"])], axis=1)
    assert np.isnan(places[~table.seen]).all()
    fitted = PCA(2).fit(table.embedding[table.seen].astype(np.float64))
    expected = fitted.transform(table.embedding[table.seen].astype(np.float64))
    assert np.allclose(np.abs(places[table.seen]), np.abs(expected), atol=1e-4)
    assert f"{fitted.explained_variance_ratio_[0]:.0%}" in drawn["xTitle"]


def test_predictions_and_probabilities_are_those_of_the_probe(run: Run, data: dict[str, Any]) -> None:
    import pyarrow.parquet as pq

    stored = pq.read_table(
        run.folder / "probes/cell_type/subject-default-baselines-none/predictions.parquet"
    ).to_pylist()
    columns = {one["title"]: one for one in data["units"]["categories"]}
    column = columns["predicted cell_type (subject-default-baselines-none)"]
    shown = [column["levels"][code] for code in unpacked(column["codes"])]
    assert shown == [row["prediction"] or "" for row in stored]
    chance = unpacked(column["probability"])
    for row, code in zip(stored, chance.tolist(), strict=True):
        if row["prediction"] is None:
            assert code == 65535
        else:
            assert code / 1e4 == pytest.approx(row[f"probability_{row['prediction']}"], abs=1e-4)


def test_numbers_of_the_report_are_those_of_the_record(run: Run, document: Document) -> None:
    stored = json.loads(
        (run.folder / "probes/cell_type/subject-default-baselines-none/report.json").read_text()
    )
    for method in stored["methods"]:
        score = method["macro_f1"]
        assert f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" in document.text
    assert stored["verdict"] in document.text
    assert stored["knowledge_why"] in document.text
    for row, name in zip(stored["confusion"], stored["classes"], strict=True):
        assert any((one.get("title") or "").startswith(f"{name} predicted as") for one in document.all("td"))
        assert all(str(count) in document.text for count in row)
    for digest in (stored["embeddings_sha256"], "ab" * 32):
        assert digest in document.text


def test_intervals_by_class_hold_the_values_and_vary(run: Run, record: ReportRecord) -> None:
    from nuclr_cli.workflows.report_classes import class_intervals
    from nuclr_cli.workflows.report_results import Classification, read_result
    from nuclr_cli.workflows.report_units import read_predictions

    folder = run.folder / "probes/cell_type/subject-default-baselines-none"
    result = read_result(folder / "report.json")
    assert isinstance(result, Classification)
    columns = read_predictions(folder / "predictions.parquet", load_embeddings(run.embeddings))
    for one, stored in zip(class_intervals(result, columns), result.per_class, strict=True):
        assert (one.f1.value, one.recall.value) == (stored.f1, stored.recall)
        assert one.f1.low <= one.f1.value <= one.f1.high
        assert one.f1.low < one.f1.high
    assert not record.warnings


def test_the_same_run_gives_the_same_page(run: Run, record: ReportRecord, tmp_path: Path) -> None:
    def without_time(path: Path) -> str:
        text = path.read_text(encoding="utf-8")
        return re.sub(r"Made by nuclr \S+ on [\d\-: ]+UTC", "", text)

    again = report(ReportConfig(run.folder, umap=False, out=tmp_path / "again.html"))
    assert without_time(again.out) == without_time(record.out)


def test_size_grows_by_few_bytes_a_unit(tmp_path: Path) -> None:
    sizes = []
    for units in (100, 600):
        run = report_run.make_run(tmp_path / f"runs{units}", subjects=10, units=units)
        sizes.append(report(ReportConfig(run.folder, umap=False)).n_bytes)
    assert (sizes[1] - sizes[0]) / 5000 < 60  # 50,000 units then stay far below 15 MB


def test_of_more_units_so_many_are_drawn_and_the_page_says_so(run: Run, tmp_path: Path) -> None:
    record = report(ReportConfig(run.folder, out=tmp_path / "few.html", umap=False, max_points=50))
    assert (record.n_units, record.n_shown) == (160, 50)
    few = Document(record.out.read_text(encoding="utf-8"))
    assert json.loads(few.scripts[0])["units"]["n"] == 50
    assert "Drawn at random from 160" in few.text


def test_the_browser_code_uses_no_way_to_make_markup() -> None:
    import nuclr_cli

    folder = Path(nuclr_cli.__file__).parent / "report_page"
    scripts = sorted(folder.glob("*.js"))
    assert scripts
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "fetch(",
            "http",
        ):
            if (path.name, way) == ("core.js", "http"):
                text = text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
            assert way not in text, f"{path.name}: {way}"
