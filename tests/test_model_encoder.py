"""What the encoder promises whatever its weights: equivariance, independence, determinism, clear refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nuclr_cli.errors import InputError
from nuclr_cli.model import Encoder, ModelConfig, TokenKind
from nuclr_cli.model.patches import RotaryPositions

# heads * head_dim differs from dim on purpose.
CONFIG = ModelConfig(
    dim=24, heads=2, head_dim=8, temporal_layers=1, spatiotemporal_layers=2, tokens=("counts", "calcium")
)
KINDS = st.sampled_from(CONFIG.tokens)
SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=4)


def encoder(config: ModelConfig = CONFIG) -> Encoder:
    torch.manual_seed(0)
    return Encoder(config).double().eval()


def inputs(units: int, kind: TokenKind, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (units, CONFIG.patches(kind), CONFIG.samples(kind))
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@settings(max_examples=25, deadline=None)
@given(kind=KINDS, sizes=SIZES, seed=st.integers(0, 99))
def test_permuting_the_units_of_a_population_permutes_their_embeddings(
    kind: TokenKind, sizes: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    order = torch.cat(
        [start + torch.randperm(n, generator=generator) for start, n in zip(starts, sizes, strict=True)]
    )
    x = inputs(sum(sizes), kind, seed)
    model = encoder()
    with torch.no_grad():
        torch.testing.assert_close(model(x[order], sizes, kind), model(x, sizes, kind)[order])


@settings(max_examples=25, deadline=None)
@given(kind=KINDS, sizes=SIZES, seed=st.integers(0, 99))
def test_a_population_does_not_feel_its_neighbours_in_the_batch(
    kind: TokenKind, sizes: list[int], seed: int
) -> None:
    x = inputs(sum(sizes), kind, seed)
    model = encoder()
    with torch.no_grad():
        together = model(x, torch.tensor(sizes), kind)
        alone = [model(part, [len(part)], kind) for part in torch.split(x, sizes)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("kind", CONFIG.tokens)
def test_the_rest_of_the_population_matters(kind: TokenKind) -> None:
    x = inputs(5, kind, 0)
    changed = x.clone()
    changed[4] += 1
    with torch.no_grad():
        difference = (encoder()(x, [5], kind) - encoder()(changed, [5], kind)).abs().amax(dim=1)
    assert (difference[:4] > 1e-6).all()


@pytest.mark.parametrize("kind", CONFIG.tokens)
def test_the_order_of_patches_matters(kind: TokenKind) -> None:
    x = inputs(3, kind, 0)
    with torch.no_grad():
        difference = encoder()(x, [3], kind) - encoder()(x.roll(3, dims=1), [3], kind)
    assert difference.abs().max() > 1e-6


def test_only_the_patch_embedding_belongs_to_one_token_kind() -> None:
    model = encoder()
    model(inputs(4, "counts", 0), [4], "counts").sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"patches.calcium.linear.weight", "patches.calcium.linear.bias"}


def test_training_is_bit_for_bit_repeatable() -> None:
    def gradients() -> list[Tensor]:
        torch.manual_seed(3)
        model = Encoder(CONFIG).train()
        model(inputs(9, "counts", 0), [4, 5]).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)


def test_dropout_acts_in_training_only() -> None:
    model = encoder()
    x = inputs(4, "counts", 0)
    assert torch.equal(model(x, [4]), model(x, [4]))
    model.train()
    assert not torch.equal(model(x, [4]), model(x, [4]))


def test_integer_counts_are_taken_as_they_are() -> None:
    counts = torch.randint(0, 4, (4, 10, 50), dtype=torch.int16)
    with torch.no_grad():
        assert torch.equal(encoder()(counts, [4]), encoder()(counts.double(), [4]))


def test_bfloat16_autocast_stays_close() -> None:
    model = encoder().float()
    x = inputs(12, "counts", 0).float()
    with torch.no_grad():
        expected = model(x, [5, 7])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(x, [5, 7])
    assert (found.float() - expected).norm() / expected.norm() < 2e-2


def test_the_default_sizes_are_those_of_the_paper() -> None:
    n_parameters = sum(p.numel() for p in Encoder(ModelConfig()).parameters())
    assert 6.0e6 < n_parameters < 6.6e6


def test_rotary_periods_run_from_one_patch_to_eight_windows() -> None:
    omega = RotaryPositions(head_dim=64, patches=10, fraction=0.5).omega.double()
    periods = 2 * math.pi / omega[:16]
    assert not omega[16:].any()
    assert periods[0] == pytest.approx(1)
    assert periods[-1] == pytest.approx(80)
    steps = periods[1:] / periods[:-1]
    torch.testing.assert_close(steps, steps[:1].expand(15), rtol=1e-5, atol=0)


def test_weights_travel_through_a_state_dict() -> None:
    torch.manual_seed(1)
    other = Encoder(CONFIG).double().eval()
    model = encoder()
    other.load_state_dict(model.state_dict())
    x = inputs(4, "calcium", 0)
    assert torch.equal(other(x, [4], "calcium"), model(x, [4], "calcium"))


@pytest.mark.parametrize(
    ("x", "units", "kind", "named"),
    [
        (torch.zeros(4, 9, 50), [4], "counts", "inputs of counts"),
        (torch.zeros(4, 10, 50), [4], "calcium", "inputs of calcium"),
        (torch.zeros(4, 500), [4], "counts", "inputs of counts"),
        (torch.zeros(4, 10, 50), [3], "counts", "units_per_population"),
        (torch.zeros(4, 10, 50), [5, -1], "counts", "units_per_population"),
        (torch.zeros(4, 10, 50), [4.0], "counts", "units_per_population"),
        (torch.zeros(4, 10, 50), [4], "events", "tokens"),
    ],
)
def test_refuses_what_does_not_fit(x: Tensor, units: list[int], kind: TokenKind, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        encoder()(x.double(), units, kind)


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"heads": 1.5},
        {"head_dim": 7},
        {"temporal_layers": -1},
        {"dropout": 1.0},
        {"dropout": math.nan},
        {"rotary_fraction": 1.5},
        {"counts_patches": True},
        {"tokens": ()},
        {"tokens": ("counts", "counts")},
        {"tokens": ("spikes",)},
    ],
    ids=str,
)
def test_a_bad_configuration_is_the_users_to_mend(change: Mapping[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        ModelConfig(**change)
