"""Populations whose units several processes hold: the numbers of one process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from several_processes import (
    assert_same_run,
    children,
    finished,
    pretrain,
    started,
    torchrun,
    wait_for_step,
)

from nuclr_cli.data.embeddings import load_embeddings
from nuclr_cli.model import Encoder, ModelConfig
from nuclr_cli.model.pieces import PIECE_TOKENS
from nuclr_cli.model.unit_shards import own_rows, unit_shards
from nuclr_kernels import population_attention, population_attention_of_some

Nuclr = Callable[..., Any]

SIZES = st.lists(st.integers(0, 40), max_size=6)


@given(SIZES, st.integers(1, 9))
def test_every_unit_is_held_once_and_shares_are_even(sizes: list[int], of: int) -> None:
    held = [[row for part in own_rows(sizes, member, of) for row in part] for member in range(of)]
    assert sorted(row for hand in held for row in hand) == list(range(sum(sizes)))
    for number, size in enumerate(sizes):
        of_one = [len(own_rows(sizes, member, of)[number]) for member in range(of)]
        assert max(of_one) - min(of_one) <= 1
        assert sum(of_one) == size


@given(SIZES, st.integers(1, 5), st.integers(0, 10))
def test_what_is_gathered_can_be_put_in_order(sizes: list[int], of: int, seed: int) -> None:
    shards = [unit_shards(sizes, member, of) for member in range(of)]
    values = torch.rand(sum(sizes), 2, generator=torch.Generator().manual_seed(seed))
    gathered = torch.full((of * shards[0].longest, 2), torch.nan)
    for member, one in enumerate(shards):
        own = values[one.rows]
        gathered[member * one.longest : member * one.longest + len(own)] = own
    for one in shards:
        assert torch.equal(gathered[one.places], values)


@pytest.mark.parametrize("of", [1, 2, 3])
def test_some_units_get_what_they_get_among_all(of: int) -> None:
    sizes = [7, 0, 1, 40]
    qkv = torch.randn(sum(sizes), 5, 3, 2, 16, dtype=torch.float64, requires_grad=True)
    bounds = torch.tensor([0, *np.cumsum(sizes).tolist()], dtype=torch.int32)
    whole = population_attention(qkv, bounds)
    weight = torch.randn_like(whole)
    (expected,) = torch.autograd.grad((whole * weight).sum(), qkv)
    found, gradient = torch.empty_like(whole), torch.zeros_like(qkv)
    for member in range(of):
        shards = unit_shards(sizes, member, of)
        own = population_attention_of_some(
            qkv[shards.rows, :, 0], qkv[:, :, 1], qkv[:, :, 2], shards.own_sizes, sizes
        )
        found[shards.rows] = own.detach()
        (part,) = torch.autograd.grad((own * weight[shards.rows]).sum(), qkv)
        gradient += part
    torch.testing.assert_close(found, whole.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_sizes_that_do_not_fit_are_refused() -> None:
    x = torch.zeros(4, 2, 1, 8)
    with pytest.raises(ValueError, match="must add up to 4 and 4 units; got 4 and 5"):
        population_attention_of_some(x, x, x, [4], [5])
    with pytest.raises(ValueError, match="query_sizes has 2 populations; sizes has 1"):
        population_attention_of_some(x, x, x, [2, 2], [4])


def test_a_huge_population_is_worked_on_in_pieces() -> None:
    """What layers hold in between does not grow with the population; the numbers stay."""
    torch.manual_seed(0)
    config = ModelConfig(dim=8, heads=1, head_dim=8, temporal_layers=1, spatiotemporal_layers=0, dropout=0.0)
    encoder = Encoder(config).eval()
    units = 2 * (PIECE_TOKENS // config.counts_patches) + 7
    x = torch.rand(units, config.counts_patches, config.counts_samples)
    seen: list[int] = []
    layer = encoder.temporal_blocks[0].temporal.feed_forward.up
    layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[:-1].numel()))
    with torch.no_grad():
        found = encoder(x, [units])
        assert max(seen) <= PIECE_TOKENS
        assert sum(seen) == units * config.counts_patches
        for few in (slice(0, 50), slice(units // 2, units // 2 + 50), slice(units - 50, units)):
            torch.testing.assert_close(found[few], encoder(x[few], [50]), rtol=1e-5, atol=1e-6)


TOGETHER = [(4, 2, "layers", "counts"), (3, 3, "none", "events")]


@pytest.mark.parametrize(("ranks", "of", "recompute", "tokens"), TOGETHER)
def test_processes_that_hold_windows_together_train_as_one_does(
    nuclr: Nuclr, uneven_data: Path, ranks: int, of: int, recompute: str, tokens: str, tmp_path: Path
) -> None:
    """Losses and weights after 20 steps, float64, to 1e-9; also with several such groups."""
    # Rounding grows with what is learned: with events, in 20 steps of the preset's rate, from 1e-12 to 1e-7.
    same = {"model.tokens": tokens, "train.learning_rate": 1e-3 if tokens == "counts" else 1e-5}
    one = nuclr(*pretrain(uneven_data, "one", **same), cwd=tmp_path)
    assert one.code == 0, one.err
    changes = {**same, "train.processes_per_window": of, "train.recompute": recompute}
    done = finished([*torchrun(ranks), *pretrain(uneven_data, "several", "--json", **changes)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["processes"] == ranks
    assert_same_run(tmp_path / "nuclr-runs" / "several", tmp_path / "nuclr-runs" / "one")


@pytest.fixture(scope="module")
def alone(nuclr: Nuclr, uneven_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of VICReg, which cannot be cut by windows, of one process."""
    place = tmp_path_factory.mktemp("vicreg")
    done = nuclr(*pretrain(uneven_data, "run", **VICREG), cwd=place)
    assert done.code == 0, done.err
    return place / "nuclr-runs" / "run"


