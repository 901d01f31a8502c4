"""The loss on recordings that a run was not trained on: the same windows and views for every run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nuclr_cli.data.batch import cut
from nuclr_cli.data.recording import Recording
from nuclr_cli.data.views import DroppedSample, ViewPair, draw_pair
from nuclr_cli.data.windows import TrainingWindows
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.devices import Device
from nuclr_cli.workflows.pair_model import PairModel
from nuclr_cli.workflows.presets import PretrainSettings

VIEWS_SEED = 2**62
"""Names the streams of windows and views. It is no run's seed (those are below 2**32 in a sweep)."""


@dataclass(frozen=True)
class HeldOutLoss:
    """What came out.

    Attributes:
        loss: As in training, weighted by matched units; None where no window gave a pair.
        n_windows, n_dropped: Windows drawn, and those without two large enough views.
        n_pairs: Matched units.
    """

    loss: float | None
    n_windows: int
    n_dropped: int
    n_pairs: int


def held_out_loss(
    model: PairModel,
    recordings: Sequence[Recording],
    settings: PretrainSettings,
    device: Device,
    n_windows: int,
) -> HeldOutLoss:
    """Score a model, dropout off, in float32.

    Windows and views are a function of the recordings, the tokens and the view settings alone: not of the
    run's seed, its size, its data or the batch size.

    Args:
        model: Trained weights; it is moved to `device`.
        recordings: Not trained on. Too short ones are passed over.
        settings: Of the run.
        device: Where.
        n_windows: At most so many windows, drawn at random from all recordings.
    """
    views, dropped = settings.views, 0
    try:
        windows = TrainingWindows(recordings, settings.tokens, min_units=views.min_units)
    except InputError:  # none of them is long enough
        return HeldOutLoss(None, 0, 0, 0)
    drawn = windows.epoch(VIEWS_SEED, 0)[:n_windows]
    model = model.to(device.torch).eval()
    total, n_pairs = 0.0, 0
    size = settings.train.batch_windows
    # VICReg is a statistic of its whole batch: a batch of it is never cut.
    cap = settings.train.max_tokens if settings.loss.name == "dcl" else sys.maxsize
    with torch.inference_mode():
        for first in range(0, len(drawn), size):
            pairs: list[ViewPair] = []
            for place in range(first, min(first + size, len(drawn))):
                pair = draw_pair(
                    recordings[drawn[place].session],
                    drawn[place],
                    settings.tokens,
                    VIEWS_SEED,
                    0,
                    place,
                    dropout=(views.dropout_low, views.dropout_high),
                    min_units=views.min_units,
                )
                if isinstance(pair, DroppedSample):
                    dropped += 1
                else:
                    pairs.append(pair)
            for micro in cut(pairs, cap):
                mean, *_ = model(model.prepare(micro, device.torch), micro.n_pairs)
                total += float(mean) * micro.n_pairs
                n_pairs += micro.n_pairs
    return HeldOutLoss(total / n_pairs if n_pairs else None, len(drawn), dropped, n_pairs)
