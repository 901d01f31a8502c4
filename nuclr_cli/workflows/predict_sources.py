"""What predicted populations were read from, and whether an export would go to the same recording."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from nuclr_cli.api import UnitPredictions
from nuclr_cli.data.meta import SourceRecord
from nuclr_cli.data.session import SessionKey
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.predict_record import PredictConfig
from nuclr_cli.workflows.probe_inputs import ProbeTable
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.run_data import data_of
from nuclr_cli.workflows.source_files import changes

Records = Mapping[SessionKey, SourceRecord]


def source_records(config: PredictConfig, source: ProbeTable, reporter: Reporter) -> Records:
    """What each session file says it was made from; nothing where there are no such files.

    Raises:
        InputError: The folder that the user named does not exist, or two of its files have one key.
    """
    data = config.data
    if data is not None and not data.exists():
        raise InputError(f"{data} does not exist.", "--data takes a folder of session files")
    if data is None and source.run is not None:
        with contextlib.suppress(InputError):
            data = data_of(source.run, "--data DATA")
    if data is None:
        return {}
    unusable: dict[Path, InputError] = {}
    found = {}
    for session in open_sessions(data, check_foreign=False, unusable=unusable):
        if session.meta.source is not None:
            found[session.key] = session.meta.source
        session.close()
    for path in unusable:
        reporter.warn(f"{path} cannot be read, so it does not tell what it was made from.")
    return found


def read_from(
    predictions: Sequence[UnitPredictions], records: Records, target: Path, said: Path | None
) -> tuple[UnitPredictions, ...]:
    """The populations that were read from a folder to which an exporter adds something.

    Ids alone do not tell: clusters are numbered from 0 in every folder.

    Args:
        predictions: Of all populations.
        records: What their session files say.
        target: The folder.
        said: What the user says that they were read from.

    Raises:
        InputError: None was, as far as the session files tell, or the folder was sorted again since, or what
            they were read from is gone.
    """
    here = target.resolve()
    own = tuple(one for one in predictions if one.source is not None and _within(here, one.source.resolve()))
    if own:
        for one in own if said is None else ():
            record = records[_key(one)]
            gone = _gone(record)
            if gone:
                raise InputError(
                    f"{gone}, which {one.subject}/{one.session} was read from, is gone: nothing shows that "
                    f"the units of {target} are still the same.",
                    "Put it back; or --data FOLDER with session files of where it is now (nuclr preprocess); "
                    f"or --source {target} if the units are the same",
                )
            if not _same_recording(record, Path(record.path)):
                raise InputError(
                    f"{record.path} has changed since {one.subject}/{one.session} was read from it: its "
                    "units may be others by now.",
                    f"nuclr preprocess and nuclr embed again, or --source {target} if they are the same",
                )
        return own
    if said is not None:
        raise InputError(
            f"--source {said} is not {target}, which is to be written to.",
            f"--source {target}, if these units were read from it",
        )
    sessions = {(one.subject, one.session) for one in predictions}
    if len(sessions) > 1 and not records:
        raise InputError(
            f"Nothing says what these {len(sessions)} sessions were read from: their session files were not "
            "found.",
            f"--data FOLDER with the session files, or --session SUBJECT/SESSION --source {target} for the "
            "one that was read from there",
        )
    if len(sessions) > 1:
        places = sorted({str(one.source) for one in predictions if one.source is not None})
        known = f" but from {', '.join(places[:3])}{', ...' if len(places) > 3 else ''}" if places else ""
        raise InputError(
            f"None of {len(sessions)} sessions was read from {target}{known}.",
            "Say which one belongs there: --session SUBJECT/SESSION",
        )
    name = f"{predictions[0].subject}/{predictions[0].session}"
    record_of = records.get(_key(predictions[0]))
    if record_of is None:
        raise InputError(
            f"Nothing says what {name} was read from: its session file was not found.",
            f"--data FOLDER with the session files, or --source {target} if it was read from there",
        )
    if not _same_recording(record_of, here) and not Path(record_of.path).exists():
        raise InputError(
            f"{name} was read from {record_of.path}, which is gone, and {target} holds other files.",
            "--data FOLDER with session files of where it is now (nuclr preprocess), or "
            f"--source {target} if it is the same recording all the same",
        )
    if not _same_recording(record_of, here):
        raise InputError(
            f"{name} was read from {record_of.path}, and {target} holds other files.",
            f"--to {record_of.path}, or --source {target} if it is the same recording all the same",
        )
    return tuple(predictions)


def changed_since(predictions: Sequence[UnitPredictions], records: Records) -> tuple[str, ...]:
    """Sentences about sources whose files are others than when they were read."""
    found = {}
    for one in predictions:
        record = records.get(_key(one))
        if record is None or one.source is None or one.source != Path(record.path):
            continue
        if not one.source.exists():
            found[record.path] = (
                f"{record.path}, which {one.subject}/{one.session} was read from, is gone: nothing tells "
                "whether its units are still the same. --source PATH says where it is now."
            )
            continue
        paths = [path for file in record.files if (path := _path(one.source, file.name)).is_file()]
        different = changes(one.source, paths, record.files)
        if different:
            found[record.path] = (
                f"{record.path} has changed since nuclr preprocess read it ({', '.join(different[:3])}): "
                "look whether its units are still the same."
            )
    return tuple(found.values())


def _key(one: UnitPredictions) -> SessionKey:
    return SessionKey(one.subject, one.session, one.population)


def _within(inner: Path, outer: Path) -> bool:
    return inner == outer or outer in inner.parents


def _gone(record: SourceRecord) -> str:
    """What is gone of a source: all of it, or the file that it is recognised by; empty when neither is."""
    source = Path(record.path)
    if not source.exists():
        return record.path
    if not record.files:
        return ""
    largest = _path(source, max(record.files, key=lambda file: file.size).name)
    return "" if largest.exists() else str(largest)


def _same_recording(record: SourceRecord, folder: Path) -> bool:
    """Whether the largest file that a session was read from is the same in a folder.

    It holds spikes or templates, which curation leaves alone; small ones are alike in many folders.
    """
    if not record.files:
        return False
    largest = max(record.files, key=lambda file: file.size)
    copy = _path(folder, largest.name)
    return copy.is_file() and not changes(folder, [copy], [largest])


def _path(source: Path, name: str) -> Path:
    """The file that a fingerprint calls `name`."""
    return source if source.is_file() and source.name == name else source / name