VICREG = {"loss.name": "vicreg", "train.max_tokens": 10**6}


def test_one_process_goes_on_with_what_several_have_begun(
    nuclr: Nuclr, uneven_data: Path, alone: Path, tmp_path: Path
) -> None:
    """By units even VICReg can be cut; who holds a window, and what is forgotten, may change on the way."""
    run = tmp_path / "nuclr-runs" / "run"
    together = pretrain(uneven_data, "run", **VICREG, **{"train.processes_per_window": 2})
    with started([*torchrun(2), *together], tmp_path) as process:
        wait_for_step(run, 3)
        os.kill(children(process.pid)[1], signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert err.count("Stopped by a signal after step") == 1
    stopped = json.loads((run / "run.json").read_text())["step"]
    assert 3 <= stopped < 20
    changed = {"train.processes_per_window": 1, "train.recompute": "layers"}
    done = nuclr(*pretrain(uneven_data, "run", "--resume", **VICREG, **changed), cwd=tmp_path)
    assert done.code == 0, done.err
    assert "train.processes_per_window is 1 from here on; it was 2" in done.err
    assert json.loads((run / "config.json").read_text())["train"]["recompute"] == "layers"
    assert_same_run(run, alone)


def test_processes_that_hold_windows_together_embed_as_one_does(
    nuclr: Nuclr, uneven_data: Path, alone: Path, tmp_path: Path
) -> None:
    places = [tmp_path / f"{name}.parquet" for name in ("alone", "together")]
    done = nuclr("embed", uneven_data, "--run", alone, "-o", places[0], "--gpus", "0")
    assert done.code == 0, done.err
    command = ["embed", uneven_data, "--run", alone, "-o", places[1], "--gpus", 0]
    several = [*torchrun(4), *map(str, command), "--processes-per-window", "2"]
    together = finished(several, tmp_path)
    assert together.returncode == 0, together.stderr
    tables = [load_embeddings(place) for place in places]
    assert tables[0].n_windows.tolist() == tables[1].n_windows.tolist()
    assert tables[0].n_events.tolist() == tables[1].n_events.tolist()
    np.testing.assert_allclose(tables[1].embedding, tables[0].embedding, rtol=2e-5, atol=2e-6)


FAILING = """
import os, sys
import nuclr_cli.workflows.embed_sessions as sessions
from nuclr_cli.cli.app import main
from nuclr_cli.errors import InputError
encode = sessions.encode
calls = []

def fails(*arguments):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 3:
        raise InputError("Memory is too small here.", "Take less")
    return encode(*arguments)

sessions.encode = fails
main()
"""


def test_a_process_that_fails_between_two_exchanges_is_not_waited_for(
    uneven_data: Path, alone: Path, tmp_path: Path
) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    out = tmp_path / "x.parquet"
    command = ["embed", uneven_data, "--run", alone, "-o", out, "--gpus", 0, "--processes-per-window", 2]
    words = [*torchrun(2)[:-3], "--", str(tmp_path / "failing.py"), *map(str, command)]
    done = finished(words, tmp_path)
    assert done.returncode != 0
    assert "Memory is too small here." in done.stderr
    assert "collective mismatch" not in done.stderr
    assert "bug in nuclr" not in done.stderr
    assert not out.exists()


def test_processes_that_do_not_divide_are_refused_before_a_run_is_made(
    nuclr: Nuclr, uneven_data: Path, tmp_path: Path
) -> None:
    done = nuclr(*pretrain(uneven_data, "run", **{"train.processes_per_window": 2}), cwd=tmp_path)
    assert done.code == 3
    assert "does not divide the number of processes, 1" in done.err
    assert not (tmp_path / "nuclr-runs").exists()
