"""What a plugin may rely on: the version of the interface, and the exporter hook."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from nuclr_cli.api import API_VERSION, Exporter, UnitPredictions
from nuclr_cli.errors import InputError
from nuclr_cli.registry import PluginInfo, Registry

READERS = """
from nuclr_cli.api import Reader, hookimpl

class Some(Reader):
    name = "some"
    formats = ("some",)
    def detect(self, path): return None
    def sources(self, path): return []
    def read(self, path, options): return iter(())

@hookimpl
def nuclr_readers(): return [Some()]
"""

EXPORTERS = """
import csv
from nuclr_cli.api import Exporter, ReaderError, hookimpl

class Table(Exporter):
    name = "NAME"
    formats = ("csv table",)

    def export(self, predictions, target):
        if target.is_dir():
            raise ReaderError(f"{target} is a folder.", "Name a file.")
        with target.open("w", newline="") as file:
            writer = csv.writer(file)
            for record in predictions:
                for unit, label, chance, abstain in zip(
                    record.unit_ids, record.labels, record.probabilities.max(axis=1), record.abstain
                ):
                    writer.writerow([record.subject, record.session, unit, "" if abstain else label, chance])
        return [target]

@hookimpl
def nuclr_exporters():
    return [Table()]
"""

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a module with an entry point on sys.path, where `Registry.load` of this process finds it."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def put(name: str, module: str) -> None:
        (site / f"{name}.py").write_text(module, encoding="utf-8")
        info = site / f"dist_{name}-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text(f"[nuclr]\n{name} = {name}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()

    return put


def info_of(name: str) -> PluginInfo:
    (info,) = (plugin for plugin in Registry.load().plugins if plugin.name == name)
    return info


def predictions(subject: str = "m1") -> UnitPredictions:
    return UnitPredictions(
        subject=subject,
        session="day1",
        population="0",
        label_name="cell_type",
        classes=("PV", "SST"),
        unit_ids=np.array(["7", "007"]),
        labels=np.array(["PV", "SST"]),
        probabilities=np.array([[0.9, 0.1], [0.45, 0.55]]),
        abstain=np.array([False, True]),
    )


def test_nuclr_readers_brings_readers(install: Install) -> None:
    install("some_readers", READERS)
    assert info_of("some_readers").readers == ("some",)
    assert Registry.load().reader("some").formats == ("some",)


def test_nuclr_exporters_brings_exporters_that_write(install: Install, tmp_path: Path) -> None:
    install("tables", EXPORTERS.replace("NAME", "table"))
    info = info_of("tables")
    assert (info.exporters, info.readers, info.error) == (("table",), (), None)
    exporter = Registry.load().exporter("table")
    written = exporter.export([predictions(), predictions("m2")], tmp_path / "out.csv")
    assert list(written) == [tmp_path / "out.csv"]
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "m1,day1,7,PV,0.9",
        "m1,day1,007,,0.55",
        "m2,day1,7,PV,0.9",
        "m2,day1,007,,0.55",
    ]


def test_a_mistyped_exporter_gets_the_closest(install: Install) -> None:
    install("tables", EXPORTERS.replace("NAME", "table"))
    with pytest.raises(InputError) as caught:
        Registry.load().exporter("tabel")
    assert "installed: nwb, phy, spikeinterface, table" in caught.value.what
    assert caught.value.fix == "--export table"


def test_two_exporters_of_one_name_are_both_unusable(install: Install) -> None:
    install("tables", EXPORTERS.replace("NAME", "table") + READERS)
    install("others", EXPORTERS.replace("NAME", "table"))
    registry = Registry.load()
    assert [exporter.name for exporter in registry.exporters] == ["nwb", "phy", "spikeinterface"]
    assert "brought by" in str(info_of("tables").error)
    with pytest.raises(InputError, match="cannot be used"):
        registry.exporter("table")
    # The name of an exporter is no reason to lose a reader.
    assert registry.reader("some").name == "some"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("return [Table()]", "return []", "nuclr_exporters returned no exporter"),
        ("return [Table()]", "return [Table]", "is not a nuclr_cli.api.Exporter"),
        ("def export", "def exports", "abstract"),
        ("NAME", "Not A Name", "no usable name"),
        ('("csv table",)', "'csv table'", "expected a tuple"),
        ("return [Table()]", "return [Table(), Table()]", "same name"),
    ],
)
def test_a_broken_exporter_is_listed_and_not_used(install: Install, old: str, new: str, reason: str) -> None:
    install("tables", EXPORTERS.replace(old, new).replace("NAME", "table"))
    assert reason in str(info_of("tables").error)
    assert [exporter.name for exporter in Registry.load().exporters] == ["nwb", "phy", "spikeinterface"]


def test_predictions_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        UnitPredictions(
            "m1", "day1", "0", "cell_type", ("PV",), np.array(["1"]), np.array(["PV"]), np.ones((1, 2)),
            np.array([False]),
        )  # fmt: skip


def test_an_exporter_needs_its_method() -> None:
    class Half(Exporter):
        name = "half"

    with pytest.raises(TypeError, match="export"):
        Half()  # type: ignore[abstract]


@pytest.mark.parametrize("wanted", ["1", "1.0", " >=1.0 , <2", ">=1", "<2", API_VERSION])
def test_a_plugin_for_this_interface_is_used(install: Install, wanted: str) -> None:
    install("current", f"NUCLR_API = {wanted!r}\n{READERS}")
    assert info_of("current").error is None
    assert info_of("current").api == wanted


@pytest.mark.parametrize("wanted", ["2", "0", "1.99", ">=1.2", "<1", ">=2,<3", "0.9"])
def test_a_plugin_for_another_interface_is_listed_and_not_used(install: Install, wanted: str) -> None:
    calls = "\ndef nuclr_readers(): raise AssertionError('asked')"
    install("foreign", f"NUCLR_API = {wanted!r}\n{READERS.rpartition('@hookimpl')[0]}@hookimpl{calls}")
    info = info_of("foreign")
    assert info.error is not None
    assert f"made for version {wanted} of nuclr's plugin interface" in info.error
    assert API_VERSION in info.error
    assert "update" in info.error
    assert "some" not in [reader.name for reader in Registry.load().readers]


@pytest.mark.parametrize("wanted", ["'one'", "1", "('1',)", "''", "'~=1.0'"])
def test_a_version_that_cannot_be_understood_is_an_error(install: Install, wanted: str) -> None:
    install("unclear", f"NUCLR_API = {wanted}\n{READERS}")
    assert "expected text such as '1'" in str(info_of("unclear").error)


def test_a_plugin_need_not_say_its_version(install: Install) -> None:
    install("silent", READERS)
    assert (info_of("silent").api, info_of("silent").error) == (None, None)


def test_plugins_list_tells_everything(
    install: Install, tmp_path: Path, nuclr: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("tables", "NUCLR_API = '1'\n" + EXPORTERS.replace("NAME", "table"))
    install("foreign", f"NUCLR_API = '3'\n{READERS}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    done = nuclr("plugins", "list", "--json")
    assert done.code == 0  # type: ignore[attr-defined]
    document = done.json  # type: ignore[attr-defined]
    assert document["api_version"] == API_VERSION
    listed = {plugin["name"]: plugin for plugin in document["plugins"]}
    assert listed["tables"] == {
        "name": "tables",
        "distribution": "dist-tables",
        "version": "0.3",
        "readers": [],
        "formats": [],
        "exporters": ["table"],
        "api": "1",
        "error": None,
    }
    assert "version 3" in listed["foreign"]["error"]
    text = nuclr("plugins", "list").out  # type: ignore[attr-defined]
    assert "table" in text
    assert "version 3" in text


def test_the_version_is_major_dot_minor() -> None:
    parts: Sequence[str] = API_VERSION.split(".")
    assert len(parts) == 2
    assert all(part.isdigit() for part in parts)
