"""One training of a run at a time, on all machines that share its folder."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.folder_lock import FolderInUse, NoLocks, only_here
from nuclr_cli.workflows.lock_holder import this_process
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.run_folder import resume_command

PATIENCE_S = 120.0
"""Longer than the lease of a machine that is gone, which a file server keeps for some 90 s."""


class RunLock:
    """Holds one run, from `take` to `release` or the end of the process; of several ranks the first has it.

    Args:
        reporter: Told where the file system cannot lock, and of waiting.
        patience_s: How long to wait for another process to let go: one that a launcher or a batch system
            starts again may find its predecessor dying, or a lease of a machine that is gone.
    """

    def __init__(self, reporter: Reporter, patience_s: float = 0.0) -> None:
        self._reporter, self._stack, self._taken = reporter, ExitStack(), False
        self._patience_s = patience_s

    def release(self) -> None:
        """Let others train the run."""
        self._stack.close()
        self._taken = False

    def take(self, run: Path) -> None:
        """Hold the run; nothing happens if it is held already.

        Raises:
            InputError: Another process trains it, or its folder cannot be written.
        """
        if self._taken:
            return
        try:
            self._enter(run, this_process())
        except FolderInUse as error:
            raise InputError(
                f"The run {run} is being trained already{_by(error.holder)}.",
                "Wait until it ends or stop it (SIGTERM saves a checkpoint), then: "
                f"{resume_command(run)}; or start another run with another --name",
            ) from None
        except NoLocks:
            self._reporter.warn(
                f"the file system of {run} knows no locks: see to it that no second process trains this run"
            )
        except OSError as error:
            raise InputError(
                f"The run {run} cannot be written: {error.strerror or error}.",
                f"Mend its permissions or free some space, then: {resume_command(run)}",
            ) from None
        self._taken = True

    def _enter(self, run: Path, own: str) -> None:
        until, said = time.monotonic() + self._patience_s, False
        while True:
            try:
                self._stack.enter_context(only_here(run, own))
                return
            except FolderInUse as error:
                if time.monotonic() >= until:
                    raise
                if not said:
                    self._reporter.note(
                        f"the run {run} is being trained{_by(error.holder)}: waiting up to "
                        f"{self._patience_s:.0f} s for it to end"
                    )
                said = True
            time.sleep(0.5)


def _by(holder: str) -> str:
    """What the holder says of itself, as part of a sentence; empty when it says nothing (Windows)."""
    try:
        said = json.loads(holder)
        return f" by process {said['pid']} on {said['host']} since {said['since']} (UTC)"
    except (ValueError, TypeError, KeyError):
        return ""
