"""The checks fail for the readers they are meant to catch, and only tell the truth about good ones."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nuclr_cli.testing.reader_case import MOST_COPIED_BYTES, ReaderCase
from nuclr_cli.testing.reader_checks import CHECKS, CheckResult, run_check, run_checks
from nuclr_cli.workflows.plugin_template import new_plugin

MakeCase = Callable[..., ReaderCase]

HEAD = "# {name} spikes\nunit,time_s,cell_type\n"
BODY = "".join(f"u{i % 4},{i / 10 + 0.01:.2f},{('PV', 'SST', '', 'PV')[i % 4]}\n" for i in range(400))
READ = "    def read(self, path: Path, options: ReadOptions) -> Iterator[Population]:\n"


@pytest.fixture
def make_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeCase]:
    """The template's reader with some of its text replaced, and a recording it reads."""

    def make(*changes: tuple[str, str], **settings: object) -> ReaderCase:
        plugin = new_plugin("trial", tmp_path)
        file = plugin.folder / f"{plugin.module}.py"
        text = file.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(plugin.folder)
        importlib.invalidate_caches()
        module = importlib.import_module(plugin.module)
        (tmp_path / "lab").mkdir()
        (tmp_path / "scratch").mkdir()
        source = tmp_path / "lab" / "m1.csv"
        source.write_text(HEAD.format(name="trial") + BODY, encoding="utf-8")
        return ReaderCase(
            reader=module.TrialReader(),
            source=source,
            scratch=tmp_path / "scratch",
            **settings,  # type: ignore[arg-type]
        )

    yield make
    sys.modules.pop("nuclr_trial", None)


def outcome(name: str, case: ReaderCase) -> CheckResult:
    (check,) = (check for check in CHECKS if check.name == name)
    return run_check(check, case)


def test_a_good_reader_passes(make_case: MakeCase) -> None:
    results = run_checks(make_case())
    assert [result.check for result in results] == [check.name for check in CHECKS]
    assert {result.check for result in results if result.status != "ok"} == {
        "names_missing_packages",
        "runs_no_pickles",
        "refuses_hostile_sources",
    }
    assert all(result.status != "failed" and result.found for result in results)


SORTED = 'order = np.argsort(times, kind="stable")'
IDS = '"id": np.array(ids)'
LOCKED = "    def __reduce__(self): raise TypeError('lock')\n"
LABELS = "[labels[unit] for unit in ids], dtype=str"


