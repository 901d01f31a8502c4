"""Sweeps from end to end: what they write, that they go on where they were, that nothing is done twice."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from nuclr_cli.errors import InputError, MissingPackageError
from nuclr_cli.workflows.folder_lock import FolderInUse, only_here
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs import open_run
from nuclr_cli.workflows.scale import plan_only, scale
from nuclr_cli.workflows.scale_config import ScaleConfig
from nuclr_cli.workflows.scale_folder import read_sweep, settle, write_result
from nuclr_cli.workflows.scale_point import run_point
from nuclr_cli.workflows.scale_record import ScaleRecord
from nuclr_cli.workflows.scale_report import summarise, write_report
from nuclr_cli.workflows.scale_run import Job, run_job

STEPS = 30
CHANGES = {
    "model.dim": 16,
    "model.heads": 2,
    "model.head_dim": 8,
    "train.batch_windows": 4,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
}
ONE, TWO = "subjects-1-seed-42", "subjects-2-seed-42"
OWN = ("seconds", "run")  # the rest, the digest of the weights too, is a function of the sweep


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(data: Path, out: Path, **options: Any) -> ScaleConfig:
    base = ScaleConfig(
        label="cell_type",
        data=data,
        out=out,
        axis="subjects",
        values=(1.0, 2.0),
        seeds=1,
        steps=STEPS,
        changes=CHANGES,
        gpus=0,
        jobs=2,
    )
    return dataclasses.replace(base, **options)


def command(data: Path, out: Path, *more: str) -> list[str]:
    settings = [word for key, value in CHANGES.items() for word in ("--set", f"{key}={value}")]
    return [
        "scale", str(data), "--label", "cell_type", "-o", str(out), "--axis", "subjects", "--values", "1,2",
        "--seeds", "1", "--steps", str(STEPS), "--gpus", "0", *settings, *more,
    ]  # fmt: skip


def start(data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nuclr_cli", *command(data, out, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def numbers(folder: Path, name: str) -> dict[str, Any]:
    result = json.loads((folder / "points" / name / "point.json").read_text())
    return {key: value for key, value in result.items() if key not in OWN}


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ScaleRecord]:
    """A sweep over one and two subjects, both points at once."""
    folder = tmp_path_factory.mktemp("sweep") / "done"
    return folder, scale(config(tiny_data, folder))


def identity(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and mtime of everything that points left behind."""
    found = {}
    for path in sorted((folder / "points").rglob("*")):
        if path.is_file() and path.name != ".lock":
            about = path.stat()
            found[str(path)] = (about.st_ino, about.st_mtime_ns)
    return found


