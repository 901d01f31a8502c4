"""Forgetting activations changes memory and time, and no bit of anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from nuclr_cli.errors import InputError
from nuclr_cli.model import DecoupledContrastiveLoss, Encoder, ModelConfig
from nuclr_cli.model.blocks import FeedForward, set_recompute
from nuclr_cli.model.config import Recompute, TokenKind
from nuclr_cli.workflows.pair_model import initial_model
from nuclr_cli.workflows.presets import preset_settings, with_changes

WAYS: tuple[Recompute, ...] = ("none", "gates", "ffn")
UNITS = torch.tensor([12, 15, 13, 11])


def encoder(tokens: TokenKind = "counts", **changes: Any) -> Encoder:
    torch.manual_seed(0)
    sizes = {"dim": 32, "heads": 2, "head_dim": 16, "temporal_layers": 1, "spatiotemporal_layers": 2}
    return Encoder(ModelConfig(**{**sizes, "tokens": (tokens,), **changes}))


def step(model: Encoder, tokens: TokenKind = "counts") -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Loss, gradient of every parameter, and where the generator of random numbers stands afterwards."""
    torch.manual_seed(1)
    loss = DecoupledContrastiveLoss(model.config.dim)
    ids = torch.cat([torch.randperm(20)[:n] for n in UNITS.tolist()])
    n1 = int(UNITS[:2].sum())
    if tokens == "counts":
        z = model(torch.rand(len(ids), 10, 50).round(), UNITS)
    else:
        z = model(torch.rand(20 * len(ids)) * 10, torch.full((len(ids),), 20), UNITS)
    total = loss(z[:n1], z[n1:], ids[:n1], ids[n1:], UNITS[:2], UNITS[2:]).total
    model.zero_grad()
    total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return total.detach(), found, torch.get_rng_state()


@pytest.mark.parametrize("tokens", ["counts", "events"])
@pytest.mark.parametrize("way", ["gates", "ffn"])
def test_a_step_with_dropout_is_the_same_to_the_bit(way: Recompute, tokens: TokenKind) -> None:
    model = encoder(tokens, dropout=0.3)
    expected = step(model, tokens)
    assert not torch.equal(expected[1]["temporal_blocks.0.temporal.feed_forward.up.weight"], torch.zeros(()))
    set_recompute(model, way)
    found = step(model, tokens)
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert torch.equal(found[1][name], gradient), name
    assert torch.equal(found[2], expected[2])
    set_recompute(model, "none")
    assert torch.equal(step(model, tokens)[0], expected[0])


def kept(model: Encoder) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights aside; shared memory counts once."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        z = model(torch.rand(int(UNITS.sum()), 10, 50), UNITS)
    assert z.requires_grad
    return sum(storages.values())


def test_what_is_forgotten_is_not_kept() -> None:
    """Of a layer without recomputation 27 numbers a token and width are kept that `ffn` forgets."""
    model, sizes = encoder(dropout=0.3), {}
    for way in WAYS:
        set_recompute(model, way)
        sizes[way] = kept(model)
    layers = sum(isinstance(module, FeedForward) for module in model.modules())
    width_of_a_layer = 4 * int(UNITS.sum()) * 10 * model.config.dim * layers
    forgotten = {way: (sizes["none"] - sizes[way]) / width_of_a_layer for way in WAYS}
    # Values and gates are 8 wide; 4 wide are the gate's GELU, the gated, its kept share and what is left.
    assert forgotten["gates"] >= 12
    assert forgotten["ffn"] >= forgotten["gates"] + 8


@pytest.mark.parametrize("way", ["gates", "ffn"])
def test_without_a_gradient_nothing_is_computed_again(way: Recompute) -> None:
    model = encoder().eval()
    counts, x = [], torch.rand(int(UNITS.sum()), 10, 50)
    model.temporal_blocks[0].temporal.feed_forward.down.register_forward_hook(lambda *_: counts.append(1))
    with torch.no_grad():
        expected = model(x, UNITS)
        set_recompute(model, way)
        assert torch.equal(model(x, UNITS), expected)
    assert len(counts) == 2


@pytest.mark.parametrize("way", WAYS)
def test_the_setting_reaches_every_layer(way: Recompute) -> None:
    assert preset_settings("tiny").train.recompute == "none"
    model = initial_model(with_changes(preset_settings("tiny"), {"train.recompute": way}))
    layers = [module for module in model.modules() if isinstance(module, FeedForward)]
    assert layers
    assert {layer.recompute for layer in layers} == {way}


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match=r"train.recompute = 'all' is not one of: none, gates, ffn"):
        with_changes(preset_settings("tiny"), {"train.recompute": "all"})


@pytest.mark.slow
def test_a_run_ends_with_the_same_weights(tiny_data: Path, tmp_path: Path, nuclr: Callable[..., Any]) -> None:
    weights = []
    for way in ("none", "ffn"):
        done = nuclr(
            *("pretrain", tiny_data, "--runs", tmp_path, "--name", way, "--preset", "tiny", "--gpus", "0"),
            *("--steps", "4", "--set", "model.dropout=0.2", "--set", f"train.recompute={way}"),
        )
        assert done.code == 0, done.err
        config = json.loads((tmp_path / way / "config.json").read_text())
        assert config["train"]["recompute"] == way
        weights.append(load_file(tmp_path / way / "checkpoints" / "step-00000004" / "model.safetensors"))
    for name, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], value, err_msg=name)
