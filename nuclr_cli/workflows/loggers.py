"""Where the rows of metrics.jsonl are shown as well: TensorBoard always, W&B and MLflow on request.

None of them is the record of a run, which is metrics.jsonl: one that fails is named once and left out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from nuclr_cli.errors import InputError, MissingPackageError
from nuclr_cli.workflows.config import flatten
from nuclr_cli.workflows.metrics_log import read_metrics, shown
from nuclr_cli.workflows.reporting import Reporter
from nuclr_cli.workflows.runs import Run

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}
"""What ``--logger`` takes, and what has to be installed for it."""

FLUSH_EVERY_S = 10.0


class MetricsSink(Protocol):
    """Shows rows of metrics somewhere. May raise anything: it is left out then."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show the finite numbers of one step, unless that has been done. Steps ascend."""

    def close(self, finished: bool) -> None:
        """Send or write what is left.

        Args:
            finished: The run is done; else it may be gone on with.
        """


def checked(loggers: tuple[str, ...]) -> tuple[str, ...]:
    """The loggers that ``--logger`` names, each once; ``none`` names none.

    Raises:
        InputError: There is no such logger.
        MissingPackageError: Its package is not installed.
    """
    for name in loggers:
        if name not in PACKAGES and (name != "none" or len(loggers) > 1):
            raise InputError(
                f"--logger {name}: there is no such logger{' beside others' if name == 'none' else ''}.",
                f"Choose {' or '.join(PACKAGES)} (the option may be repeated), or none",
            )
    wanted = tuple(name for name in PACKAGES if name in loggers)
    for name in wanted:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a mere folder of that name, as W&B leaves in projects
            raise MissingPackageError(PACKAGES[name], f"--logger {name}")
    return wanted


class Sinks:
    """All that a run writes to, beside metrics.jsonl.

    Args:
        run: The run; its record names the loggers.
        from_step: Steps already done.
        reporter: Told once of each that fails.
    """

    def __init__(self, run: Run, from_step: int, reporter: Reporter) -> None:
        self._reporter = reporter
        self._sinks: dict[str, MetricsSink] = {}
        makers: dict[str, Callable[[], MetricsSink]] = {
            "TensorBoard": lambda: TensorBoard(run.folder / "tensorboard", from_step)
        }
        if "wandb" in run.record.loggers:
            makers["W&B"] = lambda: WeightsAndBiases(run, reporter)
        if "mlflow" in run.record.loggers:
            makers["MLflow"] = lambda: MLflow(run)
        past = [row for row in read_metrics(run.folder / "metrics.jsonl") if row["step"] <= from_step]
        for name, make in makers.items():
            try:
                self._sinks[name] = sink = make()
                if name != "TensorBoard":  # its files are there; a kill may have cost the others some rows
                    for row in past:
                        sink.write(int(row["step"]), shown(row))
            except Exception as error:
                self._leave_out(name, error)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show a row everywhere."""
        for name, sink in list(self._sinks.items()):
            try:
                sink.write(step, numbers)
            except Exception as error:
                self._leave_out(name, error)

    def close(self, finished: bool) -> None:
        """Close all; see `MetricsSink.close`."""
        for name, sink in list(self._sinks.items()):
            try:
                sink.close(finished)
            except Exception as error:
                self._leave_out(name, error)
        self._sinks.clear()

    def _leave_out(self, name: str, error: Exception) -> None:
        self._sinks.pop(name, None)
        said = str(error).strip().splitlines() or [type(error).__name__]
        self._reporter.warn(
            f"{name} is left out from here on: {said[0]}. Training goes on; metrics.jsonl has every row"
        )


class TensorBoard:
    """Event files. Written by the training thread: tensorboardX's own dies of a full disk, and training then
    waits for ever for room in its queue.

    Args:
        folder: Of the event files.
        from_step: TensorBoard hides what earlier files say of later steps.
    """

    def __init__(self, folder: Path, from_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        self._event, self._summary = Event, Summary
        folder.mkdir(exist_ok=True)
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._flushed = 0.0
        if from_step:
            start = SessionLog(status=SessionLog.START)
            self._file.write_event(Event(wall_time=time.time(), step=from_step + 1, session_log=start))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=key, simple_value=value) for key, value in numbers.items()]
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        self._file.write_event(event)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self, finished: bool) -> None:
        self._file.close()


class WeightsAndBiases:
    """One W&B run for one run, by an id that follows from it: a resumed run goes on with the same.

    Nothing is sent unless the user has set W&B up on this machine (WANDB_MODE, WANDB_API_KEY or a login);
    else the files in ``RUN/wandb`` wait for ``wandb sync``. Steps that W&B has already are not sent again:
    they have the same numbers when they are done again.
    """

    def __init__(self, run: Run, reporter: Reporter) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode = None
        if "WANDB_MODE" not in os.environ and not _wandb_is_set_up():
            mode = "offline"
            files = shlex.quote(str(run.folder / "wandb"))
            reporter.note(
                f"W&B is not set up here, so nothing is sent: wandb sync {files}/offline-* does that"
            )
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "nuclr"),
            id=hashlib.sha256(run.id.encode()).hexdigest()[:16],
            name=run.record.name,
            dir=str(run.folder.resolve()),
            config=flatten(asdict(run.settings)),
            resume="allow",
            mode=mode,  # type: ignore[arg-type, unused-ignore]
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._next = self._run.step

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        if step >= self._next:
            self._run.log(dict(numbers), step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def _wandb_is_set_up() -> bool:
    """Whether somebody has given W&B a key, as ``wandb login`` writes it down."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import netrc
    from urllib.parse import urlsplit

    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    places = [os.environ.get("NETRC", ""), "~/.netrc", "~/_netrc"]
    for path in (Path(place).expanduser() for place in places if place):
        try:
            if netrc.netrc(path).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


class MLflow:
    """One MLflow run for one run, found again by a tag.

    Where MLFLOW_TRACKING_URI says, else in ``RUN/mlflow``. Steps that it has already are not sent again.
    """

    def __init__(self, run: Run) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            # Files, for the database needs packages beyond mlflow-skinny; MLflow asks for this to be said.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (run.folder.resolve() / "mlflow").as_uri()
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._client = Metric, MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "nuclr")
        experiment = self._client.get_experiment_by_name(name)
        place = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        known = self._client.search_runs([place], filter_string=f"tags.`nuclr.run` = '{run.id}'")
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            made = self._client.create_run(place, tags={"nuclr.run": run.id}, run_name=run.record.name)
            self._id = made.info.run_id
            params = [Param(key, str(value)) for key, value in flatten(asdict(run.settings)).items()]
            self._client.log_batch(self._id, params=params)
        # Of each metric by itself: a kill may come between those of one step.
        self._sent = {key: self._last_step(key) for key in self._client.get_run(self._id).data.metrics}

    def _last_step(self, key: str) -> int:
        history = self._client.get_metric_history(self._id, key)
        return max((metric.step for metric in history), default=0)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        now = round(time.time() * 1000)
        metrics = [
            self._metric(key, float(value), now, step)
            for key, value in numbers.items()
            if step > self._sent.get(key, 0)
        ]
        if metrics:
            self._client.log_batch(self._id, metrics=metrics)

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, status="FINISHED" if finished else "KILLED")
