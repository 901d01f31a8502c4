"""What a probe has seen: planted outsiders are named, and units like those it was fitted on are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nuclr_cli.evaluation.applicability import FEWEST_UNITS, Applicability, Units, check, learn
from nuclr_cli.workflows.predict_applicability import session_warnings

DIM = 24


def population(
    seed: int, n: int, *, windows: int = 60, rate: float = 50.0, shift: float = 0.0, subject: str = "",
    modality: str = "spikes",
) -> Units:  # fmt: skip
    """Embeddings with three long axes and little noise along the others; `shift` moves along a short one."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(n, DIM)) * np.array([3.0, 2.0, 1.5] + [0.1] * (DIM - 3)) + 5.0
    embedding[:, -1] += shift
    name = subject or f"m{seed}"
    n_windows = rng.integers(max(windows - 5, 1), windows + 1, n)
    n_windows[0] = windows
    events = np.maximum(n_windows * rate * rng.lognormal(0, 0.5, n), 1).astype(np.int64)
    text = {"subject": name, "population": f"{name}/day/0", "modality": modality}
    columns = {key: np.full(n, value) for key, value in text.items()}
    return Units(**columns, n_windows=n_windows, n_events=events, embedding=embedding.astype(np.float32))


def joined(*parts: Units) -> Units:
    names = [one.name for one in dataclasses.fields(Units)]
    return Units(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def named(seen: Applicability, units: Units) -> dict[str, int]:
    counts: dict[str, int] = {}
    for names in check(seen, units):
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.fixture(scope="module")
def training() -> Units:
    return joined(*(population(seed, n) for seed, n in enumerate((50, 60, 70, 80))))


@pytest.fixture(scope="module")
def seen(training: Units) -> Applicability:
    return learn(training, np.arange(len(training.subject)), {"spikes": 10.0})


def test_new_animals_of_the_same_kind_are_inside(seen: Applicability) -> None:
    for seed in range(10, 16):
        units = population(seed, 100, windows=90)
        counts = named(seen, units)
        assert counts.get("embedding", 0) <= 8
        assert counts.get("rate", 0) <= 10
        assert set(counts) <= {"embedding", "rate"}
        assert session_warnings(seen, units, np.arange(100), check(seen, units)) == ()


def test_a_shift_that_is_small_beside_the_long_axes_is_seen(seen: Applicability) -> None:
    """1.5 along an axis on which training units differ by 0.1: raw distance would drown it."""
    units = population(10, 60, shift=1.5)
    assert named(seen, units)["embedding"] > 55
    (text,) = session_warnings(seen, units, np.arange(60), check(seen, units))
    assert "lie outside 99% of the embeddings" in text


@pytest.mark.parametrize(
    ("options", "name", "text"),
    [
        ({"n": 20}, "population", "20 units recorded together, the probe was fitted on 50 to 80"),
        ({"n": 170}, "population", "170 units recorded together"),
        ({"n": 60, "windows": 12}, "duration", "2 min, the probe was fitted on 10 min"),
        ({"n": 60, "rate": 600.0}, "rate", "of 60 units are outside the"),
    ],
)
def test_what_is_planted_is_named(seen: Applicability, options: dict, name: str, text: str) -> None:
    units = population(21, **options)
    assert named(seen, units)[name] > 0.7 * len(units.subject)
    said = session_warnings(seen, units, np.arange(len(units.subject)), check(seen, units))
    assert any(text in one for one in said)


def test_rates_are_told_in_hertz_when_the_window_is_known(training: Units, seen: Applicability) -> None:
    units = population(21, 60, rate=600.0)
    rows = np.arange(60)
    (text,) = session_warnings(seen, units, rows, check(seen, units))
    assert text.split("outside the ")[1].startswith("1.")  # 50 events in 10 s, 1st percentile
    assert "Hz" in text
    without = learn(training, np.arange(len(training.subject)))
    (text,) = session_warnings(without, units, rows, check(without, units))
    assert "events per window" in text


def test_another_modality_is_all_outside(seen: Applicability) -> None:
    units = population(11, 60, modality="calcium")
    assert named(seen, units)["modality"] == 60
    (text,) = session_warnings(seen, units, np.arange(60), check(seen, units))
    assert text == "holds calcium, the probe was fitted on spikes"


def test_a_population_counts_all_its_units_not_only_those_that_trained(training: Units) -> None:
    seen = learn(training, np.arange(0, len(training.subject), 5))
    sizes = seen.modalities["spikes"].population
    assert (sizes.low, sizes.high) == (50, 80)


def test_units_without_an_embedding_have_no_distance_and_no_rate(seen: Applicability) -> None:
    units = population(12, 60)
    units.embedding[4] = np.nan
    units.n_windows[4] = 0
    assert check(seen, units)[4] == ()


def test_few_units_teach_no_rates_and_no_distances() -> None:
    units = population(1, FEWEST_UNITS - 1)
    seen = learn(units, np.arange(FEWEST_UNITS - 1))
    assert seen.cloud is None
    assert seen.modalities["spikes"].events_per_window is None
    assert named(seen, population(2, 30, shift=90.0)) == {}


@pytest.mark.parametrize("sizes", [(60,), (300, 4, 5)])
def test_one_animal_is_compared_within_itself_and_it_says_so(sizes: tuple[int, ...]) -> None:
    units = joined(*(population(seed, n) for seed, n in enumerate(sizes)))
    seen = learn(units, np.arange(len(units.subject)))
    assert seen.cloud is not None
    assert seen.cloud.parts == "5 parts of the units"
    assert named(seen, population(9, 60)).get("embedding", 0) <= 8


def test_embeddings_that_lie_in_a_plane_are_left_by_what_does_not() -> None:
    flat = population(1, 80)
    flat.embedding[:, 3:] = 1.0
    seen = learn(flat, np.arange(80))
    assert named(seen, flat).get("embedding", 0) <= 4
    off = population(2, 30)
    off.embedding[:, 3:] = 1.0
    off.embedding[:, 20] = 1.5
    assert named(seen, off)["embedding"] == 30
