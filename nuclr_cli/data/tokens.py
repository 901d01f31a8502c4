"""How a window of recording becomes tokens: lengths and steps in seconds, one record a modality.

Defaults are those of the reference protocol (NuCLR, arXiv 2512.01199): 10 s of 20 ms spike counts in 1 s
patches; 128 samples of dF/F at 0.23344 s in patches of 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from nuclr_cli.api import Modality
from nuclr_cli.errors import InputError

FEWEST_UNITS = 11
"""Active units that each view of a pair needs (the reference drops samples with 10 or fewer)."""

_WHOLE = 1e-6
"""How far a quotient may be from a whole number: decimal fractions are not exact in binary."""


@dataclass(frozen=True)
class SpikeTokens:
    """Binned spike counts, or spike times with one latent a patch.

    Attributes:
        window_s: Length of a window, seconds; a whole number of patches.
        patch_s: Length of a patch, seconds; a whole number of bins.
        bin_s: Width of a bin, seconds.
        max_distance_s: Largest distance between the starts of the two views of a pair, seconds.
        kind: ``counts`` or ``events``.

    Raises:
        InputError: A length is not positive and finite, or the lengths do not divide.
    """

    window_s: float = 10.0
    patch_s: float = 1.0
    bin_s: float = 0.02
    max_distance_s: float = 30.0
    kind: Literal["counts", "events"] = "counts"

    def __post_init__(self) -> None:
        for name in ("window_s", "patch_s", "bin_s"):
            _check_positive(f"tokens.spikes.{name}", getattr(self, name))
        _check_distance("tokens.spikes.max_distance_s", self.max_distance_s)
        _check_whole("tokens.spikes.window_s", self.window_s, "tokens.spikes.patch_s", self.patch_s)
        _check_whole("tokens.spikes.patch_s", self.patch_s, "tokens.spikes.bin_s", self.bin_s)

    @property
    def n_patches(self) -> int:
        """Patches in a window; latents, if the tokens are events."""
        return round(self.window_s / self.patch_s)

    @property
    def samples_per_patch(self) -> int:
        """Bins in a patch."""
        return round(self.patch_s / self.bin_s)

    @property
    def n_bins(self) -> int:
        """Bins in a window."""
        return self.n_patches * self.samples_per_patch


@dataclass(frozen=True)
class CalciumTokens:
    """Resampled dF/F.

    Attributes:
        period_s: Time between two samples after resampling, seconds.
        n_samples: Samples in a window; a whole number of patches.
        patch_samples: Samples in a patch.
        max_distance_s: Largest distance between the starts of the two views of a pair, seconds.

    Raises:
        InputError: A number is not positive and finite, or the numbers do not divide.
    """

    period_s: float = 0.23344
    n_samples: int = 128
    patch_samples: int = 4
    max_distance_s: float = 240.0

    def __post_init__(self) -> None:
        for name in ("period_s", "n_samples", "patch_samples"):
            _check_positive(f"tokens.calcium.{name}", getattr(self, name))
        _check_distance("tokens.calcium.max_distance_s", self.max_distance_s)
        for name in ("n_samples", "patch_samples"):
            if int(getattr(self, name)) != getattr(self, name):
                raise InputError(f"tokens.calcium.{name} is {getattr(self, name)}; a whole number is needed.")
        _check_whole(
            "tokens.calcium.n_samples", self.n_samples, "tokens.calcium.patch_samples", self.patch_samples
        )

    @property
    def window_s(self) -> float:
        """Length of a window, seconds."""
        return self.period_s * self.n_samples

    @property
    def n_patches(self) -> int:
        """Patches in a window."""
        return self.n_samples // self.patch_samples

    @property
    def samples_per_patch(self) -> int:
        """Samples in a patch."""
        return self.patch_samples


@dataclass(frozen=True)
class TokenSpec:
    """Tokens of both modalities, so that one run can train on both."""

    spikes: SpikeTokens = field(default_factory=SpikeTokens)
    calcium: CalciumTokens = field(default_factory=CalciumTokens)

    def of(self, modality: Modality) -> SpikeTokens | CalciumTokens:
        """Tokens of one modality."""
        return self.spikes if modality == "spikes" else self.calcium


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} is {value}; a positive number is needed.", f"--set {name}=NUMBER")


def _check_distance(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} is {value}; zero or a positive number is needed.", f"--set {name}=NUMBER")


def _check_whole(whole_name: str, whole: float, part_name: str, part: float) -> None:
    quotient = whole / part
    if round(quotient) < 1 or abs(quotient - round(quotient)) > _WHOLE * quotient:
        raise InputError(
            f"{whole_name} = {whole} is {quotient:.6g} times {part_name} = {part}; a whole number is needed.",
            f"--set {part_name}={whole / max(1, round(quotient)):.12g}",
        )
