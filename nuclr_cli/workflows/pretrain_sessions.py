"""Which sessions a run trains on, which are held out or skipped, and whether they are still the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nuclr_cli.data.store import Session
from nuclr_cli.data.windows import TrainingWindows
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.presets import PretrainSettings
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.runs import Run, RunSession


def read_subject_list(text: str) -> tuple[str, ...]:
    """``--hold-out-subjects``: a comma-separated list, or a file with one subject a line.

    Raises:
        InputError: The list is empty, or the file is not text.
    """
    items = text.split(",")
    try:
        if Path(text).is_file():
            items = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(
            f"--hold-out-subjects: {text} is not UTF-8 text.", "Write one subject a line, or A,B"
        ) from None
    except OSError:
        pass  # a list that is too long to be the name of a file
    subjects = tuple(dict.fromkeys(item.strip() for item in items if item.strip()))
    if not subjects:
        raise InputError(f"--hold-out-subjects {text!r} names no subject.", "Write it as A,B or name a file")
    return subjects


def check_same_sessions(run: Run, sessions: Sequence[Session]) -> None:
    then = {(s.subject, s.session, s.population, s.n_units, s.activity_digest) for s in run.record.sessions}
    now = {(s.key.subject, s.key.session, s.key.population, s.n_units, s.activity_digest) for s in sessions}
    if then != now:
        gone = sorted("/".join(key[:3]) for key in then - now)
        new = sorted("/".join(key[:3]) for key in now - then)
        raise InputError(
            f"The sessions in {run.data} are not the ones that run {run.record.name} started with "
            f"(gone or changed: {', '.join(gone) or 'none'}; new or changed: {', '.join(new) or 'none'}).",
            "Restore them, or start a new run (nuclr pretrain --init-from takes over the weights)",
        )


def session_roles(
    sessions: Sequence[Session], settings: PretrainSettings, held_out: Sequence[str]
) -> list[RunSession]:
    subjects = sorted({session.key.subject for session in sessions})
    unknown = sorted(set(held_out) - set(subjects))
    if unknown:
        raise InputError(
            f"--hold-out-subjects names subjects without a session: {', '.join(unknown)}.",
            f"Subjects here: {', '.join(subjects)}",
        )
    candidates = [session for session in sessions if session.key.subject not in held_out]
    if not candidates:
        raise InputError("Every subject is held out: nothing is left to train on.", "Hold out fewer subjects")
    skipped = {
        skip.key: skip.reason
        for skip in TrainingWindows(candidates, settings.tokens, min_units=settings.views.min_units).skipped
    }
    roles = []
    for session in sessions:
        key = session.key
        role, reason = "train", ""
        if key.subject in held_out:
            role = "held-out"
        elif key in skipped:
            role, reason = "skipped", skipped[key]
        roles.append(
            RunSession(
                key.subject,
                key.session,
                key.population,
                session.n_units,
                role,  # type: ignore[arg-type]
                reason,
                session.subject_assumed,
                session.activity_digest,
            )
        )
    return roles


def say_skipped(roles: Sequence[RunSession], reporter: Reporter) -> None:
    skipped = [role for role in roles if role.role == "skipped"]
    for role in skipped:
        reporter.warn(f"skipped {role.subject}/{role.session}/{role.population}: {role.reason}")
    if skipped:
        reporter.warn(f"{len(skipped)} of {len(roles)} sessions cannot be trained on")
