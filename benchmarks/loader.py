"""What loader processes deliver, beside the same job on torch_brain, and how evenly ranks are dealt work.

    python benchmarks/loader.py [--repeats 3] [--out benchmarks/results] [--recordings FOLDER]
    python benchmarks/loader.py --small

The job: pairs of 10 s windows of the preset `ephys`, at random places, binned at 20 ms, each view with half
to all of its units, packed. nuclr's is `PretrainStream`; the other is written on torch_brain's `Dataset`,
`RandomFixedWindowSampler` and `BinSpikes` with the same second view, unit dropout and packing, without exact
resume. Both read the same files, in turn; read the ratio.

What a GPU would need is an estimate, by the formula that the result states.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Quantiles, commit, machine, quantile_table, write_result

import nuclr_cli
from nuclr_cli.api import Population, Spikes
from nuclr_cli.data.pretrain_stream import PretrainStream, deal_by_cost
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.shares import ShareViews
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.data.windows import Window
from nuclr_cli.workflows.pair_model import initial_model
from nuclr_cli.workflows.presets import for_modalities, preset_settings

SETTINGS = for_modalities(preset_settings("ephys"), frozenset({"spikes"}))
TOKENS = SETTINGS.tokens
BATCH = 16
MEAN_RATE_HZ = 6.0
H200_BF16 = 989e12  # FLOP/s of dense bf16 products, by its maker
USED = (0.1, 0.3)  # shares of it that training may reach: assumed


@dataclass(frozen=True)
class Case:
    """Sessions of one kind: how many, their units, minutes."""

    sessions: int
    units: int
    minutes: float


CASES = {
    "one probe, 250 units": Case(8, 250, 20.0),
    "several probes, 700 units": Case(4, 700, 20.0),
}


def make(folder: Path, case: Case) -> Path:
    """Poisson spikes with log-normal rates; what is measured depends on counts alone."""
    folder.mkdir(parents=True)
    length_s = 60.0 * case.minutes
    for number in range(case.sessions):
        rng = np.random.default_rng(number)
        weights = rng.lognormal(0.0, 1.0, case.units)
        n_spikes = round(case.units * MEAN_RATE_HZ * length_s)
        population = Population(
            subject=f"m{number}",
            session="day",
            units={"id": np.array([f"u{i}" for i in range(case.units)])},
            intervals=np.array([[0.0, length_s]]),
            spikes=Spikes(
                np.sort(rng.uniform(0.0, length_s, n_spikes)),
                rng.choice(case.units, n_spikes, p=weights / weights.sum()),
            ),
        )
        write_population(population, folder / f"m{number}.h5", source=SourceRecord("made", "benchmark", ""))
    return folder


def ours(data: Path, workers: int) -> Iterator[tuple[int, int]]:
    """(pairs, tokens of both views) of each step."""
    stream = PretrainStream(
        open_sessions(data),
        TOKENS,
        seed=0,
        batch_windows=BATCH,
        max_tokens=10**9,
        min_units=1,
        num_workers=workers,
    )
    with stream:
        for step in stream:
            yield step.n_windows, sum(batch.n_tokens for batch in step.micro)


class BrainPairs(torch.utils.data.Dataset[Any]):
    """Pairs of views on torch_brain's dataset."""

    def __init__(self, data: Path) -> None:
        from torch_brain.datasets import Dataset
        from torch_brain.transforms import BinSpikes

        self.brain = Dataset(data, transform=BinSpikes(TOKENS.spikes.bin_s, dtype=np.float32))
        self.domain = {
            name: (float(domain.start[0]), float(domain.end[-1]))
            for name, domain in self.brain.get_sampling_intervals().items()
        }

    def __getitem__(self, index: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        from torch_brain.datasets import DatasetIndex

        rng = np.random.default_rng()
        low, high = self.domain[index.recording_id]
        reach = TOKENS.spikes.max_distance_s
        start2 = rng.uniform(
            max(low, index.start - reach), min(high - TOKENS.spikes.window_s, index.start + reach)
        )
        second = DatasetIndex(index.recording_id, start2, start2 + TOKENS.spikes.window_s)
        views = []
        for one in (index, second):
            counts = self.brain[one].spikes_binned.binned_counts.T
            kept = np.sort(rng.permutation(len(counts))[: round(rng.uniform(0.5, 1.0) * len(counts))])
            kept = kept[counts[kept].max(axis=1) > 0]
            inputs = counts[kept].reshape(-1, TOKENS.spikes.n_patches, TOKENS.spikes.samples_per_patch)
            views.append((torch.from_numpy(inputs.astype(np.float32, copy=False)), torch.from_numpy(kept)))
        return views


def packed(samples: list[list[tuple[torch.Tensor, torch.Tensor]]]) -> list[tuple[torch.Tensor, ...]]:
    """Each view of all samples one after the other, with unit ids and sizes."""
    sides = []
    for side in (0, 1):
        inputs, ids = zip(*(sample[side] for sample in samples), strict=True)
        sizes = torch.tensor([len(one) for one in ids])
        sides.append((torch.cat(inputs), torch.cat(ids), sizes))
    return sides


def theirs(data: Path, workers: int) -> Iterator[tuple[int, int]]:
    """The same numbers of each batch on torch_brain."""
    from torch_brain.samplers import RandomFixedWindowSampler

    dataset = BrainPairs(data)
    sampler = RandomFixedWindowSampler(
        sampling_intervals=dataset.brain.get_sampling_intervals(), window_length=TOKENS.spikes.window_s
    )
    while True:
        loader = torch.utils.data.DataLoader(
            dataset, BATCH, sampler=sampler, num_workers=workers, collate_fn=packed, drop_last=True
        )
        for sides in loader:
            yield BATCH, sum(inputs.shape[0] * inputs.shape[1] for inputs, _, _ in sides)


def same_counts(data: Path) -> None:
    """Both ways see the same spikes, or there is nothing to compare."""
    from torch_brain.datasets import DatasetIndex

    from nuclr_cli.data.views import make_view

    brain = BrainPairs(data).brain
    for session in open_sessions(data):
        start_s = float(session.intervals[0, 0]) + 12.3
        index = DatasetIndex(session.path.stem, start_s, start_s + TOKENS.spikes.window_s)
        counts = brain[index].spikes_binned.binned_counts.T
        view = make_view(session, start_s, TOKENS)
        if not np.array_equal(counts[view.rows], view.inputs.reshape(-1, TOKENS.spikes.n_bins)):
            raise SystemExit(f"{session.path.name}: the two ways count other spikes")


def rate(
    way: Callable[[Path, int], Iterator[tuple[int, int]]], data: Path, workers: int, n: int
) -> tuple[float, float]:
    """Windows (pairs) and tokens a second, after the queues are full."""
    steps = way(data, workers)
    try:
        for _ in itertools.islice(steps, 2 * workers + 1):
            pass
        began = time.perf_counter()
        counted = list(itertools.islice(steps, n))
        seconds = time.perf_counter() - began
    finally:
        steps.close()  # type: ignore[attr-defined]
    return sum(w for w, _ in counted) / seconds, sum(t for _, t in counted) / seconds


def speeds(data: Path, n: int, repeats: int, workers: Sequence[int]) -> dict[str, Any]:
    """By number of loader processes: both ways' windows and tokens a second, and the ratio of windows."""
    same_counts(data)
    found: dict[str, Any] = {}
    for number in workers:
        pairs = []
        for repeat in range(repeats):
            first, second = (ours, theirs) if repeat % 2 else (theirs, ours)
            both = {first: rate(first, data, number, n), second: rate(second, data, number, n)}
            pairs.append((*both[ours], *both[theirs]))
        columns = list(zip(*pairs, strict=True))
        found[str(number)] = {
            "nuclr_windows": dataclasses.asdict(Quantiles.of(columns[0])),
            "nuclr_tokens": dataclasses.asdict(Quantiles.of(columns[1])),
            "torch_brain_windows": dataclasses.asdict(Quantiles.of(columns[2])),
            "ratio": dataclasses.asdict(Quantiles.of([a / b for a, _, b, _ in pairs])),
        }
    return found


@dataclass(frozen=True)
class Sized:
    """As much of a recording as its cost depends on."""

    n_units: int


def balance(batches: int) -> list[dict[str, Any]]:
    """The slowest rank's expected cost over the mean, median and 95 % over global batches."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(np.log(200.0), 0.8, 2000), 20, 2000).astype(int)
    views = ShareViews(
        tuple(Sized(int(n)) for n in sizes),  # type: ignore[arg-type]
        TOKENS,
        0,
        (0.5, 1.0),
        11,
        SETTINGS.train.max_tokens,
    )
    rows = []
    for world, windows in ((8, 128), (64, 128), (64, 1024)):
        dealt, possible, turns = [], [], []
        for _ in range(batches):
            drawn = rng.choice(len(sizes), windows)
            costs = [views.cost(Window(int(place), 0.0, "spikes")) for place in drawn]
            mean = sum(costs) / world
            dealt.append(max(sum(costs[i] for i in hand) for hand in deal_by_cost(costs, world)) / mean)
            possible.append(max(1.0, max(costs) / mean))
            turns.append(max(sum(costs[rank::world]) for rank in range(world)) / mean)
        rows.append(
            {
                "ranks": world,
                "windows": windows,
                "by_cost": np.percentile(dealt, [50, 95]).tolist(),
                "possible": np.percentile(possible, [50, 95]).tolist(),
                "by_turns": np.percentile(turns, [50, 95]).tolist(),
            }
        )
    return rows


def flop_per_token(units: float) -> float:
    """Floating-point operations of a training step for each token, by the formula in the result."""
    model = SETTINGS.model
    encoder = initial_model(SETTINGS).encoder
    weights = sum(parameter.numel() for parameter in encoder.parameters() if parameter.ndim == 2)
    layers = model.temporal_layers + model.spatiotemporal_layers
    attended = layers * TOKENS.spikes.n_patches + model.spatiotemporal_layers * units
    return 6.0 * weights + 12.0 * model.heads * model.head_dim * attended


def needs(cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Tokens a second that an H200 would take, and the loader processes of this machine that give them."""
    rows = []
    for name, case in cases.items():
        units = 0.75 * case["units"]  # the mean share that a view keeps
        one = case["speeds"]["1"]["nuclr_tokens"]["median"]
        for used in USED:
            tokens = used * H200_BF16 / flop_per_token(units)
            rows.append({"case": name, "used": used, "tokens": tokens, "processes": tokens / one})
    return rows


def report(record: dict[str, Any]) -> str:
    lines = [
        "# What loader processes deliver",
        "",
        f"`{record['command']}`",
        "",
        f"Preset `ephys`: pairs of {TOKENS.spikes.window_s:g} s windows at random places of random sessions, "
        f"{TOKENS.spikes.bin_s * 1e3:g} ms bins, {BATCH} pairs a step, files in the page cache. Simulated "
        f"sessions last {CASES['one probe, 250 units'].minutes:g} minutes, {MEAN_RATE_HZ:g} spikes a second "
        "and unit. torch_brain: its dataset, sampler and binning, with the second view, the unit dropout and "
        f"the packing of nuclr. Both by turns, {record['repeats']} times, {record['steps']} steps each; all "
        "counts of a window in each session are equal.",
        "",
    ]
    for name, case in record["cases"].items():
        for number, speed in case["speeds"].items():
            where = "in the training process" if number == "0" else f"{number} loader process(es)"
            lines += [
                f"**{name}, {where}**",
                "",
                *quantile_table(
                    {
                        "nuclr, windows a second": speed["nuclr_windows"],
                        "nuclr, million tokens a second": {
                            key: value / 1e6 for key, value in speed["nuclr_tokens"].items()
                        },
                        "torch_brain, windows a second": speed["torch_brain_windows"],
                        "nuclr / torch_brain": speed["ratio"],
                    }
                ),
                "",
            ]
    lines += [
        "## What one H200 would need: an estimate, not a measurement",
        "",
        f"A training step takes 6 W + 12 A (L P + S n) FLOP a token: W = "
        f"{record['weights'] / 1e6:.2f} M weights of the encoder's matrices, A = "
        f"{SETTINGS.model.heads * SETTINGS.model.head_dim} width of all heads, L = "
        f"{SETTINGS.model.temporal_layers + SETTINGS.model.spatiotemporal_layers} layers that attend over "
        f"P = {TOKENS.spikes.n_patches} patches, S = {SETTINGS.model.spatiotemporal_layers} of them also "
        "over n units; the loss is left out. Of the "
        f"{H200_BF16 / 1e12:.0f} TFLOP/s (dense bf16) that its maker names, a tenth or three tenths are "
        "assumed to be used. Processes: of the processor below, each as fast as one alone.",
        "",
        "| sessions | share used | million tokens a second | loader processes |",
        "|--|--|--|--|",
        *(
            f"| {row['case']} | {row['used']:.0%} | {row['tokens'] / 1e6:.1f} | {row['processes']:.0f} |"
            for row in record["needs"]
        ),
        "",
        "## How even the ranks are",
        "",
        "Expected cost of the slowest rank over the mean of all ranks (1 is perfect) in global batches; "
        "sessions of log-normal size (median 200 units, sigma 0.8, 20 to 2000), "
        f"{record['batches']} batches. By turns: window i to rank i modulo their number. Possible: a window "
        "is not cut, so no way of dealing is below the costliest window over the mean.",
        "",
        "| ranks | windows | by cost: median | 95 % | possible: median | 95 % | by turns: median | 95 % |",
        "|--|--|--|--|--|--|--|--|",
        *(
            f"| {row['ranks']} | {row['windows']} | **{row['by_cost'][0]:.3f}** | {row['by_cost'][1]:.3f} | "
            f"{row['possible'][0]:.3f} | {row['possible'][1]:.3f} | "
            f"{row['by_turns'][0]:.3f} | {row['by_turns'][1]:.3f} |"
            for row in record["balance"]
        ),
        "",
        f"Hardware: {record['machine']['processor']}, {record['machine']['cores']} cores, "
        f"{record['machine']['platform']}, load {record['machine']['load_average']} before. torch "
        f"{record['versions']['torch']}, torch_brain {record['versions']['torch_brain']}, nuclr "
        f"{record['versions']['nuclr']} (commit {record['commit']}), Python {record['versions']['python']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="too short to judge")
    parser.add_argument("--recordings", type=Path, help="flat folder of real session files, measured too")
    parser.add_argument("--recordings-name", default="real recordings", help="what to call them")
    parser.add_argument("--out", type=Path, help="folder for the results; without it they are only printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats, steps, batches = (1, 2, 20) if options.small else (options.repeats, 12, 300)
    workers = (0, 1) if options.small else (0, 1, 2)
    record: dict[str, Any] = {
        "benchmark": "loader",
        "command": f"python benchmarks/loader.py --repeats {repeats}"
        + (" --small" if options.small else "")
        + (" --recordings FOLDER" if options.recordings else "")
        + (" --out benchmarks/results" if options.out else ""),
        "machine": {**machine(), "cores": os.cpu_count()},
        "repeats": repeats,
        "steps": steps,
        "batches": batches,
        "versions": {
            "nuclr": nuclr_cli.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torch_brain": version("torch_brain"),
        },
        "commit": commit(),
        "weights": sum(p.numel() for p in initial_model(SETTINGS).encoder.parameters() if p.ndim == 2),
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, case) in enumerate(CASES.items()):
            if options.small:
                case = Case(2, case.units // 10, 2.0)
            data = make(Path(folder) / str(number), case)
            record["cases"][name] = {"units": case.units, "speeds": speeds(data, steps, repeats, workers)}
    if options.recordings is not None:
        units = float(np.mean([session.n_units for session in open_sessions(options.recordings)]))
        record["cases"][f"{options.recordings_name}, {units:.0f} units"] = {
            "units": units,
            "speeds": speeds(options.recordings, steps, repeats, workers),
        }
    record["needs"] = needs(record["cases"])
    record["balance"] = balance(batches)
    text = report(record)
    print(text)
    if options.out is not None:
        write_result(options.out, "loader", record, text)


if __name__ == "__main__":
    main()
