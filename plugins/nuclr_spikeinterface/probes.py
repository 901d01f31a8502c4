"""Where the channels of a recording sit: positions, probes, brain regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import ReaderError

_REGION_KEYS = ("brain_region", "brain_area", "location")
_IN_UM = {"um": 1.0, "µm": 1.0, "mm": 1e3, "m": 1e6}
_SAVE_AGAIN = "Save the analyzer again."


@dataclass(frozen=True)
class Channels:
    """Channels of a recording, in the order of the templates.

    Attributes:
        ids: (C,) str.
        positions_um: (C, 2) float64, x and y in the frame of the probe; NaN = unknown; None = all unknown.
        probe: (C,) row of `probe_names`; None = not told.
        probe_names: Unique names of the probes.
        region: (C,) str brain region, empty = not told; None = none has one.
        group: (C,) str channel group; None = not told.
    """

    ids: NDArray[np.str_]
    positions_um: NDArray[np.float64] | None = None
    probe: NDArray[np.intp] | None = None
    probe_names: tuple[str, ...] = ()
    region: NDArray[np.str_] | None = None
    group: NDArray[np.str_] | None = None

    def rows_of(self, ids: NDArray[Any]) -> NDArray[np.intp]:
        """Row of each channel id, -1 where there is no such channel."""
        row = {name: number for number, name in enumerate(self.ids.tolist())}
        # A column with a blank is one of floats: channel 3 is 3.0 there.
        texts = (str(int(n)) if isinstance(n, float) and n.is_integer() else str(n) for n in ids.tolist())
        return np.array([row.get(text, -1) for text in texts], dtype=np.intp)


def read_channels(
    attributes: Mapping[str, Any], probegroup: Any, place: Path
) -> tuple[Channels | None, list[str]]:
    """Channels out of ``recording_attributes`` and ``probegroup``, as an analyzer stores them.

    Args:
        attributes: Content of ``recording_attributes``.
        probegroup: Content of ``probegroup``; None = there is none.
        place: File of the attributes, for messages.

    Returns:
        The channels (None when the attributes name none), warnings.

    Raises:
        ReaderError: Channel ids that are no flat list, or that repeat.
    """
    stored = attributes.get("channel_ids")
    if stored is None:
        return None, [f"{place} names no channels, so peak channels are not known."]
    if not isinstance(stored, list) or any(not isinstance(i, (str, int, float)) for i in stored):
        raise ReaderError(f"{place}: channel_ids is not a flat list of numbers or texts.", _SAVE_AGAIN)
    ids = np.array([str(name) for name in stored], dtype=np.str_)
    if len(set(ids.tolist())) < len(ids):
        raise ReaderError(
            f"{place}: {len(ids) - len(set(ids.tolist()))} channel ids occur more than once.", _SAVE_AGAIN
        )
    properties = attributes.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    region = next(
        (t for key in _REGION_KEYS if (t := _texts(properties.get(key), len(ids))) is not None), None
    )
    group = properties.get("group")
    if not isinstance(group, list) or len(group) != len(ids):
        group = None
    channels = Channels(
        ids=ids,
        region=region,
        group=None if group is None else np.array([str(value) for value in group], dtype=np.str_),
    )
    if probegroup is None:
        return channels, []
    try:
        positions, probe, names = _contacts(probegroup, len(ids))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        return channels, [
            f"The probes of {place.parent} were left out ({error or type(error).__name__}): "
            "positions are not known."
        ]
    return (
        Channels(ids, positions, probe, names, region=channels.region, group=channels.group),
        [],
    )


def _texts(values: Any, length: int) -> NDArray[np.str_] | None:
    """A list of one text per channel, None when it is anything else (positions) or blank throughout."""
    if not isinstance(values, list) or len(values) != length:
        return None
    if any(not isinstance(value, str) and value is not None for value in values):
        return None
    texts = np.array([(value or "").strip() for value in values], dtype=np.str_)
    return texts if (texts != "").any() else None


def _contacts(
    probegroup: Any, n_channels: int
) -> tuple[NDArray[np.float64], NDArray[np.intp], tuple[str, ...]]:
    """Positions (C, 2) in micrometres, probe of each channel (C,), names of the probes.

    Raises:
        ValueError, TypeError, KeyError: The contacts do not fit the channels.
    """
    if not isinstance(probegroup, dict) or not isinstance(probegroup.get("probes"), list):
        raise ValueError("no list of probes")
    positions = np.full((n_channels, 2), np.nan)
    probe = np.full(n_channels, -1, dtype=np.intp)
    for number, item in enumerate(probegroup["probes"]):
        at = np.asarray(item["contact_positions"], dtype=np.float64)
        if at.ndim != 2 or at.shape[1] < 2:
            raise ValueError(f"contact_positions of probe {number} have shape {at.shape}")
        wired = item.get("device_channel_indices")
        if wired is None:
            if len(probegroup["probes"]) > 1 or len(at) != n_channels:
                raise ValueError(f"probe {number} does not say which contact is which channel")
            wired = range(n_channels)
        channel = np.asarray(wired, dtype=np.int64)
        if channel.shape != (len(at),) or (channel >= n_channels).any():
            raise ValueError(f"device_channel_indices of probe {number} do not fit {n_channels} channels")
        used = channel >= 0
        if len(np.unique(channel[used])) < used.sum() or (probe[channel[used]] >= 0).any():
            raise ValueError(f"several contacts are wired to one channel, in probe {number}")
        positions[channel[used]] = at[used, :2] * _IN_UM[str(item.get("si_units", "um"))]
        probe[channel[used]] = number
    if (probe < 0).any():
        raise ValueError(f"{int((probe < 0).sum())} of {n_channels} channels have no contact")
    return positions, probe, _probe_names(probegroup)


def _probe_names(probegroup: dict[str, Any]) -> tuple[str, ...]:
    """One name per probe: its id, its own name, or its number; numbers when these repeat."""
    probes = probegroup["probes"]
    numbers = tuple(str(number) for number in range(len(probes)))
    notes = [item.get("annotations") for item in probes]
    kept = [note if isinstance(note, dict) else {} for note in notes]
    ids = probegroup.get("probe_ids")
    candidates: list[list[Any]] = [[note.get(key) for note in kept] for key in ("probe_name", "name")]
    if isinstance(ids, list) and [str(name) for name in ids] != list(numbers):  # else nobody gave them
        candidates.insert(0, ids)
    for names in candidates:
        texts = tuple(str(name).strip() for name in names if isinstance(name, (str, int)))
        if len(texts) == len(probes) == len(set(texts)) and all(texts):
            return texts
    return numbers
