"""Checks of the populations that a reader yields."""

from __future__ import annotations

import dataclasses

import numpy as np

from nuclr_cli.api import Population
from nuclr_cli.data.check import check_population, spike_counts
from nuclr_cli.errors import InputError
from nuclr_cli.testing.reader_case import CheckFailed, ReaderCase, differences, digest

_LABEL_COLUMNS = ("cell_type", "brain_region", "brain_area", "quality")
_MISSING = {"nan", "<NA>", "NaT"}  # what a missing value becomes when it is turned into text


def reads(case: ReaderCase) -> str:
    if not case.populations:
        raise CheckFailed("read yielded no population.", "Raise ReaderError when there is nothing in it.")
    for population in case.populations:
        if not isinstance(population, Population):
            raise CheckFailed(f"read yielded {type(population).__name__}.", "Yield Population records.")
    units = sum(population.n_units for population in case.populations)
    return f"{len(case.populations)} populations, {units} units"


def times_are_seconds(case: ReaderCase) -> str:
    """float64, finite, sorted; rates as neurons have them."""
    shown = []
    for population in case.populations:
        calcium = population.calcium is not None
        times = (
            population.calcium.timestamps
            if population.calcium is not None
            else population.spikes.times
            if population.spikes is not None
            else np.zeros(0)
        )
        kind = "frame times" if calcium else "spike times"
        if times.dtype != np.float64 or times.ndim != 1:
            raise CheckFailed(
                f"{kind} are {times.dtype} of shape {times.shape}.", "Give float64 seconds, one-dimensional."
            )
        if not np.isfinite(times).all():
            raise CheckFailed(
                f"{int((~np.isfinite(times)).sum())} of {len(times)} {kind} are NaN or infinite.",
                "Refuse such a source with ReaderError, naming the units.",
            )
        if (np.diff(times) < 0).any():
            raise CheckFailed(
                f"{int((np.diff(times) < 0).sum())} of {len(times)} {kind} are earlier than the one before.",
                "Sort them (np.argsort(times, kind='stable')), and the unit index with them.",
            )
        if population.spikes is not None:
            shown.append(_plausible_rate(case, population))
        elif population.calcium is not None:
            shown.append(f"{population.calcium.sampling_rate_hz:g} frames/s")
    return ", ".join(shown[:3])


def _plausible_rate(case: ReaderCase, population: Population) -> str:
    assert population.spikes is not None
    counts = spike_counts(population.spikes, population.n_units)
    seconds = float(np.diff(population.intervals, axis=1).sum())
    rate = float(np.median(counts[counts > 0])) / seconds if counts.any() and seconds > 0 else 0.0
    low, high = case.plausible_rate_hz
    if not low <= rate <= high:
        raise CheckFailed(
            f"The median unit fires at {rate:.3g} Hz in {seconds:g} s, expected {low:g} to {high:g} Hz.",
            "Are the times in seconds, or in samples or milliseconds?",
        )
    return f"median {rate:.3g} Hz"


def ids_are_text(case: ReaderCase) -> str:
    for population in case.populations:
        ids = np.asarray(population.units.get("id", np.zeros(0)))
        if ids.dtype.kind != "U" or ids.ndim != 1:
            raise CheckFailed(
                f"Unit ids are {ids.dtype} of shape {ids.shape}.", 'units={"id": ids.astype(str), ...}'
            )
        if len(set(ids.tolist())) < len(ids) or "" in ids.tolist():
            raise CheckFailed("Unit ids repeat or are empty.", "Refuse such a source, or number the units.")
    again = case.read()
    differing = differences(digest(case.populations), digest(again))
    if differing:
        raise CheckFailed(
            f"A second read gives something else: {', '.join(differing)}.",
            "Sort what comes from folders, sets and dicts; use no random numbers.",
        )
    return ", ".join(case.populations[0].units["id"][:3].tolist()) + ", ..."


def passes_nuclrs_check(case: ReaderCase) -> str:
    warnings = []
    for population in case.populations:
        try:
            warnings += check_population(population)
        except InputError as error:
            raise CheckFailed(error.what, error.fix) from None
    return "; ".join(warnings) or "no warnings"


def labels_are_complete(case: ReaderCase) -> str:
    labels = set()
    for population in case.populations:
        for name, values in population.units.items():
            column = np.asarray(values)
            if column.ndim == 0 or len(column) != population.n_units:
                raise CheckFailed(
                    f"The column {name!r} has shape {column.shape} for {population.n_units} units.",
                    "One value per unit; an empty text where it is unknown.",
                )
            if column.dtype.kind in "OS" or (name in _LABEL_COLUMNS and column.dtype.kind != "U"):
                raise CheckFailed(
                    f"The column {name!r} is {column.dtype}.", "Labels are text: np.array([...], dtype=str)"
                )
            if column.dtype.kind == "U":
                odd = sorted(_MISSING.intersection(column.ravel().tolist()))
                if odd:
                    raise CheckFailed(
                        f"The column {name!r} holds {', '.join(map(repr, odd))}.",
                        "Write an empty text where a unit is unlabelled.",
                    )
                labels.add(name)
    return ", ".join(sorted(labels - {"id"})) or "no labels"


def takes_the_names_it_is_given(case: ReaderCase) -> str:
    """--subject and --session win; without them nothing is empty, and a guess is said to be one."""
    for population in case.populations:
        if not population.subject.strip() or not population.session.strip():
            raise CheckFailed(
                "Subject or session is empty.", "Take the folder's name, and set subject_assumed=True."
            )
        if population.subject_assumed and not population.notes:
            raise CheckFailed("The subject is assumed and no note says so.", "Add a note.")
    said = dataclasses.replace(case.options, subject="a subject", session="a session")
    for population in case.read(options=said):
        if (population.subject, population.session) != ("a subject", "a session"):
            raise CheckFailed(
                "options.subject and options.session are not used: the population is "
                f"{population.subject!r}, {population.session!r}.",
                "subject=options.subject or ..., session=options.session or ...",
            )
        if population.subject_assumed:
            raise CheckFailed(
                "subject_assumed is True though the subject was said.",
                "subject_assumed=options.subject is None",
            )
    return f"{case.populations[0].subject}, {case.populations[0].session}"
