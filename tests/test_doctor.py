"""`nuclr doctor`: what it says of this machine, and that it notices an operation that computes nonsense."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from nuclr_cli.cli.app import app
from nuclr_kernels import self_test


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_it_tells_versions_devices_operations_and_plugins() -> None:
    result = run("--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    versions = {package["name"]: package["version"] for package in record["packages"]}
    assert versions["torch"] == torch.__version__
    assert versions["suite2p"] is None or isinstance(versions["suite2p"], str)
    assert bool(record["gpus"]) == torch.cuda.is_available()
    operations = {check["operation"] for check in record["operations"]}
    assert operations >= {"population_attention", "temporal_attention", "contrastive_loss"}
    assert all(0 < check["error"] <= check["tolerance"] for check in record["operations"])
    assert {plugin["name"] for plugin in record["plugins"]} >= {"spikeinterface", "suite2p", "nwb"}


def test_it_says_why_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUCLR_KERNELS", "reference")
    record = json.loads(run("--json").stdout)
    assert {(check["path"], check["reason"]) for check in record["operations"]} == {
        ("reference", "NUCLR_KERNELS=reference")
    }


def test_an_unknown_wish_for_kernels_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUCLR_KERNELS", "fast")
    result = run()
    assert result.exit_code == 3
    assert "NUCLR_KERNELS is 'fast'" in result.stderr
    assert "'reference' or 'triton'" in result.stderr


@pytest.mark.parametrize("wrong", [0.99, float("nan")])
def test_a_wrong_operation_is_found(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    right = self_test.temporal_attention
    monkeypatch.setattr(self_test, "temporal_attention", lambda *tensors: wrong * right(*tensors))
    result = run("--json")
    assert result.exit_code == 1
    assert "temporal_attention" in result.stderr
    assert "NUCLR_KERNELS=reference" in result.stderr
    assert "population_attention" not in result.stderr


def test_an_operation_that_cannot_run_is_told_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(self_test, "population_attention", broken)
    result = run()
    assert result.exit_code == 1
    assert "RuntimeError: no kernel image is available" in " ".join(result.stderr.split())
