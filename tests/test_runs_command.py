"""`nuclr runs`: what it says of runs that train, broke off, are damaged or are made this moment."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.runs_overview import RunSummary, runs_overview

NEVER_IMPORTED = {"h5py", "numpy", "pyarrow", "scipy", "sklearn", "torch", "lightning_fabric", "tensorboardX"}
SETTINGS = (
    "--preset", "tiny", "--gpus", "0", "--set", "train.batch_windows=4", "--set", "train.log_every=1",
    "--set", "train.checkpoint_every=4", "--set", "model.dim=16", "--set", "model.heads=2",
    "--set", "model.head_dim=8", "--set", "train.max_tokens=1200",
)  # fmt: skip
SEES_ENDS = sys.platform == "linux"  # elsewhere a process that has ended is not told from one that lives
NAME = "tiny-20250703-101112"  # as long as the names that nuclr gives


@pytest.fixture(scope="module")
def place(nuclr: Callable[..., Any], tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a run was finished, embedded and probed."""
    folder = tmp_path_factory.mktemp("listed")
    for words in (
        ("pretrain", tiny_data, "--name", NAME, "--steps", 6, *SETTINGS),
        ("embed",),
        ("probe", "--label", "cell_type", "--baselines", "none", "--bootstrap", 20),
    ):
        done = nuclr(*words, cwd=folder)
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    """A folder of runs of its own: the finished run, and a copy named ``other``."""
    for name in (NAME, "other"):
        shutil.copytree(place / "nuclr-runs" / NAME, tmp_path / "nuclr-runs" / name)
    return tmp_path / "nuclr-runs"


