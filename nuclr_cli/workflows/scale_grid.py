"""The points of a sweep: which sizes, and what each of them trains on."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nuclr_cli.data.part import PartOfRecording, after_seconds
from nuclr_cli.data.recording import Recording
from nuclr_cli.data.store import Session
from nuclr_cli.data.streams import Purpose, random_order, stream
from nuclr_cli.data.windows import TrainingWindows
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.presets import PretrainSettings, with_changes
from nuclr_cli.workflows.pretrain_sessions import training_parts
from nuclr_cli.workflows.scale_config import Axis, ScaleConfig
from nuclr_cli.workflows.scale_design import Design
from nuclr_cli.workflows.scale_record import PointSpec
from nuclr_cli.workflows.training_part import least_units

Value = str | int | float

WIDTHS: Mapping[int, Mapping[str, int]] = {
    16: {"heads": 2, "head_dim": 8, "temporal_layers": 1, "spatiotemporal_layers": 1},
    24: {"heads": 3, "head_dim": 8, "temporal_layers": 1, "spatiotemporal_layers": 1},
    32: {"heads": 2, "head_dim": 16, "temporal_layers": 1, "spatiotemporal_layers": 1},
    48: {"heads": 3, "head_dim": 16, "temporal_layers": 1, "spatiotemporal_layers": 1},
    64: {"heads": 4, "head_dim": 16, "temporal_layers": 1, "spatiotemporal_layers": 1},
    96: {"heads": 3, "head_dim": 32, "temporal_layers": 1, "spatiotemporal_layers": 1},
    128: {"heads": 4, "head_dim": 32, "temporal_layers": 2, "spatiotemporal_layers": 2},
    192: {"heads": 3, "head_dim": 64, "temporal_layers": 2, "spatiotemporal_layers": 2},
    256: {"heads": 4, "head_dim": 64, "temporal_layers": 2, "spatiotemporal_layers": 2},
    384: {"heads": 6, "head_dim": 64, "temporal_layers": 3, "spatiotemporal_layers": 3},
    512: {"heads": 8, "head_dim": 64, "temporal_layers": 4, "spatiotemporal_layers": 4},
}
"""Width of the model -> heads and depth. 64 is the preset ``tiny``, 256 the reference."""

_SMALL_WIDTHS, _LARGE_WIDTHS = (16, 24, 32, 48, 64, 96), (48, 64, 128, 192, 256, 384)


@dataclass(frozen=True)
class Grid:
    """The points, and what was left out of them."""

    points: tuple[PointSpec, ...]
    notes: tuple[str, ...]


def make_grid(
    config: ScaleConfig, plan: Design, sessions: Sequence[Session], settings: PretrainSettings
) -> Grid:
    """Work out the sizes and what each point trains on.

    Args:
        config: What the user asked for.
        plan: What stays the same.
        sessions: All of them.
        settings: Resolved, as all points share them.

    Raises:
        InputError: The data (or the values asked for) give fewer than two sizes.
    """
    pool = _usable_subjects(plan, sessions, settings)
    candidates = [session for session in sessions if session.key.subject in pool]
    values = _values(config, plan, candidates, pool, settings)
    notes: list[str] = []
    points: list[PointSpec] = []
    taken: dict[float, float] = {}
    for value in values:
        try:
            made = [
                _point(config, plan.axis, value, seed, pool, candidates, plan.time_share, settings)
                for seed in range(config.seed, config.seed + config.seeds)
            ]
        except InputError as error:
            notes.append(f"{_text(value)} {plan.axis} is left out: {error.what}")
            continue
        size = made[0].size
        if size in taken:
            notes.append(f"{_text(value)} is left out: it comes to the same as {_text(taken[size])}.")
            continue
        taken[size] = value
        points += made
    if len(taken) < 2:
        found = f" {' '.join(notes)}" if notes else ""
        raise InputError(
            f"A sweep needs at least 2 sizes, and the axis {plan.axis} has {len(taken)} here.{found}",
            "Choose another --axis or other --values, or add recordings",
        )
    return Grid(tuple(points), tuple(notes))


def point_settings(settings: PretrainSettings, spec: PointSpec, time_share: float) -> PretrainSettings:
    """What one point trains with."""
    changes = {**spec.changes, "data.subjects": spec.subjects, "data.time_share": time_share}
    changed = with_changes(settings, {**changes, "train.steps": spec.steps})
    return dataclasses.replace(changed, seed=spec.seed)


def _usable_subjects(
    plan: Design, sessions: Sequence[Session], settings: PretrainSettings
) -> tuple[str, ...]:
    """Subjects with a session that can be trained on, without those held out."""
    shared = with_changes(settings, {"data.time_share": plan.time_share})
    rest = [session for session in sessions if session.key.subject not in plan.held_out]
    if not rest:
        raise InputError(
            "Every subject is held out: nothing is left to train on.", "Name fewer in --test-subjects"
        )
    parts = training_parts(rest, shared)
    windows = TrainingWindows(parts, shared.tokens, min_units=shared.views.min_units)
    return tuple(sorted({parts[number].key.subject for number in windows.usable}))


def _values(
    config: ScaleConfig,
    plan: Design,
    sessions: Sequence[Session],
    pool: Sequence[str],
    settings: PretrainSettings,
) -> tuple[float, ...]:
    if config.values:
        return _checked(config.values, plan.axis, len(pool), plan.time_share, sessions)
    if plan.axis == "subjects":
        return tuple(map(float, spread_numbers(len(pool), config.points)))
    if plan.axis == "parameters":
        widths = _SMALL_WIDTHS if settings.preset == "tiny" else _LARGE_WIDTHS
        places = np.linspace(0, len(widths) - 1, min(max(config.points, 2), len(widths)))
        return tuple(float(widths[round(place)]) for place in places.tolist())
    if plan.axis == "units":
        most = max(session.n_units for session in sessions)
        least = least_units(settings.views.min_units, settings.views.dropout_low)
        if most <= least:
            raise InputError(
                f"No session has more units than the {least} that two views need (the largest has {most}): "
                "there are none to leave out.",
                "Choose another --axis, or lower --set views.min_units",
            )
        return _geometric(least / most, 1.0, config.points)
    longest_s = max(plan.time_share * session.duration_s for session in sessions)
    least_s = min(2.0 * settings.tokens.of(session.modality).window_s for session in sessions)
    shortest_s = max(least_s, longest_s / 32.0)
    if longest_s <= 1.01 * least_s:
        raise InputError(
            f"No session is longer than the {least_s:g} s of two windows: there is no time to leave out.",
            "Choose another --axis, or add longer recordings",
        )
    return _geometric(shortest_s / 60.0, longest_s / 60.0, config.points)


def _checked(
    values: Sequence[float], axis: Axis, n_pool: int, time_share: float, sessions: Sequence[Session]
) -> tuple[float, ...]:
    """Values that the user gave, sorted.

    Raises:
        InputError: One of them is no size of this axis.
    """
    longest = max(time_share * session.duration_s for session in sessions) / 60.0
    allowed: dict[Axis, tuple[Callable[[float], bool], str]] = {
        "subjects": (lambda v: v == int(v) <= n_pool, f"whole numbers up to {n_pool}"),
        "units": (lambda v: v <= 1.0, "shares of the units, above 0 and at most 1"),
        "minutes": (lambda v: v <= longest * (1 + 1e-9), f"minutes, at most {longest:.4g}"),
        "parameters": (lambda v: v in WIDTHS, f"widths of the model: {', '.join(map(str, WIDTHS))}"),
    }
    fits, expected = allowed[axis]
    wrong = [_text(value) for value in values if not fits(value)]
    if wrong:
        raise InputError(
            f"--values {', '.join(wrong)} does not fit --axis {axis}, which takes {expected}.",
            "Correct --values, or leave it out",
        )
    return tuple(sorted(set(values)))


def spread_numbers(most: int, wanted: int) -> tuple[int, ...]:
    """About `wanted` whole numbers from 1 to `most`, evenly spread by their ratios; both ends are there."""
    if most <= wanted:
        return tuple(range(1, most + 1))
    if wanted < 2:
        return (most,)
    chosen = {round(most ** (i / (wanted - 1))) for i in range(wanted)}
    while len(chosen) < wanted:
        ordered = sorted(chosen)
        gaps = [(b / a, a, b) for a, b in itertools.pairwise(ordered) if b - a > 1]
        _, low, high = max(gaps)
        chosen.add(min(max(round(math.sqrt(low * high)), low + 1), high - 1))
    return tuple(sorted(chosen))


def _geometric(low: float, high: float, n: int) -> tuple[float, ...]:
    if n < 2:
        return (high,)
    inner = [_few_digits(value) for value in np.geomspace(low, high, n)[:-1].tolist()]
    # The last one is all there is, and no digit less.
    return (*(value for value in dict.fromkeys(inner) if value < high), high)


def _few_digits(value: float) -> float:
    """The next larger number of four digits: a length must not fall below that of two windows."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.ceil(value / digit - 1e-9) * digit:.4g}")


