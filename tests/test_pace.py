"""Speed, use of the device, memory and time left, in the metrics and beside the progress."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nuclr_cli.cli.console import _PlainProgress
from nuclr_cli.errors import InputError
from nuclr_cli.model.config import LossConfig, ModelConfig
from nuclr_cli.model.encoder import Encoder
from nuclr_cli.model.flops import peak_tflops, training_flops
from nuclr_cli.model.losses import build_loss
from nuclr_cli.workflows.pace import Pace
from nuclr_cli.workflows.presets import preset_settings, with_changes

SMALL = ModelConfig(
    dim=24, heads=3, head_dim=6, temporal_layers=2, spatiotemporal_layers=1, ffn_mult=3, dropout=0.0,
    counts_samples=7, counts_patches=5, calcium_samples=4, calcium_patches=6, events_latents=4,
    tokens=("counts", "calcium"),
)  # fmt: skip


def counted(work: Callable[[], torch.Tensor]) -> int:
    """What PyTorch counts in a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work().sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("kind", ["counts", "calcium"])
@pytest.mark.parametrize("units", [[9], [3, 11, 1, 6]])
@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(name="vicreg", projector_mult=2)])
def test_operations_are_those_that_pytorch_counts(
    kind: Any, units: list[int], loss: LossConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUCLR_KERNELS", "reference")
    encoder = Encoder(SMALL)
    projector = build_loss(loss, SMALL.dim).projector
    inputs = torch.randn(sum(units), SMALL.patches(kind), SMALL.samples(kind))
    found = counted(lambda: projector(encoder(inputs, units, kind)))
    assert training_flops(SMALL, loss, kind, units) == found


def test_operations_of_events_without_a_spike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latents' layers alone; the first query is made of zeros, which need no gradient."""
    monkeypatch.setenv("NUCLR_KERNELS", "reference")
    config = dataclasses.replace(SMALL, tokens=("events",))
    encoder, projector = Encoder(config), build_loss(LossConfig(), config.dim).projector
    units = [4, 7]
    found = counted(
        lambda: projector(encoder(torch.zeros(0), torch.zeros(11, dtype=torch.int64), torch.tensor(units)))
    )
    assert training_flops(config, LossConfig(), "events", units) == pytest.approx(found, rel=0.03)
    # A spike is read by every latent of every head in the first reading and in each of four pairs of layers.
    per_spike = training_flops(config, LossConfig(), "events", units, 10) - training_flops(
        config, LossConfig(), "events", units
    )
    turning = round(config.head_dim * config.rotary_fraction) // 2
    assert per_spike == 10 * 2 * (4 + 1) * 8 * 4 * 3 * turning


def test_peaks_are_known_or_not_guessed() -> None:
    assert peak_tflops("NVIDIA H200") == peak_tflops("NVIDIA H100 80GB HBM3") == 989
    assert peak_tflops("NVIDIA H100 PCIe") == 756
    assert peak_tflops("NVIDIA A100-SXM4-40GB") == 312
    assert peak_tflops("NVIDIA GeForce GT 710") is None


def test_a_row_sums_up_the_steps_since_the_last_one() -> None:
    settings = preset_settings("tiny")
    plain = Pace(settings, torch.device("cpu"), 1)
    plain.add(1.0, 3.0, 10, 100, 1e12)
    plain.add(1.0, 3.0, 30, 300, 3e12)
    row = plain.numbers()
    assert (row["units_per_s"], row["tokens_per_s"], row["wait_share"], row["step_s"]) == (5, 50, 0.25, 4)
    assert "mfu" not in row  # nobody knows a CPU's peak
    assert 20e6 < row["peak_memory_bytes"] < 1e12
    assert re.fullmatch(r"loss 1\.500, 50 tokens/s, [\d.e+]+ GB", plain.said(1.5))
    plain.add(0.0, 1.0, 1, 2_500_000, 0.0)
    assert plain.numbers()["tokens_per_s"] == 2_500_000
    assert plain.said(None).startswith("2.5M tokens/s")

    told = Pace(with_changes(settings, {"train.peak_tflops": 2}), torch.device("cpu"), 4)
    told.add(0.5, 0.5, 1, 1, 2e12)
    assert told.numbers()["mfu"] == 0.25
    assert "MFU 25.0%" in told.said(None)
    with pytest.raises(InputError, match="peak_tflops"):
        with_changes(settings, {"train.peak_tflops": 0})


def test_plain_lines_say_what_is_left_of_a_resumed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of an earlier process took no time of this one."""
    clock = [100.0]
    monkeypatch.setattr("nuclr_cli.cli.console.time.monotonic", lambda: clock[0])
    lines: list[str] = []
    progress = _PlainProgress(lines.append, "pretrain", 50_000, "steps", 40_000)
    clock[0] += 10.0
    progress.update(40_020, "loss 1.0")
    assert lines == ["pretrain: 40020/50000 steps, 2 steps/s, 83 min left, loss 1.0"]
    clock[0] += 1.0
    progress.update(40_022, "loss 0.9")
    progress.close()
    assert lines[1] == "pretrain: 40022/50000 steps, 2 steps/s, 83 min left, loss 0.9"
    short = _PlainProgress(lines.append, "embed", 10, "sessions")
    clock[0] += 6.0
    short.update(1)
    assert lines[2] == "embed: 1/10 sessions, 0.167 sessions/s, 54 s left"


def test_a_day_in_a_batch_log_is_four_lines_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("nuclr_cli.cli.console.time.monotonic", lambda: clock[0])
    lines: list[str] = []
    progress = _PlainProgress(lines.append, "pretrain", 86_400, "steps")
    for second in range(1, 86_401):
        clock[0] += 1.0
        progress.update(second)
        if second == 60:
            assert len(lines) == 12
    assert 5700 <= len(lines) < 5800


@pytest.mark.gpu
def test_a_gpu_s_use_and_memory(nuclr: Callable[..., Any], tiny_data: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    done = nuclr(
        "pretrain",
        tiny_data,
        "--runs",
        tmp_path,
        "--name",
        "r",
        "--preset",
        "tiny",
        "--steps",
        20,
        "--gpus",
        1,
    )
    assert done.code == 0, done.err
    row = json.loads((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[-1])
    known = peak_tflops(torch.cuda.get_device_name()) is not None
    assert ("mfu" in row) == known
    assert not known or 0 < row["mfu"] < 1
    assert 1e6 < row["peak_memory_bytes"] < torch.cuda.get_device_properties(0).total_memory
    assert ("MFU" in done.err) == known
