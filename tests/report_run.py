"""A run folder to report on: made in seconds, from embeddings of its own, by the workflows of real runs.

Loaded by the tests of reports here and in tests_report, and by the benchmark.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np

from nuclr_cli.data.embeddings import EmbeddingTable, write_embeddings
from nuclr_cli.evaluation.bootstrap import Interval
from nuclr_cli.evaluation.diagnostics import Diagnostics, Retrieval
from nuclr_cli.workflows.embed_select import Candidate, Selection
from nuclr_cli.workflows.presets import for_modalities, preset_settings
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_label_efficiency import LabelEfficiencyConfig, label_efficiency
from nuclr_cli.workflows.probe_pairs import probe_pairs
from nuclr_cli.workflows.probe_pairs_record import PairsConfig
from nuclr_cli.workflows.probe_record import ProbeConfig
from nuclr_cli.workflows.probe_regression import probe_regression
from nuclr_cli.workflows.probe_regression_record import RegressionConfig
from nuclr_cli.workflows.runs import Run, RunSession, create_run

EVIL = "</script><script>window.hacked=1</script>"
EVIL_IMAGE = "<img src=x onerror=window.hacked=2>"
EVIL_LINK = '"><a href="javascript:window.hacked=3">'
CLASSES = ("PV", "SST", EVIL_IMAGE)


def make_run(
    root: Path, *, subjects: int = 4, sessions: int = 1, units: int = 40, dim: int = 12, name: str = "run"
) -> Run:
    """A run with a metrics.jsonl and embeddings; the last unit of each session has none.

    Unit 0 of the first session, one class and one subject have names that would be markup.
    """
    keys = [
        (f"mouse{i:02d}" if i else f"mouse {EVIL_LINK}", f"day{j}")
        for i in range(subjects)
        for j in range(sessions)
    ]
    held_out = {keys[-1][0]}
    rows = [RunSession(s, d, "0", units, "held-out" if s in held_out else "train") for s, d in keys]
    settings = for_modalities(preset_settings("tiny"), frozenset({"spikes"}))
    run = create_run(root, name, settings, root.parent / "nuclr-data", rows).with_state("finished", 400)
    rng = np.random.default_rng(0)
    n = len(keys) * units
    codes = rng.choice(len(CLASSES), size=n, p=(0.5, 0.3, 0.2))
    values = rng.normal(size=(n, dim)).astype(np.float32)
    values[:, 0] += 3.0 * (codes == 1)
    values[:, 1] += 3.0 * (codes == 2)
    depth = values[:, 2] * 200 + 800 + rng.normal(scale=100, size=n)
    ids = np.array([f"u{i}" for _ in keys for i in range(units)], dtype=object)
    ids[0] = EVIL
    windows = np.full(n, 12)
    windows[units - 1 :: units] = 0
    values[windows == 0] = np.nan
    labels = np.array(CLASSES)[codes]
    labels[::9] = ""
    found = Diagnostics(
        6.5, 0.12, -2.1, Retrieval(0.41, Interval(0.33, 0.52), 0.2, 0.03, n - len(keys), len(keys))
    )
    chosen = Selection("retrieval", 400, (Candidate(200, 0.31), Candidate(400, 0.41)), ("mouse01",))
    table = EmbeddingTable(
        subject=np.repeat([s for s, _ in keys], units),
        session=np.repeat([d for _, d in keys], units),
        population=np.full(n, "0"),
        unit_id=ids.astype(np.str_),
        modality=np.full(n, "spikes"),
        n_windows=windows,
        n_events=windows * rng.integers(5, 400, size=n),
        embedding=values,
        labels={
            "brain_region": np.array(["CA1", "CA3", "DG"])[rng.integers(3, size=n)],
            "cell_type": labels,
            "depth_um": np.array([f"{value:.1f}" for value in depth]),
        },
        metadata={
            "run": run.id,
            "checkpoint_step": "400",
            "checkpoint_sha256": "ab" * 32,
            "trained_subjects": "\n".join(run.record.seen_subjects),
            "diagnostics": json.dumps(dataclasses.asdict(found)),
            "selection": json.dumps(dataclasses.asdict(chosen)),
        },
    )
    write_embeddings(table, run.embeddings)
    with (run.folder / "metrics.jsonl").open("w") as file:
        for step in range(10, 401, 10):
            row = {"step": step, "loss": 4 - step / 200, "rankme": 5 + step / 100, "learning_rate": 1e-3}
            file.write(json.dumps(row) + "\n")
    return run


def ask_everything(run: Run) -> None:
    """A probe of each kind, small and without baselines that read recordings."""
    shared = {"run": run.folder, "baselines": "none", "bootstrap": 50}
    probe(ProbeConfig("cell_type", permutations=0, **shared))  # type: ignore[arg-type]
    probe_regression(RegressionConfig("depth_um", permutations=0, **shared))  # type: ignore[arg-type]
    probe_pairs(PairsConfig(_connections(run), features="directed", **shared))  # type: ignore[arg-type]
    config = ProbeConfig("cell_type", permutations=0, **shared)  # type: ignore[arg-type]
    label_efficiency(LabelEfficiencyConfig(config, fractions=(0.1, 1.0), repeats=2))


def _connections(run: Run) -> Path:
    path = run.folder.parent / "connections.csv"
    rng = np.random.default_rng(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("subject", "session", "pre", "post", "label"))
        for session in run.record.sessions:
            for i in range(1, 31):
                writer.writerow(
                    (session.subject, session.session, f"u{i}", f"u{i + 1}", int(rng.random() < 0.4))
                )
    return path
