"""Time one training step (forward, loss, backward, AdamW) of the `ephys` preset: packed against padded
populations.

Packed is what nuclr trains with: populations one after the other, nothing padded. Padded is the obvious
alternative: the same weights on (samples, most units) tensors with padded keys masked in the population
attention. Both run in the same process, in turn, so that whatever else the machine does hits both alike; the
figure to read is the ratio. Both also keep freed memory, as `nuclr pretrain` does on a CPU; what that gives
is measured in processes of their own.

    python benchmarks/train_step.py --threads 2 --repeats 9 --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from nuclr_cli.model import DecoupledContrastiveLoss, Encoder, ModelConfig
from nuclr_cli.model.blocks import Attention, AttentionPair
from nuclr_cli.workflows.freed_memory import keep_freed_memory
from nuclr_kernels import temporal_attention

SAMPLES = 16
KINDS_OF_WORK = {
    "matrix products": (r"aten::(add|b)?mm$",),
    "attention": ("scaled_dot_product",),
    "drawing dropout masks": ("bernoulli", "aten::random_", r"aten::ge$"),
    "copies": ("aten::cat", "aten::copy_", "aten::fill_", "aten::zero_"),
    "activation and normalisation": ("gelu", "layer_norm"),
    "gates, masks and scales": (r"aten::mul_?$",),
    "optimiser": ("_foreach", "addcmul", "addcdiv", "lerp"),
}
ALLOCATORS = ("default", "kept")
SIZES = {"ragged 20-100": (20, 100), "equal 60": (60, 60)}


@dataclass(frozen=True)
class Batch:
    """Two views of `SAMPLES` windows, view 2 after view 1 along the unit axis.

    Attributes:
        inputs: (U, 10, 50) float32 spike counts.
        ids: (U,) int64 unit ids.
        units: (2 * SAMPLES,) int64 units of each population.
    """

    inputs: Tensor
    ids: Tensor
    units: Tensor


@dataclass(frozen=True)
class Timing:
    """Quartiles of the seconds a step takes."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Packed against padded on one kind of batch.

    Attributes:
        packed, padded: Wall-clock seconds.
        ratio: Median over rounds of padded / packed, in wall-clock time.
        cpu_ratio: The same in processor time, which other programs on the machine disturb less.
    """

    case: str
    units: int
    padded_units: int
    packed: Timing
    padded: Timing
    ratio: float
    cpu_ratio: float


@dataclass(frozen=True)
class AllocatorTiming:
    """A packed step on the ragged batch in a process of its own.

    Attributes:
        page_faults: Median of a step.
        peak_mb: Peak memory of the process, in MB (1e6 bytes).
    """

    allocator: str
    step: Timing
    page_faults: int
    peak_mb: int


def make_batch(least: int, most: int, seed: int) -> Batch:
    """Draw view sizes between `least` and `most` from recordings of 100 units."""
    generator = torch.Generator().manual_seed(seed)
    units = torch.randint(least, most + 1, (2 * SAMPLES,), generator=generator)
    ids = torch.cat([torch.randperm(100, generator=generator)[: int(n)] for n in units])
    rates = torch.rand((len(ids), 1, 1), generator=generator) * 0.4
    inputs = torch.poisson(rates.expand(-1, 10, 50), generator=generator)
    return Batch(inputs, ids, units)


class PaddedEncoder(nn.Module):
    """The same encoder on padded populations: every layer also works on the padding."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor, units: Tensor) -> Tensor:
        """(U, L, samples) to (U, D), padded in between."""
        most = int(units.max())
        present = torch.arange(most) < units[:, None]
        rows = torch.nonzero(present.flatten()).squeeze(1)
        padded = inputs.new_zeros(present.numel(), *inputs.shape[1:]).index_copy(0, rows, inputs)
        cos, sin = self.encoder.rotary["counts"](inputs.shape[1])
        mask = present[:, None, None, None, :]

        def temporal(qkv: Tensor) -> Tensor:
            return temporal_attention(qkv, cos, sin)

        def population(qkv: Tensor) -> Tensor:
            query, key, value = qkv.unflatten(0, (-1, most)).permute(3, 0, 2, 4, 1, 5).unbind(0)
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            return attended.permute(0, 3, 1, 2, 4).flatten(0, 1)

        x = self.encoder.patches["counts"](padded)
        for block in self.encoder.temporal_blocks:
            x = _pair(block.temporal, x, temporal)
        for block in self.encoder.spatiotemporal_blocks:
            x = _pair(block.population, x, population)
            x = _pair(block.temporal, x, temporal)
        return x.mean(dim=1)[rows]


