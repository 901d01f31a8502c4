"""`nuclr import-checkpoint`: a checkpoint of the official implementation in, a run of ours out."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from nuclr_cli.api import Modality
from nuclr_cli.errors import InputError
from nuclr_cli.model.config import LossConfig, ModelConfig, TokenKind
from nuclr_cli.model.encoder import Encoder
from nuclr_cli.model.patches import RotaryPositions
from nuclr_cli.model.reference_weights import (
    encoder_from_reference,
    heads_of_reference,
    unused_of_reference,
)
from nuclr_cli.workflows.checkpoints import save_checkpoint
from nuclr_cli.workflows.config import parse_value
from nuclr_cli.workflows.official_checkpoint import OfficialCheckpoint, read_official_checkpoint
from nuclr_cli.workflows.pair_model import MODALITY_OF, initial_model
from nuclr_cli.workflows.presets import (
    PretrainSettings,
    for_modalities,
    preset_settings,
    with_changes,
)
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.runs import RUNS, Imported, check_name, create_run

_ENCODERS: dict[str, TokenKind] = {
    "NuclrV2gaBin": "counts",
    "NuclrV2gaCa2": "calcium",
    "NuclrV2gaSpikes": "events",
}
"""Official class -> what its encoder takes."""

_BIN = "tokens.spikes.bin_s"
_FROM_FILE = {
    "model.bin_size": _BIN,
    "model.lin_dropout": "model.dropout",
    "loss.tau": "loss.tau",
    "loss.dcl": "loss.dcl",
    "loss.full_denom": "loss.full_denom",
}
"""Key of the official configuration -> setting of ours, where the weights' shapes cannot tell."""

_NEW_FREQUENCIES = 1e-3  # relative; float32 rounds a hundred thousand times finer


@dataclass(frozen=True)
class ImportConfig:
    """What the user asked for.

    Attributes:
        file: Official checkpoint, a ``.pt`` file.
        runs: Folder that holds the runs.
        name: Of the run; None = that of the file.
        tokens: What the encoder takes; None = as the file tells.
        trained_subjects: All subjects that the weights have seen; None = unknown.
        changes: Dotted settings that the weights do not tell.
    """

    file: Path
    runs: Path = RUNS
    name: str | None = None
    tokens: str | None = None
    trained_subjects: tuple[str, ...] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens not in get_args(TokenKind):
            raise InputError(f"Unknown --tokens {self.tokens!r}.", f"Choose {', '.join(get_args(TokenKind))}")


@dataclass(frozen=True)
class ImportRecord:
    """What came out.

    Attributes:
        run, name: Folder of the run, and its name.
        file, sha256: That was imported.
        tokens: What the encoder takes.
        step: Optimiser steps done, as the file says; 0 where it does not.
        parameters: Of encoder and loss.
        dim, heads, head_dim, temporal_layers, spatiotemporal_layers: Sizes, read off the weights.
        window_s: Length of a window, seconds.
        from_file: Settings taken from the configuration in the file.
        assumed: Settings that neither the weights nor the file tell, with what was taken.
        unused: Names in the file that are not used.
        missing: Names that the file lacks, and what that means.
        trained_subjects: That the weights have seen, by the user's word; None = unknown.
    """

    run: Path
    name: str
    file: Path
    sha256: str
    tokens: TokenKind
    step: int
    parameters: int
    dim: int
    heads: int
    head_dim: int
    temporal_layers: int
    spatiotemporal_layers: int
    window_s: float
    from_file: tuple[str, ...]
    assumed: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    trained_subjects: tuple[str, ...] | None


