"""Settings of pretraining and the presets: the reference's recipes, and one for a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nuclr_cli.data.tokens import FEWEST_UNITS, CalciumTokens, SpikeTokens, TokenSpec
from nuclr_cli.errors import InputError
from nuclr_cli.model.config import LossConfig, ModelConfig, Recompute, TokenKind
from nuclr_cli.workflows.best_checkpoint import KeepBest
from nuclr_cli.workflows.config import replace_keys
from nuclr_cli.workflows.training_part import DataConfig

PRESETS = ("ephys", "calcium", "tiny")

# The model's patch sizes follow from the tokens: one number, one place.
_DERIVED = {
    "model.counts_samples": "tokens.spikes.patch_s and tokens.spikes.bin_s",
    "model.counts_patches": "tokens.spikes.window_s and tokens.spikes.patch_s",
    "model.calcium_samples": "tokens.calcium.patch_samples",
    "model.calcium_patches": "tokens.calcium.n_samples",
    "model.events_latents": "tokens.spikes.window_s and tokens.spikes.patch_s",
    "model.events_window_s": "tokens.spikes.window_s",
    "tokens.spikes.kind": "model.tokens",
}

# With the heads of `tiny` four pairs turn, from 0.1 ms to 80 s, and no latent can find the spikes of its
# second: all units keep one embedding. Sixteen pairs, as the reference has, learn from the first steps on.
_TINY_EVENTS = {"model.head_dim": 32, "model.rotary_fraction": 1.0}


@dataclass(frozen=True)
class ViewConfig:
    """How two views of one population are drawn.

    Attributes:
        dropout_low: Smallest share of the population's units that a view keeps.
        dropout_high: Largest share.
        min_units: A pair with fewer active units in either view is left out, counted and reported.
    """

    dropout_low: float = 0.5
    dropout_high: float = 1.0
    min_units: int = FEWEST_UNITS

    def __post_init__(self) -> None:
        if not 0.0 < self.dropout_low <= self.dropout_high <= 1.0:
            raise InputError(
                f"views.dropout_low = {self.dropout_low} and views.dropout_high = {self.dropout_high} "
                "are not shares with 0 < low <= high <= 1.",
                "The reference uses 0.5 and 1.0.",
            )
        if self.min_units < 2:
            raise InputError(
                f"views.min_units = {self.min_units}: a view needs at least 2 units.",
                f"The default is {FEWEST_UNITS}.",
            )


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation.

    Attributes:
        steps: Optimiser steps.
        batch_windows: Windows of one global batch.
        target_pairs: Matched pairs of an optimiser step: it takes as many global batches as they need (warmup
            by itself counts them as one); None = a step is one global batch.
        max_tokens: Largest micro-batch of a process, in units x patches over both views; memory, not
            mathematics.
        optimizer: ``adamw``, or ``lamb`` for batches of many thousand pairs.
        learning_rate: Peak rate of the optimiser.
        weight_decay: On matrices only, not on norms and biases.
        warmup_steps: Linear warmup; None = one pass over the windows, at most a tenth of the steps.
        ema: Decay of a moving average of the weights, e.g. 0.999, which then embeds in their place; None = no
            average.
        grad_clip: Largest gradient norm, encoder and projector separately.
        precision: ``auto`` is bf16 on a GPU and fp32 on a CPU; ``fp64`` is for comparing, not for speed.
        tf32: Allow TF32 for float32 products on a GPU, which with bf16 are few; no effect on a CPU.
        compile: Compile layers with torch.compile; without a compiler the run goes on uncompiled.
        recompute: What is forgotten and computed again in the backward pass: ``none``, of feed-forward layers
            ``gates`` (gating and dropout) or ``ffn`` (all but their input), or of attentions too ``layers``
            (all but the input of each pair of attention and feed-forward layer). Memory, not mathematics.
        processes_per_window: Processes that hold the units of a window together, for populations that are too
            large for one; the number of processes is a multiple of it. Memory, not mathematics.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: How many of the newest checkpoints stay.
        keep_best: The checkpoint that stays beside the newest: of smallest ``loss`` or largest ``rankme``, as
            mean of the logged steps since the checkpoint before it; ``none``: only the newest stay.
        log_every: Steps between rows of metrics.jsonl.
        peak_tflops: TFLOP/s of one device, for ``mfu`` in the metrics; None = from a table of GPUs (in bf16),
            and no ``mfu`` for others.
        workers: Processes that draw views; None = none on a CPU, up to 12 beside a GPU.
        prefetch: Steps that each of these processes draws ahead.
    """

    steps: int = 50_000
    batch_windows: int = 128
    target_pairs: int | None = None
    max_tokens: int = 65_536
    optimizer: Literal["adamw", "lamb"] = "adamw"
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup_steps: int | None = None
    ema: float | None = None
    grad_clip: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    tf32: bool = False
    compile: bool = False
    recompute: Recompute = "none"
    processes_per_window: int = 1
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    keep_best: KeepBest = "loss"
    log_every: int = 10
    peak_tflops: float | None = None
    workers: int | None = None
    prefetch: int = 2

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_windows",
            "max_tokens",
            "processes_per_window",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "prefetch",
            "target_pairs",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"train.{name} = {value} is below 1.", f"Raise train.{name}.")
        for name in ("weight_decay", "warmup_steps", "workers"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"train.{name} = {value} is below 0.", f"Raise train.{name}.")
        if self.ema is not None and not 0.0 < self.ema < 1.0:
            raise InputError(
                f"train.ema = {self.ema} is no decay between 0 and 1.",
                "0.999 is usual; --set train.ema=none keeps no average",
            )
        for name in ("learning_rate", "grad_clip", "peak_tflops"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(
                    f"train.{name} = {getattr(self, name)} is not above 0.", f"Raise train.{name}."
                )


@dataclass(frozen=True)
class PretrainSettings:
    """Everything that the numbers of a run depend on, besides the data."""

    preset: Literal["ephys", "calcium", "tiny"] = "ephys"
    seed: int = 42
    data: DataConfig = field(default_factory=DataConfig)
    tokens: TokenSpec = field(default_factory=TokenSpec)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def preset_settings(name: str) -> PretrainSettings:
    """Settings of a preset.

    ``ephys`` and ``calcium`` are the reference's (256-wide, 2 + 2 layers, 4 heads of 64; AdamW, weight decay
    0.01, 5e-4 with 128 windows for spikes, 1.25e-4 with 16 for calcium; DCL with tau 0.2), calcium with unit
    dropout on.
    ``tiny`` trains in minutes on a laptop CPU.

    Raises:
        InputError: There is no such preset.
    """
    if name == "ephys":
        return PretrainSettings()
    if name == "calcium":
        return PretrainSettings(preset="calcium", train=TrainConfig(batch_windows=16, learning_rate=1.25e-4))
    if name == "tiny":
        return PretrainSettings(
            preset="tiny",
            model=ModelConfig(
                dim=64, heads=4, head_dim=16, temporal_layers=1, spatiotemporal_layers=1, dropout=0.0
            ),
            train=TrainConfig(
                steps=1000,
                batch_windows=8,
                learning_rate=1e-3,
                max_tokens=32_768,
                warmup_steps=20,
                checkpoint_every=200,
            ),
        )
    raise InputError(f"There is no preset {name!r}.", f"Presets: {', '.join(PRESETS)}.")


def with_changes(settings: PretrainSettings, changes: Mapping[str, Any]) -> PretrainSettings:
    """Copy with dotted keys changed.

    Raises:
        InputError: An unknown key, a value that does not fit, or a key that follows from others.
    """
    for key, source in _DERIVED.items():
        if key in changes:
            raise InputError(f"{key} cannot be set: it follows from {source}.", f"Set {source} instead.")
    changed = replace_keys(settings, changes)
    if "model.tokens" not in changes:
        return changed
    changed = _with_token_kinds(changed, settings.model.tokens)
    if settings.preset == "tiny" and _newly_events(settings, changed):
        wider = {key: value for key, value in _TINY_EVENTS.items() if key not in changes}
        changed = replace_keys(changed, wider)
    return changed


def _newly_events(before: PretrainSettings, after: PretrainSettings) -> bool:
    return "events" in after.model.tokens and "events" not in before.model.tokens


def _with_token_kinds(settings: PretrainSettings, before: tuple[TokenKind, ...]) -> PretrainSettings:
    """``model.tokens`` chooses what spikes become; whether there is calcium, the sessions say."""
    asked = settings.model.tokens
    if ("counts" in asked) == ("events" in asked):
        raise InputError(
            f"model.tokens is {','.join(asked)}; it says what spikes become: counts or events.",
            "Calcium sessions are found by themselves. Write --set model.tokens=events",
        )
    kinds: tuple[TokenKind, ...] = ("events",) if "events" in asked else ("counts",)
    if "calcium" in before:
        kinds += ("calcium",)
    return replace(settings, model=replace(settings.model, tokens=kinds))


def for_modalities(settings: PretrainSettings, modalities: frozenset[str]) -> PretrainSettings:
    """Fill in what the model takes from the tokens and from the modalities present in the data.

    Raises:
        InputError: Spike events are asked for, but there are no spikes.
    """
    events = "events" in settings.model.tokens
    if events and "spikes" not in modalities:
        raise InputError(
            f"model.tokens is events, but the sessions hold {', '.join(sorted(modalities))} only.",
            "Leave model.tokens out",
        )
    kinds: tuple[TokenKind, ...] = ()
    if "spikes" in modalities:
        kinds += ("events",) if events else ("counts",)
    if "calcium" in modalities:
        kinds += ("calcium",)
    spikes = replace(settings.tokens.spikes, kind="events" if events else "counts")
    calcium = settings.tokens.calcium
    model = replace(
        settings.model,
        tokens=kinds,
        counts_samples=spikes.samples_per_patch,
        counts_patches=spikes.n_patches,
        calcium_samples=calcium.samples_per_patch,
        calcium_patches=calcium.n_patches,
        events_latents=spikes.n_patches,
        events_window_s=spikes.window_s,
    )
    return replace(settings, model=model, tokens=replace(settings.tokens, spikes=spikes))


__all__ = [
    "PRESETS",
    "CalciumTokens",
    "DataConfig",
    "PretrainSettings",
    "SpikeTokens",
    "TokenSpec",
    "TrainConfig",
    "ViewConfig",
    "for_modalities",
    "preset_settings",
    "with_changes",
]
