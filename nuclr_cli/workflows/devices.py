"""Which device trains or embeds, and the message when it is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from nuclr_cli.errors import InputError
from nuclr_kernels.dispatch import requested_mode
from nuclr_kernels.float32_precision import float32_precision


@dataclass(frozen=True)
class Device:
    """Where the work happens.

    Attributes:
        accelerator: What Fabric is told.
        name: For people.
    """

    accelerator: Literal["cpu", "cuda"]
    name: str

    @property
    def torch(self) -> torch.device:
        return torch.device(self.accelerator)


def choose_device(gpus: int | None, *, most: int | None = 1) -> Device:
    """Pick the device.

    Args:
        gpus: None = the first GPU if there is one, else the CPU; 0 = the CPU; N = so many GPUs of this
            machine.
        most: GPUs that the command can use; None = any number.

    Raises:
        InputError: More GPUs were asked for than this machine has, or than the command uses; or
            ``NUCLR_KERNELS`` has a value of no meaning.
    """
    try:
        requested_mode()
    except ValueError as error:
        raise InputError(f"{error}.", "unset NUCLR_KERNELS") from None
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus is None:
        gpus = min(found, 1)
    if gpus < 0:
        raise InputError(
            f"--gpus {gpus} is not a number of GPUs.", "--gpus 0 is the CPU, --gpus 1 is one GPU"
        )
    if gpus > found:
        have = f"{found} GPU{'s' if found != 1 else ''}" if found else "no GPU"
        why = "" if found or torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
        fix = "Use --gpus 0 for the CPU" + (f" or --gpus {found}" if found else "")
        if most is None and gpus > 1:
            # Of a command that several processes share.
            fix += (
                f"; for {gpus} processes on the CPU: torchrun --nproc-per-node {gpus} --no-python -- "
                "nuclr ... --gpus 0"
            )
        raise InputError(f"--gpus {gpus} was asked for, but torch finds {have} on this machine{why}.", fix)
    if most is not None and gpus > most:
        raise InputError(f"--gpus {gpus}: this command works on one GPU.", "Use --gpus 1")
    if gpus == 0:
        return Device("cpu", f"CPU, {torch.get_num_threads()} threads")
    times = f"{gpus} x " if gpus > 1 else ""
    return Device("cuda", times + torch.cuda.get_device_name(0))


@contextmanager
def float32_products(device: Device, *, tf32: bool) -> Iterator[None]:
    """How tensor cores form products of float32 numbers, of PyTorch and of our kernels, inside the block.

    Args:
        device: On a CPU nothing changes.
        tf32: Factors rounded to 10 bits behind the point, in place of 23; sums stay float32.
    """
    if device.accelerator == "cpu":
        yield
        return
    before = float32_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("high" if before == "tf32" else "highest")