def only(runs: Path, name: str) -> RunSummary:
    (found,) = (run for run in runs_overview(runs).runs if run.name == name)
    return found


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def age(run: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in (*run.rglob("*"), run):
        os.utime(path, (then, then))


def trained_elsewhere(run: Path) -> None:
    """What another machine that shares the folder cannot tell: whether the process lives."""
    holder = json.loads((run / ".lock").read_text())
    assert holder["pid"] > 0
    (run / ".lock").write_text(json.dumps({**holder, "host": "other", "machine": "another/1"}))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


def mean_loss(run: Path, step: int) -> float:
    """Of the steps up to `step` that no earlier checkpoint has."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    own = [row["loss"] for row in rows if (step - 1) // 4 * 4 < row["step"] <= step]
    return sum(own) / len(own)


def test_a_finished_run(nuclr: Callable[..., Any], place: Path) -> None:
    before = contents(place)
    done = nuclr("runs", "--json", cwd=place)
    assert (done.code, done.err) == (0, "")
    (run,) = done.json["runs"]
    folder = place / "nuclr-runs" / NAME
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert run.pop("created") == json.loads((folder / "run.json").read_text())["created"]
    assert 0 <= run.pop("row_age_s") < 300
    assert run == {
        "name": NAME,
        "folder": f"nuclr-runs/{NAME}",
        "state": "finished",
        "gone": False,
        "silent_s": None,
        "preset": "tiny",
        "step": 6,
        "steps": 6,
        "loss": row["loss"],
        "steps_per_s": 1 / row["step_s"],
        "units_per_s": row["units_per_s"],
        "left_s": None,
        "checkpoint": 6,
        "best": min(4, 6, key=lambda step: mean_loss(folder, step)),
        "embeddings": f"nuclr-runs/{NAME}/embeddings.parquet",
        "embedded_step": 6,
        "embedded_older": False,
        "probes": 1,
        "resume": "",
        "embed": "",
        "problem": "",
    }
    assert contents(place) == before


def test_nothing_heavy_is_imported(place: Path) -> None:
    """A look at a run that trains must not cost what starting one does."""
    code = (
        "import sys; from nuclr_cli.cli.app import app; app(['runs'], standalone_mode=False); "
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True)
    assert NAME in done.stdout
    imported = {name.partition(".")[0] for name in done.stderr.split()}
    assert "nuclr_cli" in imported
    assert not imported & NEVER_IMPORTED


def test_a_run_is_followed_from_another_process(
    nuclr: Callable[..., Any], tiny_data: Path, tmp_path: Path
) -> None:
    """It trains, is killed, is silent, is continued with what is printed, and stopped."""
    runs = tmp_path / "some runs"

    def train(words: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "nuclr_cli", *words], stderr=subprocess.DEVNULL)

    def steps_of_live() -> int:
        try:
            return only(runs, "live").step
        except InputError:  # no run yet
            return -1

    def wait_for(process: subprocess.Popen[bytes], step: int) -> None:
        deadline = time.monotonic() + 120
        while steps_of_live() < step:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    words = ["pretrain", str(tiny_data), "--runs", str(runs), "--name", "live", "--steps", "1000000"]
    process = train([*words, *SETTINGS])
    try:
        wait_for(process, 6)
        first = nuclr("runs", "--runs", runs, "--json").json["runs"][0]
        wait_for(process, first["step"] + 3)
        second = nuclr("runs", "--runs", runs, "--json").json["runs"][0]
        for run in (first, second):
            assert (run["state"], run["gone"], run["silent_s"], run["resume"]) == (
                "running",
                False,
                None,
                "",
            )
            assert run["row_age_s"] < 60
            assert 0 < run["checkpoint"] <= run["step"]
            assert run["left_s"] == pytest.approx((1_000_000 - run["step"]) / run["steps_per_s"])
        assert second["step"] > first["step"]
        deadline = time.monotonic() + 30
        process.kill()
        seen = []
        while SEES_ENDS and not (seen and seen[-1].gone):  # at once, before anybody has waited for it
            seen.append(only(runs, "live"))
            assert time.monotonic() < deadline
    finally:
        process.kill()
        process.wait()
    command = ["pretrain", "--resume", "--name", "live", "--runs", str(runs)]
    if SEES_ENDS:
        for run in (seen[-1], only(runs, "live")):
            assert (run.state, run.gone, run.silent_s, run.left_s) == ("running", True, None, None)
        broken = nuclr("runs", "--runs", runs)
        assert re.search(r"live +broken off +\d+ s ago", broken.out)
        assert shlex.split(broken.out.partition("to continue:\n  nuclr ")[2]) == command

    trained_elsewhere(runs / "live")
    assert not only(runs, "live").gone
    age(runs / "live", 3.5 * 3600)
    silent = nuclr("runs", "--runs", runs)
    assert re.search(r"live +silent 3 h +3 h ago", silent.out)
    assert shlex.split(silent.out.partition("one that runs no more:\n  nuclr ")[2]) == command

    process = train(command)
    try:
        wait_for(process, only(runs, "live").step + 1)
        resumed = only(runs, "live")
        assert (resumed.gone, resumed.silent_s) == (False, None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    finally:
        process.kill()
        process.wait()
    stopped = only(runs, "live")
    assert (stopped.state, stopped.silent_s, stopped.left_s) == ("stopped", None, None)
    assert stopped.checkpoint == stopped.step
    assert shlex.split(stopped.resume)[1:] == command


@pytest.mark.parametrize(
    ("step_s", "log_every", "minutes", "silent"),
    [
        (0.01, 10, 1, False),  # a start may take as long
        (0.01, 10, 20, True),
        (60, 10, 20, False),  # a row every 10 minutes
        (60, 10, 60, True),
        (60, 1, 20, True),
        (None, 10, 5, False),  # no row yet
        (None, 10, 20, True),
    ],
)
def test_silence_is_judged_by_the_run_s_own_steps(
    copied: Path, step_s: float | None, log_every: int, minutes: float, silent: bool
) -> None:
    run = copied / "other"
    change(run / "run.json", state="running")
    trained_elsewhere(run)
    settings = json.loads((run / "config.json").read_text())
    settings["train"] |= {"log_every": log_every, "steps": 100}
    (run / "config.json").write_text(json.dumps(settings))
    row = {"step": 6, "loss": 1.5, "step_s": step_s, "units_per_s": 9.0}
    (run / "metrics.jsonl").write_text("" if step_s is None else json.dumps(row) + "\n")
    age(run, 60 * minutes)
    found = only(copied, "other")
    assert found.state == "running"
    assert (found.silent_s is not None) == silent
    assert bool(found.resume) == silent
    assert (found.left_s is not None) == (not silent and step_s is not None)
    if step_s == 60 and not silent:
        assert found.left_s == pytest.approx(94 * 60)
    if silent:
        assert found.silent_s == pytest.approx(60 * minutes, abs=30)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("run.json", '{"name": "other", "cre', "run.json is damaged"),
        ("run.json", "", "run.json is damaged"),
        ("run.json", "[]", r"run.json is damaged: it is \[\], expected an object"),
        ("run.json", "[" * 100_000, "run.json is damaged"),
        ("run.json", '{"created": "x", "state": "dancing", "step": 1}', "state is 'dancing'"),
        ("run.json", '{"created": "x", "state": "running", "step": "1"}', "step is '1'"),
        ("run.json", "\x00" * 500, "run.json is damaged"),
        ("run.json", None, "run.json is missing"),
        ("config.json", "{", "config.json is damaged"),
        ("config.json", '{"preset": "tiny", "train": {}}', "train.steps is missing"),
        ("config.json", None, "config.json is missing"),
    ],
)
def test_a_damaged_run_is_named_and_bars_no_other(
    copied: Path, file: str, text: str | None, said: str
) -> None:
    path = copied / "other" / file
    path.unlink() if text is None else path.write_text(text)
    damaged, whole = only(copied, "other"), only(copied, NAME)
    assert (whole.state, whole.problem) == ("finished", "")
    assert damaged.state == "damaged"
    assert re.search(said, damaged.problem)
    assert (damaged.step, damaged.checkpoint, damaged.probes, damaged.resume) == (6, 6, 1, "")


def test_damage_is_a_warning_and_no_error(nuclr: Callable[..., Any], copied: Path) -> None:
    (copied / "other" / "run.json").write_text("{")
    done = nuclr("runs", "--json", cwd=copied.parent)
    assert done.code == 0
    assert sorted(run["state"] for run in done.json["runs"]) == ["damaged", "finished"]
    assert "warning nuclr-runs/other is damaged: run.json" in done.err
    shown = nuclr("runs", cwd=copied.parent)
    assert re.search(r"^ *other +damaged ", shown.out, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("rows", "step", "loss"),
    [
        (b'{"step": 7, "loss": 2.5, "step_s": 1}\n{"step": 8, "lo', 7, 2.5),
        (b'{"step": 7, "loss": 2.5}\n{"step": 8, "loss": null, "step_s": "fast"}\n', 8, 2.5),
        (b'\xff\x00\n[1]\n"x"\n{"step": "9"}\n', 6, None),
        (b"\x00" * 9000, 6, None),
        (b"", 6, None),
    ],
)
def test_rows_that_are_half_written_or_damaged(
    copied: Path, rows: bytes, step: int, loss: float | None
) -> None:
    (copied / "other" / "metrics.jsonl").write_bytes(rows)
    found = only(copied, "other")
    assert (found.state, found.step, found.loss) == ("finished", step, loss)


def test_the_newest_of_many_rows_counts(copied: Path) -> None:
    path = copied / "other" / "metrics.jsonl"
    row = path.read_text().splitlines()[-1]
    path.write_text("\n".join(row.replace('"step": 6', f'"step": {i}') for i in range(1, 5001)) + "\n")
    assert only(copied, "other").step == 5000


def test_runs_that_come_and_go_are_no_trouble(copied: Path) -> None:
    """Runs are made under a hidden name; a user may delete one while it is listed."""
    (copied / ".night.4711.tmp").mkdir()
    (copied / ".night.4711.tmp" / "run.json").write_text("{")
    (copied / "notes").mkdir()
    (copied / "README.txt").write_text("mine")
    assert [run.name for run in runs_overview(copied).runs] == ["other", NAME]
    finished = threading.Event()

    def come_and_go() -> None:
        while not finished.is_set():
            shutil.copytree(copied / "other", copied / ".made")
            (copied / ".made").rename(copied / "made")
            shutil.rmtree(copied / "made")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        seen = [runs_overview(copied).runs for _ in range(200)]
    finally:
        finished.set()
        thread.join()
    for runs in seen:
        assert {run.name: run.state for run in runs if run.name != "made"} == {
            NAME: "finished",
            "other": "finished",
        }
    assert {len(runs) for runs in seen} == {2, 3}


@pytest.mark.parametrize("make", ["nothing", "an empty folder", "a file", "a run"])
def test_no_runs_ends_with_what_to_type(
    nuclr: Callable[..., Any], place: Path, tmp_path: Path, make: str
) -> None:
    runs = tmp_path / "my runs"
    if make == "an empty folder":
        runs.mkdir()
    elif make == "a file":
        runs.write_text("x")
    elif make == "a run":
        runs = place / "nuclr-runs" / NAME
    done = nuclr("runs", "--runs", runs, "--json", cwd=tmp_path)
    assert done.code == 3
    error = done.json["error"]
    assert str(runs) in error["what"]
    typed = (
        f"--runs {shlex.quote(str(runs.parent))}"
        if make == "a run"
        else f"nuclr pretrain --runs {shlex.quote(str(runs))}"
    )
    assert typed in error["fix"]
    assert "Traceback" not in done.err


def on_a_terminal(width: int, *words: str, cwd: Path) -> list[str]:
    """Lines that a terminal of `width` columns shows, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "nuclr_cli", *words],
        cwd=cwd,
        env=environment | {"TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()


@pytest.mark.parametrize(
    ("width", "shown"),
    [(80, ("last row", "embedded")), (100, ("last row", "saved", "embedded")), (160, ("probes",))],
)
def test_eight_runs_are_eight_lines_and_commands_are_whole(
    copied: Path, width: int, shown: tuple[str, ...]
) -> None:
    """Whatever the terminal: cells are not cut, and what does not fit is named."""
    shutil.rmtree(copied / NAME)
    (copied / "other").rename(copied / "run1")
    for i in range(2, 9):
        shutil.copytree(copied / "run1", copied / f"run{i}")
    for i, (state, minutes) in enumerate(
        [("running", 16), ("running", 0), ("stopped", 60), ("failed", 4000), ("running", 0), ("finished", 0)]
    ):
        change(copied / f"run{i + 1}" / "run.json", state=state, step=12345)
        if i != 4:
            trained_elsewhere(copied / f"run{i + 1}")
        age(copied / f"run{i + 1}", 60 * minutes + 1)
    lines = on_a_terminal(width, "runs", cwd=copied.parent)
    assert all(len(line) <= width for line in lines)
    header = next(line for line in lines if line.startswith(" run "))
    rows = [line.split() for line in lines if re.match(r" run\d ", line)]
    assert sorted(row[0] for row in rows) == [f"run{i}" for i in range(1, 9)]
    states = {row[0]: " ".join(row[1:4]) for row in rows}
    assert states["run1"].startswith("silent 16 min")
    assert [states[f"run{i}"].split()[0] for i in range(2, 5)] == ["running", "stopped", "failed"]
    assert states["run5"].startswith("broken off" if SEES_ENDS else "running")
    assert all(f" {name} " in f"{header} " for name in ("state", "step", "of", "loss", "left", *shown))
    left_out = next((line for line in lines if line.startswith("No room for ")), "")
    for name in ("last row", "saved", "best", "steps/s", "embedded", "probes"):
        assert (f" {name} " in f"{header} ") != (name in left_out)
    silent = "Silent, so hanging or broken off elsewhere; to continue one that runs no more:"
    said = lines[lines.index("Stopped or broken off; to continue:") :]
    resume = [f"  nuclr pretrain --resume --name run{i}" for i in ((3, 5, 1) if SEES_ENDS else (3, 1))]
    assert said == ["Stopped or broken off; to continue:", *resume[:-1], silent, resume[-1]]


def test_a_pipe_has_all_columns_and_long_names_are_whole(nuclr: Callable[..., Any], copied: Path) -> None:
    long = "a-run-with-a-name-that-says-it-all-" * 2
    (copied / "other").rename(copied / long)
    out = nuclr("runs", cwd=copied.parent).out
    (row,) = [line for line in out.splitlines() if line.startswith(f" {long} ")]  # as grep finds it
    assert len(row) > 160
    assert row.split()[1] == "finished"
    for name in ("last row", "of", "saved", "best", "steps/s", "left", "embedded", "probes"):
        assert f" {name} " in out
    assert "No room" not in out
    narrow = on_a_terminal(80, "runs", cwd=copied.parent)
    assert all(len(line) <= 80 for line in narrow)
    assert NAME in "".join(narrow)
