"""Every rule a population must obey: what breaks it, and what the message says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nuclr_cli.api import CalciumTraces, Population, Spikes
from nuclr_cli.data import check
from nuclr_cli.data.check import check_population
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError

N_UNITS = 6


def spikes_population() -> Population:
    times = np.linspace(0.5, 59.5, 600)
    return Population(
        subject="mouse",
        session="day1",
        population="probe0",
        units={"id": np.array([f"u{i}" for i in range(N_UNITS)]), "depth": np.arange(6.0)},
        intervals=np.array([[0.0, 60.0]]),
        spikes=Spikes(times, np.arange(600) % N_UNITS),
    )


def calcium_population() -> Population:
    times = np.arange(300) / 10.0
    values = np.random.default_rng(0).gamma(1.0, 1.0, (300, N_UNITS)).astype(np.float32)
    return Population(
        subject="mouse",
        session="day1",
        units={"id": np.array([f"u{i}" for i in range(N_UNITS)])},
        intervals=np.array([[0.0, 30.0]]),
        calcium=CalciumTraces(values, times, 10.0, np.zeros(N_UNITS)),
    )


def with_spikes(times=None, unit_index=None, **changes) -> Population:
    pop = spikes_population()
    times = pop.spikes.times if times is None else times
    unit_index = pop.spikes.unit_index if unit_index is None else unit_index
    return replace(pop, spikes=Spikes(times, unit_index), **changes)


def with_calcium(intervals=None, **changes) -> Population:
    pop = calcium_population()
    intervals = pop.intervals if intervals is None else intervals
    return replace(pop, intervals=intervals, calcium=replace(pop.calcium, **changes))


def with_units(**units) -> Population:
    return replace(spikes_population(), units={**spikes_population().units, **units})


def changed(values: np.ndarray, *changes: tuple) -> np.ndarray:
    values = values.copy()
    for where, value in changes:
        values[where] = value
    return values


TIMES = spikes_population().spikes.times
INDEX = spikes_population().spikes.unit_index
FRAMES = calcium_population().calcium.timestamps
VALUES = calcium_population().calcium.values

BROKEN = {
    "no subject": (replace(spikes_population(), subject=" "), "the subject id is empty"),
    "no session": (replace(spikes_population(), session=""), "the session id is empty"),
    "subject no text": (replace(spikes_population(), subject="a\ud800"), "not valid Unicode"),
    "no ids": (replace(spikes_population(), units={"depth": np.arange(6)}), "no column 'id'"),
    "no units": (replace(spikes_population(), units={"id": np.array([], dtype=str)}), "has no units"),
    "integer ids": (with_units(id=np.arange(6)), "unit ids have dtype int64, expected text"),
    "repeated ids": (with_units(id=np.array(list("abcabd"))), "unit ids repeat: 'a' x2, 'b' x2"),
    "empty id": (with_units(id=np.array(["", "a", "b", "c", "d", "e"])), "a unit's id is empty"),
    "short column": (with_units(area=np.array(["x", "y"])), "'area' has 2 values for 6 units"),
    "scalar column": (with_units(area=np.float64(3)), "'area' has a single value for 6 units"),
    "object column": (with_units(area=np.array([{}] * 6)), "'area' has dtype object"),
    "complex column": (with_units(area=np.zeros(6, complex)), "'area' has dtype complex128"),
    "dates": (with_units(area=np.zeros(6, "M8[s]")), "'area' has dtype datetime64"),
    "nameless column": (with_units(**{"": np.zeros(6)}), "column is called ''"),
    "undecodable label": (with_units(area=np.array(["\udcff"] * 6)), "'area' is not valid Unicode"),
    "no interval": (replace(spikes_population(), intervals=np.empty((0, 2))), r"shape \(0, 2\)"),
    "flat interval": (replace(spikes_population(), intervals=np.array([0.0, 60.0])), r"shape \(2,\)"),
    "interval NaN": (
        replace(spikes_population(), intervals=np.array([[0.0, np.nan]])),
        "1 of 1 intervals are not finite",
    ),
    "interval reversed": (replace(spikes_population(), intervals=np.array([[60.0, 0.0]])), "end before"),
    "intervals overlap": (
        replace(spikes_population(), intervals=np.array([[0.0, 30.0], [29.0, 60.0]])),
        r"start before the one before them ends \(the first is number 1: 29 to 60 s\)",
    ),
    "intervals unsorted": (
        replace(spikes_population(), intervals=np.array([[30.0, 60.0], [0.0, 20.0]])),
        "start before the one before",
    ),
    "years": (replace(spikes_population(), intervals=np.array([[0.0, 1e9]])), "it spans 11574 days"),
    "too late": (
        replace(spikes_population(), intervals=np.array([[1.7e12, 1.7e12 + 60.0]])),
        r"its times reach 1.7e\+12 s",
    ),
    "nothing recorded": (replace(spikes_population(), spikes=None), "neither spikes nor calcium"),
    "both": (replace(spikes_population(), calcium=calcium_population().calcium), "spikes and calcium traces"),
    "length of index": (
        with_spikes(unit_index=INDEX[:-1]),
        r"\(600,\) spike times but \(599,\) unit indices",
    ),
    "no spikes": (with_spikes(TIMES[:0], INDEX[:0]), "it has no spikes"),
    "integer times": (with_spikes(times=np.arange(600)), "spike times are int64"),
    "float index": (with_spikes(unit_index=INDEX.astype(float)), "unit indices float64"),
    "index too large": (
        with_spikes(unit_index=changed(INDEX, (7, 6), (9, 99))),
        r"2 of 600 spikes have a unit index outside 0\.\.5",
    ),
    "index negative": (
        with_spikes(unit_index=changed(INDEX, (7, -1))),
        "1 of 600 spikes have a unit index outside",
    ),
    "time NaN": (
        with_spikes(changed(TIMES, ([6, 12], np.nan), (7, np.inf))),
        r"3 of 600 spike times are NaN or infinite, of 2 units \('u0', 'u1'\)",
    ),
    "last time infinite": (
        with_spikes(changed(TIMES, (599, np.inf))),
        "1 of 600 spike times are NaN or infinite",
    ),
    "unsorted": (with_spikes(changed(TIMES, (10, TIMES[20]))), "not sorted: 1 of 600 are earlier"),
    "negative time": (
        with_spikes(changed(TIMES, (0, -2.0))),
        "1 of 600 spikes lie before 0 s, the first at -2 s",
    ),
    "spike after the end": (
        with_spikes(intervals=np.array([[0.0, 50.0]])),
        r"97 of 600 spikes lie outside the recording, 0 to 50 s \(the spikes span 0.5 to 59.5 s\)",
    ),
    "spike before the start": (
        with_spikes(intervals=np.array([[10.0, 60.0]])),
        "spikes lie outside the record",
    ),
    "milliseconds": (
        with_spikes(TIMES * 1e4, intervals=np.array([[0.0, 6e5]]) * 10),
        "the median unit fires at 1.67e-05 Hz",
    ),
    "samples taken for seconds": (
        with_spikes(TIMES / 3e4, intervals=np.array([[0.0, 0.002]])),
        r"fires at 5e\+04 Hz \(600 spikes of 6 units in 0.002 s\)",
    ),
    "transposed": (with_calcium(values=VALUES.T), r"float32 of shape \(6, 300\)"),
    "integer traces": (with_calcium(values=VALUES.astype(int)), "traces are int64"),
    "short timestamps": (
        with_calcium(timestamps=FRAMES[:-1]),
        r"300 frames but timestamps of .*\(299,\)",
    ),
    "one frame": (with_calcium(values=VALUES[:1], timestamps=FRAMES[:1]), "1 frames but"),
    "rate too low": (
        with_calcium(sampling_rate_hz=0.05),
        "rate is 0.05 Hz, expected 0.1 to 1000 Hz",
    ),
    "rate too high": (with_calcium(sampling_rate_hz=30_000.0), "the frame rate is 30000 Hz"),
    "rate NaN": (with_calcium(sampling_rate_hz=float("nan")), "the frame rate is nan Hz"),
    "rate wrong": (with_calcium(sampling_rate_hz=30.0), r"0.1 s apart \(10 Hz\) but the rate is 30 Hz"),
    "frame time NaN": (with_calcium(timestamps=changed(FRAMES, (5, np.nan))), "1 of 300 frame times are NaN"),
    "frame time repeats": (
        with_calcium(timestamps=changed(FRAMES, (5, FRAMES[4]))),
        "frame times do not increase: 1 of 300 are not later",
    ),
    "frames after the end": (
        with_calcium(intervals=np.array([[0.0, 20.0]])),
        "99 of 300 frames lie outside the recording, 0 to 20 s",
    ),
    "offsets": (with_calcium(time_offset=np.zeros(3)), r"time offsets have shape \(3,\)"),
    "offset NaN": (with_calcium(time_offset=np.full(6, np.nan)), "are not finite"),
    "trace NaN": (
        with_calcium(values=changed(VALUES, ((3, 2), np.nan), ((299, 5), np.inf))),
        r"traces of 2 units \('u2', 'u5'\) hold NaN or infinite samples",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_populations_are_refused(case, tmp_path: Path):
    pop, message = BROKEN[case]
    with pytest.raises(InputError, match=message) as caught:
        check_population(pop)
    assert caught.value.fix
    with pytest.raises(InputError, match=message):  # and nothing can write one
        write_population(pop, tmp_path / "a.h5", source=SourceRecord("x", "r", "d"))
    assert not list(tmp_path.iterdir())


def test_messages_name_the_population():
    with pytest.raises(InputError, match="'mouse', session 'day1', population 'probe0': it has no spikes"):
        check_population(with_spikes(TIMES[:0], INDEX[:0]))


def test_dropping_nan_units_is_offered():
    with pytest.raises(InputError) as caught:
        check_population(BROKEN["trace NaN"][0])
    assert "--drop-nan-units" in caught.value.fix


def test_sound_populations_pass_without_a_word():
    assert check_population(spikes_population()) == []
    assert check_population(calcium_population()) == []


def test_times_below_zero_are_fine_where_the_interval_says_so():
    pop = with_spikes(TIMES - 10.0, intervals=np.array([[-10.0, 50.0]]))
    assert check_population(pop) == []


def test_touching_intervals_and_a_spike_at_the_very_end_are_fine():
    pop = with_spikes(changed(TIMES, (599, 60.0)), intervals=np.array([[0.0, 30.0], [30.0, 60.0]]))
    assert check_population(pop) == []


def test_silent_units_are_named_and_do_not_lower_the_median():
    (warning,) = check_population(with_spikes(unit_index=np.zeros(600, int)))
    assert warning.startswith("5 units ('u1', 'u2', 'u3', 'u4', 'u5') without spikes")


def test_one_unit_outside_the_plausible_rates_is_a_warning():
    times = np.sort(np.r_[TIMES, np.random.default_rng(0).uniform(0, 60, 15_000)])
    index = np.r_[INDEX, np.full(15_000, 3)]
    (warning,) = check_population(with_spikes(times, index))
    assert warning == "The rate of 1 unit ('u3') lies outside 0.001 to 200 Hz."


def test_long_lists_of_units_are_cut():
    pop = Population(
        "m",
        "s",
        {"id": np.array([f"u{i}" for i in range(50)])},
        np.array([[0.0, 60.0]]),
        spikes=Spikes(TIMES, np.zeros(600, int)),
    )
    (warning,) = check_population(pop)
    assert warning.startswith("49 units ('u1', 'u2', 'u3', 'u4', 'u5', ...) without spikes")


def test_spikes_between_intervals_are_counted():
    (warning,) = check_population(with_spikes(intervals=np.array([[0.0, 20.0], [40.0, 60.0]])))
    n_in_gap = int(((TIMES > 20) & (TIMES < 40)).sum())
    assert warning == f"{n_in_gap} of 600 spikes lie between the intervals and are never used."


def test_constant_traces_are_named():
    (warning,) = check_population(with_calcium(values=changed(VALUES, ((slice(None), 4), 0.5))))
    assert "1 unit ('u4')" in warning


def test_lists_of_text_are_taken_as_text():
    pop = with_units(id=np.array(list("abcdef"), dtype=object), area=np.array([b"x", b"y"] * 3))
    assert check_population(pop) == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_disorder_and_nan_at_the_seam_of_two_blocks_are_seen(monkeypatch, place):
    monkeypatch.setattr(check, "_BLOCK", 100)
    with pytest.raises(InputError, match="not sorted: 1 of 600 are earlier"):
        check_population(with_spikes(changed(TIMES, (99 + place, TIMES[98 + place] - 1e-3))))
    with pytest.raises(InputError, match="1 of 600 spike times are NaN"):
        check_population(with_spikes(changed(TIMES, (99 + place, np.nan))))
    with pytest.raises(InputError, match="1 of 600 spikes have a unit index"):
        check_population(with_spikes(unit_index=changed(INDEX, (99 + place, 6))))
    with pytest.raises(InputError, match="traces of 1 unit "):
        check_population(with_calcium(values=changed(VALUES, ((15 + place, 1), np.nan))))


def test_counts_of_spikes_match_a_plain_count():
    counts = check.spike_counts(Spikes(TIMES, INDEX.astype(np.uint16)), 8)
    assert counts.tolist() == [100] * 6 + [0, 0]
