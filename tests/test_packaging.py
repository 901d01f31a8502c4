"""What pyproject.toml says, what is on disk and what a wheel holds agree."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

# Imported when work starts, never to print --help.
HEAVY = {
    "h5py",
    "joblib",
    "lightning_fabric",
    "matplotlib",
    "numpy",
    "plotly",
    "pyarrow",
    "scipy",
    "sklearn",
    "skops",
    "spikeinterface",
    "tensorboardX",
    "torch",
    "wandb",
}


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def packages() -> dict[str, Path]:
    """Import packages on disk: name -> folder."""
    roots = [ROOT / "nuclr_cli", *(ROOT / "kernels").iterdir(), *(ROOT / "plugins").iterdir()]
    return {path.name: path for path in roots if (path / "__init__.py").is_file()}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Files that git tracks (in an unpacked sdist: all files)."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        files = [path for path in ROOT.rglob("*") if path.is_file()]
    return [path for path in files if path.is_file()]


def test_wheel_packages_are_the_folders_on_disk(pyproject: dict[str, Any], packages: dict[str, Path]) -> None:
    listed = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(listed) == sorted(path.relative_to(ROOT).as_posix() for path in packages.values())


def test_every_package_is_type_checked_and_under_contract(
    pyproject: dict[str, Any], packages: dict[str, Path]
) -> None:
    assert sorted(pyproject["tool"]["mypy"]["packages"]) == sorted(packages)
    contracts = pyproject["tool"]["importlinter"]
    assert sorted(contracts["root_packages"]) == sorted(packages)
    plugins = sorted(name for name, path in packages.items() if path.parent.name == "plugins")
    (only_api,) = (c for c in contracts["contracts"] if c["name"] == "plugins see only the public API")
    assert sorted(only_api["source_modules"]) == plugins


def test_every_plugin_has_an_entry_point(pyproject: dict[str, Any], packages: dict[str, Path]) -> None:
    plugins = sorted(name for name, path in packages.items() if path.parent.name == "plugins")
    assert sorted(pyproject["project"]["entry-points"]["nuclr"].values()) == plugins


def test_folders_that_are_no_packages_stay_none() -> None:
    """A checkout on sys.path would otherwise offer top-level packages `kernels`, `plugins` and `tests`."""
    for name in ("kernels", "plugins", "tests"):
        assert not (ROOT / name / "__init__.py").exists()


def test_layers_name_every_part_of_the_package(pyproject: dict[str, Any]) -> None:
    (layers,) = (c for c in pyproject["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    named = {name.strip() for layer in layers["layers"] for name in layer.split("|")}
    parts = {
        f"nuclr_cli.{path.stem}"
        for path in (ROOT / "nuclr_cli").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").is_file()) and not path.name.startswith("__")
    }
    assert named == parts


# Spelt in parts, so that this file passes its own test.
_FOLDERS = "|".join(("home", "root", "tmp", "work", "Users", "mnt", "opt"))
_UNWANTED = re.compile(
    "|".join(
        (
            rf"""(?<![\w./~*)\]}}>-])/(?:{_FOLDERS})/[\w.]""",
            "--(?:extra-)?index" + "-url",
            "/simp" + r"le\b",
            r"download\.pytorch" + r"\.org",
        )
    )
)


def test_no_machine_paths_and_no_index_addresses(tracked: list[Path]) -> None:
    found = []
    for path in tracked:
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
            if _UNWANTED.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found


@pytest.mark.parametrize(
    ("line", "unwanted"),
    [
        ('Path("/' + 'tmp/x")', True),
        ("see /" + "home/me/data", True),
        ("pip install --index" + "-url X", True),
        ("data/tmp/x and a/work/b", False),
        ("https://example.org/root/x", False),
    ],
)
def test_unwanted_lines_are_told_apart(line: str, unwanted: bool) -> None:
    assert bool(_UNWANTED.search(line)) == unwanted


def test_the_command_line_imports_nothing_heavy() -> None:
    """So that `nuclr --help` answers at once; benchmarks/help.py measures it."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, nuclr_cli.cli.app; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert "typer" in imported
    assert not imported & HEAVY


@pytest.mark.slow
def test_wheel_holds_the_packages_and_nothing_else(
    pyproject: dict[str, Any], packages: dict[str, Path], tracked: list[Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    for path in tracked:
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert sdist.name.startswith("nuclr-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        info = metadata.rpartition("/")[0]
        entries = configparser.ConfigParser()
        entries.read_string(archive.read(f"{info}/entry_points.txt").decode())
        assert b"\nLicense-Expression: Apache-2.0\n" in archive.read(metadata)
    modules = {
        path.relative_to(folder.parent).as_posix()
        for folder in packages.values()
        for path in tracked
        if path.is_relative_to(folder)
    }
    assert modules == {name for name in names if not name.startswith(info)}
    assert {name.partition("/")[0] for name in names} == {*packages, info}
    assert f"{info}/licenses/LICENSE" in names
    typed = {name for name in packages if f"{name}/py.typed" in names}
    assert {"nuclr_cli", "nuclr_kernels"} <= typed
    assert dict(entries["console_scripts"]) == pyproject["project"]["scripts"]
    assert dict(entries["nuclr"]) == pyproject["project"]["entry-points"]["nuclr"]
