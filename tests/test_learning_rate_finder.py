"""`nuclr pretrain --find-lr` tries rates on a copy, writes nothing, and suggests one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nuclr_cli.data.pretrain_stream import PretrainStream
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.streams import Purpose, torch_seed
from nuclr_cli.workflows.learning_rate_finder import smoothed, steepest_descent
from nuclr_cli.workflows.pair_model import initial_model
from nuclr_cli.workflows.presets import for_modalities, preset_settings, with_changes

SETTINGS: dict[str, Any] = {
    "train.batch_windows": 2,
    "train.target_pairs": 40,
    "model.dim": 16,
    "model.heads": 2,
    "model.head_dim": 8,
    "model.dropout": 0.1,
}


def test_the_steepest_place_of_a_curve_is_found() -> None:
    rates = np.geomspace(1e-6, 1.0, 100)
    place = np.log10(rates)
    # Falls about 1e-3, most steeply there; rises again from 1e-1 on, more steeply than it fell.
    change = -1.0 / (1.0 + np.exp(-4.0 * (place + 3.0))) + 3.0 / (1.0 + np.exp(-9.0 * (place + 0.5)))
    noise = np.random.default_rng(0).normal(scale=0.02, size=100)
    for curve in (change, change + noise):
        found = steepest_descent(rates, curve)
        assert found is not None
        assert 5e-4 < found < 2e-3
    assert steepest_descent(rates, noise) is None
    assert steepest_descent(rates, np.linspace(0.0, 1.0, 100)) is None


def test_smoothing_keeps_constants_and_takes_neighbours() -> None:
    np.testing.assert_allclose(smoothed(np.full(9, 3.0)), 3.0)
    peak = np.zeros(21)
    peak[10] = 1.0
    curve = smoothed(peak)
    assert curve.argmax() == 10
    np.testing.assert_allclose(curve[8], curve[12])
    assert 0 < curve[7] < curve[9] < curve[10] < 0.2


def test_a_rate_is_suggested_and_nothing_is_written(
    tiny_data: Path,
    tmp_path: Path,
    forked: Callable[..., Any],
) -> None:
    before = sorted(tiny_data.rglob("*"))
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    command = ("pretrain", tiny_data, "--preset", "tiny", "--gpus", 0, "--find-lr", *settings)
    done = forked(*command, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    record = done.json
    rates = [point["rate"] for point in record["curve"]]
    assert len(rates) == 100
    assert (rates[0], rates[-1]) == (pytest.approx(1e-6), pytest.approx(1.0))
    assert rates == sorted(rates)
    assert 1e-5 < record["learning_rate"] < record["lowest_at"] < 0.3
    assert record["setting"] == f"train.learning_rate={record['learning_rate']:g}"
    assert record["command"].startswith(f"nuclr pretrain {tiny_data} --preset tiny --gpus 0 ")
    assert f"--set {record['setting']}" in record["command"]
    assert min(point["change"] for point in record["curve"]) < -0.1
    # At first both models are the same, on the same views, with the same dropout.
    first = record["curve"][0]
    assert first["loss"] == first["loss_at_start"] == pytest.approx(first_loss(tiny_data), rel=1e-5)

    shown = forked(*command, cwd=tmp_path).out
    (marked,) = (line for line in shown.splitlines() if "<- steepest" in line)
    assert marked.split()[0] == f"{record['learning_rate']:.1e}"
    assert f"--set {record['setting']}" in shown  # the same numbers again
    assert list(tmp_path.iterdir()) == []
    assert sorted(tiny_data.rglob("*")) == before


def first_loss(data: Path) -> float:
    """Mean over the pairs of the batches of a run's first step."""
    settings = for_modalities(with_changes(preset_settings("tiny"), SETTINGS), frozenset({"spikes"}))
    model = initial_model(settings)
    stream = PretrainStream(
        open_sessions(data), settings.tokens, seed=settings.seed, batch_windows=2, max_tokens=10**6
    )
    total, pairs = 0.0, 0
    for number, batch in enumerate(stream):
        (micro,) = batch.micro
        torch.manual_seed(torch_seed(settings.seed, 0, number, Purpose.MODEL))
        with torch.no_grad():
            loss, *_ = model(model.prepare(micro, "cpu"), micro.n_pairs)
        total, pairs = total + float(loss) * micro.n_pairs, pairs + micro.n_pairs
        if pairs >= SETTINGS["train.target_pairs"]:
            break
    assert number == 1
    return total / pairs


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--resume",), "--find-lr and --resume contradict one another"),
        (("--nodes", "2"), "how the machines find one another"),
        (("--set", "train.lerning_rate=1"), "Did you mean 'train.learning_rate'?"),
    ],
)
def test_what_cannot_be_tried_is_refused(
    tiny_data: Path, tmp_path: Path, forked: Callable[..., Any], more: tuple[str, ...], said: str
) -> None:
    done = forked("pretrain", tiny_data, "--gpus", 0, "--find-lr", *more, cwd=tmp_path)
    assert done.code == 3
    assert said in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []
