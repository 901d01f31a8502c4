"""What every reader promises, as checks for `ReaderSuite` and `nuclr plugins check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nuclr_cli.testing import detection_checks, hostile_checks, population_checks, source_checks
from nuclr_cli.testing.reader_case import CheckFailed, CheckSkipped, ReaderCase


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        name: Of the check, as in ``test_NAME`` of `ReaderSuite`.
        run: Raises `CheckFailed` or `CheckSkipped`; returns what was seen.
        reads: It needs a source that can be read.
    """

    name: str
    run: Callable[[ReaderCase], str]
    reads: bool = True


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check.

    Attributes:
        check: Its name.
        status: ``ok``, ``failed``, or ``skipped`` (it does not apply here, or another one failed first).
        found: What was seen.
        fix: What to do about it, empty unless it failed.
    """

    check: str
    status: Literal["ok", "failed", "skipped"]
    found: str
    fix: str = ""


def run_checks(
    case: ReaderCase, done: Callable[[CheckResult], None] = lambda result: None
) -> tuple[CheckResult, ...]:
    """Run every check of `CHECKS`.

    Args:
        case: What to check.
        done: Receives each result as soon as it is there.

    Returns:
        One result per check, in the order of `CHECKS`. Nothing is raised.
    """
    results: list[CheckResult] = []
    unreadable = False
    for check in CHECKS:
        if check.reads and unreadable:
            result = CheckResult(check.name, "skipped", "the source could not be read")
        else:
            result = run_check(check, case)
        unreadable |= check.name == "reads" and result.status == "failed"
        results.append(result)
        done(result)
    return tuple(results)


def run_check(check: Check, case: ReaderCase) -> CheckResult:
    """Run one check; whatever it raises becomes its result."""
    try:
        return CheckResult(check.name, "ok", check.run(case))
    except CheckFailed as failure:
        return CheckResult(check.name, "failed", failure.what, failure.fix)
    except CheckSkipped as reason:
        return CheckResult(check.name, "skipped", str(reason))
    except Exception as error:
        what = getattr(error, "what", str(error))
        fix = getattr(error, "fix", "") or "Catch it in the reader and raise ReaderError(what, fix)."
        return CheckResult(check.name, "failed", f"{type(error).__name__}: {what}", fix)


CHECKS = (
    Check("says_what_it_is", detection_checks.says_what_it_is, reads=False),
    Check("recognises_the_source", detection_checks.recognises_the_source, reads=False),
    Check("refuses_foreign_sources", detection_checks.refuses_foreign_sources, reads=False),
    Check("is_the_only_one", detection_checks.is_the_only_one, reads=False),
    Check("detection_is_cheap", detection_checks.detection_is_cheap, reads=False),
    Check("lists_its_files", source_checks.lists_its_files, reads=False),
    Check("reads", population_checks.reads, reads=False),
    Check("files_are_all_it_reads", source_checks.files_are_all_it_reads),
    Check("times_are_seconds", population_checks.times_are_seconds),
    Check("ids_are_text", population_checks.ids_are_text),
    Check("reads_alike_elsewhere", source_checks.reads_alike_elsewhere),
    Check("passes_nuclrs_check", population_checks.passes_nuclrs_check),
    Check("labels_are_complete", population_checks.labels_are_complete),
    Check("takes_the_names_it_is_given", population_checks.takes_the_names_it_is_given),
    Check("names_missing_packages", source_checks.names_missing_packages),
    Check("refuses_cut_off_files", hostile_checks.refuses_cut_off_files),
    Check("runs_no_pickles", hostile_checks.runs_no_pickles),
    Check("refuses_hostile_sources", hostile_checks.refuses_hostile_sources, reads=False),
)
