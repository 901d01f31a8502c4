"""Which sessions a run trains on, which are held out or skipped, and whether they are still the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nuclr_cli.data.recording import Recording
from nuclr_cli.data.remote import text_of
from nuclr_cli.data.store import Session
from nuclr_cli.data.windows import TrainingWindows
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.split_names import close_name
from nuclr_cli.workflows.presets import PretrainSettings
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.runs import Run, RunSession
from nuclr_cli.workflows.training_part import least_units, training_part


def read_subject_list(text: str, option: str = "--hold-out-subjects") -> tuple[str, ...]:
    """What `option` says: a comma-separated list, or a file with one subject a line.

    Raises:
        InputError: The list is empty, or the file is not text.
    """
    items = text.split(",")
    try:
        if Path(text).is_file():
            items = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{option}: {text} is not UTF-8 text.", "Write one subject a line, or A,B") from None
    except OSError:
        pass  # a list that is too long to be the name of a file
    subjects = tuple(dict.fromkeys(item.strip() for item in items if item.strip()))
    if not subjects:
        raise InputError(f"{option} {text!r} names no subject.", "Write it as A,B or name a file")
    return subjects


def check_subjects(option: str, named: Sequence[str], subjects: Sequence[str]) -> None:
    """Raise InputError unless each subject that `option` names is one of `subjects`; says what was meant."""
    unknown = sorted(set(named) - set(subjects))
    if not unknown:
        return
    said = []
    for name in unknown:
        close = close_name(name, [one for one in subjects if one not in named]) or close_name(name, subjects)
        said.append(name if close is None else f"{name} (did you mean {close}?)")
    raise InputError(
        f"{option} names subjects without a session: {', '.join(said)}.",
        f"Subjects here: {', '.join(subjects)}",
    )


def check_same_sessions(run: Run, sessions: Sequence[Session], data: Path) -> None:
    """Raise InputError unless the sessions of `data` are what the run started with."""
    then = {(s.subject, s.session, s.population, s.n_units, s.activity_digest) for s in run.record.sessions}
    now = {(s.key.subject, s.key.session, s.key.population, s.n_units, s.activity_digest) for s in sessions}
    if then != now:
        gone = sorted("/".join(key[:3]) for key in then - now)
        new = sorted("/".join(key[:3]) for key in now - then)
        raise InputError(
            f"The sessions in {text_of(data)} are not the ones that run {run.record.name} started with "
            f"(gone or changed: {', '.join(gone) or 'none'}; new or changed: {', '.join(new) or 'none'}).",
            "Restore them, or start a new run (nuclr pretrain --init-from takes over the weights)",
        )


def training_parts(sessions: Sequence[Session], settings: PretrainSettings) -> list[Recording]:
    """What the settings leave of each session, in the same order."""
    views = settings.views
    least = least_units(views.min_units, views.dropout_low)
    return [training_part(session, settings.data, settings.seed, least) for session in sessions]


def session_roles(
    sessions: Sequence[Session], settings: PretrainSettings, held_out: Sequence[str]
) -> list[RunSession]:
    """What becomes of each session.

    Raises:
        InputError: A subject that is named has no session, one is held out and to be trained on, or no
            session can be trained on.
    """
    subjects = sorted({session.key.subject for session in sessions})
    wanted = settings.data.subjects
    check_subjects("--hold-out-subjects", held_out, subjects)
    check_subjects("data.subjects", wanted, subjects)
    both = sorted(set(held_out) & set(wanted))
    if both:
        raise InputError(
            f"{', '.join(both)}: held out by --hold-out-subjects, but listed in data.subjects.",
            "Take them out of one of the two",
        )
    trained = set(wanted or subjects) - set(held_out)
    if not trained:
        raise InputError("Every subject is held out: nothing is left to train on.", "Hold out fewer subjects")
    candidates = training_parts([s for s in sessions if s.key.subject in trained], settings)
    part_of = {part.key: part for part in candidates}
    windows = TrainingWindows(candidates, settings.tokens, min_units=settings.views.min_units)
    skipped = {skip.key: skip.reason for skip in windows.skipped}
    roles = []
    for session in sessions:
        key = session.key
        role, reason, units, seconds = "train", "", 0, 0.0
        if key.subject in held_out:
            role = "held-out"
        elif key.subject not in trained:
            role = "left-out"
        elif key in skipped:
            role, reason = "skipped", skipped[key]
        else:
            part = part_of[key]
            units, seconds = part.n_units, float((part.intervals[:, 1] - part.intervals[:, 0]).sum())
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
                session.recording_digest,
                units,
                seconds,
            )
        )
    return roles


def say_skipped(roles: Sequence[RunSession], reporter: Reporter) -> None:
    skipped = [role for role in roles if role.role == "skipped"]
    for role in skipped:
        reporter.warn(f"skipped {role.subject}/{role.session}/{role.population}: {role.reason}")
    if skipped:
        reporter.warn(f"{len(skipped)} of {len(roles)} sessions cannot be trained on")


def say_unknown_origin(origin: Run, held_out: Sequence[str], reporter: Reporter) -> None:
    """Warn where holding subjects out is in vain: imported weights may have seen them."""
    if held_out and origin.record.inherited_how == "unknown":
        reporter.warn(
            f"which subjects the weights of {origin.folder} have seen is unknown, so probes that test on "
            f"{', '.join(held_out)} are not inductive (nuclr import-checkpoint --trained-subjects names them)"
        )