def test_a_sweep_leaves_its_numbers_in_three_files(finished: tuple[Path, ScaleRecord]) -> None:
    folder, record = finished
    document = json.loads((folder / "scale.json").read_text())
    assert [row["point"] for row in document["results"]] == [ONE, TWO]
    assert document["results"][0]["macro_f1"] == record.results[0].macro_f1
    assert [fit["status"] for fit in document["fits"]] == ["not identifiable"] * 2
    with (folder / "scale.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["point"], float(row["size"])) for row in rows] == [(ONE, 1.0), (TWO, 2.0)]
    assert float(rows[1]["held_out_loss"]) == record.results[1].held_out_loss
    assert (folder / "scale.png").read_bytes().startswith(b"\x89PNG")
    assert {one.name for one in record.baselines} >= {"features", "chance", "majority"}
    assert any("compute-matched" in text for text in record.choices)


def test_test_subjects_are_fixed_and_never_in_pretraining(finished: tuple[Path, ScaleRecord]) -> None:
    folder, record = finished
    (test,) = record.sweep.held_out
    tested, pairs, trained = [], set(), []
    for point, result in zip(record.sweep.points, record.results, strict=True):
        run = open_run(folder / "points" / point.name / "run")
        assert test not in run.record.seen_subjects
        assert run.record.held_out_subjects == (test,)
        assert run.record.trained_subjects == point.subjects
        (report,) = (run.folder / "probes" / "cell_type").glob("*/predictions.parquet")
        table = pq.read_table(report).to_pydict()
        tested.append(
            sorted(
                (subject, unit)
                for subject, unit, fold in zip(table["subject"], table["unit_id"], table["fold"], strict=True)
                if fold
            )
        )
        pairs.add(result.held_out_pairs)
        trained.append(set(run.record.trained_subjects))
        assert result.knowledge == "inductive"
    assert {subject for subject, _ in tested[0]} == {test}
    assert tested[0] == tested[1]
    assert len(pairs) == 1
    assert trained[0] < trained[1]


def test_a_finished_sweep_is_only_reported_again(tiny_data: Path, finished: tuple[Path, ScaleRecord]) -> None:
    folder, record = finished
    before = identity(folder)
    again = scale(config(tiny_data, folder, jobs=1))
    assert identity(folder) == before
    assert again.n_before == 2
    assert again.results == record.results


def test_another_configuration_is_refused_by_name(
    tiny_data: Path, finished: tuple[Path, ScaleRecord]
) -> None:
    folder, _ = finished
    before = identity(folder)
    for options, says in (
        ({"steps": 50}, f"steps is {STEPS} there, 50 here"),
        ({"changes": {**CHANGES, "model.dim": 32}}, "model.dim is 16 there, 32 here"),
        ({"label": "brain_region"}, "label is cell_type there, brain_region here"),
        ({"seeds": 2, "seed": 43}, "seed is 42 there, 43 here"),
        ({"values": (1.0, 3.0)}, f"has the points {TWO}, which are not asked for here"),
        ({"axis": "units", "values": ()}, "axis is subjects there, units here"),
        ({"test_subjects": ("s3",)}, "held_out is"),
        ({"threads": 2}, "threads is 1 there, 2 here"),
        ({"epochs": 2.0, "steps": None}, "epochs is not set there, 2.0 here"),
    ):
        with pytest.raises(InputError) as caught:
            scale(config(tiny_data, folder, **options))
        assert says in caught.value.what, options
        assert caught.value.exit_code == 3
    assert identity(folder) == before


def test_changed_sessions_are_refused_by_name(
    tiny_data: Path, finished: tuple[Path, ScaleRecord], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(finished[0], folder)
    document = json.loads((folder / "sweep.json").read_text())
    document["sessions"][1]["labels"] = "other"
    document["sessions"][2]["activity"] = "other"
    del document["sessions"][3]
    (folder / "sweep.json").write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        scale(config(tiny_data, folder))
    for part in (
        "labels of session s1/day1/0",
        "activity of session s2/day2/0",
        "session s3/day3/0 is new",
    ):
        assert part in caught.value.what


def test_folders_that_are_no_sweep_stay_as_they_are(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not the folder of a sweep"):
        scale(config(tiny_data, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="not the folder of a sweep"):
        scale(config(tiny_data, tmp_path / "mine.txt"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "sweep.json").write_text('{"label": 3')
    with pytest.raises(InputError, match=r"sweep\.json is damaged"):
        scale(config(tiny_data, tmp_path / "damaged"))


def test_only_one_process_works_in_a_sweep(tiny_data: Path, finished: tuple[Path, ScaleRecord]) -> None:
    folder, _ = finished
    with only_here(folder), pytest.raises(InputError, match="Another nuclr scale is at work"):
        scale(config(tiny_data, folder))
    with only_here(folder), pytest.raises(FolderInUse), only_here(folder):
        pass
    scale(config(tiny_data, folder))


def test_a_file_system_without_locks_is_told(
    tiny_data: Path, finished: tuple[Path, ScaleRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listener(SilentReporter):
        def warn(self, text: str) -> None:
            told.append(text)

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    told: list[str] = []
    folder = tmp_path / "sweep"
    shutil.copytree(finished[0], folder)
    monkeypatch.setattr("fcntl.flock", flock)
    scale(config(tiny_data, folder), Listener())
    assert any("knows no locks" in text for text in told)
    told.clear()
    assert run_point(folder, ONE, 0, Listener()).point == ONE
    assert ["knows no locks" in text for text in told] == [True]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def checkpointed(folder: Path, name: str) -> bool:
    return any((folder / "points" / name / "run" / "checkpoints").glob("step-*[02468]"))


def is_at_work(folder: Path, name: str) -> bool:
    try:
        with only_here(folder / "points" / name):
            return False
    except FolderInUse:
        return True


def processes_of(folder: Path, name: str) -> list[int]:
    found = []
    for about in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{folder}\0{name}\0".encode() in about.read_bytes():
                found.append(int(about.parent.name))
    return found


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_with_the_same_numbers(
    tiny_data: Path, finished: tuple[Path, ScaleRecord], tmp_path: Path, nuclr: Callable[..., Any]
) -> None:
    """One point at a time and killed half way, against both at once and undisturbed."""
    folder = tmp_path / "killed"
    process = start(tiny_data, folder, "--jobs", "1")
    wait_for(lambda: checkpointed(folder, TWO), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while is_at_work(folder, TWO):  # the point's process ends by itself
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (folder / "points" / TWO / "point.json").exists()
    assert not (folder / "scale.json").exists()
    before = {path: what for path, what in identity(folder).items() if ONE in path}

    done = nuclr(*command(tiny_data, folder, "--jobs", "1", "--json"))
    assert done.code == 0, done.err
    assert done.json == json.loads((folder / "scale.json").read_text())
    assert done.json["n_before"] == 1
    assert {path: what for path, what in identity(folder).items() if ONE in path} == before
    assert "continuing run run at step" in (folder / "points" / TWO / "log.txt").read_text()
    for name in (ONE, TWO):
        assert numbers(folder, name) == numbers(finished[0], name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_the_points_and_says_what_remains(tiny_data: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "sweep"
    process = start(tiny_data, folder, "--jobs", "1", "--steps", "100000", "--json")
    wait_for(lambda: checkpointed(folder, ONE), process)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=120)
    assert process.returncode == (130 if name == "SIGINT" else 143), err
    error = json.loads(out)["error"]
    assert error["exit_code"] == process.returncode
    assert "0 of 2 points are done" in error["what"]
    assert f"{ONE}, {TWO}" in error["what"]
    assert open_run(folder / "points" / ONE / "run").record.state == "stopped"
    assert not is_at_work(folder, ONE)
    assert not (folder / "points" / TWO).exists()
    assert not list(folder.glob(".stop-*"))


def test_points_that_fail_are_named_and_the_others_kept(
    tiny_data: Path, finished: tuple[Path, ScaleRecord], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "points" / ONE)
    outcome = run_job(Job(str(folder), ONE, "64", 1, str(tmp_path / "stop")))
    assert outcome.status == "failed"
    assert "--gpus 64" in outcome.what
    assert "--gpus 0" in outcome.fix
    shutil.rmtree(folder / "points" / ONE)
    (folder / "points" / ONE).write_text("in the way")
    (folder / "scale.json").unlink()
    before = identity(folder)
    with pytest.raises(InputError) as caught:
        scale(config(tiny_data, folder))
    assert f"1 of 2 points failed: {ONE}. {ONE}: Cannot write to" in caught.value.what
    assert "The other points are kept" in caught.value.fix
    assert identity(folder) == before
    assert not (folder / "scale.json").exists()


def test_a_loss_that_is_not_finite_ends_a_point_without_a_result(tiny_data: Path, tmp_path: Path) -> None:
    diverging = {**CHANGES, "train.learning_rate": 1e30, "train.warmup_steps": 0}
    with contextlib.suppress(KeyboardInterrupt):
        scale(config(tiny_data, tmp_path / "s", changes=diverging), _NoRun())
    with pytest.raises(InputError, match="not finite"):
        run_point(tmp_path / "s", ONE, 0, SilentReporter())
    assert not list(tmp_path.rglob("point.json"))


@pytest.mark.slow
def test_a_point_that_the_system_kills_is_told_from_one_that_failed(
    finished: tuple[Path, ScaleRecord], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "points")
    job = Job(str(folder), ONE, "0", 1, str(tmp_path / "stop"))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_job, job)
        while not checkpointed(folder, ONE):
            assert not running.done(), running.result()
            time.sleep(0.02)
        for process in processes_of(folder, ONE):
            os.kill(process, signal.SIGKILL)
        outcome = running.result()
    assert (outcome.status, outcome.what) == ("failed", "Its process ended with signal 9.")
    assert "log.txt" in outcome.fix
    assert "--jobs" in outcome.fix
    assert not (folder / "points" / ONE / "point.json").exists()


def test_the_table_says_what_the_numbers_rest_on(
    tiny_data: Path, finished: tuple[Path, ScaleRecord], nuclr: Callable[..., Any]
) -> None:
    folder, record = finished
    done = nuclr(*command(tiny_data, folder))
    assert done.code == 0, done.err
    for part in (
        "cell_type, axis subjects, inductive",
        f"{record.results[1].held_out_loss:.3f}",
        "a law is not identifiable from 2 sizes",
        "features 1.000" if record.baselines[0].macro_f1 == 1.0 else "features 0.",
        "No point trains on",
        "compute-matched",
    ):
        assert part in done.out, part
    assert f"written to {folder}" in done.err


def test_a_planted_law_is_found_in_the_results_of_points(
    finished: tuple[Path, ScaleRecord], tmp_path: Path
) -> None:
    """Made-up results of eight sizes: the loss follows a law, macro F1 follows nothing."""
    _, record = finished
    sizes, seeds = (1, 2, 3, 5, 8, 13, 21, 34), (42, 43, 44)
    rng = np.random.default_rng(3)
    points, results = [], []
    for size in sizes:
        for seed in seeds:
            name = f"subjects-{size}-seed-{seed}"
            points.append(
                dataclasses.replace(
                    record.sweep.points[0], name=name, value=float(size), size=float(size), seed=seed
                )
            )
            results.append(
                dataclasses.replace(
                    record.results[0],
                    point=name,
                    held_out_loss=3.0 + 1.2 * size**-0.7 + 0.01 * rng.normal(),
                    macro_f1=0.6 + 0.03 * rng.normal(),
                    baselines=record.baselines if size == 34 and seed == 42 else (),
                )
            )
    sweep = dataclasses.replace(record.sweep, points=tuple(points))
    settle(tmp_path / "s", sweep)
    for result in results:
        (tmp_path / "s" / "points" / result.point).mkdir(parents=True)
        write_result(tmp_path / "s", result)
    found = summarise(tmp_path / "s", sweep, (), (), 0, 1.0)
    write_report(found)
    loss, f1 = found.fits
    assert (loss.status, f1.status) == ("law", "no trend")
    assert loss.law is not None
    assert loss.law.limit.value == pytest.approx(3.0, abs=0.05)
    assert loss.law.exponent.value == pytest.approx(0.7, abs=0.1)
    assert [size.n_seeds for size in found.sizes] == [3] * 8
    assert found.sizes[0].macro_f1.mean == pytest.approx(np.mean([r.macro_f1 for r in results[:3]]))
    assert found.baselines == record.baselines
    document = json.loads((tmp_path / "s" / "scale.json").read_text())
    assert document["fits"][0]["law"]["exponent"]["value"] == loss.law.exponent.value
    assert len((tmp_path / "s" / "scale.csv").read_text().splitlines()) == 25
    assert (tmp_path / "s" / "scale.png").stat().st_size > 10_000


def test_a_damaged_run_is_started_again(finished: tuple[Path, ScaleRecord], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(finished[0], folder)
    (folder / "points" / ONE / "point.json").unlink()
    (folder / "points" / ONE / "run" / "run.json").write_text("{")
    for path in (folder / "points" / TWO / "run" / "checkpoints").rglob("model.safetensors"):
        path.write_bytes(b"x")
    (folder / "points" / TWO / "point.json").unlink()
    for name in (ONE, TWO):
        run_point(folder, name, 0, SilentReporter())
        assert numbers(folder, name) == numbers(finished[0], name)


def test_more_points_are_added_to_a_sweep(
    tiny_data: Path, finished: tuple[Path, ScaleRecord], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(finished[0], folder)
    before = identity(folder)
    stop = tmp_path / "stop"
    stop.touch()
    job = Job(str(folder), "subjects-3-seed-42", "0", 1, str(stop))
    assert run_job(job).status == "stopped"  # nothing starts while a stop is asked for

    with contextlib.suppress(KeyboardInterrupt):
        scale(config(tiny_data, folder, values=(1.0, 2.0, 3.0)), _NoRun())
    assert [point.name for point in read_sweep(folder).points] == [ONE, TWO, "subjects-3-seed-42"]
    run_point(folder, "subjects-3-seed-42", 0, SilentReporter())
    record = scale(config(tiny_data, folder, values=(1.0, 2.0, 3.0)))
    assert [size.size for size in record.sizes] == [1.0, 2.0, 3.0]
    assert {path: what for path, what in identity(folder).items() if path in before} == before


@pytest.mark.parametrize("axis", ["units", "minutes", "parameters"])
def test_points_of_the_other_axes_see_what_they_should(tiny_data: Path, tmp_path: Path, axis: str) -> None:
    values = {"units": (0.93, 1.0), "minutes": (1.0, 2.0), "parameters": (16.0, 24.0)}[axis]
    changes = {key: value for key, value in CHANGES.items() if not key.startswith("model.")}
    with contextlib.suppress(KeyboardInterrupt):
        scale(config(tiny_data, tmp_path / "s", axis=axis, values=values, steps=3, changes=changes), _NoRun())
    point = read_sweep(tmp_path / "s").points[0]
    result = run_point(tmp_path / "s", point.name, 0, SilentReporter())
    run = open_run(tmp_path / "s" / "points" / point.name / "run")
    seen = [(s.units_trained, s.seconds_trained) for s in run.record.sessions if s.role == "train"]
    assert seen == [{"units": (22, 120.0), "minutes": (24, 60.0), "parameters": (24, 120.0)}[axis]] * 3
    assert point.n_units == sum(units or 0 for units, _ in seen)
    assert run.settings.model.dim == (16 if axis == "parameters" else 64)
    assert result.held_out_pairs > 0
    assert result.baselines == ()  # computed once, by the largest point


class _NoRun(SilentReporter):
    """Stops a sweep when its points would start; its folder is made by then."""

    def progress(self, title: str, total: float | None, unit: str) -> Any:
        raise KeyboardInterrupt


def test_one_sorting_sweeps_over_minutes_without_any_option(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(tiny_data / "s0.h5", tmp_path / "data")
    sweep = ScaleConfig(
        label="cell_type", data=tmp_path / "data", out=tmp_path / "s", steps=3, changes=CHANGES, gpus=0
    )
    with contextlib.suppress(KeyboardInterrupt):
        scale(sweep, _NoRun())
    stored = read_sweep(tmp_path / "s")
    assert (stored.axis, stored.split, len(stored.points)) == ("minutes", "unit", 18)
    result = run_point(tmp_path / "s", stored.points[0].name, 0, SilentReporter())
    assert result.held_out_loss is not None
    assert result.knowledge == "transductive"


def test_a_dry_run_writes_nothing(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    planned = plan_only(dataclasses.replace(config(tiny_data, tmp_path / "x"), out=None, seeds=2))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["tmp"]
    assert planned.folder == Path("nuclr-scale/cell_type-subjects")
    assert [point.name for point in planned.sweep.points][:2] == [ONE, "subjects-1-seed-43"]
    small, large = planned.measured
    assert (small.name, large.name) == (ONE, TWO)
    assert small.step_s > 0
    expected = 2 * STEPS * (small.step_s + large.step_s)
    assert planned.training_s == pytest.approx(expected)
    assert planned.total_s == pytest.approx((planned.training_s + planned.embedding_s) / 2)


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_numbers_also_when_a_worker_is_killed(
    tiny_data: Path, finished: tuple[Path, ScaleRecord], tmp_path: Path
) -> None:
    """The worker that trains a point is killed half way: the point goes on elsewhere from its checkpoint."""
    from distributed import LocalCluster

    folder = tmp_path / "dask"
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        ThreadPoolExecutor(1) as pool,
    ):
        workers = [nanny.pid for nanny in cluster.workers.values()]
        sweep = config(tiny_data, folder, jobs=None, dask=cluster.scheduler_address)
        running = pool.submit(scale, sweep)
        while not checkpointed(folder, TWO):
            assert not running.done(), running.result()
            time.sleep(0.02)
        (process,) = processes_of(folder, TWO)
        worker = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        assert worker in workers
        os.kill(worker, signal.SIGKILL)
        running.result(timeout=180)
    assert "continuing run run at step" in (folder / "points" / TWO / "log.txt").read_text()
    for name in (ONE, TWO):
        assert numbers(folder, name) == numbers(finished[0], name)


def test_dask_that_is_missing_or_silent(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclr_cli.workflows.dask_cluster._CONNECT_S", 1)
    sweep = config(tiny_data, tmp_path / "a", jobs=None, dask="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        scale(sweep)
    monkeypatch.setitem(sys.modules, "distributed", None)  # as where it is not installed
    with pytest.raises(MissingPackageError) as caught:
        scale(sweep)
    assert (caught.value.exit_code, caught.value.fix) == (4, "pip install distributed")
