"""What this machine brings: versions, devices, which implementation of each operation runs, plugins."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass

import torch

import nuclr_cli
from nuclr_cli.registry import PluginInfo, Registry
from nuclr_cli.workflows.devices import choose_device
from nuclr_cli.workflows.worker_pool import usable_cores
from nuclr_kernels.self_test import OperationCheck, self_test

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "scipy",
    "scikit-learn",
    "h5py",
    "pyarrow",
    "lightning-fabric",
    "spikeinterface",
    "zarr",
    "hdmf-zarr",
    "suite2p",
)
OPTIONAL = {"triton", "spikeinterface", "zarr", "hdmf-zarr", "suite2p"}


@dataclass(frozen=True)
class PackageVersion:
    """A package nuclr uses; `version` is None where it is not installed."""

    name: str
    version: str | None
    optional: bool


@dataclass(frozen=True)
class GpuInfo:
    """One GPU.

    Attributes:
        name: Its model.
        capability: Compute capability, such as ``9.0``.
        memory_bytes: In all.
    """

    name: str
    capability: str
    memory_bytes: int


@dataclass(frozen=True)
class DoctorRecord:
    """What was found.

    Attributes:
        nuclr, python, system: Versions and platform.
        cores: Cores this process may use.
        memory_bytes: Of the machine, None where the system does not tell.
        cuda: CUDA version that torch was built with, None = built without.
        gpus: Usable GPUs.
        packages: Versions.
        operations: Result of the self-test, on the first GPU or else the CPU.
        plugins: Installed plugins.
    """

    nuclr: str
    python: str
    system: str
    cores: int
    memory_bytes: int | None
    cuda: str | None
    gpus: tuple[GpuInfo, ...]
    packages: tuple[PackageVersion, ...]
    operations: tuple[OperationCheck, ...]
    plugins: tuple[PluginInfo, ...]

    @property
    def wrong(self) -> tuple[OperationCheck, ...]:
        """Operations that failed their self-test."""
        return tuple(check for check in self.operations if not check.ok)


def doctor() -> DoctorRecord:
    """Look at the machine and run every operation once against its float64 reference."""
    device = choose_device(None).torch
    return DoctorRecord(
        nuclr=nuclr_cli.__version__,
        python=platform.python_version(),
        system=platform.platform(),
        cores=usable_cores(),
        memory_bytes=_memory_bytes(),
        cuda=torch.version.cuda,
        gpus=_gpus(),
        packages=tuple(PackageVersion(name, _version(name), name in OPTIONAL) for name in PACKAGES),
        operations=self_test(device),
        plugins=tuple(Registry.load().plugins),
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> tuple[GpuInfo, ...]:
    if not torch.cuda.is_available():
        return ()
    found = (torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count()))
    return tuple(GpuInfo(gpu.name, f"{gpu.major}.{gpu.minor}", gpu.total_memory) for gpu in found)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