def _point(
    config: ScaleConfig,
    axis: Axis,
    value: float,
    seed: int,
    pool: tuple[str, ...],
    sessions: Sequence[Session],
    time_share: float,
    settings: PretrainSettings,
) -> PointSpec:
    """One point, measured on what it would train on.

    Raises:
        InputError: Nothing is left to train on.
    """
    subjects, changes = pool, _changes(axis, value, settings)
    if axis == "subjects":
        # A prefix of one order: what a smaller point sees, a larger one of the same seed sees, too.
        order = random_order(len(pool), stream(seed, 0, 0, Purpose.SUBJECTS)).tolist()
        subjects = tuple(sorted(pool[place] for place in order[: int(value)]))
    spec = PointSpec(
        name=f"{'width' if axis == 'parameters' else axis}-{_text(value)}-seed-{seed}",
        value=value,
        size=0.0,
        seed=seed,
        steps=config.steps or settings.train.steps,
        subjects=subjects,
        n_sessions=0,
        n_units=0,
        minutes=0.0,
        changes=changes,
    )
    own = point_settings(settings, spec, time_share)
    parts = training_parts([s for s in sessions if s.key.subject in subjects], own)
    windows = TrainingWindows(parts, own.tokens, min_units=own.views.min_units)
    seen = [parts[number] for number in windows.usable]
    seconds = [float((part.intervals[:, 1] - part.intervals[:, 0]).sum()) for part in seen]
    n_units, minutes = sum(part.n_units for part in seen), round(sum(seconds) / len(seconds) / 60.0, 9)
    steps = spec.steps
    if config.epochs is not None:
        steps = max(1, round(config.epochs * windows.expected_windows / own.train.batch_windows))
    sizes: dict[Axis, Callable[[], float]] = {
        "subjects": lambda: float(len({part.key.subject for part in seen})),
        "units": lambda: float(n_units),
        "minutes": lambda: minutes,
        "parameters": lambda: float(_encoder_parameters(own)),
    }
    return dataclasses.replace(
        spec, size=sizes[axis](), steps=steps, n_sessions=len(seen), n_units=n_units, minutes=minutes
    )


