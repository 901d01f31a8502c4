"""One point of a sweep, in a process of its own: pretrain, embed, held-out loss, probe, point.json.

``python -m nuclr_cli.workflows.scale_point SWEEP POINT GPUS`` prints what went wrong as JSON, or nothing. It
stops as by SIGTERM when its standard input ends, that is, when the process that started it is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nuclr_cli import __version__
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.errors import InputError, NuclrError
from nuclr_cli.workflows.checkpoints import load_checkpoint, newest_whole_checkpoint, take_weights
from nuclr_cli.workflows.devices import choose_device
from nuclr_cli.workflows.embed import EmbedConfig, embed
from nuclr_cli.workflows.folder_lock import FolderInUse, NoLocks, only_here
from nuclr_cli.workflows.held_out_loss import HeldOutLoss, held_out_loss
from nuclr_cli.workflows.metrics_log import read_metrics
from nuclr_cli.workflows.moving_average import chosen_weights
from nuclr_cli.workflows.pair_model import initial_model
from nuclr_cli.workflows.pretrain import PretrainConfig, PretrainRecord, pretrain
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_record import ProbeConfig, ProbeRecord
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.runs import Run, open_run
from nuclr_cli.workflows.scale_folder import RUN_NAME, point_folder, read_result, read_sweep, write_result
from nuclr_cli.workflows.scale_grid import held_out_recordings
from nuclr_cli.workflows.scale_record import BaselineScore, PointResult, PointSpec, Sweep

LOG_FILE = "log.txt"

_LOOK_AGAIN_S = 2.0


class _LogReporter(SilentReporter):
    """Writes a line for each note and warning to standard error, which is the point's log."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)


def run_point(folder: Path, name: str, gpus: int | None, reporter: Reporter) -> PointResult:
    """Do a point, or what is left of it; a point that is done is not touched.

    Args:
        folder: Of the sweep.
        name: Of the point.
        gpus: As in `PretrainConfig`.
        reporter: Hears what the steps have to say.

    Raises:
        InputError: Of any of the steps.
        Interrupted: A signal stopped training, after a checkpoint.
    """
    own = point_folder(folder, name)
    own.mkdir(parents=True, exist_ok=True)
    with _alone_in(own, reporter):
        done = read_result(folder, name)
        if done is not None:
            return done
        sweep = read_sweep(folder)
        (spec,) = (point for point in sweep.points if point.name == name)
        result = _work(folder, sweep, spec, gpus, reporter)
        write_result(folder, result)
        return result


