"""A run that went on after it was embedded: whatever reads the table says of which step it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings, write_embeddings
from nuclr_cli.data.embeddings_origin import origin
from nuclr_cli.workflows.predict import predict
from nuclr_cli.workflows.predict_record import PredictConfig
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_label_efficiency import LabelEfficiencyConfig, label_efficiency
from nuclr_cli.workflows.probe_pairs import probe_pairs
from nuclr_cli.workflows.probe_pairs_record import PairsConfig
from nuclr_cli.workflows.probe_record import ProbeConfig
from nuclr_cli.workflows.probe_regression import probe_regression
from nuclr_cli.workflows.probe_regression_record import RegressionConfig
from nuclr_cli.workflows.report import ReportConfig, report
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_cli.workflows.runs_overview import RunSummary, runs_overview

STEPS = 150
SETTINGS = (
    "--preset", "tiny", "--gpus", "0", "--steps", STEPS, "--set", "train.log_every=1",
    "--set", "train.checkpoint_every=50", "--set", "train.batch_windows=3", "--set", "model.dim=16",
    "--set", "model.heads=2", "--set", "model.head_dim=8", "--set", "train.max_tokens=1200",
)  # fmt: skip
QUICK = ("--baselines", "none", "--bootstrap", 20, "--split", "unit", "--permutations", 0)


@pytest.fixture(scope="module")
def stopped(forked: Any, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped on its way, was embedded there, and then finished."""
    run = tmp_path_factory.mktemp("went-on") / "a run"
    process = forked.start("pretrain", tiny_data, "--runs", run.parent, "--name", run.name, *SETTINGS)
    deadline = time.monotonic() + 60
    metrics = run / "metrics.jsonl"  # made empty, before signals are heard
    while not metrics.is_file() or "\n" not in metrics.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process, signal.SIGTERM)
    assert forked.wait().code == 143
    for words in (
        ("embed", "--run", run, "--gpus", 0),
        ("pretrain", "--resume", "--name", run.name, "--runs", run.parent, "--gpus", 0),
    ):
        done = forked(*words)
        assert done.code == 0, done.err
    return run


