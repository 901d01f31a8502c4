"""`train.compile` changes no number beyond rounding and no name; `train.tf32` is what training runs with."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nuclr_cli.workflows.devices import Device, float32_products
from nuclr_cli.workflows.metrics_log import read_metrics
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.reporting import SilentReporter
from nuclr_kernels.float32_precision import float32_precision

SETTINGS = {
    "train.steps": 4,
    "train.log_every": 1,
    "train.batch_windows": 2,
    "model.dim": 16,
    "model.heads": 2,
    "model.head_dim": 8,
}


def train(data: Path, runs: Path, name: str, **changes: object) -> Path:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return pretrain(PretrainConfig(data, runs, name, "tiny", {**SETTINGS, **keys}, gpus=0)).run


class Notes(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.slow
def test_a_compiled_run_is_the_run_to_rounding(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    counters.clear()
    trained = partial(both_ways, tiny_data, tmp_path)
    for tokens in ("events", "counts"):
        trained({"model.tokens": tokens})
    # The function that tries the compiler, and one program for every layer, size of batch and kind of token.
    assert counters["stats"]["calls_captured"] > 20
    assert counters["stats"]["unique_graphs"] <= 3
    assert not counters["graph_break"]
    # The same masks in the forward pass and in the one that is done again.
    trained({"model.dropout": 0.2, "train.recompute": "gates", "train.ema": 0.9})
    assert not [str(warning.message) for warning in recwarn if "Torchinductor" in str(warning.message)]


def both_ways(data: Path, runs: Path, changes: dict[str, Any]) -> None:
    """Train with and without a compiler; the runs must agree."""
    name = "-".join(str(value) for value in changes.values())
    settings = {**SETTINGS, **changes}
    plain = pretrain(PretrainConfig(data, runs, f"plain-{name}", "tiny", settings, gpus=0)).run
    said = Notes()
    settings["train.compile"] = True
    compiled = pretrain(PretrainConfig(data, runs, f"compiled-{name}", "tiny", settings, gpus=0), said).run
    assert [text for text in said.said if "the first step takes up to a minute longer" in text]
    assert_same_to_rounding(compiled, plain, ("model", "average") if "train.ema" in changes else ("model",))


def assert_same_to_rounding(compiled: Path, plain: Path, weights: tuple[str, ...]) -> None:
    for found, expected in zip(
        read_metrics(compiled / "metrics.jsonl"), read_metrics(plain / "metrics.jsonl"), strict=True
    ):
        for key in ("loss", "grad_norm", "rankme"):
            assert found[key] == pytest.approx(expected[key], rel=1e-4), key
        assert found["pairs"] == expected["pairs"]
    for file in (*weights, "optimizer"):
        path = f"checkpoints/step-00000004/{file}.safetensors"
        own, same = load_file(compiled / path), load_file(plain / path)
        assert own.keys() == same.keys()
        apart = {name: (own[name] - tensor).abs().flatten() for name, tensor in same.items()}
        if file == "optimizer":
            assert max(float(tensor.max()) for tensor in apart.values()) < 1e-6
        else:
            # Adam divides by the gradient's size. Attention has biases whose gradient is rounding alone, and
            # steps of these few may go anywhere.
            assert float(torch.cat([*apart.values()]).mean()) < 1e-6


WITHOUT_COMPILER = """
import sys
from pathlib import Path
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_cli.workflows.reporting import SilentReporter

class Loud(SilentReporter):
    def warn(self, text):
        print(text)

settings = dict(item.split("=") for item in sys.argv[3:])
pretrain(PretrainConfig(Path(sys.argv[1]), Path(sys.argv[2]), "run", "tiny", settings, gpus=0), Loud())
"""


def test_without_a_compiler_the_run_goes_on_and_says_so(tiny_data: Path, tmp_path: Path) -> None:
    settings = [f"{key}={value}" for key, value in {**SETTINGS, "train.compile": True}.items()]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER, tiny_data, tmp_path, *settings],
        capture_output=True,
        text=True,
        env={**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stdout.splitlines() if "train.compile" in line]
    assert "the run goes on uncompiled" in said
    assert "/no/such/compiler" in said
    assert "sudo apt install g++" in said
    plain = train(tiny_data, tmp_path, "plain")
    path = "checkpoints/step-00000004/model.safetensors"
    assert (tmp_path / "run" / path).read_bytes() == (plain / path).read_bytes()


@pytest.mark.parametrize("before", ["high", "highest"])
def test_tf32_is_what_the_setting_says_and_what_it_was_afterwards(before: str) -> None:
    gpu, cpu = Device("cuda", "a GPU"), Device("cpu", "a CPU")
    of = {"high": "tf32", "highest": "ieee"}
    own = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(before)
        for tf32, inside in ((True, "tf32"), (False, "ieee")):
            with float32_products(gpu, tf32=tf32):
                assert float32_precision() == inside
            assert float32_precision() == of[before]
            with pytest.raises(ZeroDivisionError), float32_products(gpu, tf32=tf32):
                raise ZeroDivisionError
            assert float32_precision() == of[before]
            with float32_products(cpu, tf32=tf32):
                assert float32_precision() == of[before]
    finally:
        torch.set_float32_matmul_precision(own)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tokens", ["counts", "events"])
def test_a_compiled_run_on_a_gpu_is_the_run_to_rounding(tiny_data: Path, tmp_path: Path, tokens: str) -> None:
    runs = {}
    for compiled in (False, True):
        more = {"model.tokens": tokens, "model.dropout": 0.0, "train.precision": "fp32"}
        settings = {**SETTINGS, **more, "train.compile": compiled}
        runs[compiled] = pretrain(
            PretrainConfig(tiny_data, tmp_path, f"{compiled}", "tiny", settings, gpus=1)
        )
    losses = [[row["loss"] for row in read_metrics(one.run / "metrics.jsonl")] for one in runs.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 is of GPUs")
def test_training_on_a_gpu_rounds_to_tf32_where_it_is_asked_for(tiny_data: Path, tmp_path: Path) -> None:
    losses = {}
    for tf32 in (False, True):
        settings = {**SETTINGS, "train.precision": "fp32", "train.tf32": tf32}
        run = pretrain(PretrainConfig(tiny_data, tmp_path, f"tf32-{tf32}", "tiny", settings, gpus=1)).run
        losses[tf32] = [row["loss"] for row in read_metrics(run / "metrics.jsonl")]
        assert float32_precision() == "ieee"
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=1e-2)