def _pair(pair: AttentionPair, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    layer: Attention = pair.attention
    qkv = layer.qkv(layer.norm(x)).unflatten(-1, layer.heads)
    x = x + pair.dropout(layer.out(attend(qkv).flatten(-2)))
    return x + pair.dropout(pair.feed_forward(x))


def make_step(encoder: Encoder, run: nn.Module, batch: Batch) -> Callable[[], float]:
    """Return a function that takes one training step and returns the loss."""
    loss = DecoupledContrastiveLoss(encoder.config.dim)
    parameters = [*encoder.parameters(), *loss.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    first, second = batch.units.chunk(2)
    n_first = int(first.sum())

    def step() -> float:
        z = run(batch.inputs, batch.units)
        ids1, ids2 = batch.ids[:n_first], batch.ids[n_first:]
        terms = loss(z[:n_first], z[n_first:], ids1, ids2, first, second)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        return terms.total.item()

    return step


def check_agreement(encoder: Encoder, batch: Batch) -> None:
    """Stop if the two ways do not compute the same embeddings: a speed would then mean nothing."""
    encoder.eval()
    with torch.no_grad():
        packed, padded = encoder(batch.inputs, batch.units), PaddedEncoder(encoder)(batch.inputs, batch.units)
    encoder.train()
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def compare(case: str, repeats: int) -> Comparison:
    """Time both ways in turn."""
    torch.manual_seed(0)
    batch = make_batch(*SIZES[case], seed=1)
    encoder = Encoder(ModelConfig())
    check_agreement(encoder, batch)
    steps = {
        "packed": make_step(encoder, encoder, batch),
        "padded": make_step(encoder, PaddedEncoder(encoder), batch),
    }
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for done in range(repeats):
        for name in sorted(steps, reverse=bool(done % 2)):  # either way goes first as often as the other
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            steps[name]()
            wall[name].append(time.perf_counter() - wall_start)
            cpu[name].append(time.process_time() - cpu_start)
        last = ", ".join(f"{name} {wall[name][-1]:.2f} s (CPU {cpu[name][-1]:.2f} s)" for name in steps)
        print(f"{case}, round {done + 1} of {repeats}: {last}", file=sys.stderr)
    return Comparison(
        case,
        int(batch.units.sum()),
        int(batch.units.max()) * len(batch.units),
        _quartiles(wall["packed"]),
        _quartiles(wall["padded"]),
        _median_ratio(wall["padded"], wall["packed"]),
        _median_ratio(cpu["padded"], cpu["packed"]),
    )


def time_allocator(name: str, repeats: int) -> AllocatorTiming:
    """Time a packed step on the ragged batch in this process."""
    if name == "kept" and not keep_freed_memory():
        raise SystemExit("this machine's C library has no such setting, or MALLOC_* is set")
    torch.manual_seed(0)
    encoder = Encoder(ModelConfig())
    step = make_step(encoder, encoder, make_batch(*SIZES["ragged 20-100"], seed=1))
    step()
    seconds, faults = [], []
    for _ in range(repeats):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        step()
        seconds.append(time.perf_counter() - start)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    status = Path("/proc/self/status").read_text()  # not ru_maxrss: a child inherits its parent's
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    peak = peak_kb * 1024 // 10**6
    return AllocatorTiming(name, _quartiles(seconds), round(statistics.median(faults)), peak)


def compare_allocators(threads: int, repeats: int) -> list[AllocatorTiming]:
    """Freed memory returned and kept, each in a fresh process."""
    found = []
    for name in ALLOCATORS:
        command = [sys.executable, __file__, "--threads", str(threads), "--repeats", str(repeats)]
        done = subprocess.run([*command, "--allocator", name], capture_output=True, text=True, check=True)
        timing = json.loads(done.stdout)
        found.append(AllocatorTiming(**{**timing, "step": Timing(**timing["step"])}))
        print(f"allocator {name}: {found[-1].step.median:.2f} s", file=sys.stderr)
    return found


def _median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _quartiles(values: list[float]) -> Timing:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(low, median, high)


def profile_tables(rows: int) -> str:
    """Where a packed step on the ragged batch spends its time, by kind of work and by operator."""
    torch.manual_seed(0)
    encoder = Encoder(ModelConfig())
    step = make_step(encoder, encoder, make_batch(*SIZES["ragged 20-100"], seed=1))
    step()
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        step()
    events = sorted(prof.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    shares = dict.fromkeys((*KINDS_OF_WORK, "everything else"), 0.0)
    for event in events:
        kinds = [
            kind for kind, parts in KINDS_OF_WORK.items() if any(re.search(part, event.key) for part in parts)
        ]
        shares[(*kinds, "everything else")[0]] += event.self_cpu_time_total / total
    lines = [
        "| work | share |",
        "|---|---|",
        *(f"| {kind} | {share:.1%} |" for kind, share in shares.items()),
    ]
    lines += ["", "| operator | calls | ms | share |", "|---|---|---|---|"]
    for event in events[:rows]:
        spent = event.self_cpu_time_total
        lines.append(f"| `{event.key}` | {event.count} | {spent / 1e3:.1f} | {spent / total:.1%} |")
    return "\n".join(lines)


def machine() -> dict[str, str]:
    """Hardware and versions a reader needs to judge the numbers."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "cpu": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "commit": commit.stdout.strip() or "unknown",
    }


def report(
    results: list[Comparison],
    allocators: list[AllocatorTiming],
    facts: dict[str, str],
    table: str,
    command: str,
) -> str:
    """The results as Markdown."""
    lines = [
        "# One training step on the CPU: packed against padded populations",
        "",
        f"`{command}`",
        "",
        f"{SAMPLES} windows x 2 views, `ephys` preset (width 256, 4 heads x 64, 2 + 2 layers, 10 patches of",
        "50 bins), float32, dropout on; forward, loss, backward and AdamW. Seconds: median (quartiles) of",
        "interleaved rounds; ratio: median over rounds of padded / packed, so above 1 packed is faster. The",
        "processor-time ratio is the one to trust where other programs ran beside.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        "| batch | units | padded units | packed s | padded s | ratio | ratio, processor time |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        packed, padded = (
            f"{t.median:.2f} ({t.low:.2f}-{t.high:.2f})" for t in (result.packed, result.padded)
        )
        units = f"{result.units} | {result.padded_units}"
        ratios = f"{result.ratio:.2f} | {result.cpu_ratio:.2f}"
        lines.append(f"| {result.case} | {units} | {packed} | {padded} | {ratios} |")
    lines += [
        "",
        "## Freed memory, returned to the system and kept",
        "",
        "Packed step on the ragged batch, each row in a fresh process. `kept` is what `nuclr pretrain` does.",
        "",
        "| freed memory | step s | page faults a step | peak memory |",
        "|---|---|---|---|",
    ]
    for one in allocators:
        seconds = f"{one.step.median:.2f} ({one.step.low:.2f}-{one.step.high:.2f})"
        lines.append(f"| {one.allocator} | {seconds} | {one.page_faults} | {one.peak_mb} MB |")
    lines += ["", "## Where a packed step on the ragged batch spends its time", "", table, ""]
    return "\n".join(lines)


def main() -> None:
    """Run, print, and write `train_step.md` and `train_step.json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder for the results; without it they are only printed")
    parser.add_argument(
        "--allocator", choices=ALLOCATORS, help="time only a packed step in this process and print it as JSON"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.allocator is not None:
        print(json.dumps(asdict(time_allocator(arguments.allocator, arguments.repeats))))
        return
    allocators = compare_allocators(arguments.threads, arguments.repeats)
    keep_freed_memory()
    results = [compare(case, arguments.repeats) for case in SIZES]
    facts = machine()
    command = f"python benchmarks/train_step.py --threads {arguments.threads} --repeats {arguments.repeats}"
    command += "" if arguments.out is None else f" --out {arguments.out}"
    text = report(results, allocators, facts, profile_tables(rows=12), command)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "train_step.md").write_text(text)
        record = {"command": command, "machine": facts, "results": [asdict(result) for result in results]}
        record["allocators"] = [asdict(one) for one in allocators]
        (arguments.out / "train_step.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
