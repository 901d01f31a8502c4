"""A run: one folder that holds everything a number can be traced to."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from nuclr_cli import __version__
from nuclr_cli.data.remote import place_of, text_of
from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.split_names import close_name
from nuclr_cli.workflows.config import from_mapping
from nuclr_cli.workflows.presets import PretrainSettings
from nuclr_cli.workflows.run_folder import RUNS, State, after_a_full_disk, resume_command

__all__ = [
    "DATA",
    "RUNS",
    "Imported",
    "Run",
    "RunRecord",
    "RunSession",
    "State",
    "check_name",
    "create_run",
    "environment",
    "find_run",
    "list_runs",
    "open_run",
    "read_json",
    "resume_command",
    "write_json",
]

DATA = Path("nuclr-data")


@dataclass(frozen=True)
class RunSession:
    """One session as pretraining met it.

    Attributes:
        subject, session, population: The key.
        n_units: Units in the table.
        role: ``train``, ``held-out`` (its subject was held out), ``left-out`` (its subject is not in
            ``data.subjects``), or ``skipped``.
        reason: Why it was skipped.
        subject_assumed: The subject is a folder's name that nobody confirmed.
        activity_digest: Of the recorded activity, '' when the file has no checksums.
        recording_digest: Of the spikes or traces alone, whatever was said about the recording's length; ''
            when the file has no checksums, and in runs of older versions.
        units_trained, seconds_trained: Of the session that pretraining sees; None in runs of older versions.
    """

    subject: str
    session: str
    population: str
    n_units: int
    role: Literal["train", "held-out", "left-out", "skipped"]
    reason: str = ""
    subject_assumed: bool = False
    activity_digest: str = ""
    recording_digest: str = ""
    units_trained: int | None = None
    seconds_trained: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` says.

    Attributes:
        name: Folder name.
        created: UTC time, ISO 8601.
        version: nuclr's version.
        data: Absolute path, or URL, of the DATA folder that pretraining read; empty in an imported run.
        sessions: Every session of that folder, with its role.
        state: Where the run stands.
        step: Steps done when the state was last written.
        init_from: Absolute path of the run whose weights this one started from, or empty.
        inherited_subjects: Subjects that those weights had seen. Written down here, since that run may be
            moved, deleted or made anew.
        inherited_digests: Subject and activity digest of each recording that those weights had seen; None
            when an older version made this run or one that it comes from, and did not write them down, or
            when weights that were trained elsewhere are among its origins.
        inherited_how: How `inherited_subjects` are known: ``recorded`` by nuclr, ``told`` by whoever imported
            the weights that this run comes from (the word holds for recordings, too), or ``unknown``: those
            weights were trained elsewhere, and nobody has named all subjects that they have seen.
        imported_from: Absolute path of the file whose weights these are, or empty: trained here.
        imported_sha256: Of that file.
        loggers: Where the metrics are shown as well, see `nuclr_cli.workflows.loggers`; a resume keeps them.
    """

    name: str
    created: str
    version: str
    data: str
    sessions: tuple[RunSession, ...]
    state: State = "running"
    step: int = 0
    init_from: str = ""
    inherited_subjects: tuple[str, ...] = ()
    inherited_digests: tuple[tuple[str, str], ...] | None = ()
    inherited_how: Literal["recorded", "told", "unknown"] = "recorded"
    imported_from: str = ""
    imported_sha256: str = ""
    loggers: tuple[str, ...] = ()

    @property
    def trained_subjects(self) -> tuple[str, ...]:
        """Subjects that this run trained on."""
        return tuple(sorted({s.subject for s in self.sessions if s.role == "train"}))

    @property
    def seen_subjects(self) -> tuple[str, ...]:
        """Subjects that the weights have met, here or in a run that they come from."""
        return tuple(sorted({*self.trained_subjects, *self.inherited_subjects}))

    @property
    def seen_digests(self) -> tuple[tuple[str, str], ...] | None:
        """Subject and digests (of activity, '' = it has none, and of the recording) of each recording that
        the weights have met.

        None when those of the runs that the weights come from are not known.
        """
        if self.inherited_digests is None:
            return None
        trained = [s for s in self.sessions if s.role == "train"]
        own = {(s.subject, s.activity_digest) for s in trained}
        own |= {(s.subject, s.recording_digest) for s in trained if s.recording_digest}
        return tuple(sorted({*own, *self.inherited_digests}))

    @property
    def held_out_subjects(self) -> tuple[str, ...]:
        """Subjects that ``--hold-out-subjects`` kept from pretraining."""
        return tuple(sorted({s.subject for s in self.sessions if s.role == "held-out"}))


