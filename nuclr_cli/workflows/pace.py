"""How fast a run goes, and how much memory it takes: for a row of the metrics and for the progress line."""

from __future__ import annotations

import sys

import torch

from nuclr_cli.data.batch import PairBatch
from nuclr_cli.model.flops import peak_tflops, training_flops
from nuclr_cli.workflows.pair_model import token_kind
from nuclr_cli.workflows.presets import PretrainSettings


class Pace:
    """Adds up what steps took, from row to row.

    Args:
        settings: Of the run.
        device: Of this process.
        world: Processes that train together, each on a device like this one.
    """

    def __init__(self, settings: PretrainSettings, device: torch.device, world: int) -> None:
        self._device, self._peak = device, _peak(settings, device)
        self._world = world
        self._said = ""
        self._begin()

    def _begin(self) -> None:
        self._waited_s = self._worked_s = 0.0
        self._units = self._tokens = self._steps = 0
        self._flops = 0.0

    def add(self, waited_s: float, worked_s: float, units: int, tokens: int, flops: float) -> None:
        """Count a step: seconds it waited for data and computed, and what all ranks did in it."""
        self._waited_s += waited_s
        self._worked_s += worked_s
        self._units += units
        self._tokens += tokens
        self._flops += flops
        self._steps += 1

    def numbers(self) -> dict[str, float | int]:
        """Numbers since the last call, per second of all ranks together; then counting begins anew.

        ``mfu`` is there only where the peak of the device is known, ``peak_memory_bytes`` (of this process:
        allocated on the GPU, or resident) only where the system says it.
        """
        elapsed = self._waited_s + self._worked_s
        found: dict[str, float | int] = {
            "units_per_s": self._units / elapsed,
            "tokens_per_s": self._tokens / elapsed,
            "wait_share": self._waited_s / elapsed,
            "step_s": elapsed / self._steps,
        }
        if self._peak is not None:
            found["mfu"] = self._flops / (elapsed * self._peak * self._world)
        memory = peak_memory_bytes(self._device)
        if memory is not None:
            found["peak_memory_bytes"] = memory
        self._said = _said(found)
        self._begin()
        return found

    def said(self, loss: float | None) -> str:
        """What stands beside the progress: the loss of this step, and the numbers of the newest row."""
        return ", ".join(part for part in ("" if loss is None else f"loss {loss:.3f}", self._said) if part)


def batch_flops(settings: PretrainSettings, batch: PairBatch) -> int:
    """Operations that training on a micro-batch takes."""
    views = (batch.view1, batch.view2)
    units = [n for view in views for n in view.units_per_population.tolist()]
    spikes = sum(len(view.inputs) for view in views if view.spikes_per_unit is not None)
    return training_flops(settings.model, settings.loss, token_kind(batch.view1), units, spikes)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory that this process has had at a time, on its GPU, else resident; None = unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _peak(settings: PretrainSettings, device: torch.device) -> float | None:
    """FLOP/s of one device at the precision of the run; None = not known: no guess."""
    train = settings.train
    if train.peak_tflops is not None:
        return train.peak_tflops * 1e12
    if device.type != "cuda" or train.precision not in ("auto", "bf16"):
        return None
    known = peak_tflops(torch.cuda.get_device_name(device))
    return None if known is None else known * 1e12


def _said(numbers: dict[str, float | int]) -> str:
    parts = [f"{_short(numbers['tokens_per_s'])} tokens/s"]
    if "mfu" in numbers:
        parts.append(f"MFU {numbers['mfu']:.1%}")
    if "peak_memory_bytes" in numbers:
        parts.append(f"{numbers['peak_memory_bytes'] / 1e9:.3g} GB")
    return ", ".join(parts)


def _short(value: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"
