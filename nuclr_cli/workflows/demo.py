"""`nuclr demo`: the whole chain on simulated animals, with the commands a user would type."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import SimulationConfig, save_animals
from nuclr_cli.workflows.devices import choose_device
from nuclr_cli.workflows.embed import EmbedConfig, embed
from nuclr_cli.workflows.embed_record import EmbedRecord
from nuclr_cli.workflows.launchers import refuse_several
from nuclr_cli.workflows.preprocess import preprocess
from nuclr_cli.workflows.preprocess_record import PreprocessConfig
from nuclr_cli.workflows.presets import preset_settings, with_changes
from nuclr_cli.workflows.pretrain import PretrainConfig, PretrainRecord, pretrain
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_record import ProbeConfig, ProbeRecord
from nuclr_cli.workflows.reporting import Reporter, SilentReporter
from nuclr_cli.workflows.runs import write_json

LABELS = ("cell_type", "brain_region")
_MARK = "demo.json"


@dataclass(frozen=True)
class DemoConfig:
    """What to simulate and how long to train.

    Attributes:
        out: Folder; a folder of an earlier demo is replaced, any other is refused.
        animals, units, minutes: Size of the simulation.
        seed: Of the simulation and of training.
        gpus: None = a GPU if there is one.
        changes: Dotted settings that differ from the ``tiny`` preset.
    """

    out: Path = Path("nuclr-demo")
    animals: int = 10
    units: int = 60
    minutes: float = 8.0
    seed: int = 0
    gpus: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DemoRecord:
    """What came out."""

    folder: Path
    config: DemoConfig
    pretrain: PretrainRecord
    embed: EmbedRecord
    probes: tuple[ProbeRecord, ...]
    seconds: float


def demo(config: DemoConfig, reporter: Reporter | None = None) -> DemoRecord:
    """Simulate animals, save them as SpikeInterface sortings, and run the chain on them.

    Raises:
        InputError: `config.out` exists and is not the folder of a demo; fewer than two animals; a size,
            setting or device is bad.
        MissingPackageError: SpikeInterface is not installed.
    """
    reporter = reporter or SilentReporter()
    began = time.monotonic()
    if config.animals < 2:
        raise InputError(
            f"--animals {config.animals} is below 2: probes are fitted on some animals and tested on others.",
            "--animals 2, or more",
        )
    simulation = SimulationConfig(
        n_animals=config.animals, units_per_animal=config.units, minutes=config.minutes, seed=config.seed
    )
    refuse_several("nuclr demo")
    choose_device(config.gpus)
    with_changes(preset_settings("tiny"), config.changes)
    out = config.out
    if out.exists():
        if not (out / _MARK).is_file():
            raise InputError(
                f"{out} exists and is not the folder of an earlier demo.", "Name another folder with -o"
            )
        reporter.warn(f"{out} holds an earlier demo, which is replaced, its run too (-o FOLDER keeps it)")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    write_json(out / _MARK, {**dataclasses.asdict(config), "out": str(out)})
    data, runs = out / "nuclr-data", out / "nuclr-runs"

    with reporter.progress("simulate", config.animals, "animals") as bar:
        manifest = save_animals(simulation, out / "sortings", progress=lambda done, _: bar.update(done))
    reporter.note(
        f"{config.animals} simulated animals, saved by SpikeInterface in {out / 'sortings'}; the commands:"
    )
    reporter.note(f"nuclr preprocess --manifest {manifest} -o {data}")
    preprocess(PreprocessConfig(manifest=manifest, out=data), SilentReporter())
    settings = "".join(f" --set {key}={value}" for key, value in config.changes.items())
    reporter.note(
        f"nuclr pretrain {data} --runs {runs} --name demo --preset tiny --seed {config.seed}{settings}"
    )
    trained = pretrain(
        PretrainConfig(
            data=data,
            runs=runs,
            name="demo",
            preset="tiny",
            seed=config.seed,
            gpus=config.gpus,
            changes=config.changes,
        ),
        reporter,
    )
    reporter.note(f"nuclr embed --run {trained.run}")
    embedded = embed(EmbedConfig(run=trained.run, gpus=config.gpus), reporter)
    probes = []
    for label in LABELS:
        reporter.note(f"nuclr probe --label {label} --run {trained.run} --split subject")
        probes.append(probe(ProbeConfig(label=label, run=trained.run, split="subject"), reporter))
    return DemoRecord(out, config, trained, embedded, tuple(probes), time.monotonic() - began)
