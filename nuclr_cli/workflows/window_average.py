"""What the encoder is given, averaged: the baseline that says what encoding adds at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.recording import Recording
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.data.views import make_view
from nuclr_cli.data.windows import evaluation_windows


def window_average(session: Recording, tokens: TokenSpec) -> NDArray[np.float64]:
    """Mean of each unit's raw inputs over the windows that an embedding averages over.

    Same windows, same inputs and same rule as `nuclr embed`: a window counts for the units that are active
    in it. Where the encoder reads spike times, the counts in bins of ``tokens.spikes.bin_s`` stand for them.

    Args:
        session: The recording.
        tokens: Window, patch and bin lengths of the run.

    Returns:
        (N, K) float64, K the bins (spikes: counts) or samples (calcium: resampled dF/F over the session's
        scale) of one window; NaN for a unit that is active in no window.
    """
    tokens = replace(tokens, spikes=replace(tokens.spikes, kind="counts"))
    kind = tokens.of(session.modality)
    sums = np.zeros((session.n_units, kind.n_patches * kind.samples_per_patch))
    windows = np.zeros(session.n_units, dtype=np.int64)
    for start_s in evaluation_windows(session, tokens):
        view = make_view(session, start_s, tokens)
        sums[view.rows] += view.inputs.reshape(-1, sums.shape[1])
        windows[view.rows] += 1
    with np.errstate(invalid="ignore"):
        average: NDArray[np.float64] = sums / windows[:, None]
    return average
