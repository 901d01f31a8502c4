"""Errors a person reads: what was found, what was expected, what to type next."""

from __future__ import annotations

import shlex


class NuclrError(Exception):
    """Base of every error that is the user's to mend.

    Args:
        what: What was found and what was expected, one or more sentences, no trailing newline.
        fix: What to type or change next. May be empty when `what` already says it.

    Attributes:
        exit_code: Process exit status the command line ends with (3: bad input).
        record: What was finished all the same, for scripts; None when nothing was.
    """

    exit_code: int = 3
    record: object = None

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what, fix)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.fix}" if self.fix else self.what


class InputError(NuclrError):
    """Bad data or a bad option value (exit 3). Nothing half-written is left behind."""


class ReaderError(NuclrError):
    """The source is recognised but broken (exit 3). Name the file, the unit and the count in `what`."""


class MissingPackageError(NuclrError):
    """An optional package is not installed (exit 4). `fix` is the install command."""

    exit_code = 4

    def __init__(self, package: str, needed_for: str) -> None:
        what = f"{needed_for} needs the package {package!r}, which is not installed."
        super().__init__(what, f"pip install {shlex.quote(package)}")
        self.package = package


class Interrupted(NuclrError):
    """Stopped by a signal after a checkpoint was saved.

    Exit 130 for SIGINT, 143 for SIGTERM, SIGUSR1 and SIGHUP (the terminal was closed).
    """

    def __init__(self, what: str, fix: str = "", *, exit_code: int = 143) -> None:
        super().__init__(what, fix)
        self.exit_code = exit_code


def exit_code_of(error: BaseException) -> int:
    """What a command ends with when `error` ends it; 1 is a bug."""
    if isinstance(error, NuclrError):
        return error.exit_code
    if isinstance(error, ModuleNotFoundError):
        return MissingPackageError.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, OSError) and error.filename is not None:
        return InputError.exit_code
    return 1