@pytest.fixture(scope="module")
def averaged(forked: Any, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that keeps a moving average of its weights."""
    runs = tmp_path_factory.mktemp("averaged")
    short = ("--steps", 4, "--set", "train.checkpoint_every=2", "--set", "train.ema=0.9")
    ran(forked, "pretrain", tiny_data, "--runs", runs, "--name", "a run", *SETTINGS, *short)
    return runs / "a run"


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(stopped, tmp_path / "nuclr-runs" / stopped.name))


def step_of(run: Path) -> int:
    return int(load_embeddings(run / "embeddings.parquet").metadata["checkpoint_step"])


def summary(run: Path) -> RunSummary:
    (found,) = runs_overview(run.parent).runs
    return found


def ran(forked: Any, *words: object) -> Any:
    done = forked(*words)
    assert done.code == 0, done.err
    return done


class Listener(SilentReporter):
    """Keeps what is said beside the result."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    warn = note


def asked(run: Path) -> ProbeConfig:
    return ProbeConfig("cell_type", run=run, baselines="none", bootstrap=20, permutations=0, split="unit")


def told(ask: Callable[[Listener], Any]) -> tuple[Any, list[str]]:
    """The result, and what was said on the way that compares steps: once, and also in the result."""
    listener = Listener()
    record = ask(listener)
    said = [text for text in listener.said if "stands at step" in text]
    kept = (*getattr(record, "notes", ()), *record.warnings)
    assert said == [text for text in kept if "stands at step" in text]
    return record, said


def ask_all(run: Path) -> dict[str, list[str]]:
    """Probe, predict, report: what each says."""
    made, probed = told(lambda listener: probe(asked(run), listener))
    csv = run.parent / "predicted.csv"
    prediction = PredictConfig(made.folder, all_units=True, out=csv, overwrite=True)
    _, predicted = told(lambda listener: predict(prediction, listener))
    _, reported = told(lambda listener: report(ReportConfig(run, umap=False), listener))
    return {"probe": probed, "predict": predicted, "report": reported}


def test_all_that_read_older_embeddings_say_so_until_they_are_made_again(forked: Any, run: Path) -> None:
    step = step_of(run)
    assert 0 < step < STEPS
    again = f"nuclr embed --run {shlex.quote(str(run))}"
    for said in ask_all(run).values():
        (text,) = said
        assert f"of step {step}, but the run " in text
        assert f"stands at step {STEPS}. " in text
        assert again in text
    page = (run / "report.html").read_text()
    assert f"Checkpoint: step {step}. The run stands at step {STEPS}." in page
    found = summary(run)
    assert (found.embedded_step, found.embedded_older, found.embed) == (step, True, again)
    listed = ran(forked, "runs", "--runs", run.parent).out
    assert f" step {step} " in listed
    assert f"for embeddings of the newest weights:\n  {again}\n" in listed
    done = ran(forked, "probe", "--label", "cell_type", "--run", run, *QUICK, "--json")
    assert any(again in text for text in done.json["warnings"])
    assert done.err.count(again) == 1

    ran(forked, *shlex.split(found.embed)[1:], "--gpus", 0)
    assert ask_all(run) == {"probe": [], "predict": [], "report": []}
    assert f"Checkpoint: step {STEPS}, the last one." in (run / "report.html").read_text()
    found = summary(run)
    assert (found.embedded_step, found.embedded_older, found.embed) == (STEPS, False, "")


@pytest.mark.parametrize("options", [("--limit", "60.0", "--weights", "raw"), ()])
def test_what_is_to_be_typed_makes_the_same_kind_of_table(
    forked: Any, averaged: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """A run that keeps a moving average: its plain weights are not what `nuclr embed` takes by itself."""
    run = Path(shutil.copytree(averaged, tmp_path / "a run"))
    newest = run / "checkpoints" / "step-00000004"
    newest.rename(tmp_path / "later")
    ran(forked, "embed", "--run", run, "--gpus", 0, *options)
    before = load_embeddings(run / "embeddings.parquet").metadata
    (tmp_path / "later").rename(newest)
    again = shlex.join(["nuclr", "embed", "--run", str(run), *options])
    assert summary(run).embed == again
    shutil.copy(run / "embeddings.parquet", tmp_path / "copy.parquet")
    copied = ProbeConfig(
        "cell_type",
        embeddings=tmp_path / "copy.parquet",
        runs=tmp_path,
        baselines="none",
        bootstrap=20,
        permutations=0,
        split="unit",
    )
    for ask, typed in (
        (lambda listener: probe(asked(run), listener), f"{again}, then nuclr probe"),
        (lambda listener: report(ReportConfig(run, umap=False), listener), f"{again}, then probe"),
        (
            lambda listener: probe(copied, listener),
            f"nuclr embed DATA {shlex.join(['--run', str(run), *options, '-o', str(copied.embeddings)])}, ",
        ),
    ):
        (said,) = told(ask)[1]
        assert typed in said
    ran(forked, *shlex.split(again)[1:], "--gpus", 0)
    after = load_embeddings(run / "embeddings.parquet").metadata
    assert (before["checkpoint_step"], after["checkpoint_step"]) == ("2", "4")
    assert [after[key] for key in ("limit_s", "weights")] == [before[key] for key in ("limit_s", "weights")]


def test_the_other_probes_say_it_as_well(run: Path) -> None:
    step = step_of(run)
    pairs = run.parent.parent / "pairs.csv"
    rows = [f"s{a},day{a},u{b},u{b + 1},{b % 2}" for a in range(4) for b in range(4, 22)]
    pairs.write_text("subject,session,pre,post,label\n" + "\n".join(rows) + "\n")
    table = load_embeddings(run / "embeddings.parquet")
    depth = np.array([str(i % 17) for i in range(table.n_units)])
    labels = {**table.labels, "depth": depth}
    write_embeddings(dataclasses.replace(table, labels=labels), run / "embeddings.parquet")
    quick: dict[str, Any] = {"run": run, "baselines": "none", "bootstrap": 20}
    curve = LabelEfficiencyConfig(asked(run), fractions=(0.5, 1.0), repeats=2)
    for ask in (
        lambda listener: probe_regression(
            RegressionConfig("depth", permutations=0, split="unit", **quick), listener
        ),
        lambda listener: probe_pairs(PairsConfig(pairs, **quick), listener),
        lambda listener: label_efficiency(curve, listener),
    ):
        (said,) = told(ask)[1]
        assert f"embeddings of step {step}, but the run a run stands at step {STEPS}" in said


@pytest.mark.parametrize("choice", ["best", "step"])
def test_a_checkpoint_that_was_chosen_is_named_and_no_mistake(forked: Any, run: Path, choice: str) -> None:
    first, *_, last = sorted((run / "checkpoints").glob("step-*"))
    step = int(first.name.removeprefix("step-"))
    assert last.name.endswith(f"{STEPS}")
    for folder in (first, last):
        _give_score(folder, loss=1.0 if folder == first else 2.0)
    words = ("--checkpoint", step if choice == "step" else "best")
    made = ran(forked, "embed", "--run", run, "--gpus", 0, *words, "--json").json
    assert (made["selection"]["rule"], made["checkpoint"]) == ("given" if choice == "step" else "loss", step)
    found = ask_all(run)
    assert found["predict"] == found["probe"]
    assert not found["report"]  # what it says stands in the page
    (said,) = found["probe"]
    how = (
        "given with --checkpoint" if choice == "step" else f"chosen by loss of checkpoints up to step {STEPS}"
    )
    assert f"embeddings of step {step}, {how}; the run a run stands at step {STEPS}." in said
    page = (run / "report.html").read_text()
    assert f"The run stands at step {STEPS}." in page
    assert "the last one" not in page
    assert f"--checkpoint {step}" in page  # the command that makes these embeddings again
    listed = summary(run)
    assert (listed.embedded_step, listed.embedded_older, listed.embed) == (step, True, "")


def _give_score(folder: Path, loss: float) -> None:
    """Write a score, and the checksum that belongs to it, into a checkpoint."""
    for name, value in (("state.json", {"means": {"loss": loss}, "open": None}), ("checksums.json", None)):
        document = json.loads((folder / name).read_text())
        if value is not None:
            document["score"] = value
        else:
            document["state.json"] = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
        (folder / name).write_text(json.dumps(document))


def test_a_table_of_another_run_is_not_compared(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "created": "2024-01-01T00:00:00+00:00"}))
    found = summary(run)
    assert found.embeddings is not None
    assert (found.embedded_step, found.embedded_older, found.embed) == (None, False, "")


