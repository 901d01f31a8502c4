"""Importing official weights: sizes are read off, and whatever does not fit is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nuclr_cli.errors import InputError
from nuclr_cli.model import encoder_from_reference, loss_from_reference

GOLDEN = Path(__file__).parent / "golden"
State = dict[str, np.ndarray]


def state(name: str, prefix: str = "encoder.") -> State:
    with np.load(GOLDEN / f"{name}_small.npz") as file:
        return {key.removeprefix(prefix): value for key, value in file.items() if key.startswith(prefix)}


def projector() -> State:
    return {name: value for name, value in state("ephys", "loss.").items() if name.startswith("projector.")}


def test_sizes_are_read_off_the_weights() -> None:
    ephys = encoder_from_reference(state("ephys"), "counts", heads=2, head_dim=16).config
    assert (ephys.dim, ephys.temporal_layers, ephys.spatiotemporal_layers, ephys.ffn_mult) == (32, 1, 1, 4)
    assert (ephys.counts_samples, ephys.counts_patches, ephys.rotary_fraction) == (50, 10, 0.5)
    calcium = encoder_from_reference(state("calcium"), "calcium", heads=2, head_dim=16).config
    assert (calcium.temporal_layers, calcium.spatiotemporal_layers) == (2, 1)
    assert (calcium.calcium_samples, calcium.calcium_patches) == (4, 32)


def test_heads_need_not_fill_the_width() -> None:
    weights = state("ephys")
    for name, value in weights.items():
        if "to_qkv" in name:
            weights[name] = value.reshape(3, 2, 16, *value.shape[1:])[:, :1].reshape(48, *value.shape[1:])
        elif name.endswith("to_out.weight"):
            weights[name] = value[:, :16]
    model = encoder_from_reference(weights, "counts", heads=1, head_dim=16)
    assert model(torch.zeros(3, 10, 50), [3]).shape == (3, 32)


def test_arrays_and_tensors_of_both_precisions() -> None:
    arrays = state("ephys")
    tensors = {name: torch.from_numpy(value).double() for name, value in arrays.items()}
    single = encoder_from_reference(arrays, heads=2, head_dim=16)
    double = encoder_from_reference(tensors, heads=2, head_dim=16)
    assert {p.dtype for p in single.state_dict().values()} == {torch.float32}
    assert {p.dtype for p in double.state_dict().values()} == {torch.float64}
    for name, value in single.double().state_dict().items():
        assert torch.equal(value, double.state_dict()[name]), name
    assert not single.training


def test_the_official_frequencies_are_kept_to_the_bit() -> None:
    model = encoder_from_reference(state("calcium"), "calcium", heads=2, head_dim=16)
    assert np.array_equal(model.rotary["calcium"].omega.numpy(), state("calcium")["rotary_emb.omega"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"st_blocks.0.2.to_qkv.weight": None}, r"missing: st_blocks\.0\.2\.to_qkv\.weight"),
        ({"read_in.weight": None}, r"read_in\.weight"),
        ({"rotary_emb.omega": None}, r"rotary_emb\.omega"),
        ({"cross_attn.to_q.weight": np.zeros((32, 32))}, r"unexpected: cross_attn\.to_q\.weight"),
        ({"t_blocks.0.0.norm.bias": np.zeros(31)}, r"t_blocks\.0\.0\.norm\.bias \(31,\), not \(32,\)"),
        ({"read_in.weight": np.zeros(32)}, r"read_in\.weight"),
        ({"t_blocks.0.1.in_proj.weight": np.zeros(3)}, r"t_blocks\.0\.1\.in_proj\.weight"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, np.ndarray | None], named: str) -> None:
    weights = {name: value for name, value in (state("ephys") | change).items() if value is not None}
    with pytest.raises(InputError, match=named):
        encoder_from_reference(weights, "counts", heads=2, head_dim=16)


def test_a_forgotten_prefix_and_a_forgotten_layer() -> None:
    prefixed = {f"encoder.{name}": value for name, value in state("ephys").items()}
    with pytest.raises(InputError, match="prefix"):
        encoder_from_reference(prefixed, "counts", heads=2, head_dim=16)
    without_block = {name: value for name, value in state("calcium").items() if "t_blocks.0" not in name}
    with pytest.raises(InputError, match=r"missing: t_blocks\.0\.0"):
        encoder_from_reference(without_block, "calcium", heads=2, head_dim=16)


def test_wrong_heads_are_found() -> None:
    with pytest.raises(InputError, match="to_qkv"):
        encoder_from_reference(state("ephys"), "counts", heads=4, head_dim=16)


def test_weights_of_another_tokeniser_are_refused_as_event_weights() -> None:
    with pytest.raises(InputError, match="events"):
        encoder_from_reference(state("ephys"), "events", heads=2, head_dim=16)


def test_loss_refuses_what_does_not_fit() -> None:
    assert loss_from_reference(projector(), tau=0.5).config.tau == 0.5
    with pytest.raises(InputError, match=r"projector\.1\.weight"):
        loss_from_reference({})
    with pytest.raises(InputError, match=r"missing: projector\.3\.bias"):
        loss_from_reference(
            {name: value for name, value in projector().items() if name != "projector.3.bias"}
        )
    with pytest.raises(InputError, match="unexpected: projector"):
        loss_from_reference(projector() | {"projector.5.weight": np.zeros(3)})
