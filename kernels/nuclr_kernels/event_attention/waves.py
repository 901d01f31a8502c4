"""Spikes of packed units as waves: what every layer's attention reads, made once per batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SPIKES_AT_ONCE_CPU = 4_096
"""Spikes, padding included, that a CPU attends to at a time: their scores stay in its cache (measured)."""

SPIKES_AT_ONCE_GPU = 262_144
"""The same elsewhere, where few large launches are better; 84 MB of scores at 10 latents and 4 heads."""


@dataclass(frozen=True, eq=False)
class SpikeWaves:
    """Spikes of U packed units, in groups of units with similar numbers of spikes.

    A group of u units, of which the busiest has s spikes, is padded to (u, s). Units with less than half as
    many spikes are in another group, so padding at most doubles the size.

    Attributes:
        n_units: U.
        units: (u,) int64 a group: its units, each unit in at most one group; units without spikes in none.
        waves: (u, s, 2T) a group: ``cos(omega_i t)`` and ``sin(omega_i t)`` of every spike, pair after pair;
            zeros where there is none.
        padding: (u, 1, s) a group: 0 for a spike, minus infinity where there is none.
        spiking: (U, 1, 1, 1) of the dtype of the waves: 1 for units with a spike, else 0.
    """

    n_units: int
    units: tuple[Tensor, ...]
    waves: tuple[Tensor, ...]
    padding: tuple[Tensor, ...]
    spiking: Tensor


def spike_waves(
    times: Tensor,
    spikes_per_unit: Tensor | Sequence[int],
    omega: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    spikes_at_once: int | None = None,
) -> SpikeWaves:
    """Turn spike times into waves, on the device of `times`.

    Phases are formed in float64: at the largest frequency of the reference, 62,832 rad/s, phases in float32
    would be wrong by up to 0.03 rad.

    Args:
        times: (S,) float32 or float64 seconds, packed unit after unit, in any order within a unit.
        spikes_per_unit: (U,) integers of at least 0 that sum to S. Their values are read: keep them on the
            CPU.
        omega: (T,) float32 or float64 rad/s, on the device of `times`.
        dtype: Of the waves, float32 or float64.
        spikes_at_once: Largest group, in spikes with padding; None = by the device. A group holds at least
            one unit, whatever its spikes.

    Raises:
        ValueError: An argument has the wrong shape, dtype or values; the message names it.
    """
    if spikes_at_once is None:
        spikes_at_once = SPIKES_AT_ONCE_CPU if times.device.type == "cpu" else SPIKES_AT_ONCE_GPU
    counts = _checked_counts(times, spikes_per_unit, omega, dtype, spikes_at_once)
    starts = counts.cumsum(0) - counts
    descending = torch.sort(counts, descending=True, stable=True)
    sizes = descending.values.tolist()
    place = times.device
    units: list[Tensor] = []
    waves: list[Tensor] = []
    padding: list[Tensor] = []
    for begin, stop in _group_bounds(sizes, spikes_at_once):
        group = descending.indices[begin:stop]
        column = torch.arange(sizes[begin])
        absent = column >= counts[group, None]
        spikes = (starts[group, None] + column).masked_fill_(absent, 0)
        phase = times[spikes.to(place)].double()[..., None] * omega.double()
        wave = torch.stack((phase.cos(), phase.sin()), dim=-1).flatten(-2).to(dtype)
        missing = absent.to(place)
        units.append(group.to(place))
        waves.append(wave.masked_fill_(missing[..., None], 0))
        padding.append(torch.zeros_like(missing, dtype=dtype).masked_fill_(missing, -torch.inf)[:, None])
    spiking = (counts > 0).to(place, dtype)[:, None, None, None]
    return SpikeWaves(len(counts), tuple(units), tuple(waves), tuple(padding), spiking)


def _group_bounds(sizes: Sequence[int], spikes_at_once: int) -> list[tuple[int, int]]:
    """Bounds of the groups in a descending list of spikes per unit; zeros are in none."""
    bounds: list[tuple[int, int]] = []
    begin = 0
    for place in range(1, len(sizes) + 1):
        widest = sizes[begin]
        if widest == 0:
            break
        if place == len(sizes) or 2 * sizes[place] < widest or (place + 1 - begin) * widest > spikes_at_once:
            bounds.append((begin, place))
            begin = place
    return bounds


def _checked_counts(
    times: Tensor,
    spikes_per_unit: Tensor | Sequence[int],
    omega: Tensor,
    dtype: torch.dtype,
    spikes_at_once: int,
) -> Tensor:
    """(U,) int64 on the CPU."""
    wide = (torch.float32, torch.float64)
    for name, values in (("times", times), ("omega", omega)):
        if values.ndim != 1 or values.dtype not in wide:
            raise ValueError(
                f"{name} must be one-dimensional, float32 or float64; "
                f"got shape {tuple(values.shape)}, {values.dtype}"
            )
    if omega.device != times.device:
        raise ValueError(f"omega must be on the device of times, {times.device}; got {omega.device}")
    if dtype not in wide:
        raise ValueError(f"dtype must be float32 or float64; got {dtype}")
    if spikes_at_once < 1:
        raise ValueError(f"spikes_at_once must be at least 1; got {spikes_at_once}")
    counts = torch.as_tensor(spikes_per_unit, device="cpu")
    if counts.ndim != 1 or (counts.is_floating_point() and len(counts)) or counts.dtype == torch.bool:
        raise ValueError(
            f"spikes_per_unit must be a list of integers; got shape {tuple(counts.shape)}, {counts.dtype}"
        )
    counts = counts.long()
    if bool((counts < 0).any()) or int(counts.sum()) != len(times):
        raise ValueError(
            f"spikes_per_unit must be at least 0 and add up to the {len(times)} times; "
            f"got a sum of {int(counts.sum())}, least {int(counts.min()) if len(counts) else 0}"
        )
    return counts