def _changes(axis: Axis, value: float, settings: PretrainSettings) -> dict[str, Value]:
    if axis == "units":
        return {"data.unit_share": value}
    if axis == "minutes":
        return {"data.minutes": value}
    if axis == "subjects":
        return {}
    changes: dict[str, Value] = {"model.dim": int(value)}
    changes |= {f"model.{name}": number for name, number in WIDTHS[int(value)].items()}
    if "events" in settings.model.tokens:
        del changes["model.head_dim"]  # narrow heads do not learn from events: those of the preset stay
    return changes


def _encoder_parameters(settings: PretrainSettings) -> int:
    from nuclr_cli.workflows.pair_model import initial_model

    return sum(parameter.numel() for parameter in initial_model(settings).encoder.parameters())


def _text(value: float) -> str:
    return f"{value:.4g}"


def held_out_recordings(
    sessions: Sequence[Session], held_out: Sequence[str], time_share: float
) -> list[Recording]:
    """Where the held-out loss is computed: all sessions of held-out subjects, or the end of each session."""
    if held_out:
        return [session for session in sessions if session.key.subject in held_out]
    if time_share == 1.0:
        return []
    return [
        PartOfRecording(
            session,
            np.arange(session.n_units, dtype=np.int64),
            after_seconds(session.intervals, time_share * session.duration_s),
        )
        for session in sessions
    ]
