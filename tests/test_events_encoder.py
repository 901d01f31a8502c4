"""The encoder of spike events: the official numbers, and what it promises whatever its weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nuclr_cli.errors import InputError
from nuclr_cli.model import Encoder, ModelConfig, encoder_from_reference

GOLDEN = Path(__file__).parent / "golden" / "spikes_small.npz"
CONFIG = ModelConfig(
    dim=24, heads=2, head_dim=8, temporal_layers=1, spatiotemporal_layers=1, tokens=("events", "calcium")
)
SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=4)


def golden() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Everything, and the weights without their prefix."""
    with np.load(GOLDEN) as file:
        found = dict(file)
    prefix = "encoder."
    return found, {name.removeprefix(prefix): v for name, v in found.items() if name.startswith(prefix)}


def encoder(config: ModelConfig = CONFIG) -> Encoder:
    torch.manual_seed(0)
    return Encoder(config).double().eval()


def spikes(n_units: int, seed: int) -> tuple[Tensor, Tensor]:
    """Times and spikes per unit."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 40, (n_units,), generator=generator)
    return torch.rand(int(counts.sum()), generator=generator) * 10, counts


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_the_official_embeddings(dtype: torch.dtype, tolerance: float) -> None:
    found, weights = golden()
    model = encoder_from_reference(weights, tokens="events", heads=2, head_dim=16).to(dtype)
    names = ("spike_times", "spikes_per_unit", "units_per_sample")
    with torch.no_grad():
        z = model(*(torch.from_numpy(found[name]) for name in names))
    assert z.dtype == dtype
    error = np.linalg.norm(z.numpy() - found["embedding"]) / np.linalg.norm(found["embedding"])
    assert error < tolerance


def test_times_in_float64_give_the_official_embeddings_too() -> None:
    found, weights = golden()
    model = encoder_from_reference(weights, tokens="events", heads=2, head_dim=16).double()
    with torch.no_grad():
        z = model(
            torch.from_numpy(found["spike_times"]).double(),
            found["spikes_per_unit"].tolist(),
            units_per_population=found["units_per_sample"].tolist(),
        )
    assert np.abs(z.numpy() - found["embedding"]).max() < 1e-9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sizes_on", ["cpu", "cuda"])
def test_the_official_embeddings_on_a_gpu(sizes_on: str) -> None:
    found, weights = golden()
    model = encoder_from_reference(weights, tokens="events", heads=2, head_dim=16).double().cuda()
    with torch.no_grad():
        z = model(
            torch.from_numpy(found["spike_times"]).cuda(),
            *(torch.from_numpy(found[name]).to(sizes_on) for name in ("spikes_per_unit", "units_per_sample")),
        )
    assert np.abs(z.cpu().numpy() - found["embedding"]).max() < 1e-9


def test_sizes_and_frequencies_are_read_off_the_weights() -> None:
    _, weights = golden()
    model = encoder_from_reference(weights, tokens="events", heads=2, head_dim=16)
    config = model.config
    assert config.tokens == ("events",)
    assert (config.dim, config.temporal_layers, config.spatiotemporal_layers) == (32, 1, 1)
    assert (config.events_latents, config.events_window_s, config.rotary_fraction) == (10, 10.0, 0.5)
    assert np.array_equal(model.events.omega.numpy(), weights["rotary_emb.omega"])
    made = Encoder(config).events
    np.testing.assert_allclose(made.omega.numpy(), weights["rotary_emb.omega"], rtol=1e-6)
    assert np.array_equal(made.latent_times.numpy(), weights["latent_times"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"t_blocks.0.1.to_kv.bias": None}, r"missing: t_blocks\.0\.1\.to_kv\.bias"),
        ({"cross_attn.to_q.weight": None}, r"missing: cross_attn\.to_q\.weight"),
        ({"cross_ffn.norm.bias": np.zeros(3)}, r"cross_ffn\.norm\.bias \(3,\), not \(32,\)"),
        ({"read_in.weight": np.zeros((32, 50))}, r"unexpected: read_in\.weight"),
        ({"latent_times": None}, "no weights of an encoder of spike events"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_named(change: dict[str, np.ndarray | None], named: str) -> None:
    weights = {name: value for name, value in (golden()[1] | change).items() if value is not None}
    with pytest.raises(InputError, match=named):
        encoder_from_reference(weights, tokens="events", heads=2, head_dim=16)


@settings(max_examples=20, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_permuting_the_units_of_a_population_permutes_their_embeddings(sizes: list[int], seed: int) -> None:
    times, counts = spikes(sum(sizes), seed)
    generator = torch.Generator().manual_seed(seed)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    order = torch.cat(
        [start + torch.randperm(n, generator=generator) for start, n in zip(starts, sizes, strict=True)]
    )
    parts = torch.split(times, counts.tolist())
    permuted = torch.cat([times[:0], *(parts[unit] for unit in order.tolist())])
    model = encoder()
    with torch.no_grad():
        torch.testing.assert_close(model(permuted, counts[order], sizes), model(times, counts, sizes)[order])


@settings(max_examples=20, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_a_population_does_not_feel_its_neighbours_in_the_batch(sizes: list[int], seed: int) -> None:
    times, counts = spikes(sum(sizes), seed)
    model = encoder()
    alone: list[Tensor] = []
    with torch.no_grad():
        together = model(times, counts, sizes)
        for part in torch.split(counts, sizes):
            n_spikes = int(part.sum())
            alone.append(model(times[:n_spikes], part, [len(part)]))
            times = times[n_spikes:]
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_rest_of_the_population_and_the_times_matter() -> None:
    times, counts = spikes(5, 0)
    moved = times.clone()
    moved[-int(counts[4]) :] = 10 - moved[-int(counts[4]) :]
    with torch.no_grad():
        difference = (encoder()(times, counts, [5]) - encoder()(moved, counts, [5])).abs().amax(dim=1)
    assert (difference > 1e-6).all()
    assert difference[4] > difference[:4].max()


def test_one_trunk_takes_events_and_calcium() -> None:
    model = encoder()
    times, counts = spikes(4, 0)
    model(times, counts, [4]).sum().backward()
    # Nothing but the patch embedding is left out: a spike's content is in every layer's attention to events.
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"patches.calcium.linear.weight", "patches.calcium.linear.bias"}
    model.zero_grad()
    model(torch.randn(4, 32, 4), [4], "calcium").sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {name for name, _ in model.named_parameters() if "events." in name}


def test_an_encoder_of_patches_is_as_without_this_tokeniser() -> None:
    """Same names and, for a seed, same weights: older checkpoints load and older runs repeat."""
    model = Encoder(ModelConfig(tokens=("counts",)))
    assert model.events is None
    assert not any("events" in name for name in model.state_dict())


def test_training_is_bit_for_bit_repeatable() -> None:
    times, counts = spikes(9, 0)

    def gradients() -> list[Tensor]:
        torch.manual_seed(3)
        model = Encoder(CONFIG).train()
        model(times, counts, [4, 5]).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)


def test_bfloat16_autocast_stays_close() -> None:
    times, counts = spikes(12, 0)
    model = encoder().float()
    with torch.no_grad():
        expected = model(times, counts, [5, 7])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(times, counts, [5, 7])
    assert (found.float() - expected).norm() / expected.norm() < 2e-2


def test_a_unit_without_spikes_and_an_empty_batch() -> None:
    model = encoder()
    with torch.no_grad():
        z = model(torch.tensor([1.0, 2.0]), [1, 0, 1], [3])
        assert z.isfinite().all()
        assert model(torch.zeros(0), torch.zeros(0, dtype=torch.int64), [0]).shape == (0, 24)


def test_periods_run_from_a_tenth_of_a_millisecond_to_eight_windows() -> None:
    events = Encoder(ModelConfig(tokens=("events",))).events
    periods = 2 * math.pi / events.omega[:16].double()
    assert not events.omega[16:].any()
    assert periods[0] == pytest.approx(1e-4)
    assert periods[-1] == pytest.approx(80)
    assert events.latent_times.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((torch.zeros(5), [2, 2], [2]), "spikes_per_unit"),
        ((torch.zeros(5), [2, 3], [3]), "units_per_population"),
        ((torch.zeros(5, 10, 50), [2, 3], [2]), "times"),
        ((torch.zeros(5), [5], "events"), "spikes_per_unit"),
        ((torch.zeros(5), [5]), "spikes_per_unit"),
    ],
    ids=str,
)
def test_refuses_what_does_not_fit(arguments: tuple[object, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        encoder()(*arguments)


def test_an_encoder_of_counts_refuses_events() -> None:
    model = Encoder(ModelConfig(dim=24, heads=2, head_dim=8, tokens=("counts",)))
    with pytest.raises(ValueError, match="not events"):
        model(torch.zeros(5), [2, 3], [2])


@pytest.mark.parametrize("change", [{"events_latents": 0}, {"events_window_s": math.inf}], ids=str)
def test_a_bad_configuration_is_the_users_to_mend(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        ModelConfig(**change)  # type: ignore[arg-type]
