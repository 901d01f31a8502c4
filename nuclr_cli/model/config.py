"""Sizes of the encoder and choice of the loss; checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from nuclr_cli.errors import InputError

TokenKind = Literal["counts", "calcium", "events"]
LossName = Literal["dcl", "vicreg"]
Recompute = Literal["none", "gates", "ffn", "layers"]


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the encoder; the defaults are those of NuCLR for electrophysiology (arXiv 2512.01199).

    Attributes:
        dim: Width D of the embedding and of the residual stream.
        heads: Attention heads. ``heads * head_dim`` may differ from `dim`.
        head_dim: Width of a head, even.
        temporal_layers: Blocks that see one unit at a time.
        spatiotemporal_layers: Blocks that also attend across the population; they come after the temporal
            ones.
        ffn_mult: Hidden width of the feed-forward layers over `dim`.
        dropout: Probability on residual branches and inside feed-forward layers.
        rotary_fraction: Share of a head's dimensions that rotary positions turn.
        counts_samples: Bins in a patch of spike counts.
        counts_patches: Patches in a window of spike counts.
        calcium_samples: Frames in a patch of dF/F.
        calcium_patches: Patches in a window of dF/F.
        events_latents: Latents in a window of spike events.
        events_window_s: Length of a window of spike events, seconds.
        tokens: What the encoder takes spikes as, ``counts`` (patches of binned counts) or ``events`` (latents
            that read the times themselves). Calcium sessions add ``calcium``; the trunk is shared.
    """

    dim: int = 256
    heads: int = 4
    head_dim: int = 64
    temporal_layers: int = 2
    spatiotemporal_layers: int = 2
    ffn_mult: int = 4
    dropout: float = 0.2
    rotary_fraction: float = 0.5
    counts_samples: int = 50
    counts_patches: int = 10
    calcium_samples: int = 4
    calcium_patches: int = 32
    events_latents: int = 10
    events_window_s: float = 10.0
    tokens: tuple[TokenKind, ...] = ("counts",)

    def __post_init__(self) -> None:
        positive = ("dim", "heads", "head_dim", "ffn_mult")
        sizes = ("counts_samples", "counts_patches", "calcium_samples", "calcium_patches", "events_latents")
        for name in (*positive, *sizes):
            _require(
                name, getattr(self, name), "a whole number of at least 1", _is_int(getattr(self, name), 1)
            )
        for name in ("temporal_layers", "spatiotemporal_layers"):
            _require(
                name, getattr(self, name), "a whole number of at least 0", _is_int(getattr(self, name), 0)
            )
        _require("head_dim", self.head_dim, "even, since rotary positions turn pairs", self.head_dim % 2 == 0)
        window_s = self.events_window_s
        _require("events_window_s", window_s, "a positive number", math.isfinite(window_s) and window_s > 0)
        _require("dropout", self.dropout, "at least 0 and below 1", 0 <= self.dropout < 1)
        _require("rotary_fraction", self.rotary_fraction, "between 0 and 1", 0 <= self.rotary_fraction <= 1)
        known = get_args(TokenKind)
        distinct = len(set(self.tokens)) == len(self.tokens) > 0
        allowed = f"one or more of {', '.join(known)}, each once"
        _require("tokens", self.tokens, allowed, distinct and set(self.tokens) <= set(known))

    @property
    def patched(self) -> tuple[TokenKind, ...]:
        """The kinds of `tokens` that come as patches of samples."""
        return tuple(kind for kind in self.tokens if kind != "events")

    def samples(self, tokens: TokenKind) -> int:
        """Samples in a patch of this token kind; not for events."""
        return {"counts": self.counts_samples, "calcium": self.calcium_samples}[tokens]

    def patches(self, tokens: TokenKind) -> int:
        """Patches in a window of this token kind; latents for events."""
        sizes = {
            "counts": self.counts_patches,
            "calcium": self.calcium_patches,
            "events": self.events_latents,
        }
        return sizes[tokens]


@dataclass(frozen=True)
class LossConfig:
    """The training loss; the defaults are those of NuCLR (arXiv 2512.01199).

    Attributes:
        name: ``dcl`` (sample-wise decoupled contrastive loss) or ``vicreg`` (arXiv 2105.04906).
        tau: dcl: temperature of similarities between the views.
        self_tau: dcl: temperature of similarities within a view.
        dcl: dcl: leave the positive pair out of the denominator.
        full_denom: dcl: use units of the same view as negatives too.
        invariance: vicreg: weight of the distance between matched units.
        variance: vicreg: weight of the hinge on each dimension's standard deviation.
        covariance: vicreg: weight of the off-diagonal covariances.
        std_target: vicreg: standard deviation above which the hinge is zero.
        eps: vicreg: added to variances before the root.
        projector_mult: vicreg: width of the projector over the embedding's. (dcl's projector has the
            embedding's width.)
    """

    name: LossName = "dcl"
    tau: float = 0.2
    self_tau: float = 1.0
    dcl: bool = True
    full_denom: bool = True
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    std_target: float = 1.0
    eps: float = 1e-4
    projector_mult: int = 4

    def __post_init__(self) -> None:
        _require(
            "name", self.name, f"one of {', '.join(get_args(LossName))}", self.name in get_args(LossName)
        )
        for name in ("tau", "self_tau", "std_target", "eps"):
            value = getattr(self, name)
            _require(name, value, "a positive number", math.isfinite(value) and value > 0)
        for name in ("invariance", "variance", "covariance"):
            value = getattr(self, name)
            _require(name, value, "a number of at least 0", math.isfinite(value) and value >= 0)
        multiple = self.projector_mult
        _require("projector_mult", multiple, "a whole number of at least 1", _is_int(multiple, 1))


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _require(name: str, value: object, expected: str, holds: bool) -> None:
    if not holds:
        raise InputError(
            f"{name} is {value!r}; it must be {expected}.", f"Change {name} in the configuration."
        )