def table_with(metadata: dict[str, str], label: str) -> EmbeddingTable:
    n = 300
    same = {name: np.full(n, "x") for name in ("subject", "session", "population", "modality")}
    return EmbeddingTable(
        **same,
        unit_id=np.array([f"u{i}" for i in range(n)]),
        n_windows=np.ones(n, np.int64),
        n_events=np.ones(n, np.int64),
        embedding=np.zeros((n, 2), np.float32),
        labels={label: np.full(n, "nuclr")},
        metadata=metadata,
    )


@pytest.mark.parametrize("long", [0, 1, 127, 128, 20_000])
def test_what_a_table_says_of_its_making_is_read_without_its_rows(tmp_path: Path, long: int) -> None:
    path = tmp_path / "e.parquet"
    metadata = {"run": "nuclr@x", "checkpoint_step": "7", "more": "é\x18\x05nuclr\x18" * long}
    write_embeddings(table_with(metadata, "nuclr"), path)
    assert origin(path) == metadata
    pq.write_table(pq.read_table(path), path, row_group_size=10)  # as a tool that kept the columns would
    assert origin(path) == metadata


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _no_length(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-8] + b"\xff\xff\xff\x7f" + data[-4:])


def _no_json(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'{"run"', b'{!run"'))


@pytest.mark.parametrize(
    "damage",
    [_cut, _no_length, _no_json, lambda path: path.write_bytes(b""), Path.unlink, lambda path: other(path)],
    ids=["cut", "length", "json", "empty", "missing", "of another tool"],
)
def test_a_table_that_does_not_say_is_no_error(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = tmp_path / "e.parquet"
    write_embeddings(table_with({"run": "r@x"}, "label"), path)
    damage(path)
    assert origin(path) == {}


def other(path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), path)