@pytest.mark.parametrize(
    ("check", "old", "new", "said"),
    [
        ("says_what_it_is", 'name = "trial"', 'name = "The Trial"', "cannot be typed"),
        ("says_what_it_is", 'formats = ("trial csv",)', "formats = ()", "formats"),
        ("says_what_it_is", "looks_for = f", "looked_for = f", "looks_for"),
        ("says_what_it_is", '{"duration_s"}', '{"duration"}', "duration"),
        ("recognises_the_source", 'return f"csv: {FIRST_LINE!r}"', "return None", "returned None"),
        ("recognises_the_source", 'return f"csv: {FIRST_LINE!r}"', "return True", "returned True"),
        ("refuses_foreign_sources", "or not path.is_file()", "", "IsADirectoryError on folder.csv"),
        ("refuses_foreign_sources", "if first[:1] == [FIRST_LINE.encode()]", "if True", "table.csv"),
        ("detection_is_cheap", "file.read(len(FIRST_LINE) + 2)", "file.read(50_000_000)", "MB in"),
        ("lists_its_files", "return [path]", "return []", "empty"),
        ("lists_its_files", "return [path]", "return [path, path.parent]", "no files"),
        ("lists_its_files", "return [path]", "return [path, path]", "twice"),
        ("lists_its_files", "return [path]", "return [path, path.with_suffix('.x')]", "m1.x"),
        ("reads", "        yield Pop", "        if end < 0:\n          yield Pop", "no population"),
        ("times_are_seconds", "        order", "        times *= 30000\n        order", "fires at"),
        ("times_are_seconds", "Spikes(times[order]", "Spikes(times[order].astype('f4')", "float32"),
        ("times_are_seconds", SORTED, "order = np.argsort(-times)", "earlier"),
        ("times_are_seconds", "Spikes(times[order]", "Spikes(times[order] + np.nan", "NaN"),
        ("ids_are_text", IDS, '"id": np.arange(len(ids))', "int64"),
        ("ids_are_text", IDS, '"id": np.array(["u"] * len(ids))', "repeat"),
        ("ids_are_text", IDS, '"id": np.array([f"{u}-{np.random.rand()}" for u in ids])', "second"),
        ("reads_alike_elsewhere", "ids = list(dict.fromkeys(units))", "ids = list(set(units))", "unit_index"),
        ("reads_alike_elsewhere", "import csv\n", "import csv\nimport torch\n", "torch"),
        ("reads_alike_elsewhere", READ, LOCKED + READ, "pickled"),
        ("passes_nuclrs_check", "[[0.0, end]]", "[[0.0, end / 2]]", "outside the recording"),
        ("labels_are_complete", LABELS, "[labels[u] or None for u in ids], dtype=object", "object"),
        ("labels_are_complete", LABELS, "[labels[u] or float('nan') for u in ids], dtype=str", "'nan'"),
        ("labels_are_complete", LABELS, "[len(labels[u]) for u in ids]", "int64"),
        ("labels_are_complete", LABELS, "[labels[u] for u in ids[:2]]", "shape (2,)"),
        ("takes_the_names_it_is_given", "options.subject or path.stem", "path.stem", "options.subject"),
        ("takes_the_names_it_is_given", "options.session or path.stem", "'s1'", "options.session"),
        ("takes_the_names_it_is_given", "options.subject is None,", "True,", "subject_assumed"),
        ("refuses_cut_off_files", "next(rows, ())", "next(rows)", "m1.csv cut to 0 of"),
        ("refuses_cut_off_files", "header != COLUMNS", "header[9] != 'x'", "IndexError"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_seen(make_case: MakeCase, check: str, old: str, new: str, said: str) -> None:
    result = outcome(check, make_case((old, new)))
    assert result.status == "failed", result
    assert said in result.found
    assert result.fix


def test_a_file_that_is_read_and_not_listed_is_seen(make_case: MakeCase) -> None:
    case = make_case(("units, times, labels = _table(path)", "units, times, labels = _table(path)\n"
                      "        (path.parent / 'rate.txt').read_text()"))  # fmt: skip
    (case.source.parent / "rate.txt").write_text("30000")
    result = outcome("files_are_all_it_reads", case)
    assert result.status == "failed"
    assert "rate.txt" in result.found


def test_a_file_that_changes_what_is_read_and_is_not_listed_is_seen(make_case: MakeCase) -> None:
    case = make_case(("units, times, labels = _table(path)", "units, times, labels = _table(path)\n"
                      "        times = times + (path.parent / 'shift.txt').exists()"))  # fmt: skip
    (case.source.parent / "shift.txt").touch()
    result = outcome("files_are_all_it_reads", case)
    assert result.status == "failed"
    assert "times" in result.found


def test_a_file_that_is_listed_only_while_it_is_sound_is_seen(make_case: MakeCase) -> None:
    case = make_case(("return [path]", "return [path] if self.detect(path) else []"))
    result = outcome("files_are_all_it_reads", case)
    assert result.status == "failed"
    assert "no longer lists m1.csv" in result.found


def test_another_reader_of_the_same_files_is_seen(make_case: MakeCase) -> None:
    case = make_case()
    place = case.source.parent / "sorting"
    place.mkdir()
    (place / "params.py").write_text("sample_rate = 30000.0\n")
    np.save(place / "spike_times.npy", np.arange(3))
    result = outcome("is_the_only_one", dataclasses.replace(case, source=place))
    assert result.status == "failed"
    assert "spikeinterface sees" in result.found


MISSING = """
        try:
            import json
        except ImportError:
            raise MissingPackageError("json", "Reading") from None
"""


def test_missing_packages(make_case: MakeCase) -> None:
    imports = ("import Population, Reader", "import MissingPackageError, Population, Reader")
    honest = make_case(imports, (READ, READ + MISSING), needs=("json",))
    # The standard json is needed by the process that answers, so another stands in for it.
    file = Path(str(sys.modules["nuclr_trial"].__file__))
    file.write_text(file.read_text().replace("import json\n", "import colorsys\n"))
    assert outcome("names_missing_packages", dataclasses.replace(honest, needs=("colorsys",))).status == "ok"
    useless = outcome("names_missing_packages", dataclasses.replace(honest, needs=("wave",)))
    assert useless.status == "failed"
    assert "without wave" in useless.found
    file.write_text(file.read_text().replace("except ImportError", "except KeyError"))
    crash = outcome("names_missing_packages", dataclasses.replace(honest, needs=("colorsys",)))
    assert crash.status == "failed"
    assert "ModuleNotFoundError" in crash.found


def test_pickles_that_run_are_seen(make_case: MakeCase) -> None:
    loads = "        np.load(path.with_suffix('.npy'), allow_pickle=True)\n"
    case = make_case(
        (READ, READ + loads), ("return [path]", "return [path, path.with_suffix('.npy')]"), most_cut=0
    )
    np.save(case.source.with_suffix(".npy"), np.arange(3))
    result = outcome("runs_no_pickles", case)
    assert result.status == "failed"
    assert "Code that was planted in m1.npy was run" in result.found
    refused = outcome("refuses_cut_off_files", dataclasses.replace(case, most_cut=40))
    assert refused.status == "failed"


def test_params_that_run_are_seen(make_case: MakeCase) -> None:
    loads = "        exec(path.with_suffix('.py').read_text())\n"
    case = make_case((READ, READ + loads), ("return [path]", "return [path, path.with_suffix('.py')]"))
    case.source.with_suffix(".py").write_text("rate = 30000\n")
    assert "m1.py was run" in outcome("runs_no_pickles", case).found


def test_hostile_sources_that_are_read_are_seen(make_case: MakeCase) -> None:
    case = make_case()
    fine = dataclasses.replace(case, hostile=(case.source,))
    assert "it was read" in outcome("refuses_hostile_sources", fine).found
    broken = case.source.with_name("broken.csv")
    broken.write_text(HEAD.format(name="trial") + "u0,soon,PV\n")
    assert outcome("refuses_hostile_sources", dataclasses.replace(case, hostile=(broken,))).status == "ok"


def test_a_cut_that_goes_unnoticed_is_seen_unless_it_cannot_be(make_case: MakeCase) -> None:
    whole_rows = ("enumerate(rows, start=3)", "enumerate((r for r in rows if len(r) == 3), start=3)")
    case = make_case(whole_rows, cut_unnoticed=())
    assert (
        outcome("refuses_cut_off_files", dataclasses.replace(case, cut_unnoticed=("*.csv",))).status == "ok"
    )
    result = outcome("refuses_cut_off_files", case)
    assert result.status == "failed"
    assert "without a warning" in result.found


def test_a_source_that_cannot_be_read_fails_once(make_case: MakeCase) -> None:
    case = make_case()
    case.source.write_text("# trial spikes\nnothing\n")
    results = {result.check: result for result in run_checks(case)}
    assert results["reads"].status == "failed"
    assert "expected unit" in results["reads"].found
    assert results["reads"].fix
    assert results["times_are_seconds"].status == "skipped"
    assert results["recognises_the_source"].status == "ok"


def test_a_source_too_large_to_copy_is_not_copied(make_case: MakeCase) -> None:
    case = make_case(("return [path]", "return [path, path.with_suffix('.raw')]"))
    raw = case.source.with_suffix(".raw")
    raw.touch()
    os.truncate(raw, MOST_COPIED_BYTES + 1)
    result = outcome("refuses_cut_off_files", case)
    assert result.status == "skipped"
    assert "smaller" in result.found


def test_the_source_itself_is_left_alone(make_case: MakeCase) -> None:
    case = make_case()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in case.source.parent.iterdir()}
    run_checks(case)
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in case.source.parent.iterdir()
    }


def test_the_suite_can_be_imported_without_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules.update(torch=None, pytest=None); import nuclr_cli.testing"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
