"""A full training step of the `ephys` preset: the fused kernels against what torch brings.

Every variant runs the same model, weights and batch in the same process; only the three operations differ.
`SDPA` calls scaled_dot_product_attention on views once a population, `varlen` copies to (patch, unit) order
and calls torch's varlen_attn (FlashAttention-2), both with the plain torch loss. The rows of `recompute` are
the fused kernels with feed-forward layers that forget activations (``train.recompute``): time for memory.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import describe
from peers import population_peers
from timing import Timing, measure
from torch import Tensor

from nuclr_cli.model import DecoupledContrastiveLoss, Encoder, ModelConfig, blocks
from nuclr_cli.model.config import Recompute

RECOMPUTE: dict[str, Recompute] = {"nuclr, recompute gates": "gates", "nuclr, recompute ffn": "ffn"}


@contextmanager
def variant(name: str, sizes: list[int], n_patches: int, device: torch.device) -> Iterator[None]:
    """Within, the operations run in this way."""
    before = os.environ.get("NUCLR_KERNELS")
    original = blocks.population_attention
    if name.startswith("nuclr"):
        os.environ.pop("NUCLR_KERNELS", None)
    else:
        os.environ["NUCLR_KERNELS"] = "reference"
    if name == "varlen":
        attend = population_peers(sizes, n_patches, device)["varlen_attn with copies"]
        blocks.population_attention = lambda qkv, *args, **kwargs: attend(qkv)
    try:
        yield
    finally:
        blocks.population_attention = original
        if before is None:
            os.environ.pop("NUCLR_KERNELS", None)
        else:
            os.environ["NUCLR_KERNELS"] = before


def make_step(
    encoder: Encoder, loss: DecoupledContrastiveLoss, batch: dict[str, Tensor], device: torch.device
) -> Callable[[], Tensor]:
    parameters = [*encoder.parameters(), *loss.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0, fused=device.type == "cuda")
    units1, units2 = batch["units1"], batch["units2"]
    n1 = int(units1.sum())
    ids1, ids2 = batch["ids"][:n1], batch["ids"][n1:]
    cast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()

    def step() -> Tensor:
        with cast:
            z = encoder(batch["inputs"], torch.cat([units1, units2]))
            total = loss(z[:n1], z[n1:], ids1, ids2, units1, units2).total
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        return total.detach()

    return step


def make_batch(windows: int, least: int, most: int, device: torch.device) -> dict[str, Tensor]:
    """Two views of every window, of recordings of `most` units."""
    generator = torch.Generator().manual_seed(0)
    units = torch.randint(least, most + 1, (2 * windows,), generator=generator)
    ids = torch.cat([torch.randperm(most, generator=generator)[: int(n)] for n in units])
    rates = torch.rand((len(ids), 1, 1), generator=generator) * 0.4
    inputs = torch.poisson(rates.expand(-1, 10, 50), generator=generator)
    units1, units2 = units.chunk(2)
    return {"inputs": inputs.to(device), "ids": ids.to(device), "units1": units1, "units2": units2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    windows, least, most = (4, 5, 20) if arguments.small else (128, 100, 200)
    batch = make_batch(windows, least, most, device)
    sizes = [*batch["units1"].tolist(), *batch["units2"].tolist()]
    torch.manual_seed(0)
    encoder, loss = Encoder(ModelConfig(dropout=0.0)).to(device), None
    loss = DecoupledContrastiveLoss(encoder.config.dim).to(device)
    names = ["nuclr", *RECOMPUTE, "SDPA"] + (["varlen"] if device.type == "cuda" else [])
    timings: dict[str, Timing | str] = {}
    values: dict[str, float] = {}
    for name in names:
        try:
            with variant(name, sizes, 10, device):
                blocks.set_recompute(encoder, RECOMPUTE.get(name, "none"))
                step = make_step(encoder, loss, batch, device)
                values[name] = float(step())
                timings[name] = measure([step], budget_s=1.0 if arguments.small else 3.0)
        except Exception as error:  # a peer that cannot run here is told, not hidden
            timings[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    lines = [
        "# A training step on a GPU" if device.type == "cuda" else "# A training step",
        "",
        f"`ephys` preset, {windows} windows, {least} to {most} units a view ({len(batch['ids'])} in all), "
        f"{describe()['device']}.",
        "",
        "| variant | ms | 20 % - 80 % | peak memory MB | loss |",
        "|--|--|--|--|--|",
    ]
    for name, timing in timings.items():
        if isinstance(timing, str):
            lines.append(f"| {name} | {timing} |  |  |  |")
            continue
        memory = "-" if timing.extra_bytes is None else f"{timing.extra_bytes / 1e6:.0f}"
        spread = f"{timing.low_ms:.1f} - {timing.high_ms:.1f}"
        lines.append(f"| {name} | {timing.ms:.1f} | {spread} | {memory} | {values[name]:.4f} |")
    ours = timings["nuclr"]
    peers = [t.ms for n, t in timings.items() if not n.startswith("nuclr") and isinstance(t, Timing)]
    if isinstance(ours, Timing) and peers:
        lines += ["", f"The best peer takes {min(peers) / ours.ms:.2f} times as long as nuclr."]
    print("\n".join(lines))
    arguments.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "benchmark": "gpu_train_step",
        "windows": windows,
        "units": sizes,
        "variants": {n: t if isinstance(t, str) else asdict(t) for n, t in timings.items()},
        "losses": values,
        **describe(),
    }
    (arguments.out / "train_step.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "train_step.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
