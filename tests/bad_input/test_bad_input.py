"""Every rule of the reader specification, in every format in which an input can break it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bad_input.frame import BadInput, case_modules, check, marker, run_case
from bad_input.rules import Rule
from nuclr_cli.api import ReadOptions
from nuclr_cli.workflows.preprocess import PreprocessConfig

MODULES = case_modules()
CASES: list[BadInput] = [case for module in MODULES for case in module.CASES]
CANNOT_OCCUR = {pair: reason for module in MODULES for pair, reason in module.CANNOT_OCCUR.items()}
FORMATS = [name for module in MODULES for name in module.FORMATS]

pytestmark = pytest.mark.usefixtures("shared")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_it_is_refused_and_nothing_runs(case: BadInput, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_every_rule_has_a_case_or_a_reason(format: str) -> None:
    tried = {case.rule for case in CASES if case.format == format}
    excused = {rule for rule, name in CANNOT_OCCUR if name == format}
    assert not (missing := set(Rule) - tried - excused), sorted(rule.name for rule in missing)
    assert not (both := tried & excused), sorted(rule.name for rule in both)
    assert all(reason.endswith(".") for reason in CANNOT_OCCUR.values())


def test_names_are_unique_and_formats_known() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    assert len(set(FORMATS)) == len(FORMATS)
    assert {case.format for case in CASES} | {name for _, name in CANNOT_OCCUR} == set(FORMATS)


def test_rules_are_the_words_of_the_specification(shared: Path) -> None:
    text = (shared / "design" / "readers.md").read_text()
    assert not [rule.name for rule in Rule if rule.value not in text]


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_trusted], ids=lambda case: case.id)
def test_what_trust_lets_run(case: BadInput, tmp_path: Path) -> None:
    """The same source that was refused without ``--trust``: its payload is real."""
    _, done = run_case(case, tmp_path, "--trust")
    assert done.code == 0, done.err
    assert marker(done.folder).exists()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.trust and not case.runs_trusted], ids=lambda case: case.id
)
def test_what_needs_trust_is_tried_with_it(case: BadInput, tmp_path: Path) -> None:
    """It is read, or there is another error: nobody is told to type what was typed."""
    _, done = run_case(case, tmp_path, "--trust")
    assert done.code in (0, 3), done.err
    assert "Add --trust" not in done.err
    assert not marker(done.folder).exists()


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if (case.harmless or case.rule is Rule.OBJECT_ARRAY) and not case.only_untrusted],
    ids=lambda case: case.id,
)
def test_what_trust_does_not_let_run(case: BadInput, tmp_path: Path) -> None:
    """Trusted or not: numbers need no pickle, and what is not looked at is not run."""
    check(case, tmp_path, "--trust")


def test_nothing_is_trusted_unless_said(tmp_path: Path) -> None:
    assert ReadOptions().trust is False
    assert PreprocessConfig(sources=(tmp_path,), out=tmp_path).trust is False


def first_of_each_format() -> list[BadInput]:
    return list({case.format: case for case in reversed(CASES) if case.harmless is None}.values())


@pytest.mark.parametrize("case", first_of_each_format(), ids=lambda case: case.id)
def test_the_same_in_a_process_of_its_own(case: BadInput, tmp_path: Path, nuclr: Callable[..., Any]) -> None:
    """What the shell sees: the exit code, one message on stderr, nothing on stdout."""
    source = case.make(tmp_path)
    options = [option.replace("{folder}", str(tmp_path)) for option in case.options]
    done = nuclr("preprocess", source, "-o", tmp_path / "out", "--jobs", 1, *options, cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert done.err.count("error ") == 1
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
    assert not marker(tmp_path).exists()
