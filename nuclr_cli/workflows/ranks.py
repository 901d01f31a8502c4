"""The processes that train together: how many, which one this is, and what they tell one another.

Launching and rendezvous are Lightning Fabric's and torch.distributed's: ``--gpus N`` starts the processes of
a machine, under torchrun and srun they are there already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from nuclr_cli.errors import InputError, NuclrError, exit_code_of
from nuclr_cli.wording import counted
from nuclr_cli.workflows.devices import Device
from nuclr_cli.workflows.launchers import Layout

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")

PATIENCE = timedelta(days=2)
"""How long a rank waits for the others: one may embed a session for hours that no other takes part in. Ranks
that have died are noticed at once, by their connections and by what has started them.
"""


_JOIN = timedelta(minutes=5)
"""How long a rank waits for the others to appear: after a restart one may look for those that have died."""


class EndedElsewhere(NuclrError):
    """Another rank ends for a reason that it says itself; this one ends with the same exit code, silently."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


class LeftAlone(NuclrError):
    """An error between two exchanges that the other processes wait in: no further one may be begun.

    This process ends with it, and the others by losing the connection.
    """

    def __init__(self, error: NuclrError) -> None:
        super().__init__(error.what, error.fix)
        self.exit_code = error.exit_code


class PeerGone(NuclrError):
    """Another process of this run has ended, and could not say so in an exchange."""

    exit_code = 1

    def __init__(self, reason: str) -> None:
        # gloo begins with the place in its source, and ends with advice to those who write such programs.
        lines = re.sub(r"^(\[\S+:\d+\]\s*)+", "", reason.strip()).splitlines() or [""]
        sentence = lines[0].split(". ")[0].rstrip(".")
        super().__init__(
            f"Another process has ended{f': {sentence}' if sentence else ''}.",
            "Its own message, if it could write one, says why; then give the same command again",
        )


@contextmanager
def resumed_with(command: str) -> Iterator[None]:
    """Where another process is lost inside, name the command that goes on."""
    try:
        yield
    except NuclrError as error:
        if isinstance(error, PeerGone) or isinstance(error.__cause__, PeerGone):
            error.fix = (
                "Its own message, if it could write one, says why. From the last checkpoint goes on: "
                f"{command}"
            )
        raise


@contextmanager
def told_of_peers(kind: type[RuntimeError] = RuntimeError) -> Iterator[None]:
    """Say plainly that another process is gone.

    Args:
        kind: What is raised inside when it is.
    """
    try:
        yield
    except kind as error:
        raise PeerGone(str(error)) from error


def _told(what: str, fix: str, exit_code: int) -> NuclrError:
    """An error of another rank."""
    error = NuclrError(what, fix)
    error.exit_code = exit_code
    return error


