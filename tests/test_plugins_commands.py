"""`nuclr plugins new` and `nuclr plugins check`, and a plugin installed by pip beside broken ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nuclr_cli.errors import InputError
from nuclr_cli.workflows import plugin_template
from nuclr_cli.workflows.plugin_template import new_plugin

Nuclr = Callable[..., Any]


def recording(path: Path, name: str = "mylab") -> Path:
    rows = [f"u{i % 5},{i / 20 + 0.01:.2f},{('PV', 'SST')[i % 5 % 2]}" for i in range(2000)]
    path.write_text("\n".join([f"# {name} spikes", "unit,time_s,cell_type", *rows]) + "\n")
    return path


def test_new_writes_a_whole_package(tmp_path: Path, nuclr: Nuclr) -> None:
    done = nuclr("plugins", "new", "mylab", "-o", tmp_path / "made" / "here", "--json")
    assert done.code == 0, done.err
    assert done.json["files"] == [
        "README.md",
        "nuclr_mylab.py",
        "pyproject.toml",
        "tests/test_nuclr_mylab.py",
    ]
    folder = Path(done.json["folder"])
    assert folder == tmp_path / "made" / "here" / "nuclr-mylab"
    assert [path.name for path in folder.parent.iterdir()] == ["nuclr-mylab"]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["nuclr"] == {"mylab": "nuclr_mylab"}
    assert not any("$" in path.read_text() for path in folder.rglob("*.*"))


def test_the_new_package_passes_its_own_tests(tmp_path: Path) -> None:
    folder = new_plugin("two-words", tmp_path).folder
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "17 passed" in done.stdout


def test_the_new_package_is_clean(tmp_path: Path) -> None:
    folder = new_plugin("mylab", tmp_path).folder
    settings = Path(__file__).parents[1] / "pyproject.toml"
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "--no-cache", "--config", settings, "."], cwd=folder, check=True)
    subprocess.run(
        [*ruff, "format", "--no-cache", "--check", "--config", settings, "."], cwd=folder, check=True
    )


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("MyLab", "mylab"),
        ("my_lab", "my-lab"),
        ("7lab", "lab"),
        ("", "mylab"),
        ("../up", "up"),
        ("a--b", "a-b"),
        ("a" * 41, "a" * 40),
        ("lab\n", "lab"),
        ("nuclr-", "mylab"),
    ],
)
def test_new_refuses_names_that_cannot_be_used(tmp_path: Path, name: str, suggestion: str) -> None:
    with pytest.raises(InputError, match="cannot name a plugin") as caught:
        new_plugin(name, tmp_path)
    assert caught.value.fix == f"nuclr plugins new {suggestion}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["spikeinterface", "cli", "kernels", "nuclr-nwb"])
def test_new_refuses_names_that_are_taken(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is taken"):
        new_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_new_overwrites_nothing(tmp_path: Path, nuclr: Nuclr) -> None:
    (tmp_path / "nuclr-mylab").mkdir()
    (tmp_path / "nuclr-mylab" / "thesis.txt").write_text("years of work")
    done = nuclr("plugins", "new", "nuclr-mylab", cwd=tmp_path)
    assert done.code == 3
    assert "exists; nothing was written" in done.err
    assert [path.name for path in tmp_path.rglob("*")] == ["nuclr-mylab", "thesis.txt"]


def test_new_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = plugin_template._templates()
    first = next(iter(texts))
    # A folder of the package where the next file should go: writing stops in the middle.
    inside = f"{first.removesuffix('.template')}/x.template"
    monkeypatch.setattr(plugin_template, "_templates", lambda: {first: "", inside: ""})
    with pytest.raises(InputError, match="could not be written"):
        new_plugin("mylab", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_check_passes_a_sound_reader(nuclr: Nuclr, shared: Path) -> None:
    sample = shared / "samples" / "si" / "numpy_folder"
    done = nuclr("plugins", "check", "spikeinterface", sample, "--json")
    assert done.code == 0, done.err
    status = {check["check"]: check["status"] for check in done.json["checks"]}
    assert status["runs_no_pickles"] == "ok"
    assert set(status.values()) == {"ok", "skipped"}
    assert "[" not in nuclr("plugins", "check", "spikeinterface", sample, "-q").err


def test_check_says_what_failed_and_ends_with_3(nuclr: Nuclr, tmp_path: Path) -> None:
    (tmp_path / "sorting").mkdir()
    done = nuclr("plugins", "check", "spikeinterface", tmp_path / "sorting", "--json")
    assert done.code == 3
    failed = {check["check"]: check for check in done.json["checks"] if check["status"] == "failed"}
    assert {"recognises_the_source", "lists_its_files", "reads"} <= set(failed)
    assert all(check["found"] and check["fix"] for check in failed.values())
    done = nuclr("plugins", "check", "spikeinterface", tmp_path / "sorting")
    assert "recognises the source" in done.out
    assert "checks of 'spikeinterface' failed" in done.err


def test_check_takes_the_options_of_the_reader(nuclr: Nuclr, shared: Path, tmp_path: Path) -> None:
    sample = shared / "samples" / "si" / "sorting.npz"
    arguments = ("plugins", "check", "spikeinterface", sample)
    assert nuclr(*arguments, "--duration", "20,15").code == 0
    wrong = nuclr(*arguments, "--duration", "20", "--json")
    assert wrong.code == 3
    assert {c["check"]: c for c in wrong.json["checks"]}["reads"]["status"] == "failed"
    unknown = nuclr(*arguments, "--option", "x=y", "--json")
    assert "'x'" in {c["check"]: c for c in unknown.json["checks"]}["reads"]["found"]
    assert nuclr("plugins", "check", "spikeinterfac", sample).code == 3
    assert "does not exist" in nuclr("plugins", "check", "spikeinterface", tmp_path / "gone").err


def test_check_blocks_the_packages_that_are_named(nuclr: Nuclr, shared: Path) -> None:
    sample = shared / "samples" / "si" / "zarr.zarr"
    done = nuclr("plugins", "check", "spikeinterface", sample, "--needs", "zarr", "--json")
    assert done.code == 0, done.out
    found = {check["check"]: check for check in done.json["checks"]}["names_missing_packages"]
    assert (found["status"], found["found"]) == ("ok", "says how to install zarr")


@pytest.fixture
def fresh_environment(tmp_path: Path) -> Path:
    """Python of an environment of its own that sees what this one has."""
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    ours = sysconfig.get_path("purelib")
    (site / "overlay.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return python


def pip(python: Path, *arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_wheel_of_a_third_party_is_found_and_used(tmp_path: Path, fresh_environment: Path) -> None:
    made = {name: new_plugin(name, tmp_path).folder for name in ("mylab", "broken", "foreign")}
    broken, foreign = made["broken"] / "nuclr_broken.py", made["foreign"] / "nuclr_foreign.py"
    broken.write_text(broken.read_text().replace("import csv\n", "import a_package_that_is_not_there\n"))
    foreign.write_text(foreign.read_text().replace('NUCLR_API = "1"', 'NUCLR_API = "7"'))
    wheels = tmp_path / "wheels"
    pip(fresh_environment, "--version")
    for folder in made.values():
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index",
             "-w", wheels, folder],
            check=True,
        )  # fmt: skip
    pip(fresh_environment, "install", "--no-deps", "--no-index", *sorted(wheels.glob("*.whl")))
    shutil.rmtree(tmp_path / "nuclr-mylab")
    source = recording(tmp_path / "m1.csv")

    def run(*arguments: object) -> Any:
        command = [fresh_environment, "-m", "nuclr_cli", *arguments, "--json"]
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    listed = {plugin["name"]: plugin for plugin in run("plugins", "list")["plugins"]}
    assert listed["mylab"]["error"] is None
    assert (listed["mylab"]["distribution"], listed["mylab"]["version"]) == ("nuclr-mylab", "0.1.0")
    assert "a_package_that_is_not_there" in listed["broken"]["error"]
    assert "version 7" in listed["foreign"]["error"]
    assert listed["spikeinterface"]["error"] is None
    (done,) = run("preprocess", source, "--subject", "m1", "--duration", "101")["sources"]
    assert (done["status"], done["sessions"][0]["n_units"]) == ("written", 5)
    assert run("info")["sessions"][0]["subject"] == "m1"
    failed = [
        check for check in run("plugins", "check", "mylab", source)["checks"] if check["status"] == "failed"
    ]
    assert failed == []
