"""The readers that nuclr ships pass the suite that third parties use."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest

from nuclr_cli.api import ReadOptions
from nuclr_cli.testing import ReaderSuite
from nuclr_nwb import NwbReader
from nuclr_spikeinterface import SpikeInterfaceReader
from nuclr_suite2p import Suite2pReader
from nuclr_temporaldata import TemporaldataReader


class Sample(ReaderSuite):
    """A copy of a sample recording."""

    sample: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _samples(self, shared: Path) -> None:
        self.samples = shared / "samples"

    def make_source(self, tmp_path: Path) -> Path:
        original = self.samples / self.sample
        place = tmp_path / original.name
        if original.is_dir():
            shutil.copytree(original, place)
        else:
            shutil.copyfile(original, place)
        return place


class TestNumpyFolder(Sample):
    reader = SpikeInterfaceReader()
    sample = "si/numpy_folder"

    def hostile_sources(self, tmp_path: Path) -> Sequence[Path]:
        shutil.copytree(self.samples / self.sample, tmp_path / "backwards")
        spikes = np.load(tmp_path / "backwards" / "spikes.npy")
        np.save(tmp_path / "backwards" / "spikes.npy", spikes[::-1])
        return [tmp_path / "backwards"]


class TestNpzFile(Sample):
    reader = SpikeInterfaceReader()
    sample = "si/sorting.npz"


class TestZarr(Sample):
    reader = SpikeInterfaceReader()
    sample = "si/zarr.zarr"
    needs = ("zarr",)


class TestPhy(Sample):
    reader = SpikeInterfaceReader()
    sample = "si/phy"

    def hostile_sources(self, tmp_path: Path) -> Sequence[Path]:
        shutil.copytree(self.samples / self.sample, tmp_path / "in_seconds")
        times = np.load(tmp_path / "in_seconds" / "spike_times.npy")
        np.save(tmp_path / "in_seconds" / "spike_times.npy", times / 30000.0)
        return [tmp_path / "in_seconds"]


class TestKilosort(Sample):
    reader = SpikeInterfaceReader()
    sample = "si/kilosort4_like"


class TestSuite2p(Sample):
    reader = Suite2pReader()
    sample = "suite2p/v110_2plane_2chan/suite2p"

    def hostile_sources(self, tmp_path: Path) -> Sequence[Path]:
        shutil.copytree(self.samples / self.sample, tmp_path / "fewer_frames")
        traces = np.load(tmp_path / "fewer_frames" / "plane0" / "Fneu.npy")
        np.save(tmp_path / "fewer_frames" / "plane0" / "Fneu.npy", traces[:, :-5])
        return [tmp_path / "fewer_frames"]


class TestSuite2pOfOldVersion(Sample):
    reader = Suite2pReader()
    sample = "suite2p/v0145_2plane_2chan/suite2p"


class TestNwbOfSpikes(Sample):
    reader = NwbReader()
    sample = "nwb/ephys.nwb"

    def hostile_sources(self, tmp_path: Path) -> Sequence[Path]:
        shutil.copyfile(self.samples / self.sample, tmp_path / "backwards.nwb")
        with h5py.File(tmp_path / "backwards.nwb", "r+") as file:
            times = file["units/spike_times"]
            times[...] = times[...][::-1]
        return [tmp_path / "backwards.nwb"]


class TestNwbOfTraces(Sample):
    reader = NwbReader()
    sample = "nwb/ophys.nwb"
    options = ReadOptions(drop_nan_units=True)


class TestNwbZarr(Sample):
    reader = NwbReader()
    sample = "nwb/ephys.nwb.zarr"
    needs = ("zarr",)


class TestTemporaldataOfSpikes(Sample):
    reader = TemporaldataReader()
    sample = "td/spikes_temporaldata.h5"

    def hostile_sources(self, tmp_path: Path) -> Sequence[Path]:
        shutil.copyfile(self.samples / self.sample, tmp_path / "nobody.h5")
        with h5py.File(tmp_path / "nobody.h5", "r+") as file:
            file["spikes/unit_index"][0] = 999
        return [tmp_path / "nobody.h5"]


class TestTemporaldataOfTraces(Sample):
    reader = TemporaldataReader()
    sample = "td/calcium_temporaldata.h5"
