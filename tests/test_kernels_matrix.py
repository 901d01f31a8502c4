"""`make kernels-matrix`: the versions of triton it names, and that a kernel that one cannot compile fails it.

The environments that it installs are not needed here: stand-ins for them run the python of the tests.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="triton is for Linux only")

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels" / "nuclr_kernels"


@pytest.fixture(scope="module")
def oldest() -> Version:
    """The oldest triton that the Makefile compiles with."""
    (named,) = re.findall(r"^TRITON_OLDEST := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return Version(named)


def test_the_oldest_triton_is_the_lower_bound_of_pyproject(oldest: Version) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for texts in extras.values() for text in texts]
    (triton,) = (requirement for requirement in wanted if requirement.name == "triton")
    assert oldest in triton.specifier
    (bound,) = (spec for spec in triton.specifier if spec.operator == ">=")
    assert Version(bound.version) == oldest
    # What the other tests compile with lies between the two ends of the matrix.
    (pinned,) = re.findall(r"^triton==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert oldest <= Version(pinned)


def test_documents_name_the_versions_of_the_makefile(oldest: Version) -> None:
    document = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `make kernels-matrix` \|.*$", document, re.MULTILINE)
    assert re.findall(r"triton (\d+(?:\.\d+)*)", row) == [str(oldest)]
    assert "newest" in row
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make kernels-matrix" in told


def test_the_makefile_installs_and_runs_both_ends(oldest: Version, tmp_path: Path) -> None:
    planned = subprocess.run(
        ["make", "-n", "kernels-matrix", f"TRITON_VENVS={tmp_path}/venvs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    venvs = f"{tmp_path}/venvs"
    assert re.search(rf"{venvs}/oldest/bin/python -m pip install .*triton=={oldest}$", planned, re.MULTILINE)
    assert re.search(rf"{venvs}/newest/bin/python -m pip install .*--upgrade triton$", planned, re.MULTILINE)
    assert f"echo '*' > {venvs}/.gitignore" in planned
    assert "for which in oldest newest;" in planned
    assert "-m nuclr_kernels.compile_check" in planned
    cleaned = subprocess.run(
        ["make", "-n", "clean", f"TRITON_VENVS={venvs}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert venvs in cleaned.split()


def _small_tiles(folder: Path, rows: int) -> Path:
    """Tables for the contrastive kernels, with tiles that compile in a second."""
    folder.mkdir(parents=True)
    for name in ("contrastive_forward", "contrastive_backward"):
        table = json.loads((KERNELS / "tiles" / f"{name}.json").read_text())
        for row in table["rows"]:
            sides = {"block_m": rows, "block_n": 16, "block_k": 16, "block_d": 16}
            row["constants"] = {side: sides[side] for side in row["constants"]}
            row["num_warps"] = 1
        (folder / f"{name}.json").write_text(json.dumps(table))
    return folder


@pytest.mark.slow
def test_a_kernel_that_one_version_cannot_compile_fails_the_target_by_name(tmp_path: Path) -> None:
    """A tile of 48 rows is refused. The environment that has it comes first, and the other is run as well."""
    from triton import __version__ as version

    for which, rows in (("oldest", 48), ("newest", 16)):
        setting = f"export NUCLR_TILES={_small_tiles(tmp_path / 'tiles' / which, rows)}"
        python = tmp_path / "venvs" / which / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\n{setting}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)

    done = subprocess.run(
        [
            "make",
            "--no-print-directory",  # make says where it is when a make has started it
            "compile-gates",
            f"TRITON_VENVS={tmp_path}/venvs",
            f"MATRIX_OUT={tmp_path}/out",
            "GATE_OPTIONS=--operation contrastive --gpu sm_80",
        ],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},  # as where the interpreter's tests have just run
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )

    assert done.returncode != 0, done.stdout
    complaints = [line for line in done.stdout.splitlines() if "does not compile" in line]
    for kernel in ("contrastive_forward bf16 width 256 ieee", "contrastive_backward bf16 width 256 ieee"):
        assert any(line.startswith(f"triton {version}, sm_80, {kernel}: ") for line in complaints)
    assert all("power of 2" in line for line in complaints)
    assert done.stdout.splitlines()[-1].endswith(" oldest")
    written = {
        which: json.loads((tmp_path / "out" / which / "kernel_resources.json").read_text())["kernels"]
        for which in ("oldest", "newest")
    }
    assert sum(1 for kernel in written["oldest"] if kernel["complaints"]) == len(complaints) > 0
    assert [kernel["complaints"] for kernel in written["newest"]] == [[]] * len(written["newest"])
    assert {k["name"] for k in written["newest"]} == {k["name"] for k in written["oldest"]}


@pytest.mark.slow
def test_a_compiler_that_crashes_is_a_complaint_about_its_kernel(tmp_path: Path) -> None:
    out = tmp_path / "out"
    tiles = _small_tiles(tmp_path / "tiles", 16)
    options = ["--operation", "contrastive", "--gpu", "sm_80", "--processes", "1", "--out", str(out)]
    gate = subprocess.Popen(
        [sys.executable, "-m", "nuclr_kernels.compile_check", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache"), "NUCLR_TILES": str(tiles)},
    )
    children = Path(f"/proc/{gate.pid}/task/{gate.pid}/children")
    compilers: list[int] = []
    while not compilers and gate.poll() is None:
        time.sleep(0.05)
        compilers = [pid for pid in map(int, children.read_text().split()) if _is_compiler(pid)]
    os.kill(compilers[0], signal.SIGKILL)
    said, _ = gate.communicate(timeout=600)

    assert gate.returncode == 1
    kernels = json.loads((out / "kernel_resources.json").read_text())["kernels"]
    (first,) = (kernel for kernel in kernels if kernel["complaints"])
    assert first == kernels[0]
    assert first["resources"] is None
    assert f"sm_80, {first['name']}: ends the compiler's process: SIGKILL\n" in said
    assert all(kernel["resources"]["registers"] for kernel in kernels[1:])


def _is_compiler(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def test_every_launch_has_the_options_that_the_gate_compiles_with() -> None:
    launches = []
    for path in KERNELS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # kernel[grid](..., num_warps=...)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg}
                spread = {ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg is None}
                if "num_warps" in given:
                    launches.append((f"{path.name}:{node.lineno}", "COMPILE_OPTIONS" in spread))
    assert len(launches) >= 6
    assert not [where for where, has_options in launches if not has_options]
