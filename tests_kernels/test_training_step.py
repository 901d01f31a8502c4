"""A planned forward pass of training on the Triton kernels: nothing is read, one graph, its dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nuclr_cli.model import DecoupledContrastiveLoss, Encoder, ModelConfig, plan_loss
from nuclr_cli.model.blocks import Layout
from nuclr_kernels import LossPlan, contrastive_loss

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:divide by zero")

CONFIG = ModelConfig(
    dim=16, heads=1, head_dim=16, temporal_layers=0, spatiotemporal_layers=1, dropout=0.0,
    counts_patches=2, counts_samples=4,
)  # fmt: skip
READ_BY_PYTHON = ("__bool__", "__int__", "__float__", "__index__", "cpu", "item", "numpy", "tolist")
READ_BY_TORCH = (
    "_local_scalar_dense", "_unique2", "equal", "is_nonzero", "masked_select", "nonzero",
    "unique_consecutive", "unique_dim",
)  # fmt: skip


class ReadError(Exception):
    """A value was read, for which the host would have waited if it were on a GPU."""


class NothingRead:
    """Within, asking a tensor for its values, or for a shape that depends on them, is an error."""

    def __init__(self) -> None:
        self.modes = (_AskedByPython(), _AskedByTorch())

    def __enter__(self) -> None:
        for mode in self.modes:
            mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*error)


class _AskedByPython(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if function in (torch.tensor, torch.as_tensor) or name in READ_BY_PYTHON:
            raise ReadError(name)
        return function(*args, **(kwargs or {}))


class _AskedByTorch(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::")
        by_mask = name.startswith("index.") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name.partition(".")[0] in READ_BY_TORCH or name == "repeat_interleave.Tensor" or by_mask:
            raise ReadError(name)
        return function(*args, **(kwargs or {}))


def models() -> tuple[Encoder, DecoupledContrastiveLoss]:
    torch.manual_seed(0)
    return Encoder(CONFIG), DecoupledContrastiveLoss(CONFIG.dim)


def identities(sizes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids and units of two views."""
    ids1, ids2 = (torch.cat([torch.arange(n) for n in view]) for view in sizes)
    return ids1, ids2, torch.tensor(sizes[0]), torch.tensor(sizes[1])


def planned(encoder: Encoder, *sizes: Sequence[int]) -> tuple[Tensor, Layout, LossPlan]:
    """Inputs of both views, and what there is to know of them."""
    ids1, ids2, units1, units2 = identities(sizes)
    generator = torch.Generator().manual_seed(len(ids1))
    inputs = torch.randn(len(ids1) + len(ids2), 2, 4, generator=generator)
    layout = encoder.patch_layout(inputs, torch.cat([units1, units2]))
    return inputs, layout, plan_loss(ids1, ids2, units1, units2)


def step(
    encoder: Encoder, loss: DecoupledContrastiveLoss, inputs: Tensor, layout: Layout, plan: LossPlan, n: int
) -> Tensor:
    z1, z2 = encoder(inputs, layout=layout).split([plan.n_units1, plan.n_units2])
    total: Tensor = loss(z1, z2, plan=plan, n_pairs_total=n).total
    return total


def test_the_forward_pass_reads_no_value() -> None:
    encoder, loss = models()
    sizes = ([5, 3], [4, 4])
    batch = planned(encoder, *sizes)
    with NothingRead():
        total = step(encoder, loss, *batch, 9)
    assert torch.equal(total, step(encoder, loss, *batch, 9))
    # Plans read what they are made of, which is why they are made outside and of tensors on the host.
    inputs, _, _ = batch
    z1, z2 = encoder(inputs, [5, 3, 4, 4]).split([8, 8])
    with pytest.raises(ReadError), NothingRead():
        encoder(inputs, torch.tensor([5, 3, 4, 4]))
    with pytest.raises(ReadError), NothingRead():
        loss(z1, z2, *identities(sizes))


def test_the_forward_pass_compiles_as_one_graph_for_all_sizes() -> None:
    torch._dynamo.reset()
    encoder, loss = models()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    cases = (([5, 3], [4, 4]), ([4, 2, 1], [3, 3, 3]), ([6, 3], [5, 5]), ([2, 8, 0, 1], [2, 7, 1, 1]))
    for number, sizes in enumerate(cases):
        batch = planned(encoder, *sizes)
        with torch.compiler.set_stance("fail_on_recompile" if number > 2 else "default"):
            found = compiled(encoder, loss, *batch, 20 + number)
    parameters = [*loss.parameters(), *encoder.parameters()]
    gradients = torch.autograd.grad(found, parameters)
    expected = step(encoder, loss, *batch, 20 + number)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters))


@pytest.mark.parametrize("mixed", [False, True])
def test_mixed_precision_rounds_the_rows_of_the_loss_and_sums_in_float32(mixed: bool) -> None:
    """Bit for bit the loss of rows normalised in float32 and rounded once; its terms are float32."""
    _, loss = models()
    ids1, ids2, units1, units2 = identities(([9, 20], [12, 18]))
    plan = plan_loss(ids1, ids2, units1, units2)
    generator = torch.Generator().manual_seed(0)
    z1, z2 = (torch.randn(len(ids), CONFIG.dim, generator=generator) for ids in (ids1, ids2))
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        terms = loss(z1, z2, plan=plan)
        p1, p2 = (loss.projector(z) for z in (z1, z2))
    operand = torch.bfloat16 if mixed else torch.float32
    assert p1.dtype == operand
    rows1, rows2 = (F.normalize(p.float(), dim=1).to(operand) for p in (p1, p2))
    numerators, denominators = contrastive_loss(rows1, rows2, plan=plan, tau=loss.config.tau)
    weights = plan.pairs / plan.n_pairs
    assert terms.total.dtype == numerators.dtype == denominators.dtype == torch.float32
    assert terms.numerator.item() == (weights * numerators).sum().item()
    assert terms.denominator.item() == (weights * denominators).sum().item()
    exact = contrastive_loss(rows1.float(), rows2.float(), plan=plan, tau=loss.config.tau)
    assert terms.numerator.item() == pytest.approx((weights * exact[0]).sum().item(), rel=1e-5)
    assert terms.denominator.item() == pytest.approx((weights * exact[1]).sum().item(), rel=1e-5)