@contextmanager
def _alone_in(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Wait while another process is at work on the point: its result will do."""
    with ExitStack() as stack:
        waiting = False
        while True:
            try:
                stack.enter_context(only_here(folder))
                break
            except FolderInUse:
                if not waiting:
                    reporter.note(f"waiting: another process is at work in {folder}")
                waiting = True
            except NoLocks:
                reporter.warn(
                    f"the file system of {folder} knows no locks: another attempt at it would not be noticed"
                )
                break
            except OSError as error:
                raise InputError(
                    f"The point {folder} cannot be written: {error.strerror or error}.",
                    "Mend its permissions or free some space; the same command does what is left",
                ) from None
            time.sleep(_LOOK_AGAIN_S)
        yield


def _work(folder: Path, sweep: Sweep, spec: PointSpec, gpus: int | None, reporter: Reporter) -> PointResult:
    began = time.monotonic()
    trained = _pretrain(folder, sweep, spec, gpus, reporter)
    run = open_run(trained.run)
    met = sorted(set(run.record.seen_subjects) & set(sweep.held_out))
    if met:  # the promise that the whole sweep rests on
        raise RuntimeError(f"pretraining saw the held-out subjects {', '.join(met)}")
    after_training = time.monotonic()
    embed(EmbedConfig(run=run.folder, gpus=gpus), reporter)
    loss = _loss(sweep, run, gpus)
    after_embedding = time.monotonic()
    with_baselines = spec == _reference_point(sweep)
    probed = probe(
        ProbeConfig(
            label=sweep.label,
            run=run.folder,
            split=sweep.split,
            variant=sweep.variant,
            test_subjects=sweep.probe_test_subjects,
            classes=sweep.classes,
            permutations=0,
            seed=sweep.seed,
            baselines="fast" if with_baselines else "none",
        ),
        reporter,
    )
    rows = read_metrics(run.folder / "metrics.jsonl")
    late = [row["loss"] for row in rows if row["step"] > 0.9 * spec.steps and row.get("loss") is not None]
    own = probed.methods[0]
    return PointResult(
        point=spec.name,
        parameters=trained.parameters,
        held_out_loss=loss.loss,
        held_out_pairs=loss.n_pairs,
        train_loss=sum(late) / len(late) if late else None,
        rankme=trained.rankme,
        macro_f1=own.macro_f1.value,
        macro_f1_low=own.macro_f1.low,
        macro_f1_high=own.macro_f1.high,
        balanced_accuracy=own.balanced_accuracy.value,
        n_tested=probed.n_tested,
        knowledge=probed.knowledge,
        baselines=_baselines(probed) if with_baselines else (),
        run=run.id,
        checkpoint=probed.checkpoint,
        device=trained.device,
        threads=sweep.threads,
        version=__version__,
        seconds={
            "pretrain": after_training - began,
            "embed": after_embedding - after_training,
            "probe": time.monotonic() - after_embedding,
        },
    )


def _pretrain(
    folder: Path, sweep: Sweep, spec: PointSpec, gpus: int | None, reporter: Reporter
) -> PretrainRecord:
    """Train, go on after an interruption, or start again where what is there is damaged."""
    own = point_folder(folder, spec.name)
    if (own / RUN_NAME).exists() and not _can_go_on(own / RUN_NAME, reporter):
        shutil.rmtree(own / RUN_NAME)
    config = PretrainConfig(
        data=Path(sweep.data),
        runs=own,
        name=RUN_NAME,
        preset=sweep.preset,
        changes=pretrain_changes(sweep, spec),
        seed=spec.seed,
        hold_out_subjects=sweep.held_out,
        gpus=gpus,
        resume=True,
    )
    return pretrain(config, reporter)


def pretrain_changes(sweep: Sweep, spec: PointSpec) -> dict[str, Any]:
    """Settings of a point's pretraining that differ from the preset."""
    return {
        "train.keep_checkpoints": 1,
        **sweep.changes,
        **spec.changes,
        "data.subjects": spec.subjects,
        "data.time_share": sweep.time_share,
        "train.steps": spec.steps,
    }


def _can_go_on(run: Path, reporter: Reporter) -> bool:
    try:
        newest_whole_checkpoint(open_run(run).checkpoints, reporter.warn)
    except InputError as error:
        reporter.warn(f"{run} is started again: {error.what}")
        return False
    return True


def _loss(sweep: Sweep, run: Run, gpus: int | None) -> HeldOutLoss:
    model = initial_model(run.settings)
    _, checkpoint = chosen_weights(load_checkpoint(run.checkpoints), None, run)  # those that embed
    take_weights(model, checkpoint, run.folder)
    recordings = held_out_recordings(open_sessions(run.data), sweep.held_out, sweep.time_share)
    if not recordings:
        return HeldOutLoss(None, 0, 0, 0)
    return held_out_loss(model, recordings, run.settings, choose_device(gpus), sweep.loss_windows)


def _reference_point(sweep: Sweep) -> PointSpec:
    """The one point whose probe computes baselines: they are the same at all points."""
    largest = max(point.size for point in sweep.points)
    return next(point for point in sweep.points if point.size == largest and point.seed == sweep.seed)


def _baselines(probed: ProbeRecord) -> tuple[BaselineScore, ...]:
    return tuple(BaselineScore(one.name, one.title, one.macro_f1.value) for one in probed.methods[1:])


def main(arguments: list[str]) -> int:
    """Entry point of the process; the exit code is that of the `nuclr` command."""
    folder, name, gpus = Path(arguments[0]), arguments[1], arguments[2]
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        run_point(folder, name, None if gpus == "auto" else int(gpus), _LogReporter())
    except NuclrError as error:
        print(json.dumps({"what": error.what, "fix": error.fix, "exit_code": error.exit_code}))
        return error.exit_code
    return 0


def _stop_with_parent() -> None:
    while os.read(0, 4096):  # not through sys.stdin, whose lock this thread would hold at the end
        pass
    if os.name == "nt":  # no handler would run there
        os._exit(143)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
