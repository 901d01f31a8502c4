"""LAMB is the algorithm of its paper; the settings choose it; weights and moments are float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.optimisers import Lamb, build_optimizer
from nuclr_cli.workflows.presets import TrainConfig, preset_settings, with_changes
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain

SMALL = {
    "train.steps": 4,
    "train.batch_windows": 2,
    "model.dim": 16,
    "model.heads": 2,
    "model.head_dim": 8,
}


def lamb_of_the_paper(
    x: NDArray[np.float64], gradients: list[NDArray[np.float64]], rate: float, decay: float
) -> NDArray[np.float64]:
    """Algorithm 2 of arXiv 1904.00962 for one layer, with phi the identity."""
    beta1, beta2, eps = 0.9, 0.999, 1e-6
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        r = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        u = r + decay * x
        x = x - rate * np.sqrt((x**2).sum()) / np.sqrt((u**2).sum()) * u
    return x


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_is_that_of_the_paper(decay: float) -> None:
    draw = np.random.default_rng(0)
    starts = [draw.normal(size=shape) for shape in ((5, 7), (3,), (2, 3, 4))]
    gradients = [
        [draw.normal(size=start.shape) * 10.0 ** draw.uniform(-3, 2) for _ in range(12)] for start in starts
    ]
    parameters = [nn.Parameter(torch.from_numpy(start.copy())) for start in starts]
    optimizer = Lamb(parameters, lr=0.02, weight_decay=decay)
    for step in range(12):
        for parameter, of_parameter in zip(parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(of_parameter[step].copy())
        optimizer.step()
    for parameter, start, of_parameter in zip(parameters, starts, gradients, strict=True):
        expected = lamb_of_the_paper(start, of_parameter, 0.02, decay)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12)
        assert not np.allclose(expected, start, rtol=0.05)


def test_what_lamb_does_not_scale_moves_as_adam() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.zeros(6, dtype=torch.float64)) for _ in range(2))
    unscaled = Lamb([{"params": [ours], "scaled": False}], lr=0.01, eps=1e-6)
    adam = torch.optim.Adam([theirs], lr=0.01, eps=1e-6)
    for _ in range(5):
        ours.grad = torch.randn(6, dtype=torch.float64)
        theirs.grad = ours.grad.clone()
        unscaled.step()
        adam.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_a_tensor_of_zeros_can_move_and_one_without_gradient_stays() -> None:
    zeros, alone, flat = (nn.Parameter(start) for start in (torch.zeros(4), torch.ones(4), torch.ones(4)))
    optimizer = Lamb([zeros, alone, flat], lr=0.5)
    zeros.grad, flat.grad = torch.ones(4), torch.zeros(4)
    optimizer.step()
    torch.testing.assert_close(zeros.detach(), torch.full((4,), -0.5), rtol=1e-5, atol=0)
    assert alone.tolist() == flat.tolist() == [1.0] * 4
    assert alone not in optimizer.state


def test_the_settings_choose_the_optimiser_and_its_groups() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    lamb = build_optimizer(model, TrainConfig(optimizer="lamb", weight_decay=0.3))
    assert isinstance(lamb, Lamb)
    found = [(g["weight_decay"], g["scaled"], [p.ndim for p in g["params"]]) for g in lamb.param_groups]
    assert found == [(0.3, True, [2]), (0.0, False, [1, 1, 1])]
    assert isinstance(build_optimizer(model, TrainConfig()), torch.optim.AdamW)
    with pytest.raises(InputError, match="not one of: adamw, lamb"):
        with_changes(preset_settings("tiny"), {"train.optimizer": "sgd"})


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_weights_and_moments_are_float32_where_products_are_bfloat16(
    tiny_data: Path, tmp_path: Path, optimizer: str
) -> None:
    changes = {**SMALL, "train.precision": "bf16", "train.optimizer": optimizer, "train.ema": 0.9}
    for name, precision in (("half", "bf16"), ("full", "fp32")):
        pretrain(
            PretrainConfig(
                tiny_data, tmp_path, name, "tiny", {**changes, "train.precision": precision}, gpus=0
            )
        )
    of_run = {
        name: {
            kind: load_file(tmp_path / name / "checkpoints" / "step-00000004" / f"{kind}.safetensors")
            for kind in ("model", "optimizer", "average")
        }
        for name in ("half", "full")
    }
    for found in of_run["half"].values():
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    fields = {key.rpartition(".")[2] for key in of_run["half"]["optimizer"]}
    assert fields == {"step", "exp_avg", "exp_avg_sq"}
    # bfloat16 did take part: weights that are no multiple of its step, and are not those of float32.
    half, full = of_run["half"]["model"], of_run["full"]["model"]
    assert any(not torch.equal(tensor, full[name]) for name, tensor in half.items())
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in half.values())