class Ranks:
    """The processes of a run. Alone, everything is done at once and nothing is sent.

    Attributes:
        rank: Of this process, from 0.
        world: How many there are.
        layout: How they lie on machines.
    """

    def __init__(self, device: Device, layout: Layout) -> None:
        self._device, self.layout = device, layout
        self.rank, self.world = 0, layout.world
        if layout.world > 1:
            seen = torch.cuda.device_count() if device.accelerator == "cuda" else layout.per_machine
            if seen < layout.per_machine:
                raise InputError(
                    f"{layout.per_machine} processes share this machine, and this one sees "
                    f"{counted(seen, 'GPU')}.",
                    "Start no more processes than GPUs, and let each see all of its machine: under Slurm "
                    "--gpus-per-node=N, not --gpus-per-task",
                )
            fabric = self.fabric("fp32")
            self.rank = fabric.global_rank
            if fabric.world_size != layout.world:
                raise InputError(
                    f"{layout.world} processes were to train together, and {fabric.world_size} are there.",
                    "Start them with one launcher: --gpus N, torchrun or srun",
                )

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def fabric(self, precision: str) -> Fabric:
        """Fabric on this process's device; the first call starts and joins the processes.

        Args:
            precision: ``bf16`` (with fp32 weights), ``fp32``, ``fp64``; ``auto``: bf16 on a GPU, else fp32.
        """
        try:
            from lightning_fabric import Fabric
            from lightning_fabric.plugins.environments.lightning import LightningEnvironment
            from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
            from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
            from lightning_fabric.strategies.ddp import DDPStrategy
        except ModuleNotFoundError:  # the `lightning` distribution carries the same classes
            from lightning.fabric import Fabric  # type: ignore[no-redef]
            from lightning.fabric.plugins.environments.lightning import (  # type: ignore[no-redef]
                LightningEnvironment,
            )
            from lightning.fabric.plugins.environments.slurm import (  # type: ignore[no-redef]
                SLURMEnvironment,
            )
            from lightning.fabric.plugins.environments.torchelastic import (  # type: ignore[no-redef]
                TorchElasticEnvironment,
            )
            from lightning.fabric.strategies.ddp import DDPStrategy  # type: ignore[no-redef]

        class Summed(DDPStrategy):
            """Ranks whose gradients are added up by the trainer, once a step.

            A rank has any number of micro-batches, none too, which DDP's hooks do not wait for.
            """

            def setup_module(self, module: torch.nn.Module) -> Any:
                return module

        if precision == "auto":
            precision = "bf16" if self._device.accelerator == "cuda" else "fp32"
        # Not what Fabric finds by itself: inside a batch script, before any srun, that would be Slurm.
        environment: Any = LightningEnvironment()
        if self.layout.launcher == "torchrun":
            environment = TorchElasticEnvironment()
        elif self.layout.launcher == "srun":
            environment = SLURMEnvironment(auto_requeue=False)
        several: dict[str, Any] = {}
        if self.world > 1:
            backend = "cpu:gloo,cuda:nccl" if self._device.accelerator == "cuda" else "gloo"
            strategy = Summed(process_group_backend=backend, timeout=_JOIN)
            several = {"strategy": strategy, "num_nodes": self.layout.machines}
        fabric = Fabric(
            accelerator=self._device.accelerator,
            devices=self.layout.per_machine,
            precision=cast(Any, {"bf16": "bf16-mixed", "fp32": "32-true", "fp64": "64-true"}[precision]),
            plugins=[environment],
            **several,
        )
        with told_of_peers() if self.world > 1 else nullcontext():
            fabric.launch()
        if self.world > 1:
            # What Fabric is told is one time for joining and for all that follows.
            torch.distributed.distributed_c10d._set_pg_timeout(PATIENCE)
        return fabric

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all ranks, the same on each; numbers up to 2^53 are exact."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with told_of_peers():
            torch.distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def sum_into(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype and device by their sums over all ranks, the same on each."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with told_of_peers():
            torch.distributed.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def once(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first rank, on all of them; it has to be picklable.

        If it raises there, all ranks end: the first with its error, the others silently.
        """
        if self.world == 1:
            return work()
        said: list[Any] = [None, 0]
        error: BaseException | None = None
        if self.first:
            try:
                said[0] = work()
            except BaseException as raised:
                error = raised
                said[1] = exit_code_of(raised)
        with told_of_peers():
            torch.distributed.broadcast_object_list(said, src=0)
        if error is not None:
            raise error
        if said[1]:
            raise self._elsewhere(said[1])
        return cast(T, said[0])

    def of_each(self, work: Callable[[], T]) -> list[T]:
        """What `work` returns on every rank, in their order, on all of them; it has to be picklable.

        If it raises a NuclrError on some, all ranks end: the first says the first of them. `LeftAlone` ends
        one rank at once.
        """
        if self.world == 1:
            return [work()]
        value: T | None = None
        error: NuclrError | None = None
        try:
            value = work()
        except LeftAlone:
            raise
        except NuclrError as raised:
            error = raised
        found = self.gather((value, None if error is None else (error.what, error.fix, error.exit_code)))
        failures = [failure for _, failure in found if failure is not None]
        if failures:
            # Those that only end because another has failed have nothing to say.
            raise self.said_once(_told(*max(failures, key=lambda failure: bool(failure[0]))))
        return [cast(T, value) for value, _ in found]

    def said_once(self, error: NuclrError) -> NuclrError:
        """What to raise where all ranks have the same error: it is the first one's to say."""
        return error if self.first else self._elsewhere(error.exit_code)

    def _elsewhere(self, exit_code: int) -> EndedElsewhere:
        # What Fabric has started is watched by the first process: a code that is not 0 would have that one
        # killed before it has said why.
        return EndedElsewhere(exit_code if self.layout.launcher else 0)

    def agree(self, what: object) -> None:
        """Raise InputError unless all ranks were given the same options."""
        if len(set(self.gather(repr(what)))) > 1:
            raise self.said_once(
                InputError(
                    f"{self.layout.launcher or 'Somebody'} has started {self.world} processes with different "
                    "options, as if they were runs of their own.",
                    "Give all of them the same options, or start each run in a job of its own",
                )
            )

    def gather(self, value: T) -> list[T]:
        """Everybody's value, in the order of the ranks, on all of them; it has to be picklable."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        with told_of_peers():
            torch.distributed.all_gather_object(found, value)
        return found

    def leave(self) -> None:
        """End the connection, so that no process is waited for at exit."""
        if self.world > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
