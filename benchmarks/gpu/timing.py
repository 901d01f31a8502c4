"""Times and memory of device work: medians of events, rotated inputs, peak memory beyond the inputs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Timing:
    """Of one variant.

    Attributes:
        ms: Median of the repeats, milliseconds.
        low_ms, high_ms: Their 20th and 80th percentile.
        repeats: How many there were.
        extra_bytes: Peak memory of one call beyond what was allocated before it; None on a CPU.
    """

    ms: float
    low_ms: float
    high_ms: float
    repeats: int
    extra_bytes: int | None


def measure(calls: Sequence[Callable[[], object]], *, budget_s: float = 1.0, least: int = 5) -> Timing:
    """Time a call that does the same work on different inputs, in turn, so that no input stays in a cache.

    Args:
        calls: The variants of the call; all do equal work.
        budget_s: About how long to measure, compilation and warm-up aside.
        least: Fewest repeats.
    """
    cuda = torch.cuda.is_available()
    extra = None
    for call in calls:
        call()
    if cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        calls[0]()
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
    began = time.perf_counter()
    calls[-1]()
    if cuda:
        torch.cuda.synchronize()
    once = max(time.perf_counter() - began, 1e-6)
    repeats = max(least, min(200, int(budget_s / once)))
    times = _cuda_times(calls, repeats, once) if cuda else _cpu_times(calls, repeats)
    cut = statistics.quantiles(times, n=5)
    return Timing(statistics.median(times), cut[0], cut[3], repeats, extra)


def _cpu_times(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    times = []
    for number in range(repeats):
        began = time.perf_counter()
        calls[number % len(calls)]()
        times.append(1e3 * (time.perf_counter() - began))
    return times


def _cuda_times(calls: Sequence[Callable[[], object]], repeats: int, once_s: float) -> list[float]:
    """By events; of calls so short that launching them takes as long, many to an event."""
    inner = 1 if once_s > 2e-3 else 20
    for number in range(3):  # clocks come up
        calls[number % len(calls)]()
    times = []
    for _ in range(max(5, repeats // inner)):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for number in range(inner):
            calls[number % len(calls)]()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / inner)
    return times


def copy_bandwidth(n_bytes: int = 1 << 30) -> float:
    """Bytes a second that a copy reads and writes, in all: what a memory-bound kernel is held against."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = torch.empty(n_bytes // 4, device=device).fill_(1.0)
    target = torch.empty_like(source)
    timing = measure([lambda: target.copy_(source)], budget_s=0.3)
    return 2 * n_bytes / (timing.ms / 1e3)


def backward_of(out: Tensor, inputs: Sequence[Tensor], weight: Tensor) -> Callable[[], object]:
    """A call of the backward pass of `out` alone, again and again."""
    return lambda: torch.autograd.grad(out, inputs, weight, retain_graph=True)