def import_checkpoint(config: ImportConfig, reporter: Reporter | None = None) -> ImportRecord:
    """Make a run from an official checkpoint. Nothing in the file is run; see `read_official_checkpoint`.

    Raises:
        InputError: The file is refused, its weights do not fit our encoder or the settings, or the run cannot
            be written. No run is left behind then.
    """
    reporter = reporter or SilentReporter()
    name = config.file.stem if config.name is None else config.name
    check_name(name)
    folder = config.runs / name
    if folder.exists():
        raise InputError(f"{folder} exists already.", "Take another --name, or another folder with --runs")
    official = read_official_checkpoint(config.file)
    kind = _token_kind(official, config.tokens)
    encoder = _encoder(official, kind)
    told = {ours: value for key, ours in _FROM_FILE.items() if (value := official.setting(key)) is not None}
    settings, assumed = _settings(official, encoder, kind, told, config.changes)
    model = initial_model(settings)
    model.encoder.load_state_dict(encoder.state_dict())
    unused = [*official.other, *unused_of_reference(official.model, kind)]
    missing = []
    if official.step is None:
        missing.append("train_step (taken as 0)")
    if official.cfg is None:
        missing.append("cfg (the settings that it would tell are the presets')")
    projector = official.loss or {}
    if _fits(model.loss, projector):
        model.loss.load_state_dict(projector)
    else:
        unused += [f"loss_state_dict.{key}" for key in sorted(projector)]
        missing.append("weights of the loss that fit (its projector is new; embeddings do not need it)")
    step = official.step or 0
    _write(config, name, settings, official, model.state_dict(), step)
    for text in assumed:
        reporter.note(f"neither the weights nor the file tell {text}: taken as it is (--set changes it)")
    if unused:
        reporter.note(f"in the file, and not used: {', '.join(unused)}")
    if missing:
        reporter.warn(f"not in the file: {'; '.join(missing)}")
    if config.trained_subjects is None:
        reporter.warn(
            "which subjects these weights have seen is unknown, so no probe of their embeddings is inductive "
            "(--trained-subjects names them all)"
        )
    of = settings.tokens.of(MODALITY_OF[kind])
    return ImportRecord(
        run=folder,
        name=name,
        file=config.file.resolve(),
        sha256=official.sha256,
        tokens=kind,
        step=step,
        parameters=sum(p.numel() for p in model.parameters()),
        dim=settings.model.dim,
        heads=settings.model.heads,
        head_dim=settings.model.head_dim,
        temporal_layers=settings.model.temporal_layers,
        spatiotemporal_layers=settings.model.spatiotemporal_layers,
        window_s=of.window_s,
        from_file=tuple(f"{key} = {value}" for key, value in told.items() if key not in config.changes),
        assumed=assumed,
        unused=tuple(unused),
        missing=tuple(missing),
        trained_subjects=config.trained_subjects,
    )


def _token_kind(official: OfficialCheckpoint, asked: str | None) -> TokenKind:
    """What the encoder takes: as the user says, if the weights do not contradict, else as the file tells.

    Raises:
        InputError: Nobody tells, or the user and the weights contradict one another.
    """
    target = str(official.setting("model._target_") or "").rpartition(".")[2]
    told = "events" if "latent_times" in official.model else _ENCODERS.get(target)
    if asked is None:
        if told is None:
            raise InputError(
                f"{official.path} does not tell whether its encoder takes spike counts or calcium: the "
                "weights look the same" + (f", and {target} is not known." if target else "."),
                "Say it: --tokens counts or --tokens calcium",
            )
        return told
    if told is not None and asked != told:
        raise InputError(
            f"--tokens {asked}, but the encoder of {official.path} takes {told}.", f"Use --tokens {told}"
        )
    return asked  # type: ignore[return-value]


def _encoder(official: OfficialCheckpoint, kind: TokenKind) -> Encoder:
    try:
        heads, head_dim = heads_of_reference(official.model)
        return encoder_from_reference(official.model, kind, heads=heads, head_dim=head_dim)
    except InputError as error:
        raise InputError(
            f"{official.path} is not of an architecture that nuclr has. {error.what}",
            "nuclr takes the official encoders of binned counts, calcium and spike events "
            f"({', '.join(_ENCODERS)}), of any width and depth",
        ) from None


