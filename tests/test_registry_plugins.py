"""Plugins are real packages on disk, each tried in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
SHIPPED = sorted(PYPROJECT["project"]["entry-points"]["nuclr"])

READER = """
from nuclr_cli.api import Reader, hookimpl

class Mine(Reader):
    name = "{name}"
    formats = ("mine",)
    looks_for = "a file called mine.txt"

    def detect(self, path):
        {detect}

    def sources(self, path):
        return []

    def read(self, path, options):
        return iter(())

@hookimpl
def {hook}():
    return [Mine()]
"""
SEES_MINE = 'return "mine" if (path / "mine.txt").exists() else None'


def reader_module(name: str = "mine", detect: str = SEES_MINE, hook: str = "nuclr_readers") -> str:
    return READER.format(name=name, detect=detect, hook=hook)


@pytest.fixture
def install(tmp_path: Path) -> Callable[[str, str], Path]:
    """Put a package with an entry point into a folder that is on sys.path."""
    site = tmp_path / "site"
    site.mkdir()

    def put(name: str, module: str) -> Path:
        (site / f"{name}.py").write_text(textwrap.dedent(module))
        info = site / f"dist_{name}-1.2.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: 1.2.3\n")
        (info / "entry_points.txt").write_text(f"[nuclr]\n{name} = {name}\n")
        return site

    return put


def run(site: Path, code: str) -> Any:
    """Run code with the site folder on sys.path; its last line prints JSON."""
    imports = "import json\nfrom pathlib import Path\nfrom nuclr_cli.registry import Registry\n"
    done = subprocess.run(
        [sys.executable, "-c", imports + "r = Registry.load()\n" + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LIST = """
plugins = {p.name: [p.distribution, p.version, list(p.readers), list(p.formats), p.error] for p in r.plugins}
print(json.dumps(plugins | {"": [x.name for x in r.readers]}))
"""


def test_the_shipped_reader_is_a_plugin_like_any_other(tmp_path: Path) -> None:
    found = run(tmp_path, LIST)
    distribution, version, readers, formats, error = found["spikeinterface"]
    assert (distribution, readers, error) == ("nuclr", ["spikeinterface"], None)
    assert version[0].isdigit()
    assert "phy" in formats
    assert found[""] == SHIPPED


def test_an_installed_package_brings_its_reader(install: Callable[[str, str], Path]) -> None:
    found = run(install("good", reader_module()), LIST)
    assert found["good"] == ["dist-good", "1.2.3", ["mine"], ["mine"], None]
    assert found[""] == sorted([*SHIPPED, "mine"])


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import a_package_that_is_not_there", "No module named 'a_package_that_is_not_there'"),
        ("def broken(:", "SyntaxError"),
        ("raise RuntimeError('no licence')", "no licence"),
        ("import sys; sys.exit(7)", "SystemExit"),
        (reader_module(hook="nuclr_reader"), "nuclr_reader"),
        (reader_module().replace("@hookimpl\n", ""), "implements no hook"),
        (reader_module(name=""), "no usable name"),
        (reader_module(name="Not A Name"), "Not A Name"),
        (reader_module().replace("return [Mine()]", "raise ValueError('not today')"), "not today"),
        (reader_module().replace("return [Mine()]", "return [Mine]"), "is not a nuclr_cli.api.Reader"),
        (reader_module().replace("return [Mine()]", "return None"), "returned no reader"),
        (reader_module().replace("return [Mine()]", "return [Mine(), Mine()]"), "same name"),
        (reader_module().replace("def sources", "def source"), "abstract"),
        (reader_module().replace('("mine",)', "property(lambda self: 1 / 0)"), "ZeroDivisionError"),
    ],
)
def test_a_broken_plugin_is_listed_and_harms_nothing(
    install: Callable[[str, str], Path], module: str, reason: str
) -> None:
    install("good", reader_module(name="fine"))
    found = run(install("bad", module), LIST)
    assert reason in found["bad"][4]
    assert found["bad"][:2] == ["dist-bad", "1.2.3"]
    assert found["good"][4] is None
    assert found[""] == sorted([*SHIPPED, "fine"])


def test_two_readers_of_one_name_are_both_unusable(install: Callable[[str, str], Path]) -> None:
    install("one", reader_module())
    found = run(install("two", reader_module()), LIST)
    for name in ("one", "two"):
        assert "dist-one 1.2.3" in found[name][4]
        assert "dist-two 1.2.3" in found[name][4]
    assert found[""] == SHIPPED


def test_a_plugin_cannot_replace_the_shipped_reader(install: Callable[[str, str], Path]) -> None:
    found = run(install("thief", reader_module(name="spikeinterface")), LIST)
    assert found["thief"][4]
    assert found["spikeinterface"][4]
    assert found[""] == [name for name in SHIPPED if name != "spikeinterface"]


FIND = """
from nuclr_cli.errors import NuclrError
warnings = []
try:
    reader, seen = r.find(Path(PATH), NAME, detect=DETECT, warn=warnings.append)
    print(json.dumps([reader.name, seen, warnings]))
