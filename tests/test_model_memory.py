"""The memory model: what it says of a training step is what is counted in one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from nuclr_cli.model import Encoder, ModelConfig
from nuclr_cli.model.blocks import set_recompute
from nuclr_cli.model.config import Recompute
from nuclr_cli.model.memory import kept_bytes, step_memory


def counted_bytes(config: ModelConfig, units: int, recompute: Recompute) -> int:
    """Of all tensors that autograd saves; memory that they share counts once, weights do not."""
    torch.manual_seed(0)
    encoder = Encoder(config)
    set_recompute(encoder, recompute)
    weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            saved[place] = tensor  # alive, so that its memory is not given to another
        return tensor

    x = torch.rand(units, config.counts_patches, config.counts_samples)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        z = encoder(x, [units])
    assert z.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


@pytest.mark.parametrize("recompute", ["none", "gates", "ffn", "layers"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.0},
        {"dim": 64, "heads": 2, "head_dim": 16, "ffn_mult": 2},
        {"dim": 32, "heads": 6, "head_dim": 16, "temporal_layers": 0, "spatiotemporal_layers": 3},
    ],
)
def test_what_is_kept_is_what_is_said(recompute: Recompute, changes: dict[str, Any]) -> None:
    """Within 2 %: batch-independent tables and the layout of attention's copies are not in the model."""
    config, units = ModelConfig(**changes), 600
    said = kept_bytes(config, units * config.counts_patches, recompute)
    assert counted_bytes(config, units, recompute) == pytest.approx(said, rel=0.02)


@pytest.mark.parametrize("recompute", ["none", "layers"])
def test_nothing_grows_with_the_square_of_the_population(recompute: Recompute) -> None:
    config = ModelConfig(dim=16, heads=2, head_dim=8)
    few, many = (counted_bytes(config, units, recompute) for units in (500, 2500))
    assert many == pytest.approx(5 * few, rel=0.02)


def test_processes_that_share_a_window_need_less_each() -> None:
    config = ModelConfig()
    alone, shared = (step_memory(config, 1_500_000, "layers", processes=n) for n in (1, 8))
    assert shared.kept == pytest.approx(alone.kept / 8, rel=1e-6)
    assert shared.working == pytest.approx(alone.working / 8, rel=1e-6)
    assert shared.gathered > 0 == alone.gathered
    assert shared.total < alone.total / 2
