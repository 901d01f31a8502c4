"""Hooks and the names of the plugin interface are explained and tested."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from nuclr_cli import api
from nuclr_cli.testing import ReaderSuite
from nuclr_cli.testing.reader_checks import CHECKS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
HOOKS = sorted(name for name in vars(api.NuclrHooks) if name.startswith("nuclr_"))


def names_of_tests() -> set[str]:
    """Names of all test functions about plugins."""
    names: set[str] = set()
    for path in (ROOT / "tests").glob("test_*plugins*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return names


def test_there_are_hooks() -> None:
    assert "nuclr_readers" in HOOKS


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_heading_in_the_documentation(hook: str) -> None:
    assert re.search(rf"^##+ .*`{hook}`", PAGE, flags=re.MULTILINE), f"docs/plugins.md: explain {hook}"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook: str) -> None:
    assert any(name.startswith(f"test_{hook}_") for name in names_of_tests()), f"write test_{hook}_..."


@pytest.mark.parametrize("name", api.__all__)
def test_every_name_of_the_interface_is_in_the_documentation(name: str) -> None:
    assert re.search(rf"\b{name}\b", PAGE), f"docs/plugins.md says nothing about nuclr_cli.api.{name}"


@pytest.mark.parametrize("check", [check.name for check in CHECKS])
def test_every_check_is_in_the_suite_and_in_the_documentation(check: str) -> None:
    assert hasattr(ReaderSuite, f"test_{check}")
    assert f"`{check}`" in PAGE


def test_the_suite_has_no_test_of_its_own() -> None:
    suite = {name.removeprefix("test_") for name in vars(ReaderSuite) if name.startswith("test_")}
    assert suite == {check.name for check in CHECKS}
