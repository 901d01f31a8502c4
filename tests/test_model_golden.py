"""The encoder and loss against numbers of the official implementation (nerdslab/nuclr), both passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from nuclr_cli.model import (
    DecoupledContrastiveLoss,
    Encoder,
    LossTerms,
    encoder_from_reference,
    loss_from_reference,
)
from nuclr_cli.model.reference_weights import _official_name

GOLDEN = Path(__file__).parent / "golden"
Kind = Literal["counts", "calcium"]
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]


@dataclass(frozen=True)
class Run:
    golden: dict[str, np.ndarray]
    encoder: Encoder
    loss: DecoupledContrastiveLoss
    z1: Tensor
    z2: Tensor
    terms: LossTerms


def part(golden: dict[str, np.ndarray], prefix: str, only: str = "") -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix + only)
    }


def run(
    kind: Kind, dtype: torch.dtype, *, stored_inputs: bool, device: str = "cpu", index_device: str = "cpu"
) -> Run:
    """Both passes. The calcium inputs are six-decimal numbers: the official embeddings, losses and their
    gradients come from those, the norms of the parameters' gradients from the float32 ones that are stored.
    """
    with np.load(GOLDEN / f"{'ephys' if kind == 'counts' else 'calcium'}_small.npz") as file:
        golden = dict(file)
    encoder = encoder_from_reference(part(golden, "encoder."), kind, heads=2, head_dim=16).to(device, dtype)
    loss = loss_from_reference(part(golden, "loss.", only="projector.")).to(device, dtype)
    units = torch.from_numpy(golden["units_per_sample"]).to(index_device)
    inputs = [golden[f"view{view}.input"].astype(np.float64) for view in (1, 2)]
    if not stored_inputs:
        inputs = [array.round(6) for array in inputs]
    z1, z2 = (encoder(torch.from_numpy(array).to(device), units, kind) for array in inputs)
    z1.retain_grad()
    z2.retain_grad()
    ids1, ids2 = (torch.from_numpy(golden[f"view{view}.unit_ids"]).to(index_device) for view in (1, 2))
    terms = loss(z1, z2, ids1, ids2, units, units)
    terms.total.backward()
    return Run(golden, encoder, loss, z1, z2, terms)


def error(found: Tensor | float, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected, absolute below a norm of 1e-3."""
    found64 = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found, dtype=np.float64)
    return float(np.linalg.norm(found64 - expected) / max(np.linalg.norm(expected), 1e-3))


@pytest.fixture(scope="module", params=["counts", "calcium"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="module", params=PRECISIONS, ids=str)
def case(request: pytest.FixtureRequest, kind: Kind) -> tuple[Run, float]:
    dtype, tolerance = request.param
    return run(kind, dtype, stored_inputs=False), tolerance


def test_embeddings(case: tuple[Run, float]) -> None:
    found, tolerance = case
    assert error(found.z1, found.golden["view1.embedding"]) < tolerance
    assert error(found.z2, found.golden["view2.embedding"]) < tolerance


def test_loss_terms(case: tuple[Run, float]) -> None:
    found, tolerance = case
    for name in ("total", "numerator", "denominator"):
        expected = float(found.golden[f"loss.{name}"])
        assert getattr(found.terms, name).item() == pytest.approx(expected, rel=tolerance, abs=tolerance), (
            name
        )


def test_gradients_of_embeddings(case: tuple[Run, float]) -> None:
    found, tolerance = case
    assert error(found.z1.grad, found.golden["loss.grad_view1"]) < tolerance
    assert error(found.z2.grad, found.golden["loss.grad_view2"]) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_gradient_norm_of_every_parameter(kind: Kind, dtype: torch.dtype, tolerance: float) -> None:
    found = run(kind, dtype, stored_inputs=True)
    norms = {_official_name(name): p.grad.norm() for name, p in found.encoder.named_parameters()}
    expected = part(found.golden, "grad_norm.encoder.")
    assert norms.keys() == expected.keys()
    norms |= {f"loss.{name}": p.grad.norm() for name, p in found.loss.named_parameters()}
    expected |= {f"loss.{name}": value for name, value in part(found.golden, "grad_norm.loss.").items()}
    assert norms.keys() == expected.keys()
    wrong = {
        name: (float(norms[name]), float(expected[name]))
        for name in expected
        if error(norms[name], expected[name]) >= tolerance
    }
    assert not wrong


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("index_device", ["cpu", "cuda"])
def test_the_same_on_a_gpu_wherever_ids_and_sizes_are(kind: Kind, index_device: str) -> None:
    found = run(kind, torch.float64, stored_inputs=False, device="cuda", index_device=index_device)
    assert error(found.z1, found.golden["view1.embedding"]) < 1e-9
    assert found.z1.grad is not None
    assert error(found.z1.grad, found.golden["loss.grad_view1"]) < 1e-9