@dataclass(frozen=True)
class Run:
    """An opened run folder."""

    folder: Path
    settings: PretrainSettings
    record: RunRecord

    @property
    def id(self) -> str:
        """Name and creation time: unique enough to trace a number."""
        return f"{self.record.name}@{self.record.created}"

    @property
    def data(self) -> Path:
        return Path(self.record.data)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def embeddings(self) -> Path:
        return self.folder / "embeddings.parquet"

    def with_settings(self, settings: PretrainSettings) -> Run:
        """Write other settings into `config.json` and return the run that has them."""
        write_json(self.folder / "config.json", dataclasses.asdict(settings))
        return dataclasses.replace(self, settings=settings)

    def with_state(self, state: State, step: int) -> Run:
        """Write a new state into `run.json` and return the run that says it.

        Raises:
            InputError: The disk is full or read-only; the earlier `run.json` is whole.
        """
        record = dataclasses.replace(self.record, state=state, step=step)
        try:
            write_json(self.folder / "run.json", dataclasses.asdict(record))
        except OSError as error:
            raise InputError(
                f"Cannot write {self.folder / 'run.json'}: {error.strerror or error}.",
                after_a_full_disk(self.folder),
            ) from None
        return dataclasses.replace(self, record=record)


def write_json(path: Path, document: Any) -> None:
    """Write JSON under a temporary name and rename it, so that nobody ever reads half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, what: str) -> Any:
    """Read JSON.

    Raises:
        InputError: The file is missing or damaged; `what` names it for the user.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read {what} {path}: {error.strerror}.", "Is this a run folder?") from None
    except ValueError as error:
        raise InputError(
            f"{what} {path} is damaged: {error}.", "Start a new run with nuclr pretrain"
        ) from None


def open_run(folder: Path) -> Run:
    """Open one run folder.

    Raises:
        InputError: It is not a run, or its files are damaged.
    """
    if not (folder / "run.json").is_file():
        raise InputError(
            f"{folder} is not a run: it has no run.json.",
            "Name a folder that nuclr pretrain made (in nuclr-runs)",
        )
    tree = read_json(folder / "run.json", "the run's record")
    settings = read_json(folder / "config.json", "the run's settings")
    try:
        sessions = tuple(RunSession(**session) for session in tree.pop("sessions"))
        inherited = tuple(tree.pop("inherited_subjects", ()))
        digests = tree.pop("inherited_digests", None if tree.get("init_from") else ())
        if digests is not None:
            digests = tuple((str(subject), str(digest)) for subject, digest in digests)
        loggers = tuple(tree.pop("loggers", ()))
        record = RunRecord(
            sessions=sessions,
            inherited_subjects=inherited,
            inherited_digests=digests,
            loggers=loggers,
            **tree,
        )
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(
            f"The run's record {folder / 'run.json'} does not fit this version of nuclr: {error}.",
            f"This is nuclr {__version__}; use the version that made the run",
        ) from None
    try:
        return Run(folder, from_mapping(PretrainSettings, settings), record)
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {error.what}", error.fix) from None


def list_runs(root: Path, warn: Callable[[str], None] = lambda text: None) -> list[Run]:
    """Runs below `root`, oldest first. Folders that are no run are passed over.

    Args:
        root: Folder of runs.
        warn: Told about each run that cannot be opened; it is passed over, so that it bars no other.
    """
    runs = []
    if root.is_dir():
        for folder in sorted(root.iterdir()):
            if (folder / "run.json").is_file() and not folder.name.startswith("."):
                try:
                    runs.append(open_run(folder))
                except InputError as error:
                    warn(f"{folder} is passed over: {error.what}")
    return sorted(runs, key=lambda run: (run.record.created, run.record.name))


