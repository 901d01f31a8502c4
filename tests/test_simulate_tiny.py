"""The small populations that other tests build on."""

from __future__ import annotations

import numpy as np
import pytest

from nuclr_cli.testing.tiny import tiny_calcium, tiny_population


def test_spikes_are_sorted_inside_the_intervals_and_leave_silent_units_empty() -> None:
    spans = [(2.0, 30.0), (60.0, 100.0)]
    pop = tiny_population(3, n_units=12, intervals=spans, silent_units=2)
    assert pop.spikes is not None
    times, unit = pop.spikes.times, pop.spikes.unit_index
    assert np.all(np.diff(times) >= 0)
    assert np.all(((times >= 2) & (times < 30)) | ((times >= 60) & (times < 100)))
    assert pop.n_units == 12
    assert set(unit.tolist()) == set(range(10))


def test_names_do_not_change_the_spikes_but_the_seed_does() -> None:
    one, same = tiny_population(1), tiny_population(1, subject="other", session="x", population="p")
    other = tiny_population(2)
    assert one.spikes is not None
    assert same.spikes is not None
    assert other.spikes is not None
    np.testing.assert_array_equal(one.spikes.times, same.spikes.times)
    np.testing.assert_array_equal(one.spikes.unit_index, same.spikes.unit_index)
    assert len(one.spikes.times) != len(other.spikes.times)


def test_labels_are_optional_and_partly_empty() -> None:
    pop = tiny_population(n_units=20)
    assert set(pop.units["cell_type"]) == {"", "excitatory", "inhibitory"}
    assert set(tiny_population(label_columns=False).units) == {"id"}


@pytest.mark.parametrize("rate", [5.0, 30.0])
def test_calcium_frames_follow_rate_and_intervals(rate: float) -> None:
    pop = tiny_calcium(1, n_units=6, intervals=[(0.0, 20.0), (50.0, 61.0)], sampling_rate_hz=rate, n_planes=2)
    assert pop.calcium is not None
    traces = pop.calcium
    assert traces.values.shape == (round(31 * rate), 6)
    assert traces.values.dtype == np.float32
    assert np.isfinite(traces.values).all()
    assert traces.timestamps[0] == 0.0
    assert traces.timestamps[-1] < 61.0
    np.testing.assert_allclose(traces.time_offset, [0, 0.5 / rate] * 3)