def _settings(
    official: OfficialCheckpoint,
    encoder: Encoder,
    kind: TokenKind,
    told: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> tuple[PretrainSettings, tuple[str, ...]]:
    """Settings of a run with this encoder, and those of them that nobody told.

    Raises:
        InputError: A setting is unknown, or contradicts the weights.
    """
    found = encoder.config
    modality: Modality = MODALITY_OF[kind]
    base = preset_settings("calcium" if modality == "calcium" else "ephys")
    vicreg = (official.loss or {}).get("projector.0.weight")
    if vicreg is not None and vicreg.ndim == 2:
        loss = LossConfig(name="vicreg", projector_mult=max(1, len(vicreg) // found.dim))
        base = dataclasses.replace(base, loss=loss)
    base = dataclasses.replace(
        base,
        model=dataclasses.replace(found, dropout=base.model.dropout),
        train=dataclasses.replace(base.train, steps=max(official.step or 0, 1)),
    )
    known = _window_is_told(encoder, kind)
    # The preset is no setting of an imported run: all that it stands for is here already.
    asked = {key: value for key, value in changes.items() if key != "preset"}
    bin_s = {**told, **asked}.get(_BIN, base.tokens.spikes.bin_s)
    base = with_changes(base, {key: value for key, value in told.items() if key != _BIN})
    settings = with_changes(_with_tokens(base, found, kind, known, parse_value(_BIN, bin_s, float)), asked)
    settings = for_modalities(settings, frozenset({modality}))
    same = dataclasses.replace(settings.model, dropout=found.dropout)
    if not known and kind == "counts":
        same = dataclasses.replace(same, counts_patches=found.counts_patches)
    elif not known:
        same = dataclasses.replace(same, calcium_patches=found.calcium_patches)
    _refuse_contradiction(official.path, found, same, kind)
    taken = {
        "counts": (_BIN, settings.tokens.spikes.bin_s),
        "calcium": ("tokens.calcium.period_s", settings.tokens.calcium.period_s),
    }
    if not known:
        taken["window"] = (
            f"tokens.{'spikes.window_s' if kind == 'counts' else 'calcium.n_samples'}",
            settings.tokens.spikes.window_s if kind == "counts" else settings.tokens.calcium.n_samples,
        )
    assumed = [
        f"{key} = {value}"
        for which, (key, value) in taken.items()
        if which in (kind, "window") and key not in told and key not in changes
    ]
    return settings, tuple(assumed)


def _with_tokens(
    settings: PretrainSettings, found: ModelConfig, kind: TokenKind, known: bool, bin_s: float
) -> PretrainSettings:
    """The lengths of patch and window that the weights tell."""
    tokens = settings.tokens
    if kind == "calcium":
        patches = found.calcium_patches if known else tokens.calcium.n_patches
        calcium = dataclasses.replace(
            tokens.calcium, patch_samples=found.calcium_samples, n_samples=patches * found.calcium_samples
        )
        return dataclasses.replace(settings, tokens=dataclasses.replace(tokens, calcium=calcium))
    if kind == "events":
        window_s = round(found.events_window_s, 6)
        patch_s = round(window_s / found.events_latents, 9)
        # A bin is no part of events, but has to divide the patch.
        spikes = dataclasses.replace(
            tokens.spikes,
            kind="events",
            window_s=patch_s * found.events_latents,
            patch_s=patch_s,
            bin_s=patch_s / max(1, round(patch_s / bin_s)),
        )
    else:
        patch_s = round(found.counts_samples * bin_s, 9)
        spikes = dataclasses.replace(
            tokens.spikes, bin_s=bin_s, patch_s=patch_s, window_s=round(found.counts_patches * patch_s, 9)
        )
    return dataclasses.replace(settings, tokens=dataclasses.replace(tokens, spikes=spikes))


def _window_is_told(encoder: Encoder, kind: TokenKind) -> bool:
    """Whether the rotary frequencies tell how many patches a window has: they need two that turn.

    Raises:
        InputError: They are not those of a window of whole patches.
    """
    if kind == "events":
        return True
    config, omega = encoder.config, encoder.rotary[kind].omega
    assert isinstance(omega, Tensor)
    if int((omega > 0).sum()) < 2:
        return False
    expected = RotaryPositions(config.head_dim, config.patches(kind), config.rotary_fraction).omega
    if not torch.allclose(omega, expected, rtol=_NEW_FREQUENCIES, atol=0.0):
        raise InputError(
            "The rotary frequencies of these weights are not those of the official encoder: periods "
            f"log-spaced from 1 patch to 8 windows of {config.patches(kind)} patches.",
            "nuclr takes weights of the official encoders",
        )
    return True


def _refuse_contradiction(path: Path, found: ModelConfig, asked: ModelConfig, kind: TokenKind) -> None:
    named = [one.name for one in dataclasses.fields(ModelConfig)]
    others = {"counts", "calcium", "events"} - {kind}
    wrong = [
        f"{key} is {getattr(found, key)} in the weights, {getattr(asked, key)} by the settings"
        for key in named
        if key.partition("_")[0] not in others and not _equal(getattr(found, key), getattr(asked, key))
    ]
    if wrong:
        raise InputError(
            f"The settings do not fit {path}: {'; '.join(wrong)}.",
            "Leave out --config and --set for what the weights tell",
        )


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def _fits(loss: torch.nn.Module, projector: Mapping[str, Tensor]) -> bool:
    own = {key: value.shape for key, value in loss.state_dict().items()}
    return own == {key: value.shape for key, value in projector.items()}


def _write(
    config: ImportConfig,
    name: str,
    settings: PretrainSettings,
    official: OfficialCheckpoint,
    weights: Mapping[str, Tensor],
    step: int,
) -> None:
    """Make the run under a hidden name, and rename it when it is whole."""
    imported = Imported(config.file, official.sha256, config.trained_subjects)
    made = None
    try:
        config.runs.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".importing-", dir=config.runs))
        run = create_run(made, name, settings, None, (), imported=imported)
        try:
            save_checkpoint(run.checkpoints, step, weights, {}, {"imported": True}, keep=1)
        except InputError as error:
            raise InputError(error.what, "Free some space, or name another folder with --runs") from None
        run.with_state("finished", step).folder.rename(config.runs / name)
    except OSError as error:
        raise InputError(
            f"Cannot make the run folder {config.runs / name}: {error.strerror or error}.",
            "Free some space, mend the permissions, or name another folder with --runs",
        ) from None
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
