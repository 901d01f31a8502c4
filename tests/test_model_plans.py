"""Plans made beforehand: the same numbers, one graph, and nothing read back from the device on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nuclr_cli.api import Modality
from nuclr_cli.data.batch import PairBatch, pack
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.data.views import View, ViewPair
from nuclr_cli.data.windows import Window
from nuclr_cli.model import Encoder, LossConfig, ModelConfig, TokenKind, build_loss, plan_loss
from nuclr_cli.model.blocks import Layout
from nuclr_cli.testing.simulate import tiny_population
from nuclr_cli.workflows.pair_model import PairModel
from nuclr_cli.workflows.presets import PretrainSettings, for_modalities, preset_settings, with_changes
from nuclr_cli.workflows.pretrain import PretrainConfig, pretrain
from nuclr_kernels import make_loss_plan, make_plan, make_population_plan

CONFIG = ModelConfig(
    dim=16, heads=2, head_dim=8, temporal_layers=1, spatiotemporal_layers=1, dropout=0.0,
    tokens=("events", "counts", "calcium"),
)  # fmt: skip
KINDS: tuple[TokenKind, ...] = ("counts", "calcium", "events")
SIZES = [5, 0, 9]
SAMPLES = ([3, 4, 2], [4, 3, 3])


def settings(tokens: str = "counts") -> PretrainSettings:
    changes = {"model.tokens": tokens, "model.dim": 16, "model.heads": 2}
    return for_modalities(with_changes(preset_settings("tiny"), changes), frozenset({"spikes", "calcium"}))


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(CONFIG).eval()


def activity(kind: TokenKind) -> tuple[Tensor, list[Tensor]]:
    """Inputs of the units of SIZES, and for events the spikes of each."""
    generator = torch.Generator().manual_seed(0)
    if kind != "events":
        shape = (sum(SIZES), CONFIG.patches(kind), CONFIG.samples(kind))
        return torch.rand(shape, generator=generator), []
    spikes = torch.randint(0, 30, (sum(SIZES),), generator=generator)
    return torch.rand(int(spikes.sum()), generator=generator) * 10, [spikes]


def embed(model: Encoder, kind: TokenKind) -> Tensor:
    inputs, spikes = activity(kind)
    return model(inputs, *spikes, SIZES) if spikes else model(inputs, SIZES, kind)


def laid_out(model: Encoder, kind: TokenKind, device: str = "cpu") -> tuple[Tensor, Layout]:
    inputs, spikes = activity(kind)
    inputs = inputs.to(device)
    if spikes:
        return inputs, model.event_layout(inputs, *spikes, SIZES)
    return inputs, model.patch_layout(inputs, SIZES, kind)


def views(sizes: tuple[list[int], list[int]] = SAMPLES) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Embeddings, ids and units of two views."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.cat([torch.randperm(6, generator=generator)[:n] for n in view]) for view in sizes]
    embeddings = [torch.randn(len(i), 16, generator=generator).requires_grad_() for i in ids]
    return embeddings, ids, [torch.tensor(view) for view in sizes]


def micro_batch(kind: TokenKind) -> PairBatch:
    rng = np.random.default_rng(0)
    modality: Modality = "calcium" if kind == "calcium" else "spikes"

    def view(n_units: int) -> View:
        rows = rng.permutation(12)[:n_units].astype(np.int64)
        if kind != "events":
            shape = (n_units, CONFIG.patches(kind), CONFIG.samples(kind))
            return View(rng.random(shape, dtype=np.float32), rows)
        spikes = rng.integers(1, 20, n_units)
        return View(rng.random(spikes.sum(), dtype=np.float32) * 10, rows, spikes, 10)

    def pair(number: int) -> ViewPair:
        one, two = view(8 + number), view(9)
        return ViewPair(Window(0, float(number), modality), one, two, len({*one.rows} & {*two.rows}))

    return pack([pair(0), pair(1)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_stands_for_the_sizes(kind: TokenKind) -> None:
    model = encoder()
    inputs, layout = laid_out(model, kind)
    assert torch.equal(model(inputs, layout=layout), embed(model, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_layout_the_encoder_compiles_as_one_graph(kind: TokenKind) -> None:
    torch._dynamo.reset()
    model = encoder()
    inputs, layout = laid_out(model, kind)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(inputs, layout=layout)
    found.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    expected = embed(model, kind)
    expected.square().sum().backward()
    torch.testing.assert_close(found, expected)
    for name, p in model.named_parameters():
        assert (p.grad is None) == (name not in gradients)
        if p.grad is not None:
            torch.testing.assert_close(gradients[name], p.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_on_the_device_is_read(kind: TokenKind) -> None:
    """Tensors of the meta device have no values: reading one, or copying it to the host, is an error."""
    model = encoder().to("meta")
    inputs, layout = laid_out(model, kind, "meta")
    assert layout.plan.cu_seqlens.is_meta
    embeddings = model(inputs, layout=layout)
    assert embeddings.is_meta
    embeddings.sum().backward()
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        model.patch_layout(activity("counts")[0].to("meta"), torch.tensor(SIZES, device="meta"), "counts")


@pytest.mark.parametrize("kind", KINDS)
def test_a_micro_batch_is_planned_on_the_host(kind: TokenKind) -> None:
    batch = micro_batch(kind)
    moved = batch.to("meta")
    for view, before in ((moved.view1, batch.view1), (moved.view2, batch.view2)):
        assert view.inputs.is_meta
        assert view.ids is before.ids
        assert view.units_per_population is before.units_per_population
        assert view.spikes_per_unit is before.spikes_per_unit
    model = PairModel(settings("events" if kind == "events" else "counts")).to("meta")
    pair = model.prepare(batch, "meta")
    assert pair.inputs.is_meta
    assert pair.layout.tokens == kind
    assert pair.layout.plan.n_units == len(batch.view1.ids) + len(batch.view2.ids)
    assert pair.layout.plan.tiles.is_meta
    assert pair.matches.partners.is_meta
    assert not pair.matches.partner12.is_meta
    assert pair.matches.n_pairs == batch.n_pairs
    assert model.encoder(pair.inputs, layout=pair.layout).shape == (pair.layout.plan.n_units, 16)


@pytest.mark.parametrize("name", ["dcl", "vicreg"])
def test_a_plan_stands_for_ids_and_units(name: str) -> None:
    torch.manual_seed(0)
    loss = build_loss(LossConfig(name=name), 16)
    (z1, z2), (ids1, ids2), (units1, units2) = views()
    plan = plan_loss(ids1, ids2, units1, units2)
    results = []
    for terms in (loss(z1, z2, ids1, ids2, units1, units2), loss(z1, z2, plan=plan)):
        results.append([terms.total, *torch.autograd.grad(terms.total, [z1, z2])])
        assert terms.n_pairs == plan.n_pairs > 0
    assert all(map(torch.equal, *results))


def test_a_plan_of_the_loss_counts_the_pairs_of_each_sample() -> None:
    _, (ids1, ids2), (units1, units2) = views()
    plan = plan_loss(ids1, ids2, units1, units2)
    parts = zip(ids1.split(units1.tolist()), ids2.split(units2.tolist()), strict=True)
    expected = [len({*one.tolist()} & {*two.tolist()}) for one, two in parts]
    assert len({*expected}) > 1
    assert plan.pairs.tolist() == expected
    assert plan.n_pairs == sum(expected)
    assert (plan.n_units1, plan.n_units2) == (9, 10)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, x, a: m(x, SIZES, layout=a), "give either a layout or sizes"),
        (lambda m, x, a: m(x[1:], layout=a), "layout is of 14 units; inputs have 13"),
        (lambda m, x, a: m(x[:, 1:], layout=a), "inputs of counts must have shape"),
        (lambda m, x, a: m(x, layout=dataclasses.replace(a, tokens="spectra")), "layout is of spectra"),
    ],
)
def test_a_layout_has_to_fit(call: Callable[[Encoder, Tensor, Layout], Tensor], says: str) -> None:
    model = encoder()
    inputs, layout = laid_out(model, "counts")
    with pytest.raises(ValueError, match=says):
        call(model, inputs, layout)


@pytest.mark.parametrize("name", ["dcl", "vicreg"])
def test_a_plan_of_the_loss_has_to_fit(name: str) -> None:
    loss = build_loss(LossConfig(name=name), 16)
    (z1, z2), (ids1, ids2), (units1, units2) = views()
    plan = plan_loss(ids1, ids2, units1, units2)
    with pytest.raises(ValueError, match=r"z1 must be .* the 9 units of plan"):
        loss(z1[1:], z2, plan=plan)
    with pytest.raises(ValueError, match=r"z2 must be .* the 10 units of plan"):
        loss(z1, z1, plan=plan)
    with pytest.raises(ValueError, match="give either plan or these"):
        loss(z1, z2, ids1, ids2, units1, units2, plan=plan)
    with pytest.raises(ValueError, match="plan is missing"):
        loss(z1, z2, ids1, ids2)


def test_plans_go_by_the_names_of_their_operations() -> None:
    assert make_plan is make_population_plan
    cu = torch.tensor([0, 2])
    assert make_loss_plan(cu, cu, torch.tensor([1, 0])).partners.tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("tokens", ["counts", "events"])
def test_mixed_precision_leaves_inputs_alone(tmp_path: Path, tokens: str) -> None:
    """Fabric rounds tensors that pass through its wrapper; spike times in bfloat16 are off by up to 30 ms."""
    data = tmp_path / "nuclr-data"
    data.mkdir()
    source = SourceRecord(path="0", reader="test", detected="made")
    write_population(tiny_population(0, n_units=20, minutes=1.0), data / "0.h5", source=source)
    changes = {"model.tokens": tokens, "train.steps": 1, "train.batch_windows": 2, "train.log_every": 1}
    first = {}
    for precision in ("bf16", "fp32"):
        done = pretrain(
            PretrainConfig(
                data=data,
                runs=tmp_path / "runs",
                name=precision,
                preset="tiny",
                gpus=0,
                changes={**changes, "train.precision": precision},
            )
        )
        first[precision] = done.first_loss
    assert first["bf16"] == pytest.approx(first["fp32"], rel=1e-3)
    assert first["bf16"] != first["fp32"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["counts", "calcium"])
def test_a_step_on_a_gpu_waits_for_nothing(kind: TokenKind) -> None:
    model = PairModel(settings()).cuda()
    batch = micro_batch(kind)
    expected = model(model.prepare(batch, "cuda"), batch.n_pairs)[0].item()  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        total = model(model.prepare(batch, "cuda"), batch.n_pairs)[0]
        total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert total.item() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["counts", "calcium"])
def test_a_cuda_graph_captures_the_forward_pass(kind: TokenKind) -> None:
    model = PairModel(settings()).cuda().eval()
    batch = micro_batch(kind)
    pair = model.prepare(batch, "cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(side):
        expected = model(pair, batch.n_pairs)[0].clone()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        found = model(pair, batch.n_pairs)[0]
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, expected)