except NuclrError as error:
    print(json.dumps([error.what, error.fix, warnings]))
"""


def find(site: Path, path: Path, name: str | None = None, detect: bool = True) -> Any:
    code = FIND.replace("PATH", repr(str(path))).replace("NAME", repr(name)).replace("DETECT", repr(detect))
    return run(site, code)


def test_find_returns_the_only_reader_that_knows_a_path(
    install: Callable[[str, str], Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").touch()
    assert find(install("good", reader_module()), tmp_path) == ["mine", "mine", []]


def test_a_reader_that_breaks_while_looking_is_named_and_left_out(
    install: Callable[[str, str], Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").touch()
    install("good", reader_module())
    site = install("bad", reader_module(name="shaky", detect="raise OSError('boom')"))
    reader, _, warnings = find(site, tmp_path)
    assert reader == "mine"
    assert len(warnings) == 1
    assert "'shaky'" in warnings[0]
    assert "boom" in warnings[0]


def test_unknown_paths_say_what_each_reader_looked_for(
    install: Callable[[str, str], Path], tmp_path: Path
) -> None:
    site = install("good", reader_module())
    what, fix, _ = find(site, tmp_path)
    assert "mine looks for a file called mine.txt" in what
    assert "spikeinterface looks for" in what
    assert "numpysorting_info.json" in what
    assert fix
    install("bad", "import not_there")
    assert "bad" in find(site, tmp_path)[1]


def test_pointing_one_level_too_high_names_what_is_inside(
    install: Callable[[str, str], Path], tmp_path: Path
) -> None:
    (tmp_path / "animal" / "rec").mkdir(parents=True)
    (tmp_path / "animal" / "rec" / "mine.txt").touch()
    _, fix, _ = find(install("good", reader_module()), tmp_path / "animal")
    assert str(tmp_path / "animal" / "rec") in fix


def test_two_readers_that_know_a_path_must_be_told_apart(
    install: Callable[[str, str], Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").touch()
    install("one", reader_module(name="one"))
    site = install("two", reader_module(name="two"))
    what, fix, _ = find(site, tmp_path)
    assert "one sees mine" in what
    assert "two sees mine" in what
    assert "--reader one" in fix
    assert "--reader two" in fix
    assert find(site, tmp_path, "two") == ["two", "mine", []]


def test_a_named_reader_can_be_taken_at_its_word(install: Callable[[str, str], Path], tmp_path: Path) -> None:
    site = install("good", reader_module(detect="raise OSError('asked')"))
    assert find(site, tmp_path, "mine", detect=False) == ["mine", "read as you said", []]
    assert "no reader 'mien'" in find(site, tmp_path, "mien", detect=False)[0]
    assert "does not exist" in find(site, tmp_path / "gone", "mine", detect=False)[0]
    assert "No reader recognises" in find(site, tmp_path, None, detect=False)[0]


def test_a_mistyped_reader_or_path_gets_the_closest(
    install: Callable[[str, str], Path], tmp_path: Path
) -> None:
    site = install("good", reader_module())
    (tmp_path / "sorting").mkdir()
    what, fix, _ = find(site, tmp_path, "spikeinterfaces")
    assert "no reader 'spikeinterfaces'" in what
    assert fix == "--reader spikeinterface"
    what, fix, _ = find(site, tmp_path / "sortign")
    assert "does not exist" in what
    assert str(tmp_path / "sorting") in fix
    what, _, _ = find(site, tmp_path, "mine")
    assert "does not recognise" in what


def test_asking_for_the_reader_of_a_broken_plugin_says_why(
    install: Callable[[str, str], Path], tmp_path: Path
) -> None:
    what, fix, _ = find(install("bad", "import not_there"), tmp_path, "bad")
    assert "not_there" in what
    assert fix == "nuclr plugins list"


def test_plugins_list_shows_failures_and_still_exits_with_0(install: Callable[[str, str], Path]) -> None:
    site = install("bad", "import not_there")
    done = subprocess.run(
        [sys.executable, "-m", "nuclr_cli", "plugins", "list", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    listed = {plugin["name"]: plugin for plugin in json.loads(done.stdout)["plugins"]}
    assert "not_there" in listed["bad"]["error"]
    assert listed["spikeinterface"]["error"] is None
    assert "not_there" in done.stderr