def find_run(run: Path | None, root: Path = RUNS, warn: Callable[[str], None] = lambda text: None) -> Run:
    """The run that the user named (a path, or a name below `root`), else the newest one.

    Args:
        run: What the user named.
        root: Folder of runs.
        warn: As in `list_runs`.

    Raises:
        InputError: There is none.
    """
    if run is not None:
        folders = [folder for folder in (run, root / run) if folder.is_dir()]
        # A folder of that name that is no run must not hide the run.
        for folder in (*(f for f in folders if (f / "run.json").is_file()), *folders):
            return open_run(folder)
        names = [r.record.name for r in list_runs(root)]
        close = close_name(run.name, names)
        meant = "" if close is None else f"Did you mean {close!r}? "
        raise InputError(
            f"There is no run {str(run)!r}.",
            f"{meant}Runs in {root}: {', '.join(names)}" if names else "Make one with: nuclr pretrain",
        )
    runs = list_runs(root, warn)
    if not runs:
        raise InputError(f"There is no run in {root}.", "Make one with: nuclr pretrain")
    return runs[-1]


@dataclass(frozen=True)
class Imported:
    """Weights that were trained elsewhere.

    Attributes:
        path, sha256: The file that they come from.
        subjects: All subjects that they have seen, by the word of the user; None = unknown.
    """

    path: Path
    sha256: str
    subjects: tuple[str, ...] | None


def create_run(
    root: Path,
    name: str | None,
    settings: PretrainSettings,
    data: Path | None,
    sessions: Sequence[RunSession],
    init_from: Run | None = None,
    imported: Imported | None = None,
    loggers: tuple[str, ...] = (),
) -> Run:
    """Make a run folder with its settings, record and environment, whole or not at all.

    `data` is None, and `sessions` are none, where the weights are `imported`.

    Raises:
        InputError: A run of that name exists, the name is no folder name, or `root` cannot be written.
    """
    now = datetime.now(UTC)
    created = now.isoformat(timespec="microseconds")
    if name is None:
        base = f"{settings.preset}-{now:%Y%m%d-%H%M%S}"
        name = base
        for i in range(2, 1000):
            if not (root / name).exists():
                break
            name = f"{base}-{i}"
    check_name(name)
    folder = root / name
    taken = InputError(
        f"{folder} exists already.", f"Continue it with: {resume_command(folder)}, or take another --name"
    )
    if folder.exists():
        raise taken
    record = RunRecord(
        name,
        created,
        __version__,
        "" if data is None else text_of(place_of(data)),
        tuple(sessions),
        init_from=str(init_from.folder.resolve()) if init_from else "",
        inherited_subjects=init_from.record.seen_subjects if init_from else (),
        inherited_digests=init_from.record.seen_digests if init_from else (),
        inherited_how=init_from.record.inherited_how if init_from else "recorded",
        loggers=loggers,
    )
    if imported is not None:
        unknown = imported.subjects is None
        record = dataclasses.replace(
            record,
            inherited_subjects=tuple(sorted(imported.subjects or ())),
            inherited_digests=None if unknown else (),
            inherited_how="unknown" if unknown else "told",
            imported_from=str(imported.path.resolve()),
            imported_sha256=imported.sha256,
        )
    temporary = root / f".{name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        write_json(temporary / "config.json", dataclasses.asdict(settings))
        write_json(temporary / "environment.json", environment())
        write_json(temporary / "run.json", dataclasses.asdict(record))
        temporary.rename(folder)
    except OSError as error:
        if folder.exists():  # another process was quicker
            raise taken from None
        raise InputError(
            f"Cannot make the run folder {folder}: {error.strerror or error}.",
            "Free some space or mend the permissions, or name another folder with --runs",
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Run(folder, settings, record)


def check_name(name: str) -> None:
    """Raise InputError unless `name` is one plain folder name, so that the run lies in its folder of runs."""
    if not name or name.startswith(".") or set(name) & set('/\\:*?"<>|') or not name.isprintable():
        raise InputError(
            f"--name {name!r} cannot be the name of a folder.",
            "Use letters, digits, '-' and '_'; --runs chooses where the run lies",
        )


def environment() -> Mapping[str, Any]:
    """Versions and hardware that the numbers of a run may depend on."""
    packages = (
        "torch",
        "triton",
        "numpy",
        "scipy",
        "scikit-learn",
        "h5py",
        "pyarrow",
        "lightning-fabric",
        "safetensors",
    )
    versions = {"nuclr": __version__}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    import torch

    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": sys.argv,
    }
