"""Time `nuclr probe` on 50,000 units, beside a plain scikit-learn script that follows the same protocol.

    python benchmarks/probe.py --repeats 3 --out benchmarks/results
    python benchmarks/probe.py --small

Makes a table of 50,000 embeddings of 256 numbers, 20 subjects and 10 classes in a temporary folder. `nuclr
probe --split subject --folds 5` reads, fits 5 folds and the probe that is kept, reads the embedding by
neighbours and centroids too, resamples 1000 times, calibrates, draws, and writes its folder. The plain script
reads the same file, takes the folds from the split.json of the probe, standardises, fits newton-cg of
scikit-learn on each and on all units, and scores. Every repeat is a process of its own, both in turn. Stops
when the two predict different classes.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Quantiles, commit, machine, quantile_table, write_result

import nuclr_cli
from nuclr_cli.data.embeddings import EmbeddingTable, load_embeddings, write_embeddings

N_CLASSES, N_SUBJECTS, FOLDS = 10, 20, 5
TARGET_S, TARGET_GB = 60.0, 3.0
LARGEST_DIFFERENCE = 1e-6
"""Of a probability: the script's matrix products are split among threads, and rounded otherwise."""


def simulated_table(n_units: int, dim: int, seed: int) -> EmbeddingTable:
    """Classes of unequal size, subjects with offsets, correlated columns of falling variance."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, N_CLASSES + 1) / np.arange(1, N_CLASSES + 1).sum()
    code = rng.choice(N_CLASSES, n_units, p=share)
    subject = np.arange(n_units) * N_SUBJECTS // n_units
    values = rng.normal(size=(n_units, dim))
    informative = np.arange(dim) < max(2, dim // 8)
    values += 0.8 * rng.normal(size=(N_CLASSES, dim))[code] * informative
    values += 0.3 * rng.normal(size=(N_SUBJECTS, dim))[subject]
    mixing = rng.normal(size=(dim, dim)) * np.exp(-np.arange(dim) / (dim / 6))[:, None]
    return EmbeddingTable(
        subject=np.array([f"m{i:02d}" for i in subject]),
        session=np.full(n_units, "day1"),
        population=np.full(n_units, "0"),
        unit_id=np.array([f"u{i}" for i in range(n_units)]),
        modality=np.full(n_units, "spikes"),
        n_windows=np.ones(n_units, dtype=np.int64),
        n_events=np.ones(n_units, dtype=np.int64),
        embedding=(values @ mixing).astype(np.float32),
        labels={"cell_type": np.array([f"class {i}" for i in code])},
        metadata={"run": "simulated@1"},
    )


def with_nuclr(table: Path) -> dict[str, Any]:
    """One probe, in this process."""
    began = time.perf_counter()
    from nuclr_cli.workflows.probe import probe
    from nuclr_cli.workflows.probe_record import ProbeConfig

    config = ProbeConfig(
        "cell_type",
        embeddings=table,
        runs=table.parent / "no-runs",
        split="subject",
        folds=FOLDS,
        baselines="none",
    )
    record = probe(config)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "macro_f1": record.methods[0].macro_f1.value, "folder": str(record.folder)}


def with_scikit_learn(table: Path, split: Path) -> dict[str, Any]:
    """The same protocol as a script would have it."""
    began = time.perf_counter()
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(values: np.ndarray, labels: np.ndarray) -> Any:
        classifier = LogisticRegression(
            C=1.0, solver="newton-cg", tol=1e-4, max_iter=1000, class_weight="balanced"
        )
        return make_pipeline(StandardScaler(), classifier).fit(values, labels)

    units = load_embeddings(table)
    row_of = {
        key: row
        for row, key in enumerate(
            zip(units.subject, units.session, units.population, units.unit_id, strict=True)
        )
    }
    listed = json.loads(split.read_text())["units"]  # in the order of their keys, as the probe fits them
    rows = np.array([row_of[tuple(unit[:4])] for unit in listed])
    fold = np.array([unit[4] for unit in listed])
    values, labels = units.embedding.astype(np.float64)[rows], units.labels["cell_type"][rows]
    probability = np.zeros((len(labels), len(np.unique(labels))))
    for name in np.unique(fold):
        fitted = fit(values[fold != name], labels[fold != name])
        probability[fold == name] = fitted.predict_proba(values[fold == name])
    predicted = np.unique(labels)[probability.argmax(axis=1)]
    f1 = f1_score(labels, predicted, average="macro")
    balanced_accuracy_score(labels, predicted)
    fit(values, labels)
    seconds = time.perf_counter() - began
    in_table = np.empty_like(probability)
    in_table[rows] = probability
    np.save(table.parent / "plain.npy", in_table)
    return {"seconds": seconds, "macro_f1": float(f1)}


def peak_gb() -> float:
    """Of this process; Linux counts kilobytes, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (1e9 if sys.platform == "darwin" else 1e6)


def child(role: str, table: Path, split: Path | None) -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--role", role, "--table", str(table)]
    if split is not None:
        command += ["--split", str(split)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def largest_difference(table: Path, folder: Path) -> float:
    """Of any probability; stops when a class differs."""
    import pyarrow.parquet as pq

    ours = pq.read_table(folder / "predictions.parquet")
    names = [name for name in ours.column_names if name.startswith("probability_")]
    own = np.stack([ours.column(name).to_numpy() for name in names], axis=1)
    plain = np.load(table.parent / "plain.npy")
    if (own.argmax(axis=1) != plain.argmax(axis=1)).any():
        raise SystemExit("nuclr and scikit-learn predict different classes")
    return float(np.abs(own - plain).max())


def report(result: dict[str, Any]) -> str:
    nuclr, versions = result["nuclr"], result["versions"]
    within = nuclr["seconds"]["median"] <= TARGET_S and nuclr["peak_gb"] <= TARGET_GB
    return "\n".join(
        [
            "# A probe of many units",
            "",
            f"{result['units']:,} units x {result['dim']}, {N_CLASSES} classes, {N_SUBJECTS} subjects, "
            f"{FOLDS} folds of subjects, C = 1; seconds of the whole work, imports included, "
            f"{result['repeats']} repeats in turn, a process each.",
            "",
            *quantile_table(
                {
                    "`nuclr probe`, s": nuclr["seconds"],
                    "plain scikit-learn, s": result["scikit_learn"]["seconds"],
                    "`nuclr probe`, processor s": nuclr["cpu_s"],
                    "plain scikit-learn, processor s": result["scikit_learn"]["cpu_s"],
                }
            ),
            "",
            f"Peak memory: nuclr {nuclr['peak_gb']:.2f} GB, the script "
            f"{result['scikit_learn']['peak_gb']:.2f} GB. Both fit 5 folds and all units. Nuclr also reads "
            "the embedding by nearest neighbours and centroids, resamples 1000 times, calibrates, draws, and "
            f"writes its folder. Nuclr takes {result['ratio']:.2f} times as long (median over repeats).",
            "",
            f"Target for 50,000 units on two cores: {TARGET_S:.0f} s and {TARGET_GB:.0f} GB; here it is "
            f"{'met' if within else 'missed'}. The same class for every unit; probabilities differ by at "
            f"most {result['largest_difference']:.1e}; macro F1 {nuclr['macro_f1']:.4f}.",
            "",
            "Processor seconds, of all cores together, say what is asked of a machine that other programs "
            "keep busy (see its load average), though waiting threads count, too.",
            "",
            "Machine: " + ", ".join(f"{key} {value}" for key, value in result["machine"].items()) + ".",
            "",
            "Versions: " + ", ".join(f"{key} {value}" for key, value in versions.items()) + ".",
            "",
            f"Made by `python benchmarks/probe.py --repeats {result['repeats']} --out benchmarks/results`.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="2,000 units x 32, once: does it run?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--role", choices=("nuclr", "scikit_learn"), help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--split", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        found = (
            with_nuclr(options.table)
            if options.role == "nuclr"
            else with_scikit_learn(options.table, options.split)
        )
        print(json.dumps({**found, "cpu_s": time.process_time(), "peak_gb": peak_gb()}))
        return
    units, dim, repeats = (2_000, 32, 1) if options.small else (options.units, options.dim, options.repeats)
    seconds: dict[str, list[float]] = {"nuclr": [], "scikit_learn": []}
    cpu_s: dict[str, list[float]] = {role: [] for role in seconds}
    peak = dict.fromkeys(seconds, 0.0)
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "units.parquet"
        write_embeddings(simulated_table(units, dim, options.seed), table)
        folder = (
            Path(scratch) / "units-probes" / "cell_type" / f"subject-default-folds-{FOLDS}-baselines-none"
        )
        f1: dict[str, float] = {}
        for _ in range(repeats):
            for role in seconds:
                found = child(role, table, None if role == "nuclr" else folder / "split.json")
                seconds[role].append(found["seconds"])
                cpu_s[role].append(found["cpu_s"])
                peak[role], f1[role] = max(peak[role], found["peak_gb"]), found["macro_f1"]
        difference = largest_difference(table, folder)
    if difference > LARGEST_DIFFERENCE or abs(f1["nuclr"] - f1["scikit_learn"]) > 1e-12:
        raise SystemExit(f"nuclr and scikit-learn differ: {difference} in a probability, macro F1 {f1}")
    result = {
        "benchmark": "probe",
        "units": units,
        "dim": dim,
        "repeats": repeats,
        **{
            role: {
                "seconds": vars(Quantiles.of(values)),
                "cpu_s": vars(Quantiles.of(cpu_s[role])),
                "peak_gb": peak[role],
                "macro_f1": f1[role],
            }
            for role, values in seconds.items()
        },
        "ratio": statistics.median(
            one / two for one, two in zip(seconds["nuclr"], seconds["scikit_learn"], strict=True)
        ),
        "largest_difference": difference,
        "machine": machine(),
        "versions": {
            "nuclr": nuclr_cli.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("numpy", "scipy", "scikit-learn")},
            "commit": commit(),
        },
    }
    print(report(result))
    if options.out is not None:
        write_result(options.out, "probe", result, report(result))


if __name__ == "__main__":
    main()
